// The output head of a model alone, as weights without layers.
import type { WeightSource } from "../spec/source.ts";
import { type DecoderSpec, EMBEDDING, HEAD } from "../spec/decoder.ts";

/** The same model without layers and position embeddings. If it has a separate head, that replaces the embedding. */
export function headSource(source: WeightSource): WeightSource {
  const { positions: _positions, ...spec }: DecoderSpec = source.spec;
  const named = (name: string): string => name === EMBEDDING && !source.spec.tied ? HEAD : name;
  const { readBlocks, readStored } = source;
  return {
    spec: { ...spec, layers: [], tied: true },
    read: (name, rows) => source.read(named(name), rows),
    storedDtype: (name) => source.storedDtype(named(name)),
    ...(readBlocks ? { readBlocks: (name, options) => readBlocks.call(source, named(name), options) } : {}),
    ...(readStored ? { readStored: (name, rows, into) => readStored.call(source, named(name), rows, into) } : {}),
  };
}
