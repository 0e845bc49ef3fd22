// Origin and licence of a model in the metadata of a GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#general-metadata
import type { Provenance } from "../../spec/provenance.ts";
import type { GgufTyped, GgufValue } from "./types.ts";

/** Keys that hold a text. */
const TEXTS = {
  name: "general.name",
  organization: "general.organization",
  basename: "general.basename",
  sizeLabel: "general.size_label",
  license: "general.license",
  licenseName: "general.license.name",
  licenseLink: "general.license.link",
} as const satisfies Partial<Record<keyof Provenance, string>>;
const LANGUAGES = "general.languages";
const HUB = "https://huggingface.co/";

/** What the metadata of a GGUF say. */
export function ggufProvenance(metadata: ReadonlyMap<string, GgufValue>): Provenance {
  const texts = Object.entries(TEXTS).flatMap(([field, key]) => {
    const value = metadata.get(key);
    return typeof value === "string" && value !== "" ? [[field, value] as const] : [];
  });
  const languages = textsOf(metadata.get(LANGUAGES));
  const baseModels: string[] = [];
  for (let i = 0; i < Number(metadata.get("general.base_model.count") ?? 0); i++) {
    const address = metadata.get(`general.base_model.${i}.repo_url`);
    if (typeof address !== "string") break;
    if (address.startsWith(HUB)) baseModels.push(address.slice(HUB.length));
  }
  return {
    ...Object.fromEntries(texts),
    ...(languages.length > 0 ? { languages } : {}),
    ...(baseModels.length > 0 ? { baseModels } : {}),
  };
}

/** Metadata of a model of so many parameters that was made from one of this origin. */
export function provenanceEntries(base: Provenance, parameters: number): [string, GgufValue | GgufTyped][] {
  const { name, organization, basename, license, licenseName, licenseLink, languages = [], baseModels = [] } = base;
  const kept = { organization, basename, license, licenseName, licenseLink };
  const entries: [string, GgufValue | GgufTyped][] = [];
  for (const [field, value] of Object.entries(kept)) {
    if (isText(field) && value !== undefined) entries.push([TEXTS[field], value]);
  }
  // That of the base is no longer true.
  if (base.sizeLabel !== undefined) entries.push([TEXTS.sizeLabel, sizeLabel(parameters)]);
  if (languages.length > 0) entries.push([LANGUAGES, languages]);
  const bases = baseModels.length > 0
    ? baseModels.map((id) => ({ name: id.split("/").at(-1) ?? id, organization: id.split("/")[0], address: HUB + id }))
    : name === undefined
    ? []
    : [{ name, organization, address: undefined }];
  if (bases.length > 0) entries.push(["general.base_model.count", { type: "u32", value: bases.length }]);
  for (const [i, { name, organization, address }] of bases.entries()) {
    const key = `general.base_model.${i}`;
    entries.push([`${key}.name`, name]);
    if (organization !== undefined) entries.push([`${key}.organization`, organization]);
    if (address !== undefined) entries.push([`${key}.repo_url`, address]);
  }
  return entries;
}

/** A number of parameters as llama.cpp's converter writes it: at least two digits, in thousands, millions or billions. */
export function sizeLabel(parameters: number): string {
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"]] as const) {
    if (parameters >= unit) return `${shortened(parameters / unit)}${letter}`;
  }
  return `${shortened(parameters / 1e3)}K`;
}

function shortened(value: number): string {
  return value.toFixed(Math.round(value) < 10 ? 1 : 0);
}

function isText(field: string): field is keyof typeof TEXTS {
  return Object.hasOwn(TEXTS, field);
}

function textsOf(value: GgufValue | undefined): readonly string[] {
  return Array.isArray(value) ? value.filter((one): one is string => typeof one === "string") : [];
}
