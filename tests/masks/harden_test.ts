// Hard masks from log α: the target is met, the lowest log α falls, kept units have z = 1 or the median of hard concrete.
import assert from "node:assert/strict";
import { hardenMasks } from "../../lib/masks/harden.ts";
import { unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";

const SPEC: DecoderSpec = {
  vocab: 50,
  hidden: 24,
  headDim: 6,
  layers: Array.from({ length: 3 }, () => ({ heads: 4, kvHeads: 2, ffn: 37 })),
  normEps: 1e-5,
  rope: { base: 10000, scaling: { kind: "none" } },
  tied: true,
  maxPosition: 64,
  bosId: null,
  eosIds: [],
  padId: null,
};

function logAlphaOf(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, unit) => 8 * (uniform(5, 0, unit) - 0.5));
}

Deno.test("hardenMasks() keeps what stays whole, or gives it its median z where it has a β, and cuts the same either way", () => {
  for (const kinds of [["kv", "ffn"], ["ffn", "layers"], ["heads", "ffn", "hidden"]] as const) {
    const table = unitTable(SPEC, kinds), logAlpha = logAlphaOf(table.count);
    const aim = { target: 0.3, layout: "compact" } as const, whole = hardenMasks(table, logAlpha, aim);
    const soft = hardenMasks(table, logAlpha, { ...aim, temperature: 2 / 3 });
    for (const kind of ["head", "ffn", "hidden"] as const) {
      const z = whole[kind] ?? new Float32Array(0);
      assert.ok(z.length > 0 && z.every((value) => value === 0 || value === 1), kind);
      assert.deepEqual([...z], Array.from(soft[kind] ?? [], (value) => value > 0 ? 1 : 0));
    }
    assert.ok(soft.ffn?.some((value) => value > 0 && value < 1));
  }
});

Deno.test("hardenMasks() cuts FFN columns below one threshold and gives the others their median z", () => {
  const table = unitTable(SPEC, ["ffn"]), logAlpha = logAlphaOf(table.count), temperature = 2 / 3;
  const { ffn = new Float32Array(0), hidden, head } = hardenMasks(table, logAlpha, {
    target: 0.3,
    temperature,
    layout: "compact",
  });
  const highestCut = Math.max(...logAlpha.filter((_, unit) => ffn[unit] === 0));
  const lowestKept = Math.min(...logAlpha.filter((_, unit) => ffn[unit] !== 0));
  assert.ok(highestCut <= lowestKept, `${highestCut} was cut, ${lowestKept} kept`);
  ffn.forEach((z, unit) => {
    if (z === 0) return;
    const median = 1.2 / (1 + Math.exp(-(logAlpha[unit] ?? 0) / temperature)) - 0.1;
    assert.ok(Math.abs(z - Math.min(1, Math.max(0.1, median))) < 1e-6, `unit ${unit}: ${z}, median ${median}`);
  });
  assert.ok(hidden?.every((z) => z === 1) && head?.every((z) => z === 1), "kinds that are not pruned stay 1");
});

Deno.test("hardenMasks() gives what stays the sigmoid of 0.8 · log α / β where that is its rule", () => {
  const table = unitTable(SPEC, ["ffn"]), logAlpha = logAlphaOf(table.count), temperature = 2 / 3;
  const aim = { target: 0.3, temperature, layout: "compact" } as const;
  const { ffn } = hardenMasks(table, logAlpha, { ...aim, kept: "sigmoid" });
  const median = hardenMasks(table, logAlpha, aim).ffn;
  assert.ok(ffn && median);
  ffn.forEach((z, unit) => {
    const want = median[unit] === 0 ? 0 : 1 / (1 + Math.exp(-0.8 * (logAlpha[unit] ?? NaN) / temperature));
    assert.ok(Math.abs(z - want) < 1e-6, `unit ${unit}: ${z}, not ${want}`);
  });
});

Deno.test("hardenMasks() keeps blocks whole, however far below the border their lowest unit lies", () => {
  const spec = { ...SPEC, layers: SPEC.layers.map((layer) => ({ ...layer, ffn: 40 })) }, align = 4;
  const table = unitTable(spec, ["ffn"], { align });
  // One column of the first layer is far below all others, the mean of its block is not.
  const logAlpha = Float32Array.from({ length: table.count }, (_, unit) => unit === 0 ? -20 : unit < 40 ? 5 : -5);
  for (const kept of ["sigmoid", "median"] as const) {
    const { ffn } = hardenMasks(table, logAlpha, { target: 0.1, temperature: 0.1, layout: "compact", kept });
    assert.ok(ffn);
    const widths = spec.layers.map((_, layer) => ffn.slice(40 * layer, 40 * (layer + 1)).filter((z) => z !== 0).length);
    assert.equal(widths[0], 40, `${kept}: ${widths}`);
    assert.deepEqual(widths.map((width) => width % align), [0, 0, 0], `${kept}: ${widths}`);
  }
});

Deno.test("hardenMasks() keeps hidden dims at 1 or 0, since a tied head must not see a folded z", () => {
  const table = unitTable(SPEC, ["hidden", "ffn"]), logAlpha = logAlphaOf(table.count);
  const { hidden } = hardenMasks(table, logAlpha, { target: 0.4, temperature: 2 / 3, layout: "padded" });
  assert.ok(hidden?.every((z) => z === 0 || z === 1));
  assert.ok(hidden?.some((z) => z === 0), "some fall at this target");
});

Deno.test("hardenMasks() cuts all layers alike under the layout uniform", () => {
  const table = unitTable(SPEC, ["kv", "ffn"]), logAlpha = logAlphaOf(table.count);
  const masks = hardenMasks(table, logAlpha, { target: 0.35, temperature: 2 / 3, layout: "uniform" });
  const counts = (values: Float32Array | undefined, width: number): number[] =>
    SPEC.layers.map((_, layer) =>
      values?.subarray(layer * width, (layer + 1) * width).filter((z) => z !== 0).length ?? 0
    );
  assert.equal(new Set(counts(masks.ffn, 37)).size, 1);
  assert.equal(new Set(counts(masks.head, 4)).size, 1);
  const cut = masks.ffn?.filter((z) => z === 0).length ?? 0;
  assert.ok(cut > 0, "something is cut");
});

Deno.test("hardenMasks() multiplies z of a unit by that of its layer, and a layer that falls takes all with it", () => {
  const table = unitTable(SPEC, ["ffn", "layers"]), logAlpha = logAlphaOf(table.count), temperature = 2 / 3;
  const gates = [-4, 0.3, 4];
  logAlpha.set(gates, table.ranges.layers.first);
  const { head, ffn } = hardenMasks(table, logAlpha, { target: 0.35, temperature, layout: "compact" });
  const median = (alpha: number): number =>
    Math.min(1, Math.max(0.1, 1.2 / (1 + Math.exp(-alpha / temperature)) - 0.1));
  for (const layer of [0, 1, 2]) {
    const gate = layer === 0 ? 0 : median(gates[layer] ?? NaN);
    for (const z of head?.subarray(4 * layer, 4 * layer + 4) ?? []) {
      assert.ok(Math.abs(z - gate) < 1e-6, `${z}, not ${gate}`);
    }
    ffn?.subarray(37 * layer, 37 * layer + 37).forEach((z, column) => {
      const own = median(logAlpha[37 * layer + column] ?? NaN);
      assert.ok(z === 0 || Math.abs(z - gate * own) < 1e-6, `column ${column} of layer ${layer}: ${z}`);
      assert.ok(layer > 0 || z === 0);
    });
  }
});
