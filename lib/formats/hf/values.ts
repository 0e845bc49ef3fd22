// The values of layers that take their keys for them: read as a v of their own.
import type { Json } from "../../core/guards.ts";
import { projectionName } from "../../spec/decoder.ts";
import type { FolderContext, TensorPlace } from "./packed.ts";
import { storedName } from "./stored.ts";

/** The tensors of a folder with a v for each layer: the k of layers whose values are their keys. */
export function withValues(
  places: ReadonlyMap<string, TensorPlace>,
  { family, spec, config }: FolderContext & { readonly config: Json },
): Map<string, TensorPlace> {
  const all = new Map(places), { valuesAreKeys } = family.tensors ?? {};
  spec.layers.forEach((layer, index) => {
    const [k, v] = (["k", "v"] as const).map((one) => storedName(family, projectionName(index, one)));
    const place = k === undefined ? undefined : places.get(k);
    if (place && v !== undefined && !all.has(v) && valuesAreKeys?.(config, layer)) all.set(v, place);
  });
  return all;
}
