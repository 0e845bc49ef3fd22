// Opens a schedule: built in, defined in the program, or a script, which a function that is handed in opens.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { digestOf } from "../core/digest.ts";
import { option, refuse } from "../core/errors.ts";
import { builtinSchedule, isScheduleName } from "./builtin.ts";
import { asSchedule, partsOf, type Schedule, type ScheduleInput, type SchedulePart } from "./definition.ts";
import { evaluateSchedule, type ScheduleOutput } from "./output.ts";
import type { IsolationLimits } from "./sandbox/process.ts";

/** A schedule as the user gives it: a built-in name, a path, a URL, or the result of `defineSchedule`. */
export type ScheduleSource = string | URL | Schedule;

/** Options of {@link openSchedule}. */
export interface OpenScheduleOptions {
  /**
   * Whether a script runs in this process, with all its permissions, as the user's own code. Its text is read each
   * time, but its imports come from Deno's cache. Default false.
   */
  readonly trust?: boolean | undefined;
  /** Limits of an isolated script. */
  readonly limits?: IsolationLimits | undefined;
  /**
   * Share of the pruning stage after which a built-in schedule reaches its target, in [0, 1]. Default 0.4, as in a run.
   */
  readonly warmup?: number | undefined;
  /** Stops reading and evaluating, and ends the script's process. Pending calls then throw the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called with each line that an isolated script logs. */
  readonly onLog?: ((line: string) => void) | undefined;
}

const NAMES: NamesOf<OpenScheduleOptions> = {
  ...{ trust: "switch", limits: true, warmup: "number", signal: true, onLog: true },
};

/** An open schedule, which answers for every step. Dispose it to end its process. */
export interface OpenSchedule extends AsyncDisposable {
  /** Its name in messages: a built-in name, a path, a URL, or "defineSchedule". */
  readonly name: string;
  /** Whether it runs in a process without permissions. */
  readonly isolated: boolean;
  /**
   * A text that differs between schedules: the built-in name, or a hash of the script. The hash covers its text and, if
   * the script imports other modules, also its export.
   */
  readonly identity: string;
  /** The parts that the schedule decides. */
  readonly parts: readonly SchedulePart[];
  /**
   * Asks what the schedule decides for a step, and checks the answer. Wait for one answer before the next call.
   *
   * @throws CompressoError("input") for a value of another type or out of range, and if the script fails.
   * @throws CompressoError("numeric") for a number that is not finite.
   */
  evaluate(input: ScheduleInput): Promise<ScheduleOutput>;
}

/** Opens schedules that are scripts: files or URLs. */
export type ScriptOpener = (source: string | URL, options: OpenScheduleOptions) => Promise<OpenSchedule>;

/** Opens a schedule; `openScript` opens scripts, and null refuses them. Throws as `openSchedule` does. */
export async function openScheduleWith(
  source: ScheduleSource,
  options: OpenScheduleOptions,
  openScript: ScriptOpener | null,
): Promise<OpenSchedule> {
  checkNames(options, NAMES, { whose: "openSchedule" });
  const { warmup } = options;
  if (typeof source === "string" && isScheduleName(source)) {
    return inProcess(builtinSchedule(source, warmup === undefined ? {} : { warmup }), {
      name: source,
      identity: source,
    });
  }
  if (typeof source !== "string" && !(source instanceof URL)) {
    // Programs without type checks may pass any value.
    const schedule = asSchedule(source, { isExport: false });
    return inProcess(schedule, { name: "defineSchedule", identity: definitionHash(source) });
  }
  if (openScript) return await openScript(source, options);
  refuse("usage", `cannot open the schedule ${String(source)}`, {
    rule: "a schedule is a script only where scripts can be isolated",
    value: "this platform starts no processes",
    fix: "name a built-in schedule, or define one in the program",
  });
}

/** Whether a schedule is a script, by its name or URL. */
export function isScript(schedule: string | URL | Schedule | undefined): boolean {
  return schedule instanceof URL || (typeof schedule === "string" && !isScheduleName(schedule));
}

/** Throws `CompressoError("usage")` if the schedule to trust is no script. */
export function checkTrust(schedule: string | URL | Schedule | undefined, trust: boolean | undefined): void {
  if (!trust || isScript(schedule)) return;
  const given = typeof schedule === "string" ? `the built-in ${schedule}` : "a schedule of defineSchedule";
  refuse("usage", `cannot use ${option("trustSchedule")}`, {
    rule: "only a script can be trusted",
    value: schedule === undefined ? "no schedule" : given,
    fix: "leave it out",
  });
}

/** A schedule that this process evaluates. */
export function inProcess(
  schedule: Schedule,
  { name, identity }: { readonly name: string; readonly identity: string },
): OpenSchedule {
  return {
    name,
    identity,
    isolated: false,
    parts: partsOf(schedule),
    // Async, so that its errors are rejections, as those of a script are.
    evaluate: (input) => Promise.try(() => evaluateSchedule(schedule, input)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** A hash of a definition: its numbers and the text of its functions, without values that they read from outside. */
export function definitionHash({ definition }: Schedule): string {
  const text = JSON.stringify(definition, (_, value) => typeof value === "function" ? String(value) : value);
  return `schedule ${digestOf([text])}`;
}
