// Tensors of folders that hold several canonical ones, or one transposed; read and written as the canonical ones.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { biasName, type DecoderSpec, projectionName, PROJECTIONS, ropeDims, tensorShapes } from "../../spec/decoder.ts";
import { neighbourRow } from "../../spec/rope.ts";
import type { RowRange } from "../../spec/source.ts";
import type { SafetensorsFile } from "../safetensors/read.ts";
import type { Family, Packing } from "../../families/family.ts";
import { storedName } from "./stored.ts";

/** What is read of a file of weights; `readRaw` where its tensors are those of a file. */
export type TensorFile = Pick<SafetensorsFile, "tensors" | "read"> & Partial<Pick<SafetensorsFile, "readRaw">>;

/** Where a tensor is: in which file, under which name. */
export interface TensorPlace {
  readonly file: TensorFile;
  readonly name: string;
}

/** A folder that is read. */
export interface FolderContext {
  readonly family: Family;
  readonly spec: DecoderSpec;
  readonly folder: string;
}

/** The error for a tensor that a folder does not hold as its config.json says. */
export function badTensor(folder: string, rule: string, value: string): CompressoError {
  const fix = "fetch the files again, all of one model, or correct config.json";
  return refusal("input", `cannot open the model ${folder}`, { rule, value, fix });
}

/** A tensor of a folder that is made of canonical tensors. */
export interface PackedTensor {
  readonly name: string;
  /** Shape in the file. */
  readonly shape: readonly number[];
  /** Canonical tensors whose rows it holds, and their rows. */
  readonly parts: readonly { readonly name: string; readonly rows: number }[];
  /** Rows of a part that stand together before those of the next one (a head); null if all do. */
  readonly block: number | null;
  /** Whether it is stored [in, out]. */
  readonly transposed: boolean;
  /** Heads whose first dims are stored so that RoPE turns neighbours, or whose halves are exchanged; null for rows in the order of the canonical ones. */
  readonly neighbours: { readonly headDim: number; readonly dims: number; readonly areHalves: boolean } | null;
}

/** The packed tensors of a folder of a family. */
export function packedTensors({ tensors = {}, ...family }: Family, spec: DecoderSpec): PackedTensor[] {
  const { packed = [], transposed = [], neighbours } = tensors, shapes = tensorShapes(spec);
  const rowsOf = (name: string): number => shapes.get(name)?.[0] ?? 0;
  const turns = neighbours && !spec.positions
    ? { headDim: spec.headDim, dims: ropeDims(spec), areHalves: neighbours === "halves" }
    : null;
  const alone = PROJECTIONS.filter((one) =>
    !packed.some(({ parts }) => parts.includes(one)) &&
    (transposed.includes(one) || (turns && (one === "q" || one === "k")))
  );
  const all = [...packed, ...alone.map((one): Packing => ({ module: "", parts: [one] }))];
  return spec.layers.flatMap((_, layer) =>
    all.flatMap(({ module, parts, byHead }): PackedTensor[] =>
      [projectionName, biasName].flatMap((nameOf) => {
        const names = parts.map((part) => nameOf(layer, part)), [first = ""] = names, [only = "q"] = parts;
        const rows = names.reduce((sum, name) => sum + rowsOf(name), 0), isMatrix = nameOf === projectionName;
        const isTurned = turns !== null && parts.length === 1 && (only === "q" || only === "k");
        if (rows === 0 || (!isMatrix && !module && !isTurned)) return [];
        const own = storedName({ ...family, tensors }, first);
        const shape = [rows, ...(shapes.get(first) ?? []).slice(1)],
          isTransposed = isMatrix && transposed.includes(only);
        return [{
          name: module ? own.replace(/[^.]+\.[^.]+\.(weight|bias)$/, `${module}.$1`) : own,
          shape: isTransposed ? shape.toReversed() : shape,
          parts: names.map((name) => ({ name, rows: rowsOf(name) })),
          block: byHead ? spec.headDim : null,
          transposed: isTransposed,
          neighbours: isTurned ? turns : null,
        }];
      })
    )
  );
}

/**
 * The tensors of a folder with packed ones replaced by their parts, under the names that `storedName` gives those.
 *
 * @throws CompressoError("input") for a packed tensor that is missing or has another shape.
 */
export function unpacked(
  packed: readonly PackedTensor[],
  places: ReadonlyMap<string, TensorPlace>,
  { family, spec, folder }: FolderContext,
): Map<string, TensorPlace> {
  const all = new Map(places), shapes = tensorShapes(spec);
  for (const tensor of packed) {
    const place = places.get(tensor.name), entry = place?.file.tensors.get(place.name);
    const shape = `[${tensor.shape.join(", ")}]`;
    if (!place || !entry) throw badTensor(folder, `it holds the tensor ${tensor.name}, ${shape}`, "no such tensor");
    if (entry.shape.join() !== tensor.shape.join()) {
      throw badTensor(
        folder,
        `${tensor.name} has the shape ${shape} that config.json implies`,
        `[${entry.shape.join(", ")}]`,
      );
    }
    all.delete(tensor.name);
    for (const { name } of tensor.parts) {
      const own = storedName(family, name);
      const file: TensorFile = {
        tensors: new Map([[own, { ...entry, name: own, shape: shapes.get(name) ?? [] }]]),
        read: async (_, rows) =>
          await readPart((range) => place.file.read(place.name, range), tensor, { part: name, rows }),
      };
      all.set(own, { file, name: own });
    }
  }
  return all;
}

/** Rows of a canonical tensor (default: all) from the packed tensor that holds it. */
async function readPart(
  read: (rows?: RowRange) => Promise<Float32Array<ArrayBuffer>>,
  tensor: PackedTensor,
  { part, rows }: { readonly part: string; readonly rows: RowRange | undefined },
): Promise<Float32Array<ArrayBuffer>> {
  const index = tensor.parts.findIndex(({ name }) => name === part), width = widthOf(tensor);
  const { start, count } = rows ?? { start: 0, count: tensor.parts[index]?.rows ?? 0 };
  const out = new Float32Array(count * width);
  if (tensor.transposed) {
    const whole = await read(), stride = tensor.shape[1] ?? 1;
    for (let row = 0; row < count; row++) {
      const column = placeOf(tensor, index, start + row);
      for (let c = 0; c < width; c++) out[row * width + c] = whole[c * stride + column] ?? NaN;
    }
    return out;
  }
  if (tensor.neighbours) {
    // The whole heads that hold the rows.
    const { headDim } = tensor.neighbours, first = Math.floor(start / headDim) * headDim;
    const heads = await read({ start: first, count: Math.ceil((start + count) / headDim) * headDim - first });
    for (let row = 0; row < count; row++) {
      const place = (placeOf(tensor, index, start + row) - first) * width;
      out.set(heads.subarray(place, place + width), row * width);
    }
    return out;
  }
  for (let row = 0; row < count;) {
    // Rows that follow one another in the file.
    const { block } = tensor, run = block === null ? count : Math.min(count - row, block - (start + row) % block);
    out.set(await read({ start: placeOf(tensor, index, start + row), count: run }), row * width);
    row += run;
  }
  return out;
}

/** The values of a packed tensor from those of its parts. */
export function pack(tensor: PackedTensor, values: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const width = widthOf(tensor), stride = tensor.shape[1] ?? 1;
  const out = new Float32Array(values.reduce((sum, part) => sum + part.length, 0));
  tensor.parts.forEach(({ rows }, index) => {
    const part = values[index] ?? new Float32Array();
    for (let row = 0; row < rows; row++) {
      const place = placeOf(tensor, index, row);
      if (!tensor.transposed) out.set(part.subarray(row * width, (row + 1) * width), place * width);
      else for (let c = 0; c < width; c++) out[c * stride + place] = part[row * width + c] ?? NaN;
    }
  });
  return out;
}

/** Values of a row of the canonical tensors. */
function widthOf({ shape: [first = 1, second], transposed }: PackedTensor): number {
  return transposed ? first : second ?? 1;
}

/** Row of the packed tensor, before it is transposed, that holds a row of a part. */
function placeOf({ parts, block, neighbours }: PackedTensor, index: number, row: number): number {
  if (neighbours?.areHalves) {
    const { headDim } = neighbours, at = row % headDim;
    return row - at + (at + headDim / 2) % headDim;
  }
  if (neighbours) return neighbourRow(row, neighbours);
  if (block === null) return parts.slice(0, index).reduce((sum, part) => sum + part.rows, row);
  return (Math.floor(row / block) * parts.length + index) * block + row % block;
}
