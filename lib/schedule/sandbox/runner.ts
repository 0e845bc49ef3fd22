// Runs an isolated schedule script inside the process without permissions: removes forbidden globals, and answers
// requests.
//
// sandbox.ts takes this file as text. One line of JSON in, one out: first { kit, script } (URLs of code), then a `ScheduleInput` for
// each step. A reply is { output } or { error, blame, fault }, with the lines that the script logged; the first output is the names of the
// schedule's parts.
import type { CompressoError } from "../../core/errors.ts";
import type { partsOf, rawOutput, Schedule, ScheduleInput } from "../definition.ts";

/** The code of `lib/schedule/definition.ts` and `curves.ts`. */
interface Kit {
  readonly asSchedule: (exported: unknown) => Schedule;
  readonly partsOf: typeof partsOf;
  readonly rawOutput: typeof rawOutput;
  readonly CompressoError: typeof CompressoError;
}

/** What a script threw. */
interface Failure {
  /** Type, message and line. */
  readonly error: string;
  /** Who is probably at fault: the sandbox, which lacks something that the script needs, or the script. */
  readonly blame: "sandbox" | "script" | "either";
  /** The rule that the toolkit's code found broken, and the value with its line. */
  readonly fault?: { readonly rule: string; readonly value: string };
}

/** Name of the global through which the script's stand-in for the toolkit finds the kit. */
const KIT = Symbol.for("compresso.kit");
/** What is left of the global object: the language, without clock, random numbers and memory outside the heap. */
const LANGUAGE = new Set<PropertyKey>(
  ("Object Function Array Number Boolean String Symbol BigInt Math JSON Reflect Proxy Promise RegExp Map Set WeakMap WeakSet Iterator " +
    "Error AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError " +
    "parseFloat parseInt isFinite isNaN NaN Infinity undefined globalThis").split(" "),
);
const MAX_LOGS = 20, MAX_TEXT = 600;
const NO_CHANCE = "Math.random is not there: a schedule depends on its input alone";
/** Names that were taken from the global object. */
const taken = new Set<PropertyKey>();

const { stdin, stdout, exit, memoryUsage } = Deno, encoder = new TextEncoder(), decoder = new TextDecoder();
const buffer = new Uint8Array(1 << 16);
let text = "", logs: string[] = [];

await serve();
// Ends everything that the script still runs.
exit();

async function serve(): Promise<void> {
  const { kit, script } = JSON.parse(await nextLine() ?? "{}") as { readonly kit: string; readonly script: string };
  // A copy, because a module's namespace cannot be frozen.
  const code = { ...await import(kit) as Kit };
  // Deno shortens such URLs in messages, but not their ends.
  const describe = describer(script.slice(-12), code);
  lockDown(code);
  let schedule: Schedule;
  try {
    schedule = code.asSchedule((await import(script) as { readonly default?: unknown }).default);
    send({ output: code.partsOf(schedule) });
  } catch (error) {
    return send(describe(error));
  }
  for (let line = await nextLine(); line !== null; line = await nextLine()) {
    try {
      send({ output: code.rawOutput(schedule, JSON.parse(line) as ScheduleInput) });
    } catch (error) {
      send(describe(error));
    }
  }
}

async function nextLine(): Promise<string | null> {
  for (;;) {
    const end = text.indexOf("\n");
    if (end >= 0) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      return line;
    }
    const count = await stdin.read(buffer);
    if (count === null) return null;
    text += decoder.decode(buffer.subarray(0, count), { stream: true });
  }
}

function send(reply: { readonly output: unknown } | Failure): void {
  // JSON cannot represent NaN or undefined. They are sent as text with a prefix, see `UNSAYABLE` in output.ts.
  const line = JSON.stringify({ ...reply, logs, memory: memoryUsage().rss }, (_key, value: unknown) => {
    if (typeof value === "number") return Number.isFinite(value) ? value : `\0${value}`;
    if (typeof value === "bigint") return `\0${value}n`;
    // Which JSON would take for what they hold.
    if (value instanceof Number || value instanceof String || value instanceof Boolean) return {};
    return value === null || ["string", "boolean", "object"].includes(typeof value) ? value : `\0${String(value)}`;
  });
  logs = [];
  const bytes = encoder.encode(`${line}\n`);
  for (let done = 0; done < bytes.length;) done += stdout.writeSync(bytes.subarray(done));
}

/** Describes what a script threw; `end` is the end of the script's URL, which finds its lines in stacks. */
function describer(end: string, kit: Kit): (error: unknown) => Failure {
  return (error) => {
    if (!(error instanceof Error)) return { error: `it threw ${String(error).slice(0, MAX_TEXT)}`, blame: "script" };
    const message = `${error.name}: ${error.message}`, [, place] = `${message}\n${error.stack}`.split(`${end}:`);
    const [number] = /^\d+/.exec(place ?? "") ?? [], line = number === undefined ? "" : `, line ${number}`;
    const said = `${message.replace(/\s+at data:\S*$/, "").slice(0, MAX_TEXT)}${line}`;
    const { rule, value } = error instanceof kit.CompressoError ? error.parts : {};
    if (typeof rule !== "string" || typeof value !== "string") return { error: said, blame: blameOf(error) };
    const fault = { rule: rule.slice(0, MAX_TEXT), value: `${value.slice(0, MAX_TEXT)}${line}` };
    return { error: said, blame: "script", fault };
  };
}

function blameOf(error: Error): Failure["blame"] {
  const { message } = error;
  if (error instanceof ReferenceError) {
    const [, name = ""] = /^(\S+) is not defined$/.exec(message) ?? [];
    return taken.has(name) ? "sandbox" : "script";
  }
  // Deno's own, of text that it cannot parse.
  if (message.startsWith("SyntaxError: ")) return "script";
  // The stand-in for the toolkit has the builders alone.
  if (error instanceof SyntaxError) return message.includes("does not provide an export") ? "sandbox" : "script";
  if (error instanceof EvalError || message === NO_CHANCE) return "sandbox";
  // Others are also of mistakes, or of what is undefined or frozen here and not elsewhere.
  return error instanceof TypeError || error instanceof RangeError ? "either" : "script";
}

/** Leaves the script the language and a console, and freezes both. */
function lockDown(kit: Kit): void {
  const textOf = (value: unknown): string => {
    try {
      if (value instanceof Error) return `${value.name}: ${value.message}`;
      return typeof value === "object" ? JSON.stringify(value) ?? "undefined" : String(value);
    } catch {
      return "what has no text"; // such as a circle, a bigint within, or a toString that throws
    }
  };
  const note = (...values: unknown[]): void => {
    if (logs.length < MAX_LOGS) logs.push(values.map(textOf).join(" ").slice(0, MAX_TEXT));
  };
  Math.random = () => {
    throw new Error(NO_CHANCE);
  };
  // A module of WebAssembly, which an import can still bring, has no pages (see sandbox.ts); nor does it lead to ArrayBuffer.
  for (const name of ["buffer", "toFixedLengthBuffer", "toResizableBuffer"]) {
    Reflect.deleteProperty(WebAssembly.Memory.prototype, name);
  }
  for (const key of Reflect.ownKeys(globalThis)) {
    if (!LANGUAGE.has(key) && Reflect.deleteProperty(globalThis, key)) taken.add(key);
  }
  Reflect.set(globalThis, "console", { log: note, info: note, debug: note, warn: note, error: note });
  Reflect.set(globalThis, KIT, kit);
  Object.setPrototypeOf(globalThis, Object.prototype);
  // Deno calls it for an unhandled rejection, before it ends the process.
  Reflect.set(globalThis, "dispatchEvent", () => true);
  const hidden: unknown[] = [
    [][Symbol.iterator](),
    ""[Symbol.iterator](),
    new Map()[Symbol.iterator](),
    new Set()[Symbol.iterator](),
    "".matchAll(/./g),
    function* (): Generator {},
    async function (): Promise<void> {},
    async function* (): AsyncGenerator {},
  ];
  const seen = new Set<unknown>(), queue: unknown[] = [globalThis, ...hidden];
  for (let value = queue.pop(); value !== undefined; value = queue.pop()) {
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) continue;
    seen.add(value);
    queue.push(Object.getPrototypeOf(value));
    for (const key of Reflect.ownKeys(value)) {
      const part = Reflect.getOwnPropertyDescriptor(value, key);
      queue.push(part?.value ?? null, part?.get ?? null, part?.set ?? null);
    }
    Object.freeze(value);
  }
}
