// Summaries of masks and file sizes in run.json, for reports.
import { TENSOR_FORMATS } from "../formats/gguf/types.ts";
import { fileBytes as bytesOfKind, type FileContent, type FileKind } from "../units/file_size.ts";
import { type FileSystem, infoOf } from "../files/system.ts";
import type { WeightSource } from "../spec/source.ts";
import { type MaskValues, unpackMasks } from "../nn/mask_slots.ts";
import type { UnitTable } from "../units/table.ts";
import { type DecoderSpec, type LayerSpec, mixerMasks, tensorShapes } from "../spec/decoder.ts";

/** Masks of a run by layer of the model as it was. */
export interface MaskSummary {
  /** z of every head; 0 if it is cut. */
  readonly heads: readonly (readonly number[])[];
  /** Kept shares of the layer's FFN columns, in ranges of equal width: 64, or as many as there are columns. */
  readonly ffn: readonly (readonly number[])[];
  /** Kept shares of the hidden dims, in such ranges. */
  readonly hidden: readonly number[];
}

/** A model before it was pruned. */
export interface ModelBefore {
  /** Heads, KV heads and FFN columns of each layer. */
  readonly layers: readonly LayerSpec[];
  /** Hidden size. */
  readonly hidden: number;
  /** Width of a head. */
  readonly headDim: number;
  /** Width of a head in layers with a RoPE of their own, where it is another. */
  readonly localHeadDim?: number;
  /** Whether its FFNs have no gate; absent if they have one. */
  readonly ungated?: true;
  /** Bytes of its tensors as they are stored. */
  readonly bytes: number;
}

/** A file or folder and its size. */
export interface FileBytes {
  /** Its path. */
  readonly file: string;
  /** Its size; for a folder, the size of its weights alone. */
  readonly bytes: number;
  /** Types of its matrices that would make it smaller, and the resulting bytes, from the largest to the smallest. */
  readonly smaller?: readonly { readonly dtype: string; readonly bytes: number }[];
}

const BINS = 64;

/**
 * Masks during a run: the expected share that stays of each head, and of ranges of columns and hidden dims. `cuts` is
 * the share cut of each unit.
 */
export function openMasks(table: UnitTable, cuts: ArrayLike<number>): MaskSummary {
  const { spec, layout } = table, slots = new Float32Array(layout.count).fill(1);
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    // A layer's own unit also holds the slots of its heads and columns.
    for (let slot = first; slot < end; slot++) slots[slot] = (slots[slot] ?? 1) * (1 - (cuts[unit] ?? 0));
  }
  return maskSummary(spec, unpackMasks(spec, layout, slots), { shareOf: (z) => z });
}

/** Masks as run.json holds them; an absent kind counts as kept. */
export function maskSummary(
  { layers, hidden }: DecoderSpec,
  masks: MaskValues,
  { shareOf = (z) => z === 0 ? 0 : 1 }: {
    /** Share of a column or hidden dim that stays at z. Default: 1 unless z is 0. */
    readonly shareOf?: (z: number) => number;
  } = {},
): MaskSummary {
  let head = 0, column = 0;
  const heads: number[][] = [], ffn: number[][] = [];
  for (const layer of layers) {
    const count = mixerMasks(layer), z = masks.head?.subarray(head, head + count) ?? new Float32Array(count).fill(1);
    // Six digits are precise enough and keep the file short.
    heads.push(Array.from(z, (value) => Number(value.toPrecision(6))));
    ffn.push(keptShares(masks.ffn?.subarray(column, column + layer.ffn), layer.ffn, shareOf));
    head += count;
    column += layer.ffn;
  }
  return { heads, ffn, hidden: keptShares(masks.hidden, hidden, shareOf) };
}

function keptShares(z: Float32Array | undefined, count: number, shareOf: (z: number) => number): number[] {
  const bins = Math.min(BINS, count);
  return Array.from({ length: bins }, (_, bin) => {
    const from = Math.floor(bin * count / bins), end = Math.floor((bin + 1) * count / bins);
    let kept = 0;
    for (let at = from; at < end; at++) kept += shareOf(z?.[at] ?? 1);
    return Number((kept / (end - from)).toFixed(4));
  });
}

/** Shape of a model and bytes of its tensors. */
export function modelBefore(source: WeightSource): ModelBefore {
  const { layers, hidden, headDim, localHeadDim, ungated } = source.spec;
  let bytes = 0;
  for (const [name, shape] of tensorShapes(source.spec)) {
    const type = source.storedDtype(name),
      format = Object.entries(TENSOR_FORMATS).find(([known]) => known === type)?.[1];
    const values = shape.reduce((product, size) => product * size, 1);
    bytes += values * (format ? format.bytes / format.block : 4);
  }
  const local = localHeadDim === undefined ? {} : { localHeadDim };
  return { layers, hidden, headDim, ...local, ...ungated ? { ungated } : {}, bytes };
}

/** Sizes of files and of the weights in folders. */
export async function fileBytes(paths: readonly string[], files: FileSystem): Promise<FileBytes[]> {
  return await Promise.all(paths.map(async (file) => {
    const { isFolder, size } = await infoOf(files, file);
    if (!isFolder) return { file, bytes: size };
    const names = (await files.names(file)).filter((name) => name.endsWith(".safetensors"));
    const sizes = await Promise.all(names.map(async (name) => (await infoOf(files, `${file}/${name}`)).size));
    return { file, bytes: sizes.reduce((sum, own) => sum + own, 0) };
  }));
}

/** Adds to each file the types that would make it smaller; `spec` is the shape that the files hold. */
export function withSmallerTypes(
  files: readonly FileBytes[],
  { spec, content }: { readonly spec: DecoderSpec; readonly content: FileContent },
): FileBytes[] {
  return files.map(({ file, bytes }) => {
    const kinds = file.endsWith(".gguf") ? GGUF_KINDS : HF_KINDS;
    const smaller = kinds.map((kind) => ({ dtype: kind.dtype, bytes: bytesOfKind(spec, kind, content) }))
      .filter((one) => one.bytes < bytes);
    return { file, bytes, ...(smaller.length > 0 ? { smaller } : {}) };
  });
}

const GGUF_KINDS = (["f16", "q8_0", "q4_0"] as const).map((dtype): FileKind => ({ format: "gguf", dtype }));
const HF_KINDS: readonly FileKind[] = [{ format: "hf", dtype: "f16" }];
