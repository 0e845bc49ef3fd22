// Norms of q and k heads that StableLM's folders hold as a tensor for each head; read and written as one for q and one for k.
import { CompressoError } from "../../core/errors.ts";
import { type DecoderSpec, headNormName, headNormWidths, QK } from "../../spec/decoder.ts";
import { joined } from "../fused.ts";
import type { TensorFile, TensorPlace } from "./packed.ts";

/** The norm of a head: its tensor in a folder, the canonical one, and its first value there. */
export interface HeadNormTensor {
  readonly name: string;
  readonly canonical: string;
  readonly first: number;
}

/** The tensors of the norms of q and k heads in a folder of this model type; none where they are stored as one. */
export function headNormTensors(type: string, spec: DecoderSpec): HeadNormTensor[] {
  if (type !== "stablelm" || spec.qkNorm !== "layer") return [];
  return spec.layers.flatMap((layer, index) => {
    const widths = headNormWidths(spec, layer);
    return QK.flatMap((of) =>
      Array.from({ length: widths[of] / spec.headDim }, (_, head) => ({
        name: `model.layers.${index}.self_attn.${of}_layernorm.norms.${head}.weight`,
        canonical: headNormName(index, of),
        first: head * spec.headDim,
      }))
    );
  });
}

/**
 * The tensors of a folder with those of heads replaced by the canonical ones.
 *
 * @throws CompressoError("input") for one that is missing or has another shape.
 */
export function withHeadNorms(
  places: ReadonlyMap<string, TensorPlace>,
  { type, spec, folder }: { readonly type: string; readonly spec: DecoderSpec; readonly folder: string },
): Map<string, TensorPlace> {
  const all = new Map(places), { headDim } = spec;
  for (const [canonical, own] of Map.groupBy(headNormTensors(type, spec), (tensor) => tensor.canonical)) {
    const found = own.map(({ name }) => {
      const place = places.get(name), entry = place?.file.tensors.get(place.name);
      if (place && entry?.shape.join() === String(headDim)) return { ...place, entry };
      throw new CompressoError("input", {
        what: `cannot open the model ${folder}`,
        rule: `it holds the tensor ${name}, [${headDim}]`,
        value: entry ? `[${entry.shape.join(", ")}]` : "no such tensor",
        fix: "fetch the files again, all of one model, or correct config.json",
      });
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
