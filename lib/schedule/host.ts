// Opens schedules, scripts among them: in a process without permissions, or trusted in this one.
import { digestOf } from "../core/digest.ts";
import { checkOutput, placeOf } from "./output.ts";
import { namedParts } from "./definition.ts";
import curvesText from "./curves.ts" with { type: "text" };
import errorsText from "../core/errors.ts" with { type: "text" };
import guardsText from "../core/guards.ts" with { type: "text" };
import scriptText from "./definition.ts" with { type: "text" };
import { startIsolated } from "./sandbox/process.ts";
import { dataUrl, maySpawnSandbox } from "./sandbox/sandbox.ts";
import {
  definitionHash,
  inProcess,
  isScript,
  type OpenSchedule,
  type OpenScheduleOptions,
  openScheduleWith,
  type ScheduleSource,
} from "./open.ts";
import { readScript, scriptUrl } from "./source.ts";
import { importTrusted } from "./trusted.ts";

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
 * Opens a schedule. A script, from a file or a URL, runs isolated: in a process without permissions, with limits of
 * heap, time and memory. It can import only `compresso/schedule`. Starting the process needs the permission to run
 * Deno.
 *
 * @throws CompressoError("input") for a script that cannot be read, breaks a rule, or exports no schedule.
 * @throws CompressoError("usage") for a value that is no schedule, for unknown parts or options, and if Deno may not be
 * started.
 * @example
 * ```ts
 * import { openSchedule } from "compresso/schedule";
 * await using schedule = await openSchedule("cubic", { warmup: 0.5 });
 * const now = { stage: "prune", step: 4, steps: 10, progress: 0.5, sparsity: 0.3, records: [], layers: [] } as const;
 * if ((await schedule.evaluate(now)).sparsity !== 0.3) throw new Error("target not reached");
 * ```
 */
export async function openSchedule(source: ScheduleSource, options: OpenScheduleOptions = {}): Promise<OpenSchedule> {
  return await openScheduleWith(source, options, openScript);
}

/** Opens a script. Throws as {@link openSchedule} does. */
export async function openScript(
  source: string | URL,
  { trust = false, limits, signal, onLog }: OpenScheduleOptions,
): Promise<OpenSchedule> {
  const url = scriptUrl(source), name = String(source);
  const given = signal ? { signal } : {};
  const script = await readScript(url, { ...given, name }), { text, isJavaScript, toolkitImports } = script;
  if (trust) {
    const { schedule, importsOthers } = await importTrusted(script);
    // The text does not include code of other modules. Without imports the identity is that of the isolated script.
    return inProcess(schedule, {
      name,
      identity: `script ${digestOf([importsOthers ? text + definitionHash(schedule) : text])}`,
    });
  }
  const isolated = await startIsolated({
    ...given,
    limits,
    onLog,
    name,
    kit: kitUrl(),
    kitNames: SCRIPT_API,
    script: dataUrl(text, isJavaScript ? "javascript" : "typescript"),
    toolkitImports,
  });
  return {
    name,
    isolated: true,
    identity: `script ${digestOf([text])}`,
    parts: namedParts(isolated.loaded),
    evaluate: async (input) => checkOutput(await isolated.request(input, placeOf(input)), input),
    [Symbol.asyncDispose]: () => isolated[Symbol.asyncDispose](),
  };
}

/**
 * Name and parts of an isolated script, which is opened to read them; null if the schedule is no script, or if this
 * process may not start another without asking. Throws what {@link openSchedule} does.
 */
export async function scriptParts(
  source: ScheduleSource | undefined,
): Promise<Pick<OpenSchedule, "name" | "parts"> | null> {
  if (source === undefined || !isScript(source) || !maySpawnSandbox()) return null;
  await using opened = await openSchedule(source);
  return { name: opened.name, parts: opened.parts };
}

/** The code that an isolated script runs with, as one URL. data: URLs allow no relative imports, so they are nested. */
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
