// Applies all monitors, as two pure functions: of records, and of looks at the masks.
import { watchConstraint } from "./constraint.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { RecordView } from "../../schedule/definition.ts";
import type { UnitTable } from "../../units/table.ts";
import type { Finding, MonitorName, ResolvedMonitors } from "./alarm.ts";
import { HELD_KEY, watchCollapse, watchLayers } from "./collapse.ts";
import { NO_LOSSES, watchLoss } from "./divergence.ts";
import { type MemoryState, watchMemory } from "./memory.ts";
import { watchTurns } from "./oscillation.ts";
import type { MaskLook, MonitorState } from "../contract.ts";

/** State before the first step. */
export const FRESH_MONITORS: MonitorState = { active: [], losses: NO_LOSSES, masks: null, isLoose: false };

/** Input of the monitors of a record. */
export interface RecordSight {
  /** The last records, oldest first, the new one included. */
  readonly records: readonly RecordView[];
  /** ln(vocabulary). */
  readonly chance: number;
  /** Whether the target of the whole applies and the warm-up is over. */
  readonly isBound: boolean;
  /** Whether masks are hard while they are chosen. */
  readonly isHard: boolean;
  /** Share of weights that the largest unit cuts. */
  readonly unit: number;
  readonly memory: MemoryState;
  readonly of: Pick<ResolvedOptions, "method" | "size">;
}

/** Input of the monitors of masks. */
export interface MaskSight {
  readonly look: MaskLook;
  readonly table: UnitTable;
  readonly target: number;
  /** Lowest target at which the masks may have been chosen. */
  readonly least: number;
  /** Expected sparsity of the masks. */
  readonly expected: number;
  readonly isWarm: boolean;
  /** Whether a schedule's frozen units or targets of single layers override the target of the whole. */
  readonly isLoose: boolean;
  /** Whether masks are hard while they are chosen. */
  readonly isHard: boolean;
  readonly of: Pick<ResolvedOptions, "method" | "layout" | "size">;
}

/** New state, and findings that did not hold before. */
export interface Watched {
  readonly state: MonitorState;
  readonly found: readonly Finding[];
}

/** Adds the newest record, whose numbers are finite. */
export function watchRecord(state: MonitorState, sight: RecordSight, settings: ResolvedMonitors): Watched {
  const { divergence, constraint, memory } = settings, found: Finding[] = [];
  let { losses } = state;
  const last = sight.records.at(-1);
  if (divergence && last) {
    const { stage, loss } = last,
      watched = watchLoss(losses, loss, { ...sight, stage, setting: divergence });
    losses = watched.history;
    found.push(...watched.found);
  }
  if (constraint && sight.isBound) found.push(...watchConstraint(sight.records, { ...sight, setting: constraint }));
  if (memory) found.push(...watchMemory(sight.memory, { setting: memory }));
  return fresh({ ...state, losses }, found, ["divergence", "constraint", "memory"]);
}

/** Adds a look at the masks in the pruning stage. */
export function watchMasks(state: MonitorState, sight: MaskSight, settings: ResolvedMonitors): Watched {
  const { collapse, "dead-layer": dead, oscillation } = settings, found: Finding[] = [];
  let { masks } = state;
  if (collapse) found.push(...watchCollapse(sight.look, { ...sight, setting: collapse }));
  if (dead) found.push(...watchLayers(sight.look, { ...sight, setting: dead }));
  if (oscillation) {
    const watched = watchTurns(masks, sight.look, { isHard: sight.isHard, setting: oscillation });
    masks = watched.history;
    found.push(...watched.found);
  }
  return fresh({ ...state, masks }, found, ["collapse", "dead-layer", "oscillation"]);
}

/** Separates new findings from active ones, and updates the active ones. */
export function fresh(state: MonitorState, found: readonly Finding[], monitors: readonly MonitorName[]): Watched {
  const isOthers = (key: string): boolean => !monitors.some((name) => key === name || key.startsWith(`${name} `));
  return {
    state: { ...state, active: [...state.active.filter(isOthers), ...found.map(({ key }) => key)] },
    // An active finding without the suffix covers the same finding with it.
    found: found.filter(({ key }) => !state.active.some((one) => one === key || one + HELD_KEY === key)),
  };
}
