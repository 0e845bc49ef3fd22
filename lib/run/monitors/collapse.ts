// Detects masks that collapse to all zero or all one, and layers that add nothing any more.
import { option } from "../../core/errors.ts";
import type { UnitTable } from "../../units/table.ts";
import type { ResolvedOptions } from "../options/options.ts";
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";
import { lessAtOnce } from "./divergence.ts";
import type { MaskLook } from "../contract.ts";

/** Target, of one kind or of all units, above which a higher limit of cut units applies. */
const HIGH = 0.8;
/** Least share that a kind keeps of what such a target leaves. One kind may be cut further if another is kept. */
const KEPT = 0.25;
/** Largest absolute gap to the target at which masks meet it. */
const HELD = 0.01;
/** Suffix of the key of a finding that the target itself causes. */
export const HELD_KEY = " held";
/** Options that limit how far a kind is cut, by the name of the kind. */
const LEAST: Readonly<Record<string, string>> = {
  heads: option("rules.minimum.heads"),
  "KV groups": option("rules.minimum.heads"),
  "FFN columns": option("rules.minimum.ffn"),
  "hidden dims": option("rules.minimum.hidden"),
  layers: option("rules.minimum.layers"),
};

/**
 * Checks the masks for collapse.
 *
 * - All zero: at most 1 − `threshold` of a kind's prunable units are left, and the target does not require it. Checked
 *   only for kinds with at least half of their units prunable.
 * - All one: after the warm-up, at most 1 − `threshold` of the target is cut.
 *
 * Where rolling back would lead to the same masks, the alarm only warns.
 */
export function watchCollapse(
  { kinds }: MaskLook,
  {
    target,
    least = target,
    expected,
    isWarm,
    isLoose = false,
    isHard,
    of = { method: "compresso", size: null },
    setting,
  }: {
    readonly target: number;
    /** Lowest target at which the masks may have been chosen; default: the latest target. */
    readonly least?: number;
    readonly expected: number;
    /** Whether the warm-up is over. */
    readonly isWarm: boolean;
    /** Whether a schedule's frozen units or targets of single layers override the target of the whole. */
    readonly isLoose?: boolean;
    /** Whether masks are hard, and so chosen at the target. */
    readonly isHard: boolean;
    /** Method and size of the run. */
    readonly of?: Pick<ResolvedOptions, "method" | "size">;
    readonly setting: ResolvedMonitor;
  },
): readonly Finding[] {
  const found: Finding[] = [], shares = kinds.reduce((sum, { share }) => sum + share, 0);
  for (const { name, count, all, cut, share } of kinds) {
    // Where less than half of a kind may be cut, the other half stays in any case.
    if (2 * count < all) continue;
    // Share of this kind that must be cut even if everything of all other kinds is.
    const needed = share > 0 ? (target - (shares - share)) / share : 0, asked = Math.max(target, needed);
    const most = Math.max(setting.threshold, asked > HIGH ? 1 - KEPT * (1 - asked) : 0);
    if (cut < most) continue;
    // At other rates, hard masks would be cut as far, and so would masks that hold such a high target.
    const isHeld = isHard || (asked > HIGH && Math.abs(expected - target) <= HELD);
    found.push({
      monitor: "collapse",
      // A separate key: masks that leave the target later are a new finding.
      key: `collapse ${name}${isHeld ? HELD_KEY : ""}`,
      message: `the masks collapse to zero: ${percent(cut)} of the ${name} are cut, limit ${percent(most)}, target ${
        percent(target)
      }${isHeld ? ", which they hold" : ""}`,
      change: isHeld
        ? `prune ${lessAtOnce(of)}, ${leastOf(name)}or leave the ${name} out of the units`
        : `lower ${option("rates.mask")}, prune in more steps, ${leastOf(name)}or leave the ${name} out of the units`,
      ...(isHeld ? { instead: "warn" } : {}),
    });
  }
  // Rates do not affect hard masks.
  const own = isHard
    ? "let the schedule's target come to what one unit cuts, in the layout uniform one of each layer"
    : `set ${option("rates.tracking", 1)}, or raise ${option("rates.mask")} and ${option("rates.lambda")}`;
  if (isWarm && least > 0 && expected <= (1 - setting.threshold) * least) {
    found.push({
      monitor: "collapse",
      key: "collapse open",
      message: `the masks collapse to one: after the warm-up ${percent(expected)} is cut, less than ${
        percent(1 - setting.threshold)
      } of the target ${percent(least)}`,
      change: isLoose
        ? `let the schedule freeze less, and its targets of single layers come to the whole's; else ${own}`
        : own,
      instead: "warn", // lower rates would move them still less
    });
  }
  return found;
}

function leastOf(name: string): string {
  const option = LEAST[name];
  return option ? `set a least width (${option}), ` : "";
}

/**
 * Finds layers that add nothing because at least `threshold` of all their units is cut. A layer that is a unit itself
 * and is cut whole counts as pruned, not as dead.
 */
export function watchLayers(
  { layers }: MaskLook,
  { table, setting, isHard, of = {} }: {
    readonly table: UnitTable;
    readonly setting: ResolvedMonitor;
    readonly isHard: boolean;
    /** Layout of the run; the uniform layout permits fewer fixes. */
    readonly of?: Partial<Pick<ResolvedOptions, "layout">>;
  },
): readonly Finding[] {
  const found: Finding[] = [], isAlike = of.layout === "uniform";
  table.layers.forEach(({ attention, ffn, gate }, index) => {
    const state = layers[index];
    if (!state || gate >= 0) return;
    const parts = [
      { part: attention, cut: state.heads, name: "heads" },
      { part: ffn, cut: state.ffn, name: "FFN columns" },
    ].filter(({ part }) => part.total > 0);
    // A part that is not pruned keeps its layer alive.
    if (parts.length === 0 || parts.some(({ part, cut }) => part.count === 0 || cut < setting.threshold)) return;
    const options = parts.map(({ name }) => LEAST[name]).join(", ");
    const shares = parts.map(({ cut, name }) => `${percent(cut)} of its ${name}`).join(" and ");
    found.push({
      monitor: "dead-layer",
      key: `dead-layer ${index}`,
      message: `layer ${index} is dead: ${shares} are cut, limit ${percent(setting.threshold)}`,
      change: `${isAlike ? "" : `protect it (${option("rules.protect", index)}), or `}set least widths (${options})${
        isAlike ? "" : "; to cut layers on purpose, add layers to the units"
      }`,
      ...(isHard ? { instead: "warn" } as const : {}), // no rate chooses them
    });
  });
  return found;
}
