// All monitors of a run as two functions of what they saw before: of records, and of looks at the masks.
import { watchConstraint } from "./constraint.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { RecordView } from "../../schedule/definition.ts";
import type { UnitTable } from "../../units/units.ts";
import type { Finding, MonitorName, ResolvedMonitors } from "./alarm.ts";
import { HELD_KEY, watchCollapse, watchLayers } from "./collapse.ts";
import { NO_LOSSES, watchLoss } from "./divergence.ts";
import { type MemoryState, watchMemory } from "./memory.ts";
import { watchTurns } from "./oscillation.ts";
import type { MaskLook, MonitorState } from "../contract.ts";

/** Nothing seen yet. */
export const FRESH_MONITORS: MonitorState = { active: [], losses: NO_LOSSES, masks: null, isLoose: false };

/** What a record's monitors need beside it. */
export interface RecordSight {
  /** The last records, the new one included, oldest first. */
  readonly records: readonly RecordView[];
  /** ln(vocabulary). */
  readonly chance: number;
  /** Whether the target holds for the whole, and the warm-up is over. */
  readonly isBound: boolean;
  /** Whether masks are hard while they are chosen. */
  readonly isHard: boolean;
  /** Share that the largest unit cuts. */
  readonly unit: number;
  readonly memory: MemoryState;
  readonly of: Pick<ResolvedOptions, "method" | "size">;
}

/** What the monitors of masks need beside a look at them. */
export interface MaskSight {
  readonly look: MaskLook;
  readonly table: UnitTable;
  readonly target: number;
  /** Lowest target at which the masks may have been chosen. */
  readonly least: number;
  /** Sparsity that is expected of the masks. */
  readonly expected: number;
  readonly isWarm: boolean;
  /** Whether a schedule's frozen units or targets of single layers go before the target of the whole. */
  readonly isLoose: boolean;
  /** Whether masks are hard while they are chosen. */
  readonly isHard: boolean;
  readonly of: Pick<ResolvedOptions, "method" | "layout" | "size">;
}

/** What came of it: findings that did not hold before. */
export interface Watched {
  readonly state: MonitorState;
  readonly found: readonly Finding[];
}

/** Takes in the newest record, whose numbers are finite. */
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

/** Takes in a look at the masks in the pruning stage. */
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

/** Findings that are new, and what holds now. */
export function fresh(state: MonitorState, found: readonly Finding[], monitors: readonly MonitorName[]): Watched {
  const isOthers = (key: string): boolean => !monitors.some((name) => key === name || key.startsWith(`${name} `));
  return {
    state: { ...state, active: [...state.active.filter(isOthers), ...found.map(({ key }) => key)] },
    // What holds whatever the target is holds at it too.
    found: found.filter(({ key }) => !state.active.some((one) => one === key || one + HELD_KEY === key)),
  };
}
