// Weights of convolutions, which folders hold as [channels, 1, length]; read and written as the canonical ones, [channels, length].
import { isTaps } from "../../spec/decoder.ts";
import { badTensor, type FolderContext, type TensorPlace } from "./packed.ts";

/** Shape of a canonical tensor in a folder. */
export function shapeInFolder(name: string, shape: readonly number[]): readonly number[] {
  const [channels = 0, length = 0] = shape;
  return isTaps(name) ? [channels, 1, length] : shape;
}

/**
 * The tensors of a folder with those of convolutions in the canonical shape.
 *
 * @throws CompressoError("input") for weights of a convolution in another shape.
 */
export function withTaps(
  places: ReadonlyMap<string, TensorPlace>,
  { spec, folder }: FolderContext,
): Map<string, TensorPlace> {
  const all = new Map(places), { hidden, convolution } = spec;
  if (!convolution) return all;
  for (const [name, { file, name: stored }] of places) {
    const entry = file.tensors.get(stored), shape = [hidden, convolution.length];
    if (!isTaps(name) || !entry) continue;
    const wanted = shapeInFolder(name, shape);
    if (entry.shape.join() !== wanted.join()) {
      const rule = `${name} has the shape [${wanted.join(", ")}] that config.json implies`;
      throw badTensor(folder, rule, `[${entry.shape.join(", ")}]`);
    }
    const tensors = new Map([[name, { ...entry, name, shape }]]);
    all.set(name, { file: { tensors, read: async (_, rows) => await file.read(stored, rows) }, name });
  }
  return all;
}
