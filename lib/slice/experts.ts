// A model with fewer experts: whole experts and their rows of the router go, all other weights stay as the file has them.
import { checkKeptExperts, type KeptExperts } from "../nn/experts.ts";
import { choiceBiasName, expertsName, type LayerSpec, routerName } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import { remapSource } from "./remap.ts";

export type { KeptExperts } from "../nn/experts.ts";

/**
 * The model with the kept experts of each layer, in their order, and their rows of the router. Tokens then choose among
 * them; their number a token stays. Lazy: rows are read where the source has them, and stored bytes and blocks are the
 * source's own.
 *
 * @example
 * ```ts
 * import { keepExperts } from "compresso/masks";
 * import { openModelFiles } from "compresso/model";
 *
 * const { source } = await openModelFiles("fixtures/golden_experts/mixtral/model"); // 7 experts in a layer
 * const cut = keepExperts(source, source.spec.layers.map(() => [0, 2, 5]));
 * if (cut.spec.layers[0]?.experts?.count !== 3) throw new Error("three experts stay");
 * ```
 * @throws CompressoError("usage") unless each layer with experts keeps some of its experts, each once and in order, and as many as a token has at least.
 */
export function keepExperts(source: WeightSource, kept: KeptExperts): WeightSource {
  const { spec } = source;
  checkKeptExperts(spec, kept);
  // By tensor: the experts that stay, and the rows of each.
  const cut = new Map<string, { readonly own: readonly number[]; readonly per: number }>();
  const layers = spec.layers.map((layer, index): LayerSpec => {
    const own = kept[index] ?? null, { experts } = layer;
    if (!own || !experts) return layer;
    cut.set(routerName(index), { own, per: 1 });
    cut.set(choiceBiasName(index), { own, per: 1 });
    cut.set(expertsName(index, "gate"), { own, per: experts.ffn });
    cut.set(expertsName(index, "up"), { own, per: experts.ffn });
    cut.set(expertsName(index, "down"), { own, per: spec.hidden });
    return { ...layer, experts: { ...experts, count: own.length } };
  });
  return remapSource(source, { ...spec, layers }, (name) => {
    const { own, per = 1 } = cut.get(name) ?? {};
    if (!own) return { from: name };
    const row = (place: number): number => (own[Math.floor(place / per)] ?? 0) * per + place % per;
    return { from: name, rows: Int32Array.from({ length: own.length * per }, (_, place) => row(place)) };
  });
}
