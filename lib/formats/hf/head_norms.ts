// Norms of q and k that a folder holds as a tensor for each head; read and written as one for q and one for k.
import type { Family } from "../../families/family.ts";
import { type DecoderSpec, headNormName, headNormWidths, QK } from "../../spec/decoder.ts";
import { joined } from "../fused.ts";
import { badTensor, type FolderContext, type TensorFile, type TensorPlace } from "./packed.ts";

/** The norm of a head: its tensor in a folder, the canonical one, and its first value there. */
export interface HeadNormTensor {
  readonly name: string;
  readonly canonical: string;
  readonly first: number;
}

/** The tensors of the norms of q and k heads in a folder of a family; none where they are stored as one. */
export function headNormTensors({ tensors }: Family, spec: DecoderSpec): HeadNormTensor[] {
  const nameOf = tensors?.headNorm;
  if (!nameOf || !spec.qkNorm) return [];
  return spec.layers.flatMap((layer, index) => {
    const widths = headNormWidths(spec, layer);
    return QK.flatMap((of) =>
      Array.from({ length: widths[of] / spec.headDim }, (_, head) => ({
        name: nameOf({ layer: index, of, head }),
        canonical: headNormName(index, of),
        first: head * spec.headDim,
      }))
    );
  });
}

/**
 * The tensors of a folder with those of heads replaced by the canonical ones.
 *
 * @throws CompressoError("input") for a head's tensor that is missing or has another shape.
 */
export function withHeadNorms(
  places: ReadonlyMap<string, TensorPlace>,
  { family, spec, folder }: FolderContext,
): Map<string, TensorPlace> {
  const all = new Map(places), { headDim } = spec;
  for (const [canonical, own] of Map.groupBy(headNormTensors(family, spec), (tensor) => tensor.canonical)) {
    const found = own.map(({ name }) => {
      const place = places.get(name), entry = place?.file.tensors.get(place.name);
      if (place && entry?.shape.join() === String(headDim)) return { ...place, entry };
      const value = entry ? `[${entry.shape.join(", ")}]` : "no such tensor";
      throw badTensor(folder, `it holds the tensor ${name}, [${headDim}]`, value);
    });
    const [first] = found;
    if (!first) continue;
    for (const { name } of own) all.delete(name);
    const file: TensorFile = {
      tensors: new Map([[canonical, { ...first.entry, name: canonical, shape: [own.length * headDim] }]]),
      async read(_, rows): Promise<Float32Array<ArrayBuffer>> {
        const values = joined(await Promise.all(found.map((place) => place.file.read(place.name))));
        return rows ? values.slice(rows.start, rows.start + rows.count) : values;
      },
    };
    all.set(canonical, { file, name: canonical });
  }
  return all;
}
