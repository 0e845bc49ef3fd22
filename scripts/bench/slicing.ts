// Cuts a random share of a model's KV groups and FFN columns. Speed does not depend on which are cut.
import type { WeightSource } from "../../lib/spec/source.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { selectUnits } from "../../lib/units/selection.ts";
import { selectionMasks, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";

const SEED = 1;

/** Cuts KV groups and FFN columns, in random order, until the sparsity is reached; 0 cuts nothing. */
export function randomSlice(source: WeightSource, { sparsity }: { readonly sparsity: number }): WeightSource {
  if (sparsity === 0) return source;
  const table = unitTable(source.spec, ["kv", "ffn"]);
  const scores = Float64Array.from({ length: table.count }, (_, unit) => uniform(SEED, unit));
  return sliceModel(source, { masks: selectionMasks(table, selectUnits(table, scores, { target: sparsity })) });
}
