// The uniform layout learned as such: counts of all layers, goals on the way to them, and which units stay.
import assert from "node:assert/strict";
import { type DecoderSpec, layersAlike, parameterCount } from "../../lib/spec/decoder.ts";
import { gradualMasks } from "../../lib/masks/gradual.ts";
import { hardenMasks } from "../../lib/masks/harden.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { parameterTarget } from "../../lib/units/target_size.ts";
import {
  allRows,
  mostUniform,
  tableOf,
  type UniformCounts,
  uniformCounts,
  uniformGoals,
  uniformSelection,
} from "../../lib/units/uniform.ts";
import type { UnitRules } from "../../lib/units/rules.ts";
import { hardSparsity, leastSize, mostSparsity, selectedSpec } from "../../lib/units/selection.ts";
import { type UnitTable, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { spellFlag } from "../../cli/options/spelling.ts";
import { assertNames, checkRefusal, type Refusal, refuses } from "../refuses.ts";
import { decoder, GROUPED, MULTI_HEAD, sparsityOf, UNEVEN } from "./helpers/decoders.ts";

const alike = (count: number, layer: { heads: number; kvHeads: number; ffn: number }): DecoderSpec =>
  decoder(Array.from({ length: count }, () => layer), { hidden: 40, headDim: 4 });
const DEEP = alike(6, { heads: 8, kvHeads: 4, ffn: 50 }), MULTI_QUERY = alike(3, { heads: 6, kvHeads: 1, ffn: 30 });
/** Already pruned: widths differ, groups do not. */
const WORN = decoder([
  { heads: 8, kvHeads: 4, ffn: 50 },
  { heads: 6, kvHeads: 3, ffn: 41 },
  { heads: 8, kvHeads: 4, ffn: 47 },
]);
const SPECS = [GROUPED, MULTI_HEAD, DEEP, MULTI_QUERY, WORN];
const KINDS = [["kv", "ffn"], ["heads", "ffn"], ["kv", "ffn", "hidden"], ["ffn"], ["heads", "ffn", "hidden"]] as const;
const scoresOf = (table: UnitTable, seed: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: table.count }, (_, unit) => uniform(seed, unit));

/** Whether the one KV group of each layer is among the units: it cannot fall in all of them, and is refused. */
const hasIdleKind = (spec: DecoderSpec, kinds: readonly string[]): boolean =>
  spec === MULTI_QUERY && kinds.includes("kv");

function fails(run: () => unknown, message: Refusal): void {
  refuses(run, "usage", message);
}

/** Sparsity with these counts in every layer, by spec arithmetic. */
function sparsityAt({ spec, total }: UnitTable, { heads, kvHeads, ffn, hidden }: UniformCounts): number {
  return 1 - hidden * spec.layers.length * (2 * spec.headDim * (heads + kvHeads) + 3 * ffn) / total;
}

/** Counts with one row of each kind back. */
function rowsBack({ spec, kinds, rules: { align } }: UnitTable, counts: UniformCounts): UniformCounts[] {
  const [first] = spec.layers,
    share = first ? first.heads / first.kvHeads : 1,
    { heads, kvHeads, ffn, hidden } = counts;
  const narrowest = Math.min(...spec.layers.map((layer) => layer.ffn));
  const wider = (width: number, whole: number): number => width + align <= whole ? width + align : whole;
  const isSingle = kinds.has("heads") && first?.kvHeads === 1;
  return [
    ...(kinds.has("kv") || kinds.has("heads")
      ? [{ ...counts, heads: heads + (isSingle ? 1 : share), kvHeads: isSingle ? 1 : kvHeads + 1 }]
      : []),
    ...(ffn < narrowest ? [{ ...counts, ffn: wider(ffn, narrowest) }] : []),
    ...(kinds.has("hidden") && hidden < spec.hidden ? [{ ...counts, hidden: wider(hidden, spec.hidden) }] : []),
  ];
}

const RULES: readonly UnitRules[] = [{}, { align: 8 }, { minimum: { heads: 2, ffn: 12, hidden: 16 } }];

Deno.test("mostUniform() is what equal counts can reach, and no more", () => {
  for (const spec of SPECS) {
    for (const kinds of KINDS.filter((kinds) => kinds.length > 1 && !hasIdleKind(spec, kinds))) {
      for (const rules of RULES.slice(0, 2)) {
        const table = unitTable(spec, kinds, rules), most = mostUniform(table);
        assert.ok(Math.abs(sparsityAt(table, uniformCounts(table, { target: most - 1e-9 })) - most) < 1e-9);
        fails(() => uniformCounts(table, { target: Math.min(0.9999, most + 1e-6) }), {
          option: null,
          value: Math.min(0.9999, most + 1e-6),
        });
      }
    }
  }
});

Deno.test("uniform counts meet the target to within one row, and every layer keeps its best units", () => {
  let checked = 0;
  for (const [s, spec] of SPECS.entries()) {
    for (const [k, kinds] of KINDS.entries()) {
      for (const [r, rules] of RULES.entries()) {
        if (spec === WORN && kinds.length === 1) continue; // heads differ and are not cut
        if (hasIdleKind(spec, kinds)) continue;
        const table = unitTable(spec, kinds, rules), least = spec === WORN ? 0.25 : 0.01;
        for (let round = 0; round < 6; round++) {
          const target = least + uniform(6, s, 10 * k + r, round) * (0.55 * mostSparsity(table) - least);
          if (target < least) continue;
          const scores = scoresOf(table, round), isLearned = round % 2 === 1;
          const counts = uniformCounts(table, { target, ...(isLearned ? { scores } : {}) });
          const kept = uniformSelection(table, scores, counts), shape = selectedSpec(table, kept);
          const what = `${target}, ${kinds}, ${JSON.stringify(rules)} of ${JSON.stringify(spec.layers[0])}`;
          assert.ok(layersAlike(shape), what);
          assert.deepEqual({ ...shape.layers[0], hidden: shape.hidden }, counts, what);
          const reached = sparsityAt(table, counts);
          assert.ok(Math.abs(sparsityOf(table, kept) - reached) < 1e-12, what);
          assert.ok(reached >= target - 1e-12, `${reached} is below ${what}`);
          const back = rowsBack(table, counts).map((more) => sparsityAt(table, more));
          assert.ok(back.some((sparsity) => sparsity < target + 1e-12), `a row too many fell for ${what}`);
          const { minimum, align } = table.rules;
          assert.ok(
            counts.heads >= minimum.heads && counts.ffn >= minimum.ffn && counts.hidden >= minimum.hidden,
            what,
          );
          assert.ok(
            counts.ffn % align === 0 || counts.ffn === Math.min(...spec.layers.map((layer) => layer.ffn)),
            what,
          );
          for (const { ffn: { first, count } } of table.layers) {
            const own = Array.from({ length: count }, (_, i) => first + i);
            const worst = Math.min(...own.filter((u) => kept[u]).map((u) => scores[u] ?? NaN));
            assert.ok(own.every((u) => kept[u] || (scores[u] ?? NaN) <= worst), `not the best columns: ${what}`);
          }
          checked++;
        }
      }
    }
  }
  assert.ok(checked > 300, `${checked}`);
});

Deno.test("heads of layers that are to be alike are units by their KV groups, where there are several", () => {
  for (const units of [["heads", "ffn"], ["heads", "kv", "ffn"]] as const) {
    const kindsOf = (spec: DecoderSpec, layout: "uniform" | "compact"): readonly string[] => [
      ...tableOf(spec, { units, rules: {}, layout }).kinds,
    ];
    assert.deepEqual(kindsOf(DEEP, "uniform"), ["kv", "ffn"]);
    for (const [spec, layout] of [[DEEP, "compact"], [MULTI_QUERY, "uniform"]] as const) {
      assert.deepEqual(kindsOf(spec, layout), ["heads", "ffn"]);
    }
  }
});

Deno.test("without scores each kind gives the same share, with scores the kind that is needed less", () => {
  const table = unitTable(DEEP, ["kv", "ffn"]);
  const even = uniformCounts(table, { target: 0.5 });
  assert.deepEqual([even.kvHeads, even.ffn], [2, 25]);
  const scores = Float32Array.from(
    { length: table.count },
    (_, unit) => unit < table.ranges.ffn.first ? 1 : uniform(3, unit),
  );
  const learned = uniformCounts(table, { target: 0.5, scores });
  assert.deepEqual([learned.heads, learned.kvHeads], [8, 4]);
  assert.ok(learned.ffn < 10, `${learned.ffn} columns`);
});

Deno.test("without scores the largest share that a kind loses is as small as can be", () => {
  // In the second, attention has two thirds of a layer.
  for (const ffn of [96, 24]) {
    const spec = alike(4, { heads: 9, kvHeads: 3, ffn }), table = unitTable(spec, ["kv", "ffn"]);
    for (const target of [0.05, 0.1, 0.2, 0.25, 0.3, 0.34, 0.5, 0.6]) {
      const largest = (counts: Pick<UniformCounts, "kvHeads" | "ffn">): number =>
        Math.max(1 - counts.kvHeads / 3, 1 - counts.ffn / ffn);
      const found = uniformCounts(table, { target });
      const all = [1, 2, 3].flatMap((kvHeads) =>
        Array.from({ length: ffn }, (_, index) => ({ ...found, heads: 3 * kvHeads, kvHeads, ffn: index + 1 }))
      ).filter((counts) => sparsityAt(table, counts) >= target - 1e-9);
      const best = Math.min(...all.map(largest));
      assert.ok(largest(found) <= best + 1e-9, `${ffn}, ${target}: ${JSON.stringify(found)}, ${best}`);
    }
  }
});

Deno.test("goals follow the sparsity of the step, also beyond the target, so that parts of that share make the whole", () => {
  for (const spec of [DEEP, WORN, MULTI_HEAD]) {
    for (const kinds of [["kv", "ffn"], ["heads", "ffn"]] as const) {
      const table = unitTable(spec, kinds), goals = uniformGoals(table, { target: 0.35 });
      assert.ok(Math.abs(goals.sparsity - sparsityAt(table, goals.counts)) < 1e-12);
      for (const now of [0, 0.1, 0.35, goals.sparsity, 0.5, 0.6]) {
        const { attention, ffn } = goals.at(now);
        const kept = table.layers.reduce(
          (sum, layer, l) =>
            sum + layer.attention.total * (1 - (attention[l] ?? 0)) + layer.ffn.total * (1 - (ffn[l] ?? 0)),
          0,
        );
        assert.ok(Math.abs(1 - kept * spec.hidden / table.total - now) < 1e-12, `${now} of ${kinds}`);
      }
      const end = goals.at(goals.sparsity), [first] = table.layers;
      assert.ok(Math.abs(3 * goals.counts.ffn - (1 - (end.ffn[0] ?? NaN)) * (first?.ffn.total ?? NaN)) < 1e-9);
    }
  }
  assert.deepEqual(new Set(uniformGoals(unitTable(DEEP, ["ffn"]), { target: 0.2 }).at(0.1).attention), new Set([null]));
});

Deno.test("hardenMasks() cuts to the counts that a run aimed at, and slices to a stock shape", () => {
  const table = unitTable(GROUPED, ["heads", "ffn"]), logAlpha = scoresOf(table, 12);
  const counts = { heads: 3, kvHeads: 1, ffn: 40, hidden: GROUPED.hidden };
  const options = { target: 0.4, temperature: 2 / 3, layout: "uniform" } as const;
  const source = { spec: GROUPED, read: () => Promise.reject(new Error("not read")), storedDtype: () => "f32" };
  for (const [given, want] of [[{ counts }, counts], [{}, uniformCounts(table, { target: 0.4 })]] as const) {
    const { spec } = sliceModel(source, { masks: hardenMasks(table, logAlpha, { ...options, ...given }) });
    assert.ok(layersAlike(spec));
    assert.deepEqual({ ...spec.layers[0], hidden: spec.hidden }, want);
  }
  const kept = uniformSelection(table, logAlpha, uniformCounts(table, { target: 0.4 }));
  assert.ok(hardSparsity(table, kept) >= 0.4);
  fails(
    () => hardenMasks(table, logAlpha, { ...options, layerTargets: [0.1, null, null] }),
    { value: 0.1 },
  );
});

Deno.test("layers that cannot become alike are refused with the reason", () => {
  const counts = (
    spec: DecoderSpec,
    kinds: readonly ("heads" | "kv" | "ffn" | "layers" | "hidden")[],
    rules: UnitRules = {},
    target = 0.3,
  ): unknown => uniformCounts(unitTable(spec, kinds, rules), { target });
  fails(() => counts(DEEP, ["kv", "ffn", "layers"]), { option: "units", value: ["kv", "layers"] });
  fails(() => counts(DEEP, ["kv", "ffn"], { protect: [2] }), { option: "layout", value: "layer 2" });
  fails(() => counts(UNEVEN, ["kv", "ffn"]), { option: "layout", names: "KV" });
  fails(() => counts(WORN, ["ffn"]), { value: [8, 6] });
  fails(() => counts(WORN, ["kv", "ffn"], {}, 0.01), { option: "sparsity", value: 0.01 });
  fails(() => counts(WORN, ["kv", "ffn"], { minimum: { ffn: 45 } }, 0.3), { value: "layer 1" });
  fails(() => counts(WORN, ["kv", "ffn"], { align: 64 }), { option: "rules.align", value: [41, 64] });
  fails(() => counts(DEEP, ["kv", "ffn"], { minimum: { ffn: 45 } }, 0.7), { value: 0.7 });
  fails(() => counts(MULTI_QUERY, ["kv", "ffn"]), { option: "units", value: ["kv", "ffn"], names: "KV" });
  const slim = alike(3, { heads: 1, kvHeads: 1, ffn: 32 });
  fails(() => counts(slim, ["heads", "ffn"]), { option: "units", value: "heads", names: '"compact"' });
  fails(() => counts(slim, ["ffn", "hidden"], { align: 32 }, 0.1), { option: "rules.align", value: 32 });
  // Where a size is asked for, the layout padded would be refused.
  fails(
    () => uniformCounts(unitTable(DEEP, ["kv", "ffn", "layers"]), { size: parameterTarget(DEEP, 40_000) }),
    { names: ['"compact"', '"padded"'] },
  );
});

Deno.test("where a rule keeps equal counts from a target or size, it is said what they reach without", () => {
  const kinds = ["kv", "ffn"] as const, free = unitTable(DEEP, kinds), most = mostUniform(free);
  assert.ok(mostSparsity(free) > most + 1e-3, "single units reach more");
  for (const rules of [{ minimum: { ffn: 45 } }, { align: 24 }]) {
    const table = unitTable(DEEP, kinds, rules), reached = mostUniform(table).toFixed(4);
    fails(() => uniformCounts(table, { target: 0.85 }), { value: [0.85, most.toFixed(4)], names: reached });
    const size = parameterTarget(DEEP, 100), least = leastSize(free, size, { blocks: allRows(free) });
    fails(() => uniformCounts(table, { size }), { value: [100, least.toLocaleString("en")] });
    assert.deepEqual(uniformCounts(free, { size: { ...size, most: least } }), uniformCounts(free, { target: most }));
  }
});

Deno.test("a target or size that equal widths alone pass by a row or more is refused, whichever kinds are uneven", () => {
  const ffns = [50, 41, 47], row = ffns.length * 3 * 40;
  const spec = decoder(ffns.map((ffn) => ({ heads: 8, kvHeads: 4, ffn })), { hidden: 40, headDim: 4 });
  const table = unitTable(spec, ["ffn"]), extra = 3 * 40 * (9 + 6), alone = extra / table.total;
  const counts = { heads: 8, kvHeads: 4, ffn: 41, hidden: 40 };
  const few = { target: alone - 1.1 * row / table.total };
  const falls = (target: number): boolean =>
    gradualMasks(table, new Float32Array(table.count), { target, layout: "uniform" }).ffn.includes(0);
  for (const target of [alone, alone - 0.9 * row / table.total]) {
    assert.deepEqual(uniformCounts(table, { target }), counts, `${target}`);
    assert.ok(falls(target), "gradual cuts what the end would cut");
  }
  assert.ok(!falls(few.target));
  let shown = 0;
  fails(() => uniformCounts(table, few), { value: few.target });
  assert.throws(
    () => uniformCounts(table, few),
    ({ message }) => (shown = Number(/cut (0\.\d+)/.exec(message)?.[1])) > 0,
  );
  assert.ok(shown >= alone && shown < alone + 1e-4, `${shown} is shown for ${alone}`);
  const left = parameterCount(spec) - extra;
  const sized = (most: number): UniformCounts => uniformCounts(table, { size: parameterTarget(spec, most) });
  assert.deepEqual([sized(left), sized(left + row - 1)], [counts, counts]);
  assert.deepEqual(sized(left - 1), { ...counts, ffn: 40 });
  const least = left.toLocaleString("en");
  fails(() => sized(left + row), { option: "size.parameters", value: least });
});

Deno.test("a refusal of equal counts has flags on the command line", () => {
  const spelledOf = (kinds: readonly ("kv" | "ffn")[], rules: UnitRules): string => {
    try {
      uniformCounts(unitTable(MULTI_QUERY, kinds, rules), { target: 0.3 });
    } catch (error) {
      const { what, value, fix } = checkRefusal(error, "usage").partsAs(spellFlag);
      return [what, value, fix].join("\n");
    }
    return "";
  };
  assertNames(spelledOf(["kv", "ffn"], {}), ["--layout uniform", "--units kv,ffn", "--layout compact"]);
  assertNames(spelledOf(["ffn"], { align: 64 }), ["--layout uniform", "--align 64", "--layout padded"]);
});
