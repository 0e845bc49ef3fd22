// Folders whose norms have no weights and which normalise the embedding: read as weights of 1 and as an embedding that is normalised.
import { type DecoderSpec, EMBEDDING, isNormWeight, tensorShapes } from "../../spec/decoder.ts";
import type { Family } from "../../families/family.ts";
import { badTensor, type FolderContext, type TensorFile, type TensorPlace } from "./packed.ts";
import { storedName } from "./stored.ts";

/** Whether a folder of a family lacks a canonical tensor, which is a norm's weight of 1. */
export function isPlainNorm({ tensors }: Family, canonical: string): boolean {
  return tensors?.plainNorms === true && isNormWeight(canonical);
}

/**
 * The tensors of a folder with the weights of its norms, by the names that `storedName` gives them.
 *
 * @throws CompressoError("input") for a folder without embedding.
 */
export function withPlainNorms(
  places: ReadonlyMap<string, TensorPlace>,
  { family, spec, folder }: FolderContext,
): ReadonlyMap<string, TensorPlace> {
  if (!family.tensors?.plainNorms) return places;
  const all = new Map(places), embedding = storedName(family, EMBEDDING), place = places.get(embedding);
  const entry = place?.file.tensors.get(place.name);
  if (!place || !entry) throw badTensor(folder, `it holds the tensor ${embedding}`, "no such tensor");
  for (const [name, shape] of tensorShapes(spec)) {
    if (!isPlainNorm(family, name)) continue;
    const [width = 0] = shape, own = storedName(family, name);
    const file: TensorFile = {
      tensors: new Map([[own, { ...entry, name: own, shape }]]),
      read: (_, rows) => Promise.resolve(new Float32Array(rows?.count ?? width).fill(1)),
    };
    all.set(own, { file, name: own });
  }
  const file: TensorFile = {
    tensors: new Map([[embedding, { ...entry, name: embedding }]]),
    async read(_, rows): Promise<Float32Array<ArrayBuffer>> {
      return scaled(await place.file.read(place.name, rows), spec, (m) => 1 / Math.sqrt(m + spec.normEps));
    },
  };
  return all.set(embedding, { file, name: embedding });
}

/** Least 1 − m that f32 tells from rounding. */
const LEAST = 1e-7;

/**
 * The rows of an embedding as the folder holds them, which are normalised to these. A row of mean square m was divided by √(m₀ + ε) and has
 * 1 − m = ε / (m₀ + ε), so it is multiplied by √(ε / (1 − m)).
 */
export function beforeNorm(rows: Float32Array<ArrayBuffer>, spec: Widths): Float32Array<ArrayBuffer> {
  return scaled(rows, spec, (m) => Math.sqrt(spec.normEps / Math.max(1 - m, LEAST)));
}

type Widths = Pick<DecoderSpec, "hidden" | "normEps">;

/** Rows, each times a factor that follows from its mean square. */
function scaled(
  rows: Float32Array<ArrayBuffer>,
  { hidden }: Widths,
  factorOf: (meanSquare: number) => number,
): Float32Array<ArrayBuffer> {
  for (let start = 0; start < rows.length; start += hidden) {
    const row = rows.subarray(start, start + hidden), sum = row.reduce((sum, value) => sum + value * value, 0);
    const factor = factorOf(sum / hidden);
    for (let i = 0; i < row.length; i++) row[i] = (row[i] ?? 0) * factor;
  }
  return rows;
}
