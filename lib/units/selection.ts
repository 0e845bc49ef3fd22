// Selects the units to cut for a target.
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { cutAll, cutTo, cutUntil, drop, giveBack } from "./greedy.ts";
import { type Block, byScore, type HeldUnits, unitBlocks } from "./blocks.ts";
import { CutState, type Measure } from "./cut_state.ts";
import { type UnitRules } from "./rules.ts";
import { checkPerUnit, type Selection, unitParameters, type UnitTable, unitTable } from "./table.ts";

/** A size limit for the sliced model. */
export interface SizeTarget {
  /** How to measure layers and the rest. */
  readonly measure: Measure;
  /** Largest allowed size. */
  readonly most: number;
  /** The measured quantity, for messages: "parameters", "bytes". */
  readonly unit: string;
}

/** Requirements of a selection. */
export interface SelectOptions {
  /** Sparsity to reach; null or absent if only `size` or `layerTargets` count. */
  readonly target?: number | null;
  /** Replaces `target`. Once it is met, units and blocks are restored as far as it allows. */
  readonly size?: SizeTarget | undefined;
  /**
   * Share to cut of the linear weights of each layer, not counting hidden dims; null leaves a layer free. These targets
   * are met first. If they already cut more than `target`, nothing else is cut.
   */
  readonly layerTargets?: readonly (number | null)[] | null | undefined;
  /** Units that are neither cut nor restored, as far as the rules of the table allow. Their cuts count. */
  readonly held?: HeldUnits | null | undefined;
  /**
   * If a target is out of reach, returns the closest selection, with everything cut that may be cut, instead of
   * throwing. Targets of layers beyond what their units and rules allow, and numbers that do not fit the table, still
   * throw.
   */
  readonly isNearest?: boolean | undefined;
}

const NAMES: NamesOf<SelectOptions> = {
  ...{
    target: true,
    size: { measure: true, most: "number", unit: "text" },
    layerTargets: true,
    held: true,
    isNearest: "switch",
  },
};

/**
 * Keeps the units with the highest scores such that the target is reached, and would not be with the last cut unit
 * restored. A unit that would overshoot by more than the smallest unit is skipped, so that the last cut is a small one.
 * If the target cannot be reached that way, larger units may come last, the smallest sufficient ones first. Cuts that
 * they make unnecessary are undone, highest score first. The rules of the table hold. With aligned widths, blocks
 * replace units, see `unitBlocks`. One hidden dim, one layer and, over all layers, one head and one FFN column are
 * always kept. Among ties the lower index is cut first.
 *
 * @throws CompressoError("usage") if the target cannot be reached with these units and rules, naming the limiting
 * rules; and for scores or held units without one number for each unit of the table.
 */
export function selectUnits(table: UnitTable, scores: ArrayLike<number>, options: SelectOptions): Selection {
  checkNames(options, NAMES, { whose: "selectUnits" });
  const { isNearest = false, ...exact } = options, { held } = options;
  checkPerUnit(table, scores, "scores");
  if (held) { for (const list of [held.flags, held.kept]) checkPerUnit(table, list, "held units"); }
  const orders: readonly (() => ArrayLike<number>)[] = [
    () => scores,
    // If every group keeps one head, all K and V are kept: near the limit whole groups must be cut.
    ...(table.groups.length > 0 ? [() => groupScores(table, scores)] : []),
    // With layers of different sizes, the largest must be cut near the limit.
    ...(table.kinds.has("layers") ? [() => largestLayers(table, scores)] : []),
    // The order of the last units can matter too; targets are checked in advance with this order.
    () => new Uint8Array(table.count),
  ];
  const by = (order: () => ArrayLike<number>, how: SelectOptions): Selection | Unmet =>
    attempt(table, unitBlocks(table, order(), { held }), how);
  let unmet: Unmet | null = null;
  for (const order of orders) {
    const kept = by(order, exact);
    if (typeof kept !== "function") return kept;
    unmet = kept;
  }
  let nearest: Selection | null = null;
  // Layers meet their own targets in any order, and only rounding makes a difference in another order.
  const isOwn = options.layerTargets?.some((goal) => goal !== null) ?? false;
  for (const order of isNearest ? orders.slice(0, isOwn ? 1 : undefined) : []) {
    const kept = by(order, options);
    if (typeof kept === "function") unmet = kept;
    else if (!nearest || hardSparsity(table, kept) > hardSparsity(table, nearest)) nearest = kept;
  }
  if (nearest) return nearest;
  throw unmet?.();
}

/** {@link selectUnits} for blocks in cutting order, after all of `forced`. */
export function choose(table: UnitTable, blocks: readonly Block[], options: ChooseOptions): Selection {
  const kept = attempt(table, blocks, options);
  if (typeof kept === "function") throw kept();
  return kept;
}

/** Like {@link choose}; null if there is no such selection. */
export function tryChoose(table: UnitTable, blocks: readonly Block[], options: ChooseOptions): Selection | null {
  const kept = attempt(table, blocks, options);
  return typeof kept === "function" ? null : kept;
}

interface ChooseOptions extends SelectOptions {
  /** Blocks that are always cut. */
  readonly forced?: readonly Block[];
  /** All blocks of a table that may be cut, if they are rows through all layers. Default: single units. */
  readonly rowsOf?: (table: UnitTable) => readonly Block[];
  /** Whether a block that overshoots is skipped while later ones may do. Default: true. */
  readonly skips?: boolean;
}

/** The error if there is no selection. */
type Unmet = () => CompressoError;

/** A selection, if there is one for blocks in this order. */
function attempt(table: UnitTable, blocks: readonly Block[], options: ChooseOptions): Selection | Unmet {
  const kept = cut(table, blocks, { ...options, isClose: true });
  // What layers cut beyond their own targets may be exactly what the target of the model lacks.
  return typeof kept === "function" && options.layerTargets ? cut(table, blocks, { ...options, isClose: false }) : kept;
}

/**
 * Like {@link attempt}. With `isClose`, layer targets are met closely; otherwise by everything that was cut for them.
 */
function cut(
  table: UnitTable,
  blocks: readonly Block[],
  { isClose, ...options }: ChooseOptions & { readonly isClose: boolean },
): Selection | Unmet {
  const { target = null, size, layerTargets, held, isNearest = false, forced = [], skips } = options;
  const { hidden } = table.spec;
  const state = new CutState(table, size?.measure);
  const whole = size ? state.size() : 0;
  for (const block of forced) if (!drop(state, block)) return () => unforced(block);
  for (let unit = 0; held && unit < table.count; unit++) {
    if (held.flags[unit] && !held.kept[unit]) drop(state, { units: [unit] });
  }
  const targeted = (block: Block): boolean => block.layer !== null && (layerTargets?.[block.layer] ?? null) !== null;
  if (layerTargets) {
    checkLayerTargets(table, layerTargets);
    const byLayer = Map.groupBy(blocks.filter(targeted), (block) => block.layer);
    for (const [layer, goal] of layerTargets.entries()) {
      if (goal === null) continue;
      const { attention, ffn, gate } = table.layers[layer] ?? EMPTY;
      const total = (attention.total + ffn.total) * hidden;
      if (total === 0) continue;
      const own = byLayer.get(layer) ?? [];
      // The whole layer is cut only if cutting its units is not enough.
      const order = [...own.filter(({ units }) => units[0] !== gate), ...own.filter(({ units }) => units[0] === gate)];
      const aim = {
        isMet: () => state.layerSparsity(layer) >= goal - ROUNDING,
        overshoots: (slack: number) => state.layerSparsity(layer) > goal + slack / total,
      };
      const met = isClose ? cutTo(table, order, { state, aim }) : cutUntil(state, order, aim);
      if (!met && !isNearest) return () => unreachableLayer(layer, { goal, most: state.layerSparsity(layer) });
    }
  }
  const free = layerTargets ? blocks.filter((block) => !targeted(block)) : blocks;
  if (size) {
    const perParameter = whole / table.total;
    const isMet = (): boolean => state.size() <= size.most;
    const met = cutUntil(state, free, {
      isMet,
      overshoots: (slack) => state.size() < size.most - slack * perParameter,
      skips,
    });
    if (!met && !isNearest) return () => unreachable(table, options, { most: state.size(), whole });
    giveBack(table, free, { state, isMet });
  } else if (target !== null) {
    const aim = {
      isMet: () => state.sparsity() >= target - ROUNDING,
      overshoots: (slack: number) => state.sparsity() > target + slack / table.total,
      skips,
    };
    const met = cutTo(table, free, { state, aim });
    if (!met && !isNearest) return () => unreachable(table, options, { most: state.sparsity(), whole });
  }
  return state.kept;
}

/**
 * Exact sparsity of a selection: 1 − kept parameters / total. K and V of a group count while one of its heads is kept.
 */
export function hardSparsity(table: UnitTable, kept: Selection): number {
  checkPerUnit(table, kept, "units");
  return stateOf(table, kept).sparsity();
}

/** Shape of the sliced model for a selection; see `sliceModel`. */
export function selectedSpec(table: UnitTable, kept: Selection): DecoderSpec {
  return { ...table.spec, ...stateOf(table, kept).shape() };
}

/** The largest sparsity that the units and rules of a table allow, when these blocks are cut. Default: single units. */
export function mostSparsity(
  table: UnitTable,
  { blocks }: { readonly blocks?: readonly Block[] | undefined } = {},
): number {
  return Math.max(
    ...(blocks ? [blocks] : anyOrders(table)).map((order) => cutAll(new CutState(table), order).sparsity()),
  );
}

/** The smallest size that the units and rules of a table allow, when these blocks are cut. Default: single units. */
export function leastSize(
  table: UnitTable,
  { measure }: Pick<SizeTarget, "measure">,
  { blocks }: { readonly blocks?: readonly Block[] | undefined } = {},
): number {
  return Math.min(
    ...(blocks ? [blocks] : anyOrders(table)).map((order) => cutAll(new CutState(table, measure), order).size()),
  );
}

/** All blocks in several orders that ignore the scores; one order leaves the smallest size. */
function anyOrders(table: UnitTable): readonly (readonly Block[])[] {
  const alike = new Float64Array(table.count), orders = [alike];
  if (table.kinds.has("layers")) orders.push(largestLayers(table, alike));
  return orders.map((scores) => unitBlocks(table, scores));
}

/** Refuses a target that no selection of these units can reach. */
export function checkReachable(
  table: UnitTable,
  target: number,
  options: Pick<SelectOptions, "layerTargets"> = {},
): void {
  checkShare(table, target);
  selectUnits(table, new Float32Array(table.count), { ...options, target });
}

/** Refuses a sparsity outside of its range. */
export function checkShare(table: UnitTable, target: number): void {
  if (target > 0 && target < 1) return;
  refuse("usage", "cannot prune to this sparsity", {
    rule: `sparsity is a share of the ${
      table.rules.rest > 0 ? "model's parameters" : "layers' linear weights"
    }, above 0 and below 1`,
    value: target,
  });
}

/** Refuses layer targets outside of their range, or beyond what the units and rules of a layer allow. */
export function checkLayerTargets(table: UnitTable, targets: readonly (number | null)[]): void {
  const { layers } = table.spec;
  if (targets.length !== layers.length) {
    refuse("usage", "cannot aim at targets of single layers", {
      rule: `there is one for each of the ${layers.length} layers`,
      value: `${targets.length} targets`,
    });
  }
  targets.forEach((goal, index) => {
    const { attention, ffn, gate } = table.layers[index] ?? EMPTY;
    if (goal === null || !layers[index]) return;
    const total = attention.total + ffn.total, kept = attention.least + ffn.least;
    const most = gate >= 0 || total === 0 ? 1 : 1 - kept / total;
    if (goal >= 0 && goal <= most + ROUNDING) return;
    throw unreachableLayer(index, { goal, most });
  });
}
const NOTHING = { total: 0, least: 0 };
const EMPTY = { attention: NOTHING, ffn: NOTHING, gate: -1 };

/** Rounding error of a quotient of whole numbers. */
const ROUNDING = 1e-12;

/** Scores by which the heads of a KV group are cut consecutively. */
function groupScores({ groups, groupOf }: UnitTable, scores: ArrayLike<number>): Float64Array {
  const means = groups.map(({ first, count }) =>
    Array.from({ length: count }, (_, i) => scores[first + i] ?? 0).reduce((sum, score) => sum + score, 0) / count
  );
  return Float64Array.from(groupOf, (group, unit) => means[group] ?? scores[unit] ?? 0);
}

/**
 * An order that cuts layers first, the largest first and layers of one size by their scores, then the other units by
 * their scores.
 */
function largestLayers(table: UnitTable, scores: ArrayLike<number>): Float64Array<ArrayBuffer> {
  const { count, ranges: { layers: { first } } } = table;
  const rest = byScore(0, first, scores), gates = byScore(first, count - first, scores);
  const size = new Map(gates.map((gate) => [gate, unitParameters(table, gate)]));
  const places = new Float64Array(count);
  [...gates.toSorted((a, b) => (size.get(b) ?? 0) - (size.get(a) ?? 0)), ...rest].forEach((unit, place) => {
    places[unit] = place;
  });
  return places;
}

function stateOf(table: UnitTable, kept: Selection): CutState {
  const state = new CutState(table);
  for (let unit = 0; unit < table.count; unit++) if (!kept[unit]) state.drop(unit);
  return state;
}

function unreachable(
  table: UnitTable,
  options: ChooseOptions,
  { most, whole }: { readonly most: number; readonly whole: number },
): CompressoError {
  const { target, size, layerTargets, held, rowsOf } = options;
  const { spec, rules } = table, kinds = [...table.kinds];
  const { protect, minimum, align, fit, rest } = rules;
  const own: UnitRules = { minimum, align, fit, rest, protect: [...protect] };
  const loosened: readonly (readonly [string, UnitRules])[] = [
    ...(protect.size > 0 ? [["protected layers", { ...own, protect: [] }] as const] : []),
    ...(Object.values(minimum).some((width) => width > 0) ? [["least widths", { ...own, minimum: {} }] as const] : []),
    ...(Math.max(align, fit.heads, fit.hidden) > 1 ? [["aligned widths", { ...own, align: 1, fit: {} }] as const] : []),
  ];
  const shown = (value: number): string => Math.ceil(value).toLocaleString("en");
  const counted = (value: number): string => `${shown(value)} ${size?.unit}`;
  const bound = (one: UnitTable): number => {
    const blocks = rowsOf?.(one);
    return size ? leastSize(one, size, { blocks }) : mostSparsity(one, { blocks });
  };
  const present = bound(table);
  const gains = loosened.map(([name, loose]) => [name, bound(unitTable(spec, kinds, loose))] as const)
    .filter(([, reached]) => size ? reached < present : reached > present);
  const limits = [
    ...gains.map(([name, reached]) => `${name} (without: ${size ? counted(reached) : reached.toFixed(4)})`),
    ...(layerTargets?.some((goal) => goal !== null) ? ["targets of single layers"] : []),
    ...(held ? ["held units"] : []),
  ];
  const units = `${kinds.join(", ")}${rowsOf ? " alike in all layers" : ""}`,
    asked = size ? counted(size.most) : String(target);
  return refusal("usage", size ? `cannot make the model as small as ${asked}` : `cannot reach a sparsity of ${asked}`, {
    rule: size
      ? `cutting ${units} leaves at least ${shown(most)} of ${counted(whole)}`
      : `cutting ${units} reaches at most ${most.toFixed(4)}`,
    value: limits.length > 0 ? `${asked}, limited by ${limits.join(", ")}` : asked,
    fix: `${size ? `raise the number of ${size.unit}` : `lower ${option("sparsity")}`}${
      limits.length > 0 ? ", loosen a limit" : ""
    } or add kinds to ${option("units")}`,
  });
}

function unforced({ queue }: Block): CompressoError {
  return refusal("usage", `cannot cut all layers alike for ${option("layout", "uniform")}`, {
    rule: "every layer may become as narrow as the narrowest",
    value: `${queue ?? "a layer"} may not: too few would be left`,
  });
}

function unreachableLayer(
  layer: number,
  { goal, most }: { readonly goal: number; readonly most: number },
): CompressoError {
  return refusal("usage", `cannot cut ${goal} of layer ${layer}`, {
    rule: `its units and their rules allow 0 to ${most.toFixed(4)}`,
    value: goal,
    fix: `lower the layer's target, or add kinds to ${option("units")}`,
  });
}
