// Opens models and rows in a browser: from bytes, from files that the user chose, or from addresses.
import { addressSource } from "./address.ts";
import { blobSource } from "../files/blob.ts";
import { memoryFiles, memorySource } from "../files/memory.ts";
import type { ByteSource, FileSystem } from "../files/system.ts";
import { type DataSet, type ReadOptions, readRowsFrom } from "../data/rows.ts";
import { type ModelFiles, openModel as openFiles } from "../formats/open.ts";
import { loadModelFrom, type LoadModelOptions, type Model } from "../model/model.ts";

/**
 * A file of a model: its bytes; a `File` or `Blob`, which is read piece by piece; or a URL, which is read by ranges, or
 * fetched whole where the server gives no ranges.
 */
export type ModelFile = Uint8Array<ArrayBuffer> | Blob | URL;

/** Path of the model within the file system that it is opened from. */
const PATH = "model";

/**
 * Loads a model onto the GPU, from a GGUF file or from the files of a Hugging Face folder by their names.
 *
 * @throws CompressoError("input") for a file that cannot be read, or that is no model.
 * @throws what `loadModelFrom` throws.
 * @example
 * ```ts
 * import { openDevice, openModel } from "compresso/browser";
 *
 * export async function logitsOf(file: File, tokens: readonly number[]): Promise<Float32Array> {
 *   using device = await openDevice();
 *   using model = await openModel(file, { device }); // a GGUF that the user chose
 *   return await model.logits(tokens);
 * }
 * ```
 */
export async function openModel(
  files: ModelFile | Readonly<Record<string, ModelFile>>,
  options: LoadModelOptions,
): Promise<Model> {
  const { source, tokenizer } = await openModelFiles(files);
  return await loadModelFrom(source, { ...options, tokenizer });
}

/**
 * Opens weights and tokenizer of a GGUF file, or of the files of a Hugging Face folder by their names, without a GPU.
 * Weights of a `File`, `Blob` or `URL` are read as they are asked for.
 *
 * @throws CompressoError("input") for a file that cannot be read, or that is no model.
 * @example
 * ```ts
 * import { openModelFiles } from "compresso/browser";
 *
 * export async function layersOf(file: File): Promise<number> {
 *   const { source } = await openModelFiles(file);
 *   return source.spec.layers.length;
 * }
 * ```
 */
export async function openModelFiles(files: ModelFile | Readonly<Record<string, ModelFile>>): Promise<ModelFiles> {
  const isOne = files instanceof Uint8Array || files instanceof Blob || files instanceof URL;
  const named: (readonly [string, ModelFile])[] = isOne
    ? [[`${PATH}.gguf`, files]]
    : Object.entries(files).map(([name, file]) => [`${PATH}/${name}`, file]);
  const sources = await Promise.all(named.map(async ([path, file]) => [path, await sourceOf(path, file)] as const));
  return await openFiles(filesOf(new Map(sources)), isOne ? `${PATH}.gguf` : PATH);
}

/**
 * Reads rows of JSON lines, a JSON array, a parquet table, or plain text as one document, like `readRows` of
 * `compresso/data`. Compressed files are refused.
 *
 * @param name - Name of the file, for messages; one that ends in .json, .jsonl or .ndjson is never plain text.
 * @throws CompressoError("input") for a file that cannot be read, and for broken rows.
 * @throws CompressoError("usage") for options that do not exist.
 * @example
 * ```ts
 * import { readRows } from "compresso/browser";
 * const file = new Blob(['{"text": "Tom went to Rome."}\n']);
 * const { rows } = await readRows("rows.jsonl", file);
 * if (rows.length !== 1) throw new Error("other rows");
 * ```
 */
export async function readRows(name: string, file: ModelFile, options: ReadOptions = {}): Promise<DataSet> {
  return await readRowsFrom(await sourceOf(name, file), options);
}

/** A file system that reads these sources, by their paths. */
function filesOf(sources: ReadonlyMap<string, ByteSource>): FileSystem {
  const paths = memoryFiles(Array.from(sources.keys(), (path) => [path, new Uint8Array()] as const));
  return {
    ...paths,
    async info(path): ReturnType<FileSystem["info"]> {
      const { size } = sources.get(path) ?? {};
      return size === undefined ? await paths.info(path) : { isFolder: false, size };
    },
    open: async (path) => sources.get(path) ?? await paths.open(path),
    async text(path): Promise<string | null> {
      const source = sources.get(path);
      if (!source) return null;
      const bytes = new Uint8Array(source.size);
      await source.read(bytes, 0);
      return await memoryFiles([[path, bytes]]).text(path);
    },
  };
}

async function sourceOf(path: string, file: ModelFile): Promise<ByteSource> {
  if (file instanceof Uint8Array) return memorySource(path, file);
  if (file instanceof URL) return await addressSource(path, file);
  return blobSource(path, file);
}
