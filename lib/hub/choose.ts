// Which files of a repository a model, an adapter or data need.
import { type CompressoError, refusal } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { within } from "../files/path.ts";
import { visible } from "./visible.ts";
import { hubText, type HubUse } from "./name.ts";
import { noSuchFile } from "./near.ts";
import type { HubRepo } from "./repo.ts";

/** What is known of a repository. */
export type HubList = Pick<HubRepo, "name" | "files" | "isOffline">;

/** Files that are needed. */
export interface Chosen {
  /** Paths within the repository. */
  readonly files: readonly string[];
  /** What is opened: one of them, or the folder that they are in; "" for the repository's own. */
  readonly place: string;
}

const CONFIG = "config.json", SINGLE = "model.safetensors", INDEX = "model.safetensors.index.json";

/** Files of a model other than its weights: shape, tokenizer, card and licence. */
const NOT_WEIGHTS =
  /^(?:(?:generation_)?config\.json|tokenizer\.json|tokenizer_config\.json|added_tokens\.json|special_tokens_map\.json|chat_template\.jinja|additional_chat_templates\/[^/]+\.jinja|README\.md|LICENSE(?:\.txt|\.md)?)$/;

const ADAPTER = ["adapter_config.json", "adapter_model.safetensors"] as const;

/** Files with rows. */
const ROWS = /\.(?:jsonl?|ndjson|parquet|txt)(?:\.gz|\.zst)?$/;
/** Files of data sets that look like files with rows and hold none. */
const NO_ROWS = /(?:^|\/)(?:\.[^/]*|dataset_infos?\.json|dataset_dict\.json|state\.json|README[^/]*|LICENSE[^/]*)$/i;

/** Files that are listed in an error. */
const MOST_LISTED = 24;

/**
 * Chooses the files. `read` returns the text of a file of the repository.
 *
 * @throws CompressoError("input") if there are none, or if the user must name one of several; the error lists them.
 */
export async function chooseFiles(
  repo: HubList,
  use: HubUse | "shape",
  { read }: { readonly read: (path: string) => Promise<string> },
): Promise<Chosen> {
  const { file } = repo.name, folder = file?.replace(/\/+$/, "") ?? null;
  if (folder !== null && repo.files.has(folder)) return single(repo, folder, use);
  const below = folder === null ? "" : `${folder}/`;
  const names = [...repo.files.keys()].filter((path) => path.startsWith(below)).map((path) => path.slice(below.length));
  if (names.length === 0) throw noSuchFile(repo.name, repo.files.keys());
  const chosen = use === "data"
    ? chosenRows(repo, names, below)
    : use === "adapter"
    ? chosenAdapter(repo, names)
    : await chosenModel(repo, names, { use, below, read });
  return {
    files: chosen.files.map((name) => below + name),
    place: chosen.place === "" ? folder ?? "" : below + chosen.place,
  };
}

/** A file that was named, with its config. */
function single({ files }: HubList, file: string, use: HubUse | "shape"): Chosen {
  const config = use === "adapter"
    ? file.replace(/[^/]*$/, ADAPTER[0])
    : file.endsWith(`/${CONFIG}`) || file === CONFIG
    ? file.replace(/[^/]*$/, "generation_config.json")
    : null;
  return { files: [file, ...config !== null && files.has(config) ? [config] : []], place: file };
}

async function chosenModel(
  repo: HubList,
  names: readonly string[],
  { use, below, read }: {
    readonly use: HubUse | "shape";
    readonly below: string;
    readonly read: (path: string) => Promise<string>;
  },
): Promise<Chosen> {
  const has = (name: string): boolean => names.includes(name), others = names.filter((name) => NOT_WEIGHTS.test(name));
  for (const name of has(INDEX) ? [...others, INDEX] : others) {
    const size = repo.files.get(below + name)?.size ?? 0;
    if (size > MOST_TEXT) throw lacking(repo, `${name} has at most ${MOST_TEXT} bytes`, `${size} bytes`);
  }
  if (has(CONFIG) && use === "shape") return { files: others.filter((name) => /config\.json$/.test(name)), place: "" };
  if (has(CONFIG) && has(SINGLE)) return { files: [...others, SINGLE], place: "" };
  if (has(CONFIG) && has(INDEX)) {
    return { files: [...others, INDEX, ...shardsOf(await read(below + INDEX), repo)], place: "" };
  }
  const ggufs = names.filter((name) => name.endsWith(".gguf"));
  if (ggufs.length > 0) return one(repo, ggufs, { what: "GGUF", below });
  if (ADAPTER.every(has)) {
    throw lacking(
      repo,
      "it holds a model",
      "an adapter",
      "give the model that it was made for, and this as the adapter",
    );
  }
  const pickle = names.find((name) => /\.(bin|pt|pth)$/.test(name));
  throw lacking(
    repo,
    `it holds ${CONFIG} with safetensors, or a GGUF`,
    pickle === undefined ? `files such as ${names.slice(0, 6).join(", ")}` : `only PyTorch files: ${pickle}`,
    pickle === undefined
      ? "name a folder of it as hf:owner/name:folder, or another repository"
      : "look for a repository with safetensors; pickles run code and are not read",
  );
}

/**
 * Bytes of a text, and files that an index names. A tokenizer.json of 262,144 tokens has 33 MB, an index of 10,000
 * tensors 1 MB.
 */
const MOST_TEXT = 1 << 26, MOST_SHARDS = 10_000;

/** Names of the shards of an index. */
function shardsOf(text: string, repo: HubList): string[] {
  let index: unknown = null;
  try {
    index = JSON.parse(text);
  } catch { /* refused below */ }
  const map = isObject(index) && isObject(index["weight_map"]) ? index["weight_map"] : null;
  const shards = map === null ? [] : [...new Set(Object.values(map))];
  if (shards.length > MOST_SHARDS) {
    throw lacking(repo, `${INDEX} names at most ${MOST_SHARDS} files`, `${shards.length} files`);
  }
  if (shards.length > 0 && shards.every((shard) => typeof shard === "string" && /^[^/\\]+\.safetensors$/.test(shard))) {
    return shards.map(String).sort();
  }
  throw lacking(
    repo,
    `${INDEX} names .safetensors files of its folder`,
    "something else",
    "look for another revision of it",
  );
}

function chosenAdapter(repo: HubList, names: readonly string[]): Chosen {
  if (ADAPTER.every((name) => names.includes(name))) return { files: ADAPTER, place: "" };
  throw lacking(
    repo,
    `it holds ${ADAPTER.join(" and ")}`,
    `files such as ${names.slice(0, 6).join(", ")}`,
    ADAPTER_FIX,
  );
}

const ADAPTER_FIX = "name the folder of the adapter as hf:owner/name:folder, or another repository";

function chosenRows(repo: HubList, names: readonly string[], below: string): Chosen {
  const rows = names.filter((name) => ROWS.test(name) && !NO_ROWS.test(name));
  if (rows.length > 0) return one(repo, rows, { what: "file of rows", below });
  throw lacking(repo, "it holds JSON, JSON lines, parquet or text", `files such as ${names.slice(0, 6).join(", ")}`);
}

/** The only one. */
function one(
  repo: HubList,
  names: readonly string[],
  { what, below }: { readonly what: string; readonly below: string },
): Chosen {
  const [first] = names;
  if (first !== undefined && names.length === 1) return { files: [first], place: first };
  const sized = names.map((name) => `${below}${name} (${megabytes(repo.files.get(below + name)?.size ?? 0)})`);
  const more = sized.length > MOST_LISTED ? `, … (${sized.length} in all)` : "";
  throw lacking(
    repo,
    `one ${what} is named, as the repository has several`,
    sized.slice(0, MOST_LISTED).join(", ") + more,
    `name one, such as ${hubText(repo.name, { file: within(below, first ?? "").replace(/^\//, "") })}`,
  );
}

function megabytes(bytes: number): string {
  return bytes < 1e5 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function lacking(repo: HubList, rule: string, value: string, fix?: string): CompressoError {
  return refusal("input", `cannot use ${hubText(repo.name)}`, {
    rule,
    value: visible(repo.isOffline ? `${value}; the Hub is not asked for more` : value),
    fix: fix && visible(fix),
  });
}
