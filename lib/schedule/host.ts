// Opens a schedule: built in, defined in the program, or a script, isolated or trusted. Owns that choice; refuses the loop.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { createHash } from "node:crypto";
import { builtinSchedule, isScheduleName } from "./builtin.ts";
import { checkOutput, evaluateSchedule, placeOf, type ScheduleOutput } from "./output.ts";
import { asSchedule, namedParts, partsOf, type Schedule, type ScheduleInput, type SchedulePart } from "./definition.ts";
import curvesText from "./curves.ts" with { type: "text" };
import errorsText from "../core/errors.ts" with { type: "text" };
import guardsText from "../core/guards.ts" with { type: "text" };
import scriptText from "./definition.ts" with { type: "text" };
import { type IsolationLimits, startIsolated } from "./sandbox/process.ts";
import { dataUrl, maySpawnSandbox } from "./sandbox/sandbox.ts";
import { isScript, readScript, scriptUrl } from "./source.ts";
import { importTrusted } from "./trusted.ts";

/** A schedule by what a user may give: a built-in name, a path, a URL, or one that the program made. */
export type ScheduleSource = string | URL | Schedule;

/** Options of {@link openSchedule}. */
export interface OpenScheduleOptions {
  /**
   * Whether a script runs in this process, as the user's own code with all rights of the process. Its own text is read anew each time; modules
   * that it imports are those that Deno has cached. Default false.
   */
  readonly trust?: boolean;
  /** Limits of an isolated script. */
  readonly limits?: IsolationLimits;
  /** Where a built-in schedule reaches its target, a share of the stage. Default 0.4, that of a run. */
  readonly warmup?: number;
  /** Stops reading and evaluating, and ends the script's process; what was waiting throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Takes lines that an isolated script logs. */
  readonly onLog?: (line: string) => void;
}

const NAMES: NamesOf<OpenScheduleOptions> = {
  ...{ trust: "switch", limits: true, warmup: "number", signal: true, onLog: true },
};

/** A schedule that can be asked. Dispose it to end its process. */
export interface OpenSchedule extends AsyncDisposable {
  /** As messages name it: a built-in name, a path, a URL, or "defineSchedule". */
  readonly name: string;
  /** Whether it runs in a process without permissions. */
  readonly isolated: boolean;
  /** What tells it from another one: its name, or a hash of its text, and of what it exports where it imports more than this toolkit. */
  readonly identity: string;
  /** What it has a say in at every step of the stage that it is of. */
  readonly parts: readonly SchedulePart[];
  /** What it decides for a step, checked. One step at a time. Throws `CompressoError` "input" or "numeric", with step and value. */
  evaluate(input: ScheduleInput): Promise<ScheduleOutput>;
}

/** Names that an isolated script can import from compresso/schedule. */
export const SCRIPT_API = [
  "defineSchedule",
  "cubic",
  "linear",
  "cosine",
  "exponential",
  "steps",
  "constant",
  "CompressoError",
] as const;

/**
 * Opens a schedule. A script, be it a file or a URL, runs isolated: in a process of its own without permissions, with limits of heap and time,
 * and imports of nothing but compresso/schedule, which gives it `defineSchedule` and the built-in curves. Throws `CompressoError("input")` where it
 * cannot be read, breaks a rule, or gives no schedule; "usage" where what a program gives is none, or has parts that there are not.
 */
export async function openSchedule(source: ScheduleSource, options: OpenScheduleOptions = {}): Promise<OpenSchedule> {
  checkNames(options, NAMES, { whose: "openSchedule" });
  const { trust = false, limits, warmup, signal, onLog } = options;
  if (typeof source === "string" && isScheduleName(source)) {
    return inProcess(builtinSchedule(source, warmup === undefined ? {} : { warmup }), {
      name: source,
      identity: source,
    });
  }
  if (typeof source !== "string" && !(source instanceof URL)) {
    // Programs in JavaScript, and those that nothing has type-checked, may give anything.
    const schedule = asSchedule(source, { isExport: false });
    return inProcess(schedule, { name: "defineSchedule", identity: definitionHash(source) });
  }
  const url = scriptUrl(source), name = String(source);
  const given = signal ? { signal } : {};
  const script = await readScript(url, { ...given, name }), { text, isJavaScript, toolkitImports } = script;
  if (trust) {
    const { schedule, importsOthers } = await importTrusted(script);
    // Code of other modules is not in the text; without, the identity is that of the isolated script.
    return inProcess(schedule, {
      name,
      identity: `script ${hash(importsOthers ? text + definitionHash(schedule) : text)}`,
    });
  }
  const isolated = await startIsolated({
    ...given,
    ...(limits ? { limits } : {}),
    ...(onLog ? { onLog } : {}),
    name,
    kit: kitUrl(),
    kitNames: SCRIPT_API,
    script: dataUrl(text, isJavaScript ? "javascript" : "typescript"),
    toolkitImports,
  });
  return {
    name,
    isolated: true,
    identity: `script ${hash(text)}`,
    parts: namedParts(isolated.loaded),
    evaluate: async (input) => checkOutput(await isolated.request(input, placeOf(input)), input),
    [Symbol.asyncDispose]: () => isolated[Symbol.asyncDispose](),
  };
}

/**
 * Name and parts of an isolated script, which is opened for them; null of what is no script, and where this process may not start another one
 * unasked. Throws what {@link openSchedule} does.
 */
export async function scriptParts(
  source: ScheduleSource | undefined,
): Promise<Pick<OpenSchedule, "name" | "parts"> | null> {
  if (source === undefined || !isScript(source) || !maySpawnSandbox()) return null;
  await using opened = await openSchedule(source);
  return { name: opened.name, parts: opened.parts };
}

function inProcess(
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

/** A hash of what a definition says; of what its functions read from outside it knows nothing. */
function definitionHash({ definition }: Schedule): string {
  const text = JSON.stringify(definition, (_, value) => typeof value === "function" ? String(value) : value);
  return `schedule ${hash(text)}`;
}

function hash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** The code that an isolated script runs with, as one URL: modules at data: URLs have no relative imports, so each holds the URLs of its own. */
function kitUrl(): string {
  const errors = dataUrl(errorsText, "typescript"), guards = dataUrl(guardsText, "typescript");
  const withImports = (text: string): string => {
    const own = text.replaceAll('"../core/errors.ts"', JSON.stringify(errors))
      .replaceAll('"../core/guards.ts"', JSON.stringify(guards));
    return dataUrl(own, "typescript");
  };
  const modules = [errors, withImports(curvesText), withImports(scriptText)];
  return dataUrl(modules.map((module) => `export * from ${JSON.stringify(module)};`).join("\n"), "javascript");
}
