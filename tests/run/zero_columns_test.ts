// Learned masks on a model with zero columns, as one that was pruned with the layout padded has them. On the demo model.
import assert from "node:assert/strict";
import { unitTable } from "../../lib/masks/mod.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import type { RunHandle } from "../../lib/run/mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import { sharedDevice } from "../device.ts";
import { drive } from "./helpers/demo_run.ts";

/** Whether a column is 0: four in ten, more than the share by which the spread of log α is told. */
function isZero(column: number): boolean {
  return column % 5 < 2;
}

Deno.test("zero columns start below all others, which start as far apart as without them, and fall first", async () => {
  const { source, tokenizer } = await openModelFiles("demo"), { spec } = source, shapes = tensorShapes(spec);
  const rowsOf = new Set(spec.layers.flatMap((_, l) => [projectionName(l, "gate"), projectionName(l, "up")]));
  const columnsOf = new Set(spec.layers.map((_, l) => projectionName(l, "down")));
  const read = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
    const [, width = 1] = shapes.get(name) ?? [], values = await source.read(name);
    if (!rowsOf.has(name) && !columnsOf.has(name)) return values;
    const columnAt = (index: number): number => rowsOf.has(name) ? Math.floor(index / width) : index % width;
    return values.map((value, index) => isZero(columnAt(index)) ? 0 : value);
  };
  const storedDtype = source.storedDtype.bind(source);
  using model = await loadModelFrom({ spec, read, storedDtype }, { device: await sharedDevice(), tokenizer });
  const table = unitTable(spec, ["ffn"]);
  const starts: Float32Array[] = [];
  const beforeStage = async (stage: string, run: RunHandle): Promise<void> => {
    if (stage === "prune") starts.push(await run.logAlpha());
  };
  const { result } = await drive(model, { units: ["ffn"], sparsity: 0.12, steps: 8, hooks: { beforeStage } });
  const columns = table.layers.flatMap(({ ffn: { first, count } }) =>
    Array.from({ length: count }, (_, column) => ({ unit: first + column, isZero: isZero(column) }))
  );
  const [start = new Float32Array()] = starts;
  const of = (zero: boolean): number[] =>
    columns.filter((one) => one.isZero === zero).map(({ unit }) => start[unit] ?? NaN).sort((a, b) => a - b);
  const real = of(false), at = (share: number): number => real[Math.floor(share * real.length)] ?? NaN;
  assert.ok(Math.max(...of(true)) <= (real[0] ?? NaN), "none of them lies above another column");
  assert.ok(Math.abs(at(0.84) - at(0.16) - 16) < 0.1, `two spreads of 8 lie between: ${at(0.84) - at(0.16)}`);
  // All that falls is 0 already, and so the model is as good as it was.
  const cut = columns.filter(({ unit }) => result.masks.ffn?.[unit - table.ranges.ffn.first] === 0);
  assert.ok(
    cut.length > 0 && cut.every(({ isZero }) => isZero),
    `${cut.filter(({ isZero }) => !isZero).length} others`,
  );
});
