// The model card (README.md) of a Hugging Face folder: reads its facts, and writes the metadata of a new card.
import type { Provenance } from "../../spec/provenance.ts";
import type { FileSystem } from "../../files/system.ts";

/** Files of a folder that hold a licence. */
const LICENSE_FILES = ["LICENSE", "LICENSE.txt", "LICENSE.md"] as const;

/** What a folder's card and licence file say; nothing if they cannot be read, as no computation needs them. */
export async function hfProvenance(files: FileSystem, folder: string): Promise<Provenance> {
  const read = (name: string): Promise<string | null> => files.text(`${folder}/${name}`).catch(() => null);
  const card = await read("README.md");
  for (const name of LICENSE_FILES) {
    const licenseText = await read(name);
    if (licenseText !== null) return { ...cardProvenance(card ?? ""), licenseText };
  }
  return cardProvenance(card ?? "");
}

/** What the metadata at the top of a card say: https://huggingface.co/docs/hub/model-cards#model-card-metadata */
export function cardProvenance(card: string): Provenance {
  const fields = topFields(card), first = (key: string): string | undefined => fields.get(key)?.[0];
  const license = first("license"), licenseName = first("license_name"), licenseLink = first("license_link");
  const languages = fields.get("language") ?? [], baseModels = (fields.get("base_model") ?? []).filter(isHubId);
  return {
    ...(license ? { license } : {}),
    ...(licenseName ? { licenseName } : {}),
    ...(licenseLink ? { licenseLink } : {}),
    ...(languages.length > 0 ? { languages } : {}),
    ...(baseModels.length > 0 ? { baseModels } : {}),
  };
}

/** The metadata of a card that is written, for a model that was made from one of this origin. */
export function cardMetadata(
  { license, licenseName, licenseLink, languages = [], baseModels = [] }: Provenance,
): string {
  const list = (key: string, values: readonly string[]): string[] =>
    values.length === 0 ? [] : [`${key}:`, ...values.map((value) => `- ${yaml(value)}`)];
  return [
    "---",
    ...(license ? [`license: ${yaml(license)}`] : []),
    ...(licenseName ? [`license_name: ${yaml(licenseName)}`] : []),
    ...(licenseLink ? [`license_link: ${yaml(licenseLink)}`] : []),
    ...list("language", languages),
    ...list("base_model", baseModels),
    "library_name: transformers",
    "pipeline_tag: text-generation",
    ...list("tags", ["compresso", "pruning"]),
    "---",
  ].join("\n");
}

/** Whether a text is the name of a model on the Hub. */
export function isHubId(text: string): boolean {
  return /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(text);
}

/** Keys of the metadata with their texts; of YAML what cards use: a text, a list in brackets, a list of lines. */
function topFields(card: string): ReadonlyMap<string, readonly string[]> {
  const [, metadata = ""] = /^\ufeff?---\r?\n([^]*?)\r?\n---/.exec(card) ?? [];
  const fields = new Map<string, string[]>();
  let values: string[] = [];
  for (const line of metadata.split(/\r?\n/)) {
    const [, key, rest = ""] = /^(\w+):\s*(.*)$/.exec(line) ?? [], [, item] = /^\s*-\s+(.*)$/.exec(line) ?? [];
    if (key !== undefined) {
      const inner = /^\[(.*)\]$/.exec(rest)?.[1];
      values = (inner === undefined ? [rest] : inner.split(",")).map(unquoted).filter((value) => value !== "");
      fields.set(key, values);
    } else if (item !== undefined) values.push(unquoted(item));
  }
  return fields;
}

function unquoted(text: string): string {
  const [, double, single] = /^"(.*)"$|^'(.*)'$/.exec(text.trim()) ?? [];
  return double ?? single ?? text.trim();
}

/** A text as a value of YAML: "no" is a language, not false. */
function yaml(text: string): string {
  return /^[A-Za-z][\w./-]*$/.test(text) && !/^(?:no|yes|on|off|true|false|null|y|n)$/i.test(text)
    ? text
    : JSON.stringify(text);
}
