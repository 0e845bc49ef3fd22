// Detects a sparsity target that is not met: expected sparsity while masks are learned, hard sparsity at the end.
import { option } from "../../core/errors.ts";
import { GRADUAL_EVERY } from "../../masks/gradual.ts";
import type { Layout } from "../../units/layout.ts";
import type { RecordView } from "../../schedule/definition.ts";
import { isSingleGroup } from "../../units/uniform.ts";
import { partsOf, unitParameters, type UnitTable } from "../../units/table.ts";
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";

/** Tolerance for f32 sums and quotients of integers. */
const ROUNDING = 1e-6;

/**
 * Compares the last record's expected sparsity with its target. Masks that are hard already were chosen at one of the
 * last few targets and meet it to within one unit.
 */
export function watchConstraint(
  records: readonly RecordView[],
  { setting, isHard, unit }: { readonly setting: ResolvedMonitor; readonly isHard: boolean; readonly unit: number },
): readonly Finding[] {
  const last = records.at(-1);
  if (!last || last.target === null || last.expected === null) return [];
  const targets = targetsHeld(records, { isHard });
  const least = Math.min(...targets), most = Math.max(...targets) + (isHard ? unit : 0);
  const gap = Math.max(least - last.expected, last.expected - most, 0);
  if (gap <= setting.threshold) return [];
  return [{
    monitor: "constraint",
    key: "constraint",
    message: `the constraint is not met: expected sparsity ${percent(last.expected)}, target ${
      percent(last.target)
    }, off by more than ${percent(setting.threshold)} after the warm-up`,
    change: isHard
      ? "choose masks by hooks of the same sparsity, or leave them to the method"
      : `set ${option("rates.tracking", 1)}, raise ${option("rates.mask")} and ${
        option("rates.lambda")
      }, or give the pruning stage more steps`,
    ...(isHard ? { instead: "warn" } as const : {}), // no rate chooses them
  }];
}

/** Targets of the last records; the newest record's masks were chosen at one of them. */
export function targetsHeld(
  records: readonly RecordView[],
  { isHard }: { readonly isHard: boolean },
): readonly number[] {
  return records.slice(isHard ? -GRADUAL_EVERY : -1).flatMap(({ target }) => target === null ? [] : [target]);
}

/** Checks that the sparsity of the hard masks reaches the target and exceeds it by less than one unit. */
export function checkHard(
  { target, hard }: { readonly target: number; readonly hard: number },
  { unit, layout }: { readonly unit: number; readonly layout: Layout },
): readonly Finding[] {
  if (hard >= target - ROUNDING && hard < target + unit + ROUNDING) return [];
  return [{
    monitor: "constraint",
    key: "constraint hard",
    message: `the constraint is not met: hard sparsity ${percent(hard)}, target ${percent(target)}, one unit ${
      percent(unit)
    }`,
    change: hard < target
      ? "let the schedule end later, or its targets of single layers and of the whole agree: units and rules would allow it"
      : layout === "uniform"
      ? "let the schedule end later or at a higher target: equal widths of all layers cut more than that by themselves"
      : "let the schedule's targets of single layers and of the whole agree",
  }];
}

/**
 * Compares the expected sparsity at the end of the stage with that of the hard masks. Units that a schedule froze, or
 * targets of single layers, may have kept the masks from the target until then.
 *
 * - `isLoose`: whether that was so after the warm-up; otherwise the stage ended within the warm-up.
 * - `isHard`: masks were chosen every few steps instead of learned.
 */
export function checkFall(
  { target, expected, hard }: { readonly target: number; readonly expected: number; readonly hard: number },
  { isLoose, isHard, threshold }: { readonly isLoose: boolean; readonly isHard: boolean; readonly threshold: number },
): readonly Finding[] {
  const fallen = hard - expected;
  if (!(Math.abs(target - expected) > threshold && Math.abs(fallen) > threshold)) return [];
  const what = fallen > 0 ? "were cut" : "came back";
  return [{
    monitor: "constraint",
    key: "constraint",
    message: `the constraint was not met: expected sparsity ${
      percent(expected)
    } at the end of the pruning stage, target ${percent(target)}; ${
      percent(Math.abs(fallen))
    } ${what} at once when the masks became hard${
      isLoose ? ", since frozen units or targets of single layers kept them from the target" : ""
    }`,
    change: isLoose
      ? "let the schedule freeze less, or set units free before the end of the stage, and let its targets of single layers and of the whole agree"
      : isHard
      ? `give the pruning stage more steps: masks are chosen every ${GRADUAL_EVERY}, and the last choice before its end is to be near the target`
      : `give the pruning stage more steps (${option("steps")}, or let the schedule end it later), set ${
        option("rates.tracking", 1)
      }, or raise ${option("rates.mask")} and ${option("rates.lambda")}`,
  }];
}

/**
 * Compares the schedule's last target with the requested sparsity, or that of the requested size. The schedule decides
 * what is cut. A requested size is met all the same, unless the schedule overrides it (`goesBefore`).
 */
export function checkAim(
  { asked, target, hard }: { readonly asked: number; readonly target: number; readonly hard: number },
  { hasSize, goesBefore, threshold }: {
    readonly hasSize: boolean;
    readonly goesBefore: boolean;
    readonly threshold: number;
  },
): readonly Finding[] {
  if (Math.abs(asked - target) <= threshold) return [];
  const wanted = hasSize ? `the size takes ${percent(asked)}` : `${percent(asked)} was asked for`;
  const what = hasSize && !goesBefore
    ? `${percent(Math.abs(hard - target))} ${
      hard > target ? "were cut" : "came back"
    } at once when the masks became hard`
    : `hard sparsity is ${percent(hard)}`;
  return [{
    monitor: "constraint",
    key: "constraint aim",
    message: `the constraint was not met: the schedule's last target is ${percent(target)}, and ${wanted}; ${what}`,
    change: `let the schedule come to what it is given as \`sparsity\`${
      hasSize ? "" : ", or ask for the sparsity that it ends at"
    }`,
  }];
}

/** Fix for masks that hooks changed after they became hard. */
export const BY_HOOKS = "let hooks leave the masks as they are once they are hard, or write ones that cut as much";

/** Finding for a model that is larger than its size allows, by `excess` parameters or bytes. */
export function checkSize(excess: number, { goesBefore }: { readonly goesBefore: boolean }): readonly Finding[] {
  if (excess <= 0) return [];
  return [{
    monitor: "constraint",
    key: "constraint size",
    message: `the constraint is not met: the model is larger than it was to be, by ${excess.toLocaleString("en")}`,
    change: goesBefore
      ? "let the schedule end the stage only where its targets of single layers leave what the size takes"
      : BY_HOOKS,
  }];
}

/**
 * Compares what targets of single layers cut with what the size requires. If they cut more, the size is met only where
 * other layers can restore units.
 */
export function checkSmaller(
  { asked, hard }: { readonly asked: number; readonly hard: number },
  { unit, threshold }: { readonly unit: number; readonly threshold: number },
): readonly Finding[] {
  if (hard <= asked + Math.max(unit, threshold)) return [];
  return [{
    monitor: "constraint",
    key: "constraint aim",
    message: `the model is smaller than it was asked to be: hard sparsity ${percent(hard)}, the size takes ${
      percent(asked)
    }`,
    change: "let the schedule's targets of single layers cut no more than its `sparsity` does over all",
  }];
}

/** Finding for a schedule that ended the pruning stage before its first step. */
export function nothingCut(sparsity: number): Finding {
  return {
    monitor: "constraint",
    key: "constraint",
    message: `the constraint is not met: the schedule ended the pruning stage before its first step, and nothing of ${
      percent(sparsity)
    } is cut`,
    change: WAIT_FOR_A_STEP,
  };
}

/**
 * Finding for a size whose units were chosen without learning, since a schedule ended the pruning stage before its
 * first step.
 */
export function cutUnlearned(hard: number): Finding {
  return {
    monitor: "constraint",
    key: "constraint",
    message: `the schedule ended the pruning stage before its first step, and ${
      percent(hard)
    } were cut at once for the size`,
    change: WAIT_FOR_A_STEP,
  };
}

const WAIT_FOR_A_STEP =
  "let the schedule's `end` wait for a step, or look only at records whose stage is that of pruning";

/**
 * The largest share of weights that one unit cuts. Where widths are aligned, it is that of a block. Where all layers
 * are cut alike, it is that of one unit in each layer, with heads counted in whole groups if there are several.
 */
export function largestUnit(table: UnitTable, layout: Layout): number {
  const { hidden, layers } = table.spec, isUniform = layout === "uniform", isWhole = isUniform && !isSingleGroup(table);
  let most = 0;
  for (const { layer, first, count, step } of partsOf(table)) {
    for (let unit = first; unit < first + count; unit++) {
      const group = table.groups[table.groupOf[unit] ?? -1];
      const parameters = group
        ? ((table.cost[unit] ?? 0) * (isWhole ? group.count : 1) + group.cost) * hidden
        : unitParameters(table, unit);
      most = Math.max(most, parameters * step * (isUniform && layer !== null ? layers.length : 1));
    }
  }
  return most / table.total;
}
