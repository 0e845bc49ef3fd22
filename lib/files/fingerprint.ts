// Digests of model files and data files, by which a later run recognises them.
import { createHash, type Hash } from "node:crypto";
import { join } from "node:path";
import { textIfThere } from "./text_file.ts";

/** Bytes at either end of a model's file that go into its digest: whole files of many GB would take minutes. */
const END_BYTES = 1 << 20;
/** Pieces between the ends that go into it, and their bytes: the ends hold embedding and head, which training leaves as they are. */
const PIECES = 256, PIECE_BYTES = 4096;

/** Files of a folder that are read where they are there: of a model, its tokenizer, and an adapter. */
const READ: readonly string[] = [
  "adapter_config.json",
  "adapter_model.safetensors",
  "added_tokens.json",
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/** Files that `added_tokens_decoder` in tokenizer_config.json replaces. */
const OLDER: readonly string[] = ["added_tokens.json", "special_tokens_map.json"];

/** Digest of a model or an adapter, a file or a folder: names, sizes, both ends of every file that is read, and pieces between them. */
export async function modelDigest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for (const name of await fileNames(path)) {
    using file = await Deno.open(name === "" ? path : join(path, name));
    const { size } = await file.stat();
    hash.update(`${name}\n${size}\n`);
    await addRange(hash, file, END_BYTES);
    await addPieces(hash, file, size);
    await file.seek(Math.max(0, size - END_BYTES), Deno.SeekMode.Start);
    await addRange(hash, file, END_BYTES);
  }
  return hash.digest("hex").slice(0, 16);
}

/**
 * Digest of all bytes of a file, such as data, in 16 hexadecimal digits. If {@link modelDigest} reads the whole file, both are equal. Throws
 * `Deno.errors.NotFound` if the file does not exist.
 */
export async function fileDigest(path: string): Promise<string> {
  const { isFile, size } = await Deno.stat(path);
  if (!isFile || size <= 2 * END_BYTES) return await modelDigest(path);
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  await addRange(hash, file, Infinity);
  return hash.digest("hex").slice(0, 16);
}

/** Names of the files of a model's folder that are read, in order; of a file "" alone. */
export async function fileNames(path: string): Promise<string[]> {
  if (!(await Deno.stat(path)).isDirectory) return [""];
  const names: string[] = [];
  // Files are links in the cache of huggingface_hub, where one may lead nowhere and is not a file then.
  for await (const { name, isDirectory, isSymlink } of Deno.readDir(path)) {
    if (isSymlink ? await leadsSomewhere(join(path, name)) : !isDirectory) names.push(name);
  }
  // Shards count only without the one file, as they are read; a run into the model's own folder leaves its checkpoint there.
  const hasShards = !names.includes("model.safetensors");
  const isShard = (name: string): boolean =>
    name === "model.safetensors.index.json" || (name.endsWith(".safetensors") && name !== "checkpoint.safetensors");
  // Where the config says of itself which tokens there are, the older files for it are not read.
  const config = await textIfThere(join(path, "tokenizer_config.json")) ?? "",
    isOwn = config.includes('"added_tokens_decoder"');
  const isRead = (name: string): boolean => READ.includes(name) && !(isOwn && OLDER.includes(name));
  return names.filter((name) => isRead(name) || (hasShards && isShard(name))).sort();
}

/** What cannot be looked at for another reason is there, and says so where it is read. */
async function leadsSomewhere(link: string): Promise<boolean> {
  return await Deno.stat(link).then(() => true, (error) => !(error instanceof Deno.errors.NotFound));
}

/** Pieces at even distances, of a file that both ends leave bytes of. */
async function addPieces(hash: Hash, file: Deno.FsFile, size: number): Promise<void> {
  const between = size - 2 * END_BYTES;
  for (let piece = 0; between > 0 && piece < PIECES; piece++) {
    await file.seek(END_BYTES + Math.floor(piece * between / PIECES), Deno.SeekMode.Start);
    await addRange(hash, file, PIECE_BYTES);
  }
}

async function addRange(hash: Hash, file: Deno.FsFile, most: number): Promise<void> {
  const buffer = new Uint8Array(Math.min(most, END_BYTES));
  for (let left = most; left > 0;) {
    const count = await file.read(buffer.subarray(0, Math.min(left, buffer.length)));
    if (count === null) return;
    hash.update(buffer.subarray(0, count));
    left -= count;
  }
}
