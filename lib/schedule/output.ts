// What a schedule decides for a step, checked: numbers are finite and in range, layers and units those of the model.
import { isObject } from "../core/guards.ts";
import { CompressoError, option, refusal, refuse } from "../core/errors.ts";
import {
  type Bounds,
  boundsText,
  type FrozenUnits,
  isWithin,
  type LoopNumber,
  OUTER_RATES,
  outerStage,
  RATE_NAMES,
  rateBounds,
  rawOutput,
  type Schedule,
  type ScheduleInput,
  SPARSITY_BOUNDS,
} from "./definition.ts";

/** What a schedule has decided for one step. Outside the pruning stage only `rates` and `end` are used. */
export interface ScheduleOutput {
  /** Sparsity to hold, in [0, 1); null if the run decides. */
  readonly sparsity: number | null;
  /** Sparsity of each layer, in [0, 1]; null for a free layer. null if the schedule has no part `layers`. */
  readonly layers: readonly (number | null)[] | null;
  /** Units that do not move. */
  readonly freeze: readonly FrozenUnits[];
  /** Whether the stage ends before this step. */
  readonly end: boolean;
  /** Numbers of the loop that the schedule sets. */
  readonly rates: { readonly [name in LoopNumber]?: number };
}

/**
 * Asks a schedule what it decides for a step, and checks the answer.
 *
 * @throws CompressoError("numeric") for a number that is not finite.
 * @throws CompressoError("input") for a value of another type or out of range, and if the schedule throws.
 * @example
 * ```ts
 * import { defineSchedule, evaluateSchedule } from "compresso/schedule";
 * const schedule = defineSchedule({ sparsity: ({ progress }) => 0.4 * progress });
 * const now = { stage: "prune", step: 4, steps: 10, progress: 0.5, sparsity: 0.3, records: [], layers: [] } as const;
 * if (evaluateSchedule(schedule, now).sparsity !== 0.2) throw new Error("another sparsity");
 * ```
 */
export function evaluateSchedule(schedule: Schedule, input: ScheduleInput): ScheduleOutput {
  let raw: unknown;
  try {
    // A copy, as an isolated script gets it: a function that sorts the records must not sort those of the run.
    raw = rawOutput(schedule, structuredClone(input));
  } catch (error) {
    const said = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    const { rule = "its functions return a value", value = said } = error instanceof CompressoError ? error.parts : {};
    refuse("input", `cannot use the schedule ${placeOf(input)}`, {
      rule,
      value,
      fix: "fix the function; a preview of the schedule runs it without a model",
      cause: error,
    });
  }
  return checkOutput(raw, input);
}

/** Checks what `rawOutput` gave, perhaps in another process. Throws as {@link evaluateSchedule} does. */
export function checkOutput(raw: unknown, input: ScheduleInput): ScheduleOutput {
  const { stage, step, steps } = input, at = { stage, step, steps };
  if (!isObject(raw)) throw unusable(at, { rule: "it decides as an object", value: show(raw) });
  const has = (part: string): boolean => Object.hasOwn(raw, part);
  const list = (part: string): readonly unknown[] => {
    const value = raw[part];
    if (Array.isArray(value)) return value;
    throw unusable(at, { rule: `${part} is a list`, value: `${part} = ${show(value)}` });
  };
  const end = has("end") ? raw["end"] : false;
  if (typeof end !== "boolean") throw unusable(at, { rule: "end is true or false", value: `end = ${show(end)}` });
  return {
    sparsity: has("sparsity")
      ? checkNumber(at, { name: "sparsity", value: raw["sparsity"], ...SPARSITY_BOUNDS })
      : null,
    layers: has("layers") ? checkLayers(at, { values: list("layers"), count: input.layers.length }) : null,
    freeze: has("freeze") ? checkFreeze(at, { values: list("freeze"), count: input.layers.length }) : [],
    end,
    rates: checkRates(at, has("rates") ? raw["rates"] : {}),
  };
}

/** Prefix, from another process, of a value that JSON cannot represent: NaN and infinities, undefined, 1n. */
const UNSAYABLE = "\0";

/** The step, for messages. */
type At = Pick<ScheduleInput, "stage" | "step" | "steps">;

/** The step in words: "at step 3 of 20". Stages other than pruning are named. */
export function placeOf({ stage, step, steps }: At): string {
  const outer = outerStage({ stage });
  return `at step ${step} of ${steps}${outer ? ` of the stage ${outer}` : ""}`;
}

function checkRates(at: At, given: unknown): ScheduleOutput["rates"] {
  if (!isObject(given)) throw unusable(at, { rule: "rates is an object", value: `rates = ${show(given)}` });
  const rates: { [name in LoopNumber]?: number } = {}, part = outerStage(at) ?? "rates";
  for (const name of part === "rates" ? RATE_NAMES : OUTER_RATES[part]) {
    if (!Object.hasOwn(given, name)) continue;
    rates[name] = checkNumber(at, { name: `${part}.${name}`, value: given[name], ...rateBounds(name) });
  }
  return rates;
}

function checkLayers(at: At, { values, count }: Listed): readonly (number | null)[] {
  if (values.length !== count) {
    throw unusable(at, {
      rule: `layers has an entry for each of the ${count} layers`,
      value: `${values.length} entries`,
      fix: LAYERS_FIX,
    });
  }
  // Array.from, unlike map, does not skip the holes of a sparse list.
  return Array.from(
    values,
    (value, layer) => value === null ? null : checkNumber(at, { name: `layers[${layer}]`, value, most: 1 }),
  );
}

function checkFreeze(at: At, { values, count }: Listed): readonly FrozenUnits[] {
  // Each once, however often it is named: there may be many units to look through.
  const frozen = new Map<string, FrozenUnits>();
  for (const entry of values) {
    const units = frozenUnits(at, entry, { count });
    frozen.set(JSON.stringify(units), units);
  }
  return [...frozen.values()];
}

function frozenUnits(at: At, entry: unknown, { count }: Pick<Listed, "count">): FrozenUnits {
  const given = Object.entries(isObject(entry) ? entry : {}).filter(([, value]) => !isUndefined(value));
  const { layer, kind, units, ...others } = Object.fromEntries(given);
  const [other] = Object.keys(others), whole = units === undefined;
  const isLayer = typeof layer === "number" && Number.isInteger(layer) && layer >= 0 && layer < count;
  if (other === undefined && isLayer && kind === "layer" && whole) return { layer, kind };
  if (other === undefined && (kind === "hidden" ? layer === undefined : isLayer)) {
    const listed = whole ? {} : { units: unitNumbers(at, units) };
    if (kind === "heads" || kind === "ffn") return { layer: Number(layer), kind, ...listed };
    if (kind === "hidden") return { kind, ...listed };
  }
  const said = [["layer", layer], ["kind", kind], ...(whole ? [] : [["units", units]])];
  throw unusable(at, {
    rule: `freeze names a layer from 0 to ${
      count - 1
    } and the kind "heads", "ffn" or "layer", or the kind "hidden" alone, and of heads, ffn and hidden perhaps their units`,
    value: said.map(([name, value]) => `${name} ${show(value)}`).join(", ") +
      (other === undefined ? "" : `, and ${show(other)}`),
    fix: LAYERS_FIX,
  });
}

/** Numbers of units, each once. The run checks that they exist. */
function unitNumbers(at: At, units: unknown): readonly number[] {
  const isNumber = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
  const listed: readonly unknown[] = Array.isArray(units) ? Array.from(units) : [], numbers = listed.filter(isNumber);
  if (Array.isArray(units) && numbers.length === listed.length) return [...new Set(numbers)];
  throw unusable(at, {
    rule: "units of freeze is a list of whole numbers from 0 on",
    value: `units ${Array.isArray(units) ? `with ${show(listed.find((value) => !isNumber(value)))}` : show(units)}`,
  });
}

/** Whether a value is undefined, in this process or as another one sent it. */
function isUndefined(value: unknown): boolean {
  return value === undefined || value === `${UNSAYABLE}undefined`;
}

/** For a schedule that was written for another model. */
const LAYERS_FIX = `adapt it to the layers of this model; a preview takes their number as ${option("layers")}`;

interface Listed {
  readonly values: readonly unknown[];
  /** Layers of the model. */
  readonly count: number;
}

function checkNumber(
  at: At,
  { name, value, ...bounds }: Bounds & { readonly name: string; readonly value: unknown },
): number {
  if (isWithin(value, bounds)) return value;
  throw unusable(at, {
    rule: `${name} is ${boundsText(bounds)}`,
    value: `${name} = ${show(value)}`,
    code: ["NaN", "Infinity", "-Infinity"].includes(show(value)) ? "numeric" : "input",
  });
}

function unusable(
  at: At,
  { rule, value, code = "input", fix = "change what the function returns" }: {
    readonly rule: string;
    readonly value: string;
    readonly code?: "numeric" | "input";
    readonly fix?: string;
  },
): CompressoError {
  return refusal(code, `cannot use the schedule ${placeOf(at)}`, { rule, value, fix });
}

/** Untrusted text for a message: without control characters, line breaks and marks that change the direction of writing. */
export function oneLine(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+/g, " ");
}

/** A short text of any value, for a message. */
function show(value: unknown): string {
  if (typeof value === "string") {
    const text = value.slice(0, 80);
    return oneLine(text.startsWith(UNSAYABLE) ? text.slice(UNSAYABLE.length) : JSON.stringify(text));
  }
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "a list" : "an object";
  return typeof value === "function" ? "a function" : String(value);
}
