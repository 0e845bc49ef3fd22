// A part of a model as a model: half a layer, or a band of the output head.
import type { QuantRows } from "../spec/quant.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import {
  type DecoderSpec,
  EMBEDDING,
  hasFfn,
  hasMixer,
  HEAD,
  HEAD_BIAS,
  type LayerSpec,
  mixerMasks,
  presentProjections,
} from "../spec/decoder.ts";
import type { Adapters } from "./model.ts";

/** A model, or a part of one, with its masks and LoRA. */
export interface AdaptedSource {
  readonly source: WeightSource;
  readonly adapters: Adapters;
}

/**
 * The attention and the FFN of layer `index` as models of one layer, as far as it has them (a parallel layer whole); run
 * in turn they are the layer.
 */
export function layerParts({ source, adapters }: AdaptedSource, index: number): AdaptedSource[] {
  const { layers } = source.spec, layer = layers[index];
  if (!layer) return [];
  const own = "model.layers.0.", there = `model.layers.${index}.`;
  const { experts: _, ...dense } = layer, { conv: _conv, ...unmixed } = layer;
  // Both parts of a parallel layer read its input.
  const halves: readonly LayerSpec[] = source.spec.parallel
    ? [layer]
    : [{ ...dense, ffn: 0 }, { ...unmixed, heads: 0, kvHeads: 0 }];
  return halves.filter((half) => hasMixer(half) || hasFfn(half)).map((half) => ({
    source: part(source, {
      layers: [half],
      // It has one row of the embedding, which is not read.
      head: EMBEDDING,
      rows: { start: 0, count: 1 },
      rename: (name) => name.startsWith(own) ? there + name.slice(own.length) : name,
    }),
    adapters: layerAdapters(adapters, { spec: source.spec, half, index }),
  }));
}

/** The final norm and the rows of the output head that give the logits of some tokens: a model without layers and with these tokens only. */
export function headPart(source: WeightSource, rows: RowRange): WeightSource {
  return part(source, { layers: [], head: source.spec.tied ? EMBEDDING : HEAD, rows, rename: (name) => name });
}

function part(source: WeightSource, { layers, head, rows, rename }: {
  readonly layers: readonly LayerSpec[];
  /** Matrix that the embedding, and so the tied head, is taken from. */
  readonly head: string;
  readonly rows: RowRange;
  readonly rename: (name: string) => string;
}): WeightSource {
  /** The tensor of the whole model, and the rows of it. */
  const placed = (name: string, range?: RowRange): [name: string, range?: RowRange] => {
    if (name !== EMBEDDING && name !== HEAD_BIAS) return range ? [rename(name), range] : [rename(name)];
    const { start, count } = range ?? { start: 0, count: rows.count };
    return [name === EMBEDDING ? head : name, { start: rows.start + start, count }];
  };
  return {
    spec: { ...source.spec, vocab: rows.count, layers, tied: true, bosId: null, eosIds: [], padId: null },
    read: (name, range) => source.read(...placed(name, range)),
    async readStored(name, range, into): Promise<Uint8Array<ArrayBuffer> | null> {
      const [own, there] = placed(name, range);
      return await source.readStored?.(own, there, into) ?? null;
    },
    async readBlocks(name, options): Promise<QuantRows | null> {
      const [own, there] = placed(name, options.rows);
      return await source.readBlocks?.(own, { ...options, ...there ? { rows: there } : {} }) ?? null;
    },
    storedDtype: (name) => source.storedDtype(placed(name)[0]),
  };
}

/** Masks of the half layer, and LoRA named as that of layer 0. */
function layerAdapters({ masks, lora, experts }: Adapters, { spec, half, index }: {
  readonly spec: DecoderSpec;
  readonly half: LayerSpec;
  readonly index: number;
}): Adapters {
  const before = spec.layers.slice(0, index);
  const cut = (values: Float32Array | undefined, countOf: (layer: LayerSpec) => number): Float32Array | undefined => {
    const first = before.reduce((sum, layer) => sum + countOf(layer), 0);
    return values?.subarray(first, first + countOf(half));
  };
  const head = cut(masks?.head, mixerMasks), ffn = cut(masks?.ffn, ({ ffn }) => ffn), hidden = masks?.hidden;
  const there = `lora.${index}.`, own = presentProjections(spec, half).map((projection) => `${there}${projection}.`);
  const named = [...lora?.weights ?? []].filter(([name]) => own.some((start) => name.startsWith(start)));
  const weights = new Map(named.map(([name, data]) => [`lora.0.${name.slice(there.length)}`, data]));
  return {
    masks: { ...(head ? { head } : {}), ...(ffn ? { ffn } : {}), ...(hidden ? { hidden } : {}) },
    ...(lora ? { lora: { ...lora, weights } } : {}),
    ...(experts && half.experts ? { experts: [experts[index] ?? null] } : {}),
  };
}
