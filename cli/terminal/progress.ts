// Progress of a run on stderr. A terminal gets one line that is rewritten and, sometimes, a line with the masks above
// it; otherwise there are plain lines.
import { stripVTControlCharacters } from "node:util";
import { duration } from "../../lib/report/numbers.ts";
import type { Stage, StepRecord } from "../../lib/run/contract.ts";
import { stringWidth } from "../packages.ts";
import { createEstimate } from "./estimate.ts";
import { MASK_MAP_LEGEND, maskMap } from "./mask_map.ts";
import { verbosity, writeError } from "./output.ts";
import { progressLine } from "./progress_line.ts";
import { isScreen, styleOf, terminalColumns } from "./style.ts";
import { wrapText } from "./wrap.ts";

/** Where progress goes. */
export interface ProgressTarget {
  readonly isTerminal: boolean;
  /** Columns of the terminal at this moment. */
  readonly columns: () => number;
  readonly write: (text: string) => void;
  /** Milliseconds. */
  readonly now: () => number;
  /** Calls a function again and again until the returned function is called; by default never. */
  readonly every?: (milliseconds: number, tick: () => void) => () => void;
  /** Whether notes for --verbose are shown. Default false. */
  readonly isVerbose?: boolean;
  /** Makes a line that is shown with --verbose less prominent. Default: as it is. */
  readonly dim?: (text: string) => string;
}

/** Progress of one command. Dispose it to end the line that is being rewritten. */
export interface Progress extends Disposable {
  /** Says how many steps each stage has; without it, steps are counted over the whole run. */
  stages(stages: readonly StageLength[]): void;
  /** A step is done. */
  step(record: StepRecord): void;
  /** Shows work other than steps, with the share that is done if known, and with details. */
  phase(text: string, share?: number, detail?: string): void;
  /** A line that stays. */
  note(text: string): void;
  /** A line that stays and is shown with --verbose only. */
  detail(text: string): void;
}

/** Steps of a stage. */
export interface StageLength {
  readonly stage: Stage;
  readonly steps: number;
}

/** A plain line comes after this many milliseconds, or at every tenth step after some time. */
const PLAIN_SECONDS = 5, TENTH_SECONDS = 1;
/** A terminal's line is rewritten at most this often. */
const REDRAW_SECONDS = 0.1;
/** Milliseconds after which an unchanged phase is shown again: on a terminal, and elsewhere. */
const TICK_SECONDS = 1, PLAIN_TICK_SECONDS = 60;
/** A terminal gets a line of the masks after this long at the earliest, and this many in a run at most. */
const MAP_SECONDS = 4, MOST_MAPS = 24;

/** Progress on this process's stderr, as --quiet and --verbose ask for it. */
export function stderrProgress(): Progress {
  const isQuiet = verbosity() === "quiet";
  return createProgress({
    isTerminal: !isQuiet && isScreen(Deno.stderr),
    columns: terminalColumns,
    write: isQuiet ? () => {} : writeError,
    now: () => performance.now(),
    every: (milliseconds, tick) => {
      const timer = setInterval(tick, milliseconds);
      Deno.unrefTimer(timer);
      return () => clearInterval(timer);
    },
    isVerbose: verbosity() === "verbose",
    dim: styleOf(Deno.stderr).dim,
  });
}

/** A phase under way. */
interface Phase {
  readonly text: string;
  readonly start: number;
  readonly share: number | null;
  readonly detail: string | null;
}

/** Progress on any target. */
export function createProgress(target: ProgressTarget): Progress {
  const { isTerminal, write, now, isVerbose = false, dim = (text) => text } = target;
  let stepTime = createEstimate(STEP_ESTIMATE);
  let shareTime = createEstimate(SHARE_ESTIMATE);
  let lastShown = now(), isOpen = false;
  let lastMap: { readonly step: number; readonly time: number } | null = null;
  let phase: Phase | null = null, stopTicks = (): void => {};
  const counter = createStageCounter();

  const room = (): number => Math.max(20, target.columns() - 1); // a line as wide as the terminal would wrap
  const clear = (): void => {
    if (isOpen) write("\r\x1b[2K");
    isOpen = false;
  };
  const say = (text: string): void => {
    clear();
    const isLong = isTerminal && stringWidth(stripVTControlCharacters(text)) > room();
    write(`${isLong ? wrapText(text, room() - 2).join("\n  ") : text}\n`);
  };
  const draw = (line: string): void => {
    lastShown = now();
    write(isTerminal ? `\r\x1b[2K${line}` : `${line}\n`);
    isOpen = isTerminal;
  };
  const elapsed = (): number => (now() - lastShown) / 1000;
  const drawPhase = ({ text, start, share, detail }: Phase): void => {
    const left = share === null ? null : shareTime.secondsLeft(1), details = detail === null ? [] : [detail];
    if (isTerminal) {
      const parts = { label: text, share, left, elapsed: secondsFrom(start) };
      return draw(progressLine({ ...parts, details: details.map((one) => [one, one] as const) }, room()));
    }
    const since = secondsFrom(start);
    draw([
      share === null ? text : `${text} ${Math.round(100 * share)} %`,
      ...(left === null ? [] : [`${duration(left)} left`]),
      ...details,
      ...(share === null && since >= PLAIN_TICK_SECONDS ? [`for ${duration(since)}`] : []),
    ].join("  "));
  };
  const secondsFrom = (start: number): number => (now() - start) / 1000;
  const tick = (): void => {
    if (phase && elapsed() >= (isTerminal ? TICK_SECONDS : PLAIN_TICK_SECONDS)) drawPhase(phase);
  };
  const endPhase = (): void => {
    stopTicks();
    stopTicks = () => {};
    if (phase && isVerbose) say(dim(`${phase.text}: ${duration(secondsFrom(phase.start))}`));
    phase = null;
  };
  // Lines that stay: an interrupt's own line or a narrower terminal cannot garble them, and above each other they show how the masks came about.
  const showMasks = ({ step, steps, layers }: StepRecord): void => {
    if (!isTerminal || layers === null || layers.length === 0) return;
    // A run that goes back shows them again.
    if (lastMap && lastMap.step < step) {
      if (now() - lastMap.time < MAP_SECONDS * 1000 || step - lastMap.step < steps / MOST_MAPS) return;
    }
    clear();
    if (!lastMap) say(MASK_MAP_LEGEND);
    write(`${maskMap({ step, steps, layers }, room())}\n`);
    lastMap = { step, time: now() };
  };
  return {
    stages: (stages) => counter.plan(stages),
    step(record): void {
      endPhase();
      showMasks(record);
      const { step, steps } = record;
      // Another run has begun, or this one went back.
      if (step <= stepTime.last) stepTime = stepTime.restart();
      stepTime.add(step, now());
      const parts = stepParts(record, { count: counter.count(record), left: stepTime.secondsLeft(steps) });
      if (isTerminal) {
        if (elapsed() >= REDRAW_SECONDS || step === steps) draw(progressLine(parts, room()));
        return;
      }
      const isDue = step === steps || step % 10 === 0 && elapsed() >= TENTH_SECONDS;
      if (isDue || elapsed() >= PLAIN_SECONDS) draw(stepText(parts));
    },
    phase(given, share, detail): void {
      const text = stripVTControlCharacters(given), isNew = phase?.text !== text;
      if (isNew) {
        endPhase();
        shareTime = createEstimate(SHARE_ESTIMATE);
        stopTicks = target.every?.(1000, tick) ?? stopTicks;
      }
      const start = isNew ? now() : phase?.start ?? now();
      phase = { text, start, share: share ?? null, detail: detail ?? null };
      if (share !== undefined) shareTime.add(share, now());
      const isDue = share === undefined && isNew;
      if (isDue || elapsed() >= (isTerminal ? REDRAW_SECONDS : PLAIN_SECONDS)) drawPhase(phase);
    },
    note: say,
    detail(text): void {
      if (isVerbose) say(dim(text));
    },
    [Symbol.dispose](): void {
      endPhase();
      clear();
    },
  };
}

/** The speed is that of so many steps; fewer than the least tell nothing, as the first ones wait for kernels to be compiled. */
const STEP_ESTIMATE = { leastAdvance: 3, leastSeconds: 0.2, span: 64, inSteps: true };
const SHARE_ESTIMATE = { leastAdvance: 0.04, leastSeconds: 2, span: Infinity };

/** Steps are counted within a stage: "prune 8/60" is the eighth of --steps 60. */
function createStageCounter(): {
  plan(stages: readonly StageLength[]): void;
  count(record: StepRecord): { readonly step: number; readonly steps: number };
} {
  let lengths: readonly StageLength[] = [];
  const before = new Map<Stage, number>();
  let last: Pick<StepRecord, "stage" | "step"> | null = null;
  return {
    plan(stages): void {
      lengths = stages;
      last = null;
      before.clear();
      let sum = 0;
      for (const { stage, steps } of stages) {
        before.set(stage, sum);
        sum += steps;
      }
    },
    count({ stage, step, steps }): { readonly step: number; readonly steps: number } {
      // A schedule may have ended the stage before early.
      if (last && last.stage !== stage && step === last.step + 1) before.set(stage, last.step);
      last = { stage, step };
      const length = lengths.find((one) => one.stage === stage)?.steps, own = step - (before.get(stage) ?? 0);
      return length === undefined || own < 1 || own > length ? { step, steps } : { step: own, steps: length };
    },
  };
}

type StepParts = ReturnType<typeof stepParts>;

function stepParts(
  { stage, step, steps, loss, target, expected, tokensPerSecond }: StepRecord,
  { count, left }: { readonly count: { readonly step: number; readonly steps: number }; readonly left: number | null },
): {
  readonly label: string;
  readonly share: number;
  readonly left: number | null;
  readonly details: readonly (readonly [string, string])[];
} {
  const speed = `${tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : Math.round(tokensPerSecond)} tokens/s`;
  const cut = target === null || expected === null ? null : { now: percent(expected), aim: percent(target) };
  return {
    label: `${stage} ${count.step}/${count.steps}`,
    share: step / steps,
    left: step === steps ? null : left,
    details: [
      [`loss ${loss.toFixed(3)}`, `loss ${loss.toFixed(2)}`],
      ...(cut ? [[`sparsity ${cut.now} % (target ${cut.aim} %)`, `sparsity ${cut.now}/${cut.aim} %`] as const] : []),
      [speed, speed],
    ],
  };
}

/** One step as a plain line. */
function stepText({ label, left, details }: StepParts): string {
  return [label, ...details.map(([text]) => text), ...(left === null ? [] : [`${duration(left)} left`])].join("  ");
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
