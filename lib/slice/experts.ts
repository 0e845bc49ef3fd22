// A model with fewer experts: whole experts and their rows of the router go, all other weights stay as the file has them.
import { refuse } from "../core/errors.ts";
import { type DecoderSpec, expertsName, type LayerSpec, routerName } from "../spec/decoder.ts";
import type { QuantRows } from "../spec/quant.ts";
import type { BlockOptions, RowRange, WeightSource } from "../spec/source.ts";

/** Numbers of the experts that each layer keeps, ascending; null for a dense layer. */
export type KeptExperts = readonly (readonly number[] | null)[];

/** Rows that a tensor keeps: `per` rows of each of these experts. */
interface Kept {
  readonly experts: readonly number[];
  readonly per: number;
}

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
  if (kept.length !== spec.layers.length) {
    refuse("usage", "cannot cut experts", {
      rule: `there is an entry for each of ${spec.layers.length} layers`,
      value: `${kept.length} entries`,
    });
  }
  const cut = new Map<string, Kept>();
  const layers = spec.layers.map((layer, index): LayerSpec => {
    const own = kept[index] ?? null, { experts } = layer;
    checkKept(spec, { index, own });
    if (!own || !experts) return layer;
    cut.set(routerName(index), { experts: own, per: 1 });
    cut.set(expertsName(index, "gate"), { experts: own, per: experts.ffn });
    cut.set(expertsName(index, "up"), { experts: own, per: experts.ffn });
    cut.set(expertsName(index, "down"), { experts: own, per: spec.hidden });
    return { ...layer, experts: { ...experts, count: own.length } };
  });
  const { provenance, readBlocks, readStored } = source;
  return {
    spec: { ...spec, layers },
    ...provenance ? { provenance } : {},
    storedDtype: (name) => source.storedDtype(name),
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const own = cut.get(name);
      if (!own) return await source.read(name, rows);
      const parts: Float32Array[] = [];
      for (const run of runsOf(own, rows)) parts.push(await source.read(name, run));
      return concatenated(parts, (length) => new Float32Array(length));
    },
    ...readStored
      ? {
        async readStored(
          name: string,
          rows?: RowRange,
          into?: Uint8Array<ArrayBuffer>,
        ): Promise<Uint8Array<ArrayBuffer> | null> {
          const own = cut.get(name);
          if (!own) return await source.readStored?.(name, rows, into) ?? null;
          const parts: Uint8Array[] = [];
          for (const run of runsOf(own, rows)) {
            const part = await source.readStored?.(name, run);
            if (!part) return null;
            parts.push(part);
          }
          return concatenated(parts, (length) => new Uint8Array(length));
        },
      }
      : {},
    ...readBlocks
      ? {
        async readBlocks(name: string, options: BlockOptions): Promise<QuantRows | null> {
          const own = cut.get(name);
          if (!own) return await source.readBlocks?.(name, options) ?? null;
          const parts: QuantRows[] = [];
          for (const rows of runsOf(own, options.rows)) {
            const part = await source.readBlocks?.(name, { ...options, rows });
            if (!part) return null;
            parts.push(part);
          }
          return {
            codes: concatenated(parts.map(({ codes }) => codes), (length) => new Uint8Array(length)),
            scales: concatenated(parts.map(({ scales }) => scales), (length) => new Uint32Array(length)),
          };
        },
      }
      : {},
  };
}

function checkKept(
  { layers, router }: DecoderSpec,
  { index, own }: { readonly index: number; readonly own: readonly number[] | null },
): void {
  const { experts } = layers[index] ?? {},
    fail = (rule: string, value: string): never =>
      refuse("usage", `cannot cut experts of layer ${index}`, { rule, value });
  if (!experts) {
    if (own) fail("the layer has experts", "it is dense");
    return;
  }
  if (!own) return fail("the experts that it keeps are given", "null");
  const isOrdered = own.every((expert, at) =>
    Number.isInteger(expert) && expert > (own[at - 1] ?? -1) && expert < experts.count
  );
  if (!isOrdered) fail(`experts are ascending numbers from 0 to ${experts.count - 1}`, own.join(", "));
  const least = router?.topK ?? 1;
  if (own.length < least) fail(`as many experts are kept as a token has, ${least}`, String(own.length));
}

/** The rows of a source that the given rows (default: all) of the cut tensor are; neighbours are one run. */
function runsOf({ experts, per }: Kept, rows: RowRange = { start: 0, count: experts.length * per }): RowRange[] {
  const runs: { start: number; count: number }[] = [], end = rows.start + rows.count;
  for (let row = rows.start; row < end;) {
    const nth = Math.floor(row / per), within = row - nth * per, count = Math.min(end - row, per - within);
    const start = (experts[nth] ?? 0) * per + within, last = runs.at(-1);
    if (last && last.start + last.count === start) last.count += count;
    else runs.push({ start, count });
    row += count;
  }
  return runs;
}

/** Arrays one after another. */
function concatenated<T extends Float32Array | Uint8Array | Uint32Array>(
  parts: readonly ArrayLike<number>[],
  make: (length: number) => T,
): T {
  const out = make(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
