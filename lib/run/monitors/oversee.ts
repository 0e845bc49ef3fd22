// Applies the monitors to one step of a run: its record with alarms, the position after it, and the resulting action.
import { kindOfMethod } from "../methods/all.ts";
import { RECORDS_SEEN, type RecordView } from "../../schedule/definition.ts";
import { takesUniform } from "../../units/uniform.ts";
import type { UnitTable } from "../../units/table.ts";
import type { ResolvedOptions } from "../options/options.ts";
import { goesBeforeSize } from "../size_goal.ts";
import type { MaskLook, RunPosition, RunState, StepRecord } from "../contract.ts";
import { recordView } from "../steering.ts";
import type { Finding } from "./alarm.ts";
import { watchCollapse, watchLayers } from "./collapse.ts";
import {
  BY_HOOKS,
  checkAim,
  checkFall,
  checkHard,
  checkSize,
  checkSmaller,
  cutUnlearned,
  largestUnit,
  nothingCut,
  targetsHeld,
} from "./constraint.ts";
import { NO_LOSSES } from "./divergence.ts";
import { judge, type Verdict } from "./judge.ts";
import { type LookSteps, lookStepsOf } from "./look_steps.ts";
import type { MemoryState } from "./memory.ts";
import { fresh, watchMasks, watchRecord } from "./watch.ts";

/** What is constant during a run. */
export interface Oversight extends LookSteps {
  readonly options: ResolvedOptions;
  readonly table: UnitTable;
  /** Share of weights that the largest unit cuts. */
  readonly unit: number;
}

/** What the monitors see of a step. */
export interface Seen {
  /** Null if only the masks are looked at. */
  readonly record: StepRecord | null;
  readonly look: MaskLook | null;
  /** The cause of numbers that are not finite. */
  readonly broken: Finding | null;
  readonly memory: MemoryState;
  /** Step of the last good state. */
  readonly goodStep: number;
}

/** Result of overseeing a step. */
export interface Overseen {
  readonly position: RunPosition;
  readonly record: StepRecord | null;
  readonly verdict: Verdict;
}

/** Steps without an alarm after which a state counts as good. A diverging loss takes some steps to show. */
const PROVEN = 5;

/** Share of the weights that is large for one cut, when masks become hard. */
const MUCH_AT_ONCE = 0.01;

/** Oversight of a run of `steps` steps. */
export function oversightOf(
  options: ResolvedOptions,
  table: UnitTable,
  { steps }: { readonly steps: number },
): Oversight {
  return { options, table, unit: largestUnit(table, options.layout), ...lookStepsOf(steps) };
}

/** The state to roll back to from a step: the last good state, otherwise the first one. */
export function goodState(kept: readonly RunState[], step: number): RunState {
  const good = kept.findLast(({ position }) => position.step <= step - PROVEN) ?? kept[0];
  if (!good) throw new Error("a run keeps a state from its beginning on");
  return good;
}

/** The kept states that a step after this one may roll back to. */
export function keptStates(kept: readonly RunState[], step: number): readonly RunState[] {
  return kept.length === 0 ? kept : kept.slice(kept.indexOf(goodState(kept, step)));
}

/**
 * Whether gradual saliency has cut nothing so far because equal widths alone would exceed the targets at which it
 * chose.
 */
function isWaiting(
  records: readonly RecordView[],
  { options: { method, layout }, table }: Pick<Oversight, "options" | "table">,
): boolean {
  if (kindOfMethod(method) !== "gradual" || layout !== "uniform" || records.at(-1)?.expected !== 0) return false;
  return targetsHeld(records, { isHard: true }).some((target) => !takesUniform(table, target));
}

/** Applies the monitors to a step. Alarms that cause a rollback go to the next record, since this one is undone. */
export function oversee(position: RunPosition, seen: Seen, { options, table, unit }: Oversight): Overseen {
  const { look, broken, memory, goodStep } = seen, { monitors: settings, method } = options, { aim } = position;
  const given = seen.record && { ...seen.record, layers: look?.layers ?? null };
  const recent = given ? [...position.recent, recordView(given)].slice(-RECORDS_SEEN) : position.recent;
  const found: Finding[] = broken ? [broken] : [], isHard = kindOfMethod(method) === "gradual";
  const isWarm = aim !== null && aim.isWarm && !isWaiting(recent, { options, table });
  let state = position.monitors;
  if (given && !broken) {
    const watched = watchRecord(state, {
      records: recent,
      chance: Math.log(table.spec.vocab),
      isBound: isWarm && aim.isBound,
      isHard,
      unit,
      memory,
      of: options,
    }, settings);
    state = { ...watched.state, isLoose: aim !== null && aim.isWarm && !aim.isBound };
    found.push(...watched.found);
  }
  if (look && aim && !broken) {
    const target = position.target ?? options.sparsity, expected = recent.at(-1)?.expected ?? target;
    const least = Math.min(target, ...targetsHeld(recent, { isHard }));
    const watched = watchMasks(state, {
      look,
      table,
      target,
      least,
      expected,
      isWarm,
      isLoose: !aim.isBound,
      isHard,
      of: options,
    }, settings);
    state = watched.state;
    found.push(...watched.found);
  }
  const step = given?.step ?? position.step;
  const verdict = judge(found, { settings, step, halvings: position.halvings, goodStep });
  const said = verdict.alarms.filter(({ action }) => action !== "rollback");
  return {
    record: given && { ...given, alarms: [...position.unsaid, ...said] },
    verdict,
    position: {
      ...position,
      records: position.records + (given ? 1 : 0),
      recent,
      monitors: state,
      alarms: [...position.alarms, ...said],
      unsaid: given ? [] : [...position.unsaid, ...said],
    },
  };
}

/**
 * Checks masks that have just become hard, or that are all kept because a schedule skipped the stage. Their alarms go
 * to the next record. They cannot roll back, which would give the same masks.
 */
export function overseeHard(
  position: RunPosition,
  { look, hard, isSkipped }: { readonly look: MaskLook; readonly hard: number; readonly isSkipped: boolean },
  { options, table, unit }: Oversight,
): Pick<Overseen, "position" | "verdict"> {
  const { monitors: settings, sparsity, method } = options, target = position.target ?? sparsity;
  const { collapse, "dead-layer": dead, constraint } = settings, { expected, stageStep, monitors: state } = position;
  const threshold = constraint?.threshold ?? Infinity;
  // A size decides what is cut and is always met, unless a schedule ended the stage earlier.
  const hasSize = options.size !== null, goesBefore = goesBeforeSize(position, options);
  const missed = !hasSize || goesBefore ? checkHard({ target, hard }, { unit, layout: options.layout }) : [];
  const smaller = hasSize && !goesBefore && state.isLoose
    ? checkSmaller({ asked: sparsity, hard }, { unit, threshold })
    : [];
  const aside = isSkipped || missed.length > 0
    ? []
    : smaller.length > 0
    ? smaller
    : checkAim({ asked: sparsity, target, hard }, { hasSize, goesBefore, threshold });
  // Before the first step no masks held a target.
  const fallen = expected === null || stageStep === 0 || missed.length + aside.length > 0
    ? []
    : checkFall({ target, expected, hard }, {
      isLoose: state.isLoose,
      isHard: kindOfMethod(method) === "gradual",
      threshold,
    });
  const sight = { target, expected: hard, isWarm: true, isHard: true, of: options };
  const found: readonly Finding[] = [
    ...collapse ? watchCollapse(look, { ...sight, setting: collapse }) : [],
    ...dead ? watchLayers(look, { table, setting: dead, isHard: true, of: options }) : [],
    ...constraint ? [...missed, ...aside, ...fallen] : [],
    ...constraint && isSkipped ? [nothingCut(sparsity)] : [],
    ...constraint && hasSize && stageStep === 0 && position.leftOut > 0 ? [cutUnlearned(hard)] : [],
  ];
  const watched = fresh(state, found, ["collapse", "dead-layer", "constraint"]);
  // A large cut raises the loss without divergence: rolling back would repeat the cut. So the loss history starts
  // again.
  const before = stageStep === 0 ? 0 : expected;
  const losses = before !== null && Math.abs(hard - before) > MUCH_AT_ONCE ? { losses: NO_LOSSES } : {};
  return withAlarms({ ...position, monitors: { ...watched.state, ...losses } }, watched.found, options);
}

/**
 * Checks the masks at the end of a run, which hooks may have changed since they became hard. `excess` is by how much
 * the model exceeds its requested size; null without one. Findings that were reported before are not repeated.
 */
export function overseeEnd(
  position: RunPosition,
  { look, hard, excess }: { readonly look: MaskLook; readonly hard: number; readonly excess: number | null },
  { options, table, unit }: Oversight,
): Pick<Overseen, "position" | "verdict"> {
  const { monitors: { collapse, "dead-layer": dead, constraint }, sparsity, layout } = options;
  const target = position.target ?? sparsity;
  const sight = { target, expected: hard, isWarm: true, isHard: true, of: options };
  // A schedule that overrides the size was reported, unless its targets had reached what the size requires.
  const goesBefore = goesBeforeSize(position, options);
  const isReported = goesBefore && position.alarms.some(({ monitor }) => monitor === "constraint");
  const masks: readonly Finding[] = [
    ...collapse ? watchCollapse(look, { ...sight, setting: collapse }) : [],
    ...dead ? watchLayers(look, { table, setting: dead, isHard: true, of: options }) : [],
  ];
  const found: readonly Finding[] = [
    // Findings that held when the masks became hard were reported then or earlier, possibly in other words.
    ...masks.filter(({ key }) => !position.monitors.active.includes(key)).map(byHooks),
    ...!constraint || excess !== null && isReported
      ? []
      : excess !== null
      ? checkSize(excess, { goesBefore })
      : checkHard({ target, hard }, { unit, layout }).map(byHooks),
  ].filter(({ message }) => !position.alarms.some((alarm) => alarm.message === message));
  return withAlarms(position, found, options);
}

function byHooks(found: Finding): Finding {
  return { ...found, change: BY_HOOKS };
}

/** Alarms of hard masks. They cannot roll back, which would give the same masks. */
function withAlarms(
  position: RunPosition,
  found: readonly Finding[],
  { monitors: settings }: Pick<ResolvedOptions, "monitors">,
): Pick<Overseen, "position" | "verdict"> {
  const { step, halvings, alarms, unsaid } = position;
  const hard = found.map((one): Finding => ({ ...one, instead: "warn" }));
  const verdict = judge(hard, { settings, step, halvings, goodStep: step });
  return {
    verdict,
    position: { ...position, alarms: [...alarms, ...verdict.alarms], unsaid: [...unsaid, ...verdict.alarms] },
  };
}

/** The position after a rollback: with halved rates and the alarms that caused it. */
export function wentBack(good: RunPosition, { alarms }: Verdict, now: RunPosition): RunPosition {
  const reasons = alarms.filter(({ action }) => action === "rollback");
  return {
    ...good,
    halvings: good.halvings + 1,
    alarms: [...good.alarms, ...reasons],
    unsaid: [...good.unsaid, ...reasons],
    seconds: now.seconds,
    tokens: now.tokens,
  };
}
