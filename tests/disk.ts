// Readers and writers of model files, on the disk.
import { disk } from "../lib/files/disk.ts";
import { type GgufExport, type GgufExportOptions, stageGguf } from "../lib/formats/gguf/export.ts";
import * as file from "../lib/formats/gguf/file.ts";
import * as gguf from "../lib/formats/gguf/model.ts";
import { type GgufContent, stageGgufFile } from "../lib/formats/gguf/write.ts";
import { type HfExportOptions, stageHf } from "../lib/formats/hf/export.ts";
import * as hf from "../lib/formats/hf/model.ts";
import * as open from "../lib/formats/open.ts";
import * as safetensors from "../lib/formats/safetensors/read.ts";
import * as writer from "../lib/formats/safetensors/write.ts";
import type { WeightSource } from "../lib/spec/source.ts";
import * as text from "../lib/text/tokenizer.ts";

export const openWeights = (path: string): ReturnType<typeof open.openWeights> => open.openWeights(disk, path);
export const openHfFolder = (path: string): Promise<hf.HfSource> => hf.openHfFolder(disk, path);
export const openGguf = async (path: string): Promise<gguf.GgufSource> => await gguf.openGguf(await disk.open(path));
export const openGgufFile = async (path: string): Promise<file.GgufFile> =>
  await file.openGgufFile(await disk.open(path));
export const openSafetensors = async (path: string): Promise<safetensors.SafetensorsFile> =>
  await safetensors.openSafetensors(await disk.open(path));
export const loadHfTokenizer = (path: string): Promise<text.Tokenizer | null> => text.loadHfTokenizer(disk, path);

export const writeSafetensors = (
  path: string,
  items: readonly writer.SafetensorsItem[],
  options: writer.SafetensorsMetadata = {},
): Promise<void> => writer.writeSafetensors(path, items, { ...options, files: disk });

export const writeShardedSafetensors = (
  folder: string,
  items: readonly writer.SafetensorsItem[],
  options: writer.SafetensorsMetadata & { readonly maxShardBytes?: number } = {},
): Promise<string[]> => writer.writeShardedSafetensors(folder, items, { ...options, files: disk });

export async function writeGguf(path: string, content: GgufContent): Promise<void> {
  using file = await stageGgufFile(path, content, { files: disk });
  await file.commit();
}

export async function exportGguf(source: WeightSource, path: string, options: GgufExportOptions): Promise<GgufExport> {
  using staged = await stageGguf(source, path, { ...options, files: disk });
  await staged.commit();
  return staged.result;
}

export async function exportHf(
  source: WeightSource,
  folder: string,
  options: HfExportOptions,
): Promise<{ form: string }> {
  using staged = await stageHf(source, folder, { ...options, files: disk });
  await staged.commit();
  return { form: staged.family.type };
}
