// Opens models of every format. The content decides the format, never the file name.
import { refuse } from "../core/errors.ts";
import { type FileInfo, type FileSystem, firstBytes, isThere, missing } from "../files/system.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import { loadHfTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { GgufSource } from "./gguf/model.ts";
import { NO_TOKENIZER } from "./gguf/tokenizer_parts.ts";
import { type HfSource, noWeights, openHfFolder, readHfConfig } from "./hf/model.ts";
import { isGguf, looksLike, SNIFFED_BYTES } from "./sniff.ts";

/** What belongs to a model. */
export interface ModelFiles {
  /** Its weights, read as they are asked for. */
  readonly source: WeightSource;
  /** Null if the folder has no tokenizer; only work with text needs it. */
  readonly tokenizer: Tokenizer | null;
}

/**
 * Opens the weights of a Hugging Face folder (one with config.json) or a GGUF; `format` says which it was.
 *
 * @throws CompressoError("input") for a path that is neither, saying what it seems to be, and as the reader of the format.
 */
export async function openWeights(files: FileSystem, path: string): Promise<HfSource | GgufSource> {
  const kind = await modelKind(files, path);
  if (kind === "folder") return await openHfFolder(files, path);
  if (kind === "gguf") return await gguf(files, path);
  const { what, fix } = kind.guess ?? { what: "something else", fix: "give a Hugging Face folder or a GGUF file" };
  refuse("input", `cannot open the model ${path}`, {
    rule: "it is a Hugging Face folder, or a file that starts with GGUF",
    value: what,
    fix,
  });
}

async function gguf(files: FileSystem, path: string): Promise<GgufSource> {
  // Pages that read folders alone need not load it.
  const { openGguf } = await import("./gguf/model.ts");
  return await openGguf(await files.open(path));
}

/** Opens weights and tokenizer of a Hugging Face folder or a GGUF. Throws as {@link openWeights}, and for a broken tokenizer. */
export async function openModel(files: FileSystem, path: string): Promise<ModelFiles> {
  const source = await openWeights(files, path);
  if (source.format === "hf") return { source, tokenizer: await loadHfTokenizer(files, path) };
  const { tokenizerFromGguf } = await import("./gguf/tokenizer.ts");
  const kind = source.metadata.get("tokenizer.ggml.model") ?? NO_TOKENIZER;
  return { source, tokenizer: kind === NO_TOKENIZER ? null : tokenizerFromGguf(source.metadata) };
}

/**
 * Reads the shape of a model from a folder with a config.json, which need not hold weights, from a config.json itself, or from a GGUF.
 *
 * @throws CompressoError("input") for anything else, and for a model that a {@link DecoderSpec} does not describe.
 */
export async function readSpec(files: FileSystem, path: string): Promise<DecoderSpec> {
  const kind = await modelKind(files, path);
  if (kind === "folder") return (await readHfConfig(files, `${path}/config.json`)).spec;
  if (kind === "gguf") return (await gguf(files, path)).spec;
  if (kind.startsAsJson) return (await readHfConfig(files, path)).spec;
  refuse("input", `cannot tell the shape of the model ${path}`, {
    rule: "it is a folder with config.json, such a file, or a file that starts with GGUF",
    value: kind.guess?.what ?? "something else",
    fix: kind.guess?.fix ?? "give a config.json, a folder that holds one, or a GGUF",
  });
}

/** What is at a model's path. Throws `CompressoError("input")` if nothing is, or it may not be read. */
export async function modelInfo(files: FileSystem, path: string): Promise<FileInfo> {
  const info = await files.info(path);
  if (info) return info;
  const failure = missing(path), fix = await hubMeant(files, path);
  throw fix === null ? failure : failure.with({ fix });
}

/** What to do about a path where nothing is and that is a page of the Hub, or has the form of a name there; null for other paths. */
export async function hubMeant(files: FileSystem, path: string): Promise<string | null> {
  const [, repo, revision = "main", file] = HUB_PAGE.exec(path) ?? [];
  if (repo !== undefined) {
    const at = revision === "main" ? "" : `@${revision}`;
    return `did you mean hf:${repo}${at}${file === undefined ? "" : `:${file}`}?`;
  }
  const [owner = ""] = path.split("/");
  return !HUB_ID.test(path) || await isThere(files, owner) ? null : `did you mean hf:${path}?`;
}

/** The page of a repository on the Hub, of a revision of it, or of a file or folder in it; or the address of a file. */
const HUB_PAGE =
  /^(?:https?:\/\/)?(?:www\.)?(?:huggingface\.co|hf\.co)\/(?:datasets\/)?([\w.-]+\/[\w.-]+)(?:\/(?:tree|blob|resolve)\/([^/?#]+)(?:\/([^?#]*[^/?#]))?)?\/?(?:[?#].*)?$/;

/** Owner and name of a model on the Hub; names of files end otherwise. */
const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(?<!\.(?:gguf|json|jsonl|safetensors|txt))$/;

/** A file that is not a model. */
interface OtherFile {
  readonly guess: ReturnType<typeof looksLike>;
  readonly startsAsJson: boolean;
}

/** What kind of model is at a path. Throws `CompressoError("input")` if nothing is, and for a folder without config.json. */
export async function modelKind(files: FileSystem, path: string): Promise<"folder" | "gguf" | OtherFile> {
  const { isFolder } = await modelInfo(files, path);
  if (isFolder) {
    if (await isThere(files, `${path}/config.json`)) return "folder";
    throw await noWeights(files, path, "config.json");
  }
  const head = await firstBytes(await files.open(path), SNIFFED_BYTES);
  if (isGguf(head)) return "gguf";
  const guess = looksLike(head);
  return { guess, startsAsJson: !guess && new TextDecoder("latin1").decode(head).trimStart().startsWith("{") };
}
