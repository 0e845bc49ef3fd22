// The uniform layout: all layers are cut to the same counts.
import { type CompressoError, option, refusal } from "../core/errors.ts";
import { type DecoderSpec, ffnMatrices, headDimOf } from "../spec/decoder.ts";
import { checkFitting } from "./fitting_kinds.ts";
import type { Layout } from "./layout.ts";
import { type Block, byScore, type Queue, sorted } from "./blocks.ts";
import { choose, hardSparsity, leastSize, mostSparsity, selectedSpec, type SelectOptions } from "./selection.ts";
import { cutsAt, recordOf, type UnitKind } from "./kinds/all.ts";
import { NothingToCutError } from "./kinds/checks.ts";
import type { UnitRules } from "./rules.ts";
import { type Selection, unitParameters, type UnitTable, unitTable } from "./table.ts";

/** Final widths of all layers. */
export interface UniformCounts {
  /** Query heads, a multiple of `kvHeads`. */
  readonly heads: number;
  /** KV heads. */
  readonly kvHeads: number;
  /** FFN columns. */
  readonly ffn: number;
  /** Hidden dims. */
  readonly hidden: number;
}

/** Options of {@link uniformCounts}. */
export interface UniformOptions extends Pick<SelectOptions, "target" | "size"> {
  /**
   * Scores of the units, for the share of each kind. Without them the largest share that a kind loses is as small as it
   * can be: a KV group of three falls in all layers where FFN columns would have to lose more than a third.
   */
  readonly scores?: ArrayLike<number> | undefined;
}

/**
 * Share to cut of the attention and FFN parameters of each layer, not counting hidden dims; null leaves a part free.
 */
export interface PartGoals {
  readonly attention: readonly (number | null)[];
  readonly ffn: readonly (number | null)[];
}

/** Goals of a run that cuts all layers to equal counts. */
export interface UniformGoals {
  readonly counts: UniformCounts;
  /** Sparsity with these counts, at least the target. */
  readonly sparsity: number;
  /**
   * Goals at the expected sparsity `now`: the final goals, scaled. Above `sparsity`, the goals of a run to `now`
   * itself, which throws like {@link uniformCounts}. Hidden dims follow from the goal of the whole.
   */
  at(now: number): PartGoals;
}

/**
 * Counts for all layers at which the target is reached, and would not be with the last row restored. A row is one FFN
 * column (`align` columns) in every layer, or one KV group with its heads; in a layer with only one KV group, one
 * query head. Rows are cut like units in `selectUnits`, by their mean score, the lowest units of each layer first.
 *
 * @throws CompressoError("usage") if layers cannot become equal, and like `selectUnits`.
 */
export function uniformCounts(table: UnitTable, { target, size, scores }: UniformOptions): UniformCounts {
  const blocks = uniformBlocks(table, scores), { forced, rows } = blocks;
  if (forced.length > 0) refuseForced(table, blocks, { target: target ?? null, size });
  // Skipping a KV group that overshoots would leave its share to the FFN.
  const options = { target: target ?? null, size, forced, rowsOf: allRows, skips: scores !== undefined };
  return countsOf(table, choose(table, rows, options));
}

/** Widths of the layers of a selection that keeps equally many units in each. */
export function countsOf(table: UnitTable, kept: Selection): UniformCounts {
  const { hidden, layers } = selectedSpec(table, kept), first = layers.find(({ conv }) => !conv) ?? layers[0];
  return { heads: first?.heads ?? 0, kvHeads: first?.kvHeads ?? 0, ffn: first?.ffn ?? 0, hidden };
}

/**
 * The units of a run. If all layers are cut to equal counts and have several KV groups, which are then cut whole,
 * groups are learned instead of heads. Throws like `unitTable`.
 */
export function tableOf(
  spec: DecoderSpec,
  { units, rules, layout }: {
    readonly units: readonly UnitKind[];
    readonly rules: UnitRules;
    readonly layout: Layout;
  },
): UnitTable {
  checkFitting(units, spec, layout);
  if (!fallsByGroup(spec, { units, layout })) return unitTable(spec, units, rules);
  try {
    return unitTable(spec, units.map((kind) => kind === "heads" ? "kv" : kind), rules);
  } catch (error) {
    if (!(error instanceof NothingToCutError) || error.kind !== "kv") throw error;
    throw error.with({
      what: "cannot prune heads, which fall by their KV groups where all layers are cut alike",
      fix: "take heads out of the units, or loosen the rule",
    });
  }
}

/** Whether heads are units and are cut by KV groups. */
export function fallsByGroup(
  spec: Pick<DecoderSpec, "layers">,
  { units, layout }: { readonly units: readonly UnitKind[]; readonly layout: Layout },
): boolean {
  return layout === "uniform" && units.includes("heads") &&
    spec.layers.some(({ kvHeads }) => kvHeads > 1);
}

/** Blocks that are cut together for equal counts: rows in order, preceded by the cuts that make layers equal. */
export function uniformBlocks(
  table: UnitTable,
  scores?: ArrayLike<number>,
): { readonly forced: readonly Block[]; readonly rows: readonly Block[] } {
  const ranks = scores ?? new Uint8Array(table.count);
  const forced: Block[] = [], rows: Block[] = [];
  for (const queue of queuesOf(table, ranks)) {
    if (queue.forced.length > 0) forced.push(blockOf(table, ranks, { ...queue, units: queue.forced }));
    let score = -Infinity;
    queue.rows.forEach((units, index) => {
      const row = blockOf(table, ranks, { ...queue, units });
      score = Math.max(score, scores ? row.score : (index + 1) / queue.rows.length);
      rows.push({ ...row, score });
    });
  }
  return { forced, rows: sorted(rows) };
}

/**
 * Goals of every step of a run with equal counts, to a target or to known widths. Throws like {@link uniformCounts}.
 */
export function uniformGoals(
  table: UnitTable,
  options: { readonly target: number } | { readonly counts: UniformCounts },
): UniformGoals {
  const counts = "counts" in options ? options.counts : uniformCounts(table, options), { spec } = table;
  const sparsity = hardSparsity(table, uniformSelection(table, new Uint8Array(table.count), counts));
  const final = table.layers.map(({ attention, ffn }, index) => ({
    attention: attention.count > 0
      ? 1 - 2 * headDimOf(spec, spec.layers[index] ?? {}) * (counts.heads + counts.kvHeads) / attention.total
      : null,
    ffn: ffn.count > 0 ? 1 - ffnMatrices(table.spec) * counts.ffn / ffn.total : null,
  }));
  let beyond: { readonly now: number; readonly goals: UniformGoals } | null = null;
  return {
    counts,
    sparsity,
    at(now): PartGoals {
      if (now > sparsity + ROUNDING) {
        // A schedule may stay there for many steps, and choosing rows is slow.
        if (beyond?.now !== now) {
          beyond = { now, goals: uniformGoals(table, { target: now }) };
        }
        return beyond.goals.at(now);
      }
      const share = sparsity > 0 ? Math.min(1, Math.max(0, now / sparsity)) : 0;
      const scaled = (goal: number | null): number | null => goal === null ? null : goal * share;
      return { attention: final.map((goal) => scaled(goal.attention)), ffn: final.map((goal) => scaled(goal.ffn)) };
    },
  };
}

/** Rounding error of a quotient of whole numbers. */
const ROUNDING = 1e-9;

/** Keeps the units with the highest scores in each layer, as many as the counts say. */
export function uniformSelection(table: UnitTable, scores: ArrayLike<number>, counts: UniformCounts): Selection {
  const kept: Selection = new Uint8Array(table.count).fill(1);
  const cut = (units: readonly number[]): void => units.forEach((unit) => kept[unit] = 0);
  table.layers.forEach(({ ffn }, layer) => {
    const groups = headGroups(table, scores, layer);
    const lives = isSingleGroup(table) ? counts.heads : counts.kvHeads;
    groups.slice(0, Math.max(0, groups.length - lives)).forEach(cut);
    cut(byScore(ffn.first, ffn.count, scores).slice(0, Math.max(0, ffn.count - counts.ffn)));
  });
  const { first, end } = table.ranges.hidden, dims = end - first;
  cut(byScore(first, dims, scores).slice(0, Math.max(0, dims - counts.hidden)));
  return kept;
}

/** Rows of one kind in cutting order; `forced` are the units that make layers equal first. */
interface RowQueue extends Pick<Queue, "name"> {
  readonly forced: readonly number[];
  readonly rows: readonly (readonly number[])[];
}

function queuesOf(table: UnitTable, scores: ArrayLike<number>): RowQueue[] {
  const { kinds, layers, spec, ranges: { hidden }, rules: { align, fit } } = table;
  const whole = [...kinds].find((kind) => recordOf(kind).isOnePerLayer);
  if (whole) {
    throw impossible(`whole ${recordOf(whole).many} are not among the units`, option("units", [...kinds].join(",")), {
      path: "units",
    });
  }
  const queues: RowQueue[] = [];
  // Layers with a convolution have no heads.
  const attending = [...spec.layers.entries()].filter(([, { conv }]) => !conv), [[first = 0] = []] = attending;
  const shares = new Set(attending.map(([, { heads, kvHeads }]) => kvHeads > 0 ? heads / kvHeads : 0));
  // With two kinds of attention, each has KV heads of its own, and none is cut.
  if (shares.size > 1 && spec.localHeadDim === undefined) {
    throw impossible("all layers have as many heads to a KV head", [...shares].join(", "));
  }
  const heads = attending.map(([layer]) => headGroups(table, scores, layer));
  const isCut = cutsAt("attention", kinds);
  checkAlike(attending.map(([, layer]) => layer.heads), { name: "heads", isCut, units: heads });
  if (isCut) {
    const queue = rowsOf("heads", heads, layers[first]?.attention.step ?? 1);
    if (fallsWhole(queue)) {
      const isHead = isSingleGroup(table), kind = isHead ? "heads" : "kv";
      throw impossible(
        `layers have more than one ${isHead ? "head" : "KV group"}, since one stays`,
        `each has one, and ${option("units", [...kinds].join(","))}`,
        {
          path: "units",
          fix: `leave ${kind} out of ${option("units")}${
            isHead ? "" : ", or take heads in its place"
          }, ${OTHER_LAYOUT}`,
        },
      );
    }
    queues.push(queue);
  }
  const columns = layers.map(({ ffn }) => byScore(ffn.first, ffn.count, scores).map((unit) => [unit]));
  checkAlike(spec.layers.map((layer) => layer.ffn), { name: "FFN columns", isCut: kinds.has("ffn"), units: columns });
  if (kinds.has("ffn")) {
    const queue = rowsOf("ffn", columns, align);
    if (queue.rows.length === 0) {
      throw impossible(
        `the narrowest FFN has at least as many columns as widths are multiples of`,
        `${Math.min(...columns.map(({ length }) => length))} columns, ${option("rules.align", align)}`,
        { path: "rules.align", fix: `lower ${option("rules.align")}, ${OTHER_LAYOUT}` },
      );
    }
    if (fallsWhole(queue)) {
      throw impossible(
        `FFNs have more columns than the ones that stay, at least as many as widths are multiples of`,
        `each has ${columns[0]?.length}, ${option("rules.align", align)}`,
        {
          path: "rules.align",
          fix: `lower ${option("rules.align")}, leave ffn out of ${option("units")}, ${OTHER_LAYOUT}`,
        },
      );
    }
    queues.push(queue);
  }
  if (kinds.has("hidden")) {
    const dims = byScore(hidden.first, hidden.end - hidden.first, scores).map((unit) => [unit]);
    queues.push(rowsOf("hidden", [dims], fit.hidden));
  }
  return queues;
}

/**
 * Whether everything would have to be cut at once although one layer must keep some: cutting such a kind would have no
 * effect.
 */
function fallsWhole({ forced, rows }: RowQueue): boolean {
  return forced.length === 0 && rows.length === 1;
}

/**
 * The lowest, second lowest, … unit of every layer, `step` at a time; wider layers are first reduced to the narrowest.
 */
function rowsOf(name: string, layers: readonly (readonly (readonly number[])[])[], step: number): RowQueue {
  const widths = layers.map((units) => units.length), narrowest = Math.min(...widths);
  const isAlike = widths.every((width) => width === narrowest);
  const start = isAlike ? narrowest : Math.floor(narrowest / step) * step;
  const take = (from: number, to: number): number[] =>
    layers.flatMap((units) => units.slice(units.length - from, units.length - to).flat());
  const rows: number[][] = [];
  for (let from = start; from > 0;) {
    const to = Math.floor((from - 1) / step) * step;
    rows.push(take(from, to));
    from = to;
  }
  return { name, forced: layers.flatMap((units) => units.slice(0, units.length - start).flat()), rows };
}

/**
 * Units of the KV groups of a layer, the group with the lowest mean score first. With only one group, each head is a
 * group.
 */
function headGroups(table: UnitTable, scores: ArrayLike<number>, layer: number): readonly (readonly number[])[] {
  const { first, count, firstGroup, groupCount } = table.layers[layer]?.attention ??
    { first: 0, count: 0, firstGroup: 0, groupCount: 0 };
  if (groupCount === 0 || isSingleGroup(table)) return byScore(first, count, scores).map((unit) => [unit]);
  const groups = table.groups.slice(firstGroup, firstGroup + groupCount).map((group) => {
    const units = byScore(group.first, group.count, scores);
    return { units, score: units.reduce((sum, unit) => sum + (scores[unit] ?? 0), 0) / units.length };
  });
  return groups.sort((a, b) => a.score - b.score).map(({ units }) => units);
}

/** Whether heads are units and no layer has more than one KV group, so that each head is cut separately. */
export function isSingleGroup({ kinds, spec }: UnitTable): boolean {
  return kinds.has("heads") && spec.layers.every(({ kvHeads }) => kvHeads <= 1);
}

function blockOf(
  table: UnitTable,
  scores: ArrayLike<number>,
  { name, units }: { readonly name: string; readonly units: readonly number[] },
): Block {
  return {
    units,
    score: units.reduce((sum, unit) => sum + (scores[unit] ?? 0), 0) / units.length,
    queue: name,
    layer: null,
    size: units.reduce((sum, unit) => sum + unitParameters(table, unit), 0),
  };
}

/** Refuses layers of different widths if some of them cannot be cut. */
function checkAlike(widths: readonly number[], { name, isCut, units }: {
  readonly name: string;
  readonly isCut: boolean;
  readonly units: readonly (readonly unknown[])[];
}): void {
  const alike = new Set(widths).size === 1;
  if (!isCut && !alike) {
    throw impossible(`all layers have as many ${name}, or they are among the units`, widths.join(", "));
  }
  const stuck = units.flatMap(({ length }, layer) => length === 0 ? [layer] : []);
  if (!isCut || stuck.length === 0) return;
  throw impossible(
    `${name} of every layer can be cut`,
    `those of layer ${stuck.join(", ")} cannot: absent, protected, or as few as must stay`,
  );
}

/**
 * The sparsity from making widths equal; 0 if layers are already equal. Throws like {@link uniformCounts} if they
 * cannot become equal.
 */
export function leastUniform(table: UnitTable): number {
  return sparsityWithout(table, uniformBlocks(table).forced);
}

/**
 * Whether {@link uniformCounts} accepts a target: making widths equal exceeds it by less than a row, or not at all.
 * Throws like {@link leastUniform}.
 */
export function takesUniform(table: UnitTable, target: number): boolean {
  const { forced, rows } = uniformBlocks(table);
  return sparsityWithout(table, forced) <= target + leastRow(table, rows);
}

/** The share that the smallest row cuts. */
function leastRow({ total }: UnitTable, rows: readonly Block[]): number {
  const least = rows.reduce((least, { size }) => Math.min(least, size), Infinity);
  return rows.length === 0 ? 0 : least / total;
}

/** The largest sparsity with equal counts, when all rows are cut that may be. Throws like {@link leastUniform}. */
export function mostUniform(table: UnitTable): number {
  return mostSparsity(table, { blocks: allRows(table) });
}

/**
 * All blocks that may be cut with equal counts. Blocks that make layers equal come first. Throws like {@link
 * leastUniform}.
 */
export function allRows(table: UnitTable): readonly Block[] {
  const { forced, rows } = uniformBlocks(table);
  return [...forced, ...rows];
}

function sparsityWithout(table: UnitTable, blocks: readonly Block[]): number {
  const kept: Selection = new Uint8Array(table.count).fill(1);
  for (const unit of blocks.flatMap(({ units }) => units)) kept[unit] = 0;
  return hardSparsity(table, kept);
}

/** Refuses a target that equal widths alone exceed by a row or more: a run to it would end with another size. */
function refuseForced(
  table: UnitTable,
  { forced, rows }: { readonly forced: readonly Block[]; readonly rows: readonly Block[] },
  { target, size }: Pick<SelectOptions, "target" | "size">,
): void {
  const [row] = [...rows].sort((a, b) => a.size - b.size);
  if (size) {
    const alike = leastSize(table, size, { blocks: forced });
    const room = row ? alike - leastSize(table, size, { blocks: [...forced, row] }) : 0;
    if (size.most < alike + room || size.most <= alike) return;
    const [most, left] = [size.most, Math.ceil(alike)].map((value) => value.toLocaleString("en"));
    throw impossible(
      "the size is what equal widths alone leave, or less",
      `at most ${most} ${size.unit}, equal widths leave ${left}`,
      { path: `size.${size.unit}`, fix: `ask for that or less, or take ${option("layout", "compact")}` },
    );
  }
  const alone = sparsityWithout(table, forced);
  if (alone <= (target ?? 1) + leastRow(table, rows)) return;
  throw impossible(
    "the target is what equal widths alone cut, or more",
    `${option("sparsity", target ?? 1)}, equal widths cut ${Math.ceil(1e4 * alone) / 1e4}`,
    {
      path: "sparsity",
      fix: `ask for that or more, or take ${option("layout", "compact")} or ${option("layout", "padded")}`,
    },
  );
}

/** Layouts whose layers may differ. With a size, padded is refused. */
const OTHER_LAYOUT = `or take ${option("layout", "compact")} or, without a size, ${option("layout", "padded")}`;

/** `path` is the option to change; where it is not known, the layout. */
function impossible(
  rule: string,
  value: string,
  { path = "layout", fix = `change the rule or ${option("units")}, ${OTHER_LAYOUT}` }: {
    readonly path?: string;
    readonly fix?: string;
  } = {},
): CompressoError {
  return refusal("usage", `cannot cut all layers alike for ${option("layout", "uniform")}`, {
    rule,
    value,
    fix,
    option: path,
  });
}
