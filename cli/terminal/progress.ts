// Progress of a run on stderr: on a terminal one line that is rewritten, above it now and then a line with the masks; plain lines elsewhere. Owns what is shown and how often; refuses the run.
import { stripVTControlCharacters } from "node:util";
import type { StepRecord } from "../../lib/run/contract.ts";
import { MASK_MAP_LEGEND, maskMap } from "./mask_map.ts";
import { writeError } from "./output.ts";
import { isScreen, terminalColumns } from "./style.ts";

/** Where progress goes. */
export interface ProgressTarget {
  readonly isTerminal: boolean;
  /** Columns of the terminal at this moment. */
  readonly columns: () => number;
  readonly write: (text: string) => void;
  /** Milliseconds. */
  readonly now: () => number;
}

/** Progress of one run. Dispose it to end the line that is being rewritten. */
export interface Progress extends Disposable {
  /** A step is done. */
  step(record: StepRecord): void;
  /** Something else is going on, with its share done where known. */
  phase(text: string, share?: number): void;
  /** A line that stays. */
  note(text: string): void;
}

/** A plain line comes after this long, or at every tenth step when some time has passed. */
const PLAIN_SECONDS = 5, TENTH_SECONDS = 1;
/** A terminal's line is rewritten at most this often. */
const REDRAW_SECONDS = 0.1;
/** A terminal gets a line of the masks after this long at the earliest, and this many in a run at most. */
const MAP_SECONDS = 4, MOST_MAPS = 24;
/** Steps over which the speed is taken. */
const SPEED_STEPS = 64;

/** Progress on this process's stderr. */
export function stderrProgress(): Progress {
  return createProgress({
    isTerminal: isScreen(Deno.stderr),
    columns: terminalColumns,
    write: writeError,
    now: () => performance.now(),
  });
}

/** Progress on any target. */
export function createProgress(target: ProgressTarget): Progress {
  const marks: { step: number; time: number }[] = [];
  let lastShown = target.now(), isOpen = false;
  let lastMap: { readonly step: number; readonly time: number } | null = null;

  const clear = (): void => {
    if (isOpen) target.write("\r\x1b[2K");
    isOpen = false;
  };
  const show = (text: string, isDue: boolean): void => {
    const now = target.now();
    const elapsed = (now - lastShown) / 1000;
    if (target.isTerminal ? elapsed < REDRAW_SECONDS && !isDue : !isDue && elapsed < PLAIN_SECONDS) return;
    lastShown = now;
    if (!target.isTerminal) return target.write(`${text}\n`);
    // A line as wide as the terminal would wrap, and then could not be rewritten.
    const room = Math.max(20, target.columns() - 1);
    target.write(`\r\x1b[2K${[...stripVTControlCharacters(text)].slice(0, room).join("")}`);
    isOpen = true;
  };
  // Lines that stay: an interrupt's own line or a narrower terminal cannot garble them, and above each other they show how the masks came about.
  const showMasks = ({ step, steps, layers }: StepRecord): void => {
    const now = target.now();
    if (!target.isTerminal || layers === null || layers.length === 0) return;
    // A run that goes back shows them anew.
    if (lastMap && lastMap.step < step) {
      if (now - lastMap.time < MAP_SECONDS * 1000 || step - lastMap.step < steps / MOST_MAPS) return;
    }
    clear();
    if (!lastMap) target.write(`${MASK_MAP_LEGEND}\n`);
    target.write(`${maskMap({ step, steps, layers }, Math.max(20, target.columns() - 1))}\n`);
    lastMap = { step, time: now };
  };
  return {
    step(record): void {
      showMasks(record);
      // Another run has begun, or this one went back.
      if (record.step <= (marks.at(-1)?.step ?? 0)) marks.length = 0;
      marks.push({ step: record.step, time: target.now() });
      if (marks.length > SPEED_STEPS) marks.shift();
      const elapsed = (target.now() - lastShown) / 1000;
      const isDue = record.step === record.steps || record.step % 10 === 0 && elapsed >= TENTH_SECONDS;
      show(stepLine(record, secondsLeft(record, marks)), isDue);
    },
    phase(text, share): void {
      show(share === undefined ? text : `${text} ${Math.round(100 * share)} %`, share === undefined);
    },
    note(text): void {
      clear();
      target.write(`${text}\n`);
    },
    [Symbol.dispose]: clear,
  };
}

/** One step as text. */
export function stepLine(record: StepRecord, left: number | null): string {
  const { stage, step, steps, loss, target, expected, tokensPerSecond } = record;
  const sparsity = target === null || expected === null
    ? []
    : [`sparsity ${percent(expected)} % (target ${percent(target)} %)`];
  return [
    `${stage} ${step}/${steps}`,
    `loss ${loss.toFixed(3)}`,
    ...sparsity,
    `${tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : Math.round(tokensPerSecond)} tokens/s`,
    ...(left === null ? [] : [`${duration(left)} left`]),
  ].join("  ");
}

function secondsLeft({ step, steps }: StepRecord, marks: readonly { step: number; time: number }[]): number | null {
  const first = marks[0], last = marks.at(-1);
  // Records come in groups, and within a group no time passes.
  if (!first || !last || last.time - first.time < 200) return null;
  return (last.time - first.time) / 1000 / (last.step - first.step) * (steps - step);
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}

/** Seconds as text: 8 s, 2 min 05 s, 3 h 20 min. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const pad = (value: number): string => String(value).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole % 3600 / 60))} min`;
}
