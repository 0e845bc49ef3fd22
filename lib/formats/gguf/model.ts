// A GGUF as a source of weights.
import { refuse } from "../../core/errors.ts";
import { blocksOf, type QuantRows } from "../../spec/quant.ts";
import { type DecoderSpec, isCurve, ropeDims, tensorShapes } from "../../spec/decoder.ts";
import { neighbourRow } from "../../spec/rope.ts";
import type { GgufArch } from "../../families/gguf_arch.ts";
import { ggufCurves } from "./curves.ts";
import { type GgufFile, openGgufFile } from "./file.ts";
import type { GgufHeader, GgufTensor } from "./header.ts";
import { fusedGgufName, fusedTensors, rowsWithin } from "../fused.ts";
import {
  type GgufName,
  ggufNameIn,
  ggufNames,
  ggufShape,
  ROPE_FREQS,
  ROPE_LONG,
  ROPE_SHORT,
  storedFusions,
} from "./names.ts";
import { ggufProvenance } from "./provenance.ts";
import { ggufSpec } from "./spec.ts";
import { ggufError } from "./types.ts";
import { rowWindow } from "../../spec/row_range.ts";
import type { ByteSource } from "../../files/system.ts";
import type { BlockOptions, RowRange, WeightSource } from "../../spec/source.ts";

/** Weights of a GGUF, with all that its header says. */
export interface GgufSource extends WeightSource, GgufHeader {
  readonly format: "gguf";
  readonly path: string;
}

/**
 * Opens a GGUF (version 2 or 3) of one of `GGUF_ARCHS`. Only the header, and `rope_freqs.weight`, are read here.
 * Tensors of type F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and MXFP4 are dequantised on reading.
 *
 * @throws CompressoError("input") for a broken file, another architecture or tensor type, and tensors that the metadata do not imply.
 */
export async function openGguf(source: ByteSource): Promise<GgufSource> {
  const file = await openGgufFile(source), { path } = file;
  const { spec, arch } = await ggufSpec(file), turns = { headDim: spec.headDim, dims: ropeDims(spec) };
  const names = ggufNames(spec.layers.length, arch.tensorNames);
  const found = checkTensors(spec, file, { names, arch }), curves = ggufCurves(file, spec);
  const tensorOf = (name: string): Found => {
    const entry = found.get(name);
    if (entry) return entry;
    refuse("input", `cannot read the tensor ${name} of ${path}`, {
      rule: "the file holds it",
      value: "no such tensor",
    });
  };
  return {
    format: "gguf",
    path,
    version: file.version,
    metadata: file.metadata,
    tensors: file.tensors,
    spec,
    provenance: ggufProvenance(file.metadata),
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const curve = curves.get(name);
      if (curve) return curve.slice();
      const { tensor, rotated, part, isFlat } = tensorOf(name);
      if (isFlat && rows) return (await file.readTensor(tensor.name)).slice(rows.start, rows.start + rows.count);
      return rotated
        ? await readRotated(file, { tensor, turns, rows })
        : await file.readTensor(tensor.name, part ? rowsWithin(part, rows) : rows);
    },
    async readStored(name, rows, into): Promise<Uint8Array<ArrayBuffer> | null> {
      if (curves.has(name)) return null;
      const { tensor, rotated, part } = tensorOf(name);
      if (!rotated) return await file.readTensorStored(tensor.name, part ? rowsWithin(part, rows) : rows, into);
      const { heads, rowOf, count } = headsOf({ tensor, turns, rows });
      const stored = await file.readTensorStored(tensor.name, heads, into), width = stored.length / heads.count;
      if (count !== heads.count) return pickRows(stored, new Uint8Array(count * width), { width, rowOf });
      const head = new Uint8Array(spec.headDim * width);
      for (let at = 0; at < stored.length; at += head.length) {
        const own = stored.subarray(at, at + head.length);
        head.set(own);
        pickRows(head, own, { width, rowOf });
      }
      return stored;
    },
    async readBlocks(name, options): Promise<QuantRows | null> {
      const { tensor, rotated, part } = tensorOf(name);
      return rotated ? await readRotatedBlocks(file, { tensor, turns, ...options }) : await file.readTensorBlocks(
        tensor.name,
        part ? { ...options, rows: rowsWithin(part, options.rows) } : options,
      );
    },
    storedDtype: (name): string => curves.has(name) ? "f32" : tensorOf(name).tensor.type,
  };
}

/** Rows of q or k in Hugging Face's order: reads the heads that hold them, then picks. */
async function readRotated(
  file: GgufFile,
  { tensor, turns, rows }: Rotated & { readonly rows: RowRange | undefined },
): Promise<Float32Array<ArrayBuffer>> {
  const { heads, width, rowOf, count } = headsOf({ tensor, turns, rows });
  return pickRows(await file.readTensor(tensor.name, heads), new Float32Array(count * width), { width, rowOf });
}

/** The same as blocks: rows are whole blocks, so only rows move. */
async function readRotatedBlocks(
  file: GgufFile,
  { tensor, turns, bits, rows }: Rotated & BlockOptions,
): Promise<QuantRows | null> {
  const { heads, width, rowOf, count } = headsOf({ tensor, turns, rows });
  const blocks = await file.readTensorBlocks(tensor.name, { bits, rows: heads });
  if (!blocks) return null;
  const { codes, scales } = blocks, perRow = blocksOf(width);
  return {
    codes: pickRows(codes, new Uint8Array(count * width), { width, rowOf }),
    scales: pickRows(scales, new Uint32Array(count * perRow), { width: perRow, rowOf }),
  };
}

/** A q or k weight. */
interface Rotated {
  readonly tensor: GgufTensor;
  readonly turns: { readonly headDim: number; readonly dims: number };
}

/** The rows of the heads that hold `rows`, and which of these is the i-th wanted one. */
function headsOf({ tensor, turns, rows }: Rotated & { readonly rows: RowRange | undefined }): {
  readonly heads: RowRange;
  readonly width: number;
  readonly count: number;
  readonly rowOf: (index: number) => number;
} {
  const { start, count, width } = rowWindow(tensor.name, tensor.shape, { rows }), { headDim } = turns;
  const first = Math.floor(start / headDim) * headDim;
  const end = Math.ceil((start + count) / headDim) * headDim;
  const rowOf = (index: number): number => neighbourRow(start + index, turns) - first;
  return { heads: { start: first, count: end - first }, width, count, rowOf };
}

/** Fills `target` with rows of `from`. */
function pickRows<T extends Float32Array | Uint8Array<ArrayBuffer> | Uint16Array | Uint32Array>(
  from: T,
  target: T,
  { width, rowOf }: { readonly width: number; readonly rowOf: (index: number) => number },
): T {
  for (let row = 0; row < target.length / width; row++) {
    target.set(from.subarray(rowOf(row) * width, (rowOf(row) + 1) * width), row * width);
  }
  return target;
}

/** Where a canonical tensor is in the file. */
interface Found {
  readonly tensor: GgufTensor;
  /** Whether its rows are in the order of `neighbourRow`. */
  readonly rotated: boolean;
  /** Its rows, where the tensor holds others too. */
  readonly part: RowRange | null;
  /** Whether the canonical tensor is a vector, and the one in the file has rows. */
  readonly isFlat: boolean;
}

function checkTensors(
  spec: DecoderSpec,
  file: GgufFile,
  { names, arch }: { readonly names: ReadonlyMap<string, GgufName>; readonly arch: GgufArch },
): Map<string, Found> {
  const found = new Map<string, Found>(), isRotated = arch.neighbours;
  const fusedParts = fusedTensors(spec, storedFusions(arch, file.tensors));
  const known = new Set(
    spec.rope.scaling.kind === "longrope" ? [ROPE_SHORT, ROPE_LONG] : arch.divisors ? [ROPE_FREQS] : [],
  );
  for (const [canonical, own] of tensorShapes(spec)) {
    if (isCurve(canonical)) continue;
    const place = ggufNameIn(spec, canonical, names.get(canonical) ?? { name: canonical }),
      projection = place.part?.projection;
    const whole = fusedParts.get(canonical);
    const { name, shape } = whole
      ? { name: fusedGgufName(whole), shape: whole.shape }
      : { name: place.name, shape: ggufShape(spec, canonical, own) };
    const keys = arch.valuesAreKeys && projection === "v" ? name.replace(".attn_v.", ".attn_k.") : name;
    const tensor = file.tensors.get(name) ?? file.tensors.get(keys);
    const wanted = `[${shape.join(", ")}]`;
    if (!tensor) {
      throw ggufError(file.path, { rule: `it holds the tensor ${name}, ${wanted}`, value: "no such tensor" });
    }
    if (tensor.shape.join() !== shape.join()) {
      const rule = `${name} has the shape ${wanted} that the metadata imply`;
      throw ggufError(file.path, { rule, value: `[${tensor.shape.join(", ")}]` });
    }
    known.add(name);
    const rotated = isRotated === true && (projection === "q" || projection === "k");
    const part = whole?.parts.find((part) => part.name === canonical)?.rows ?? null;
    found.set(canonical, { tensor, rotated, part, isFlat: own.length === 1 && shape.length > 1 });
  }
  for (const name of file.tensors.keys()) {
    if (known.has(name) || (arch.laterLayers && blockOf(name) >= spec.layers.length)) continue;
    const rule = "the metadata imply each tensor of the file";
    throw ggufError(file.path, { rule, value: name });
  }
  return found;
}

/** Layer of a tensor by its name in the file; NaN if it belongs to no layer. */
function blockOf(name: string): number {
  return Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? NaN);
}
