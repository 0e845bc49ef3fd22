// Schedules as users write them: what a schedule sees, what it decides, and the check of its definition.
//
// An isolated script runs with this file's code: it may import only errors.ts and guards.ts of core, and types.
import { isObject } from "../core/guards.ts";
import { refusal, refuse } from "../core/errors.ts";

/** What the built-in curves read. */
export interface CurveInput {
  /** Share of the stage that is done with this step: 1 / steps at the first step, 1 at the last. */
  readonly progress: number;
  /** The run's sparsity target. */
  readonly sparsity: number;
}

/** What a schedule sees at each step of the pruning stage, and of the other stages if it controls them. */
export interface ScheduleInput extends CurveInput {
  /** The stage of the step. */
  readonly stage: RecordView["stage"];
  /** The step of the stage, from 0. */
  readonly step: number;
  /** Steps of the stage. */
  readonly steps: number;
  /** The latest known records of the run, at most 32, oldest first. */
  readonly records: readonly RecordView[];
  /** State of every decoder layer. */
  readonly layers: readonly LayerState[];
}

/** Records that a schedule sees. */
export const RECORDS_SEEN = 32;

/** The part of a step's record that a schedule sees: the numbers that are equal whenever the run is repeated. */
export interface RecordView {
  /** Stage of the step. */
  readonly stage: "finetune" | "prune" | "postfinetune";
  /** Completed steps of the whole run, this one included. */
  readonly step: number;
  /** Mean cross-entropy over the batch's labels, in nats. */
  readonly loss: number;
  /** Sparsity that the schedule asked for; null outside the pruning stage. */
  readonly target: number | null;
  /** Expected sparsity ŝ after the step; null outside the pruning stage. */
  readonly expected: number | null;
  /** Lagrange multiplier λ₁ of the gap between ŝ and the target. */
  readonly lambda1: number;
  /** Lagrange multiplier λ₂ of the squared gap. */
  readonly lambda2: number;
  /** Global norm of the LoRA gradients before clipping. */
  readonly gradNorm: number;
  /** Learning rate of LoRA. */
  readonly learningRate: number;
}

/**
 * How much of a layer is cut, as shares from 0 to 1. The shares are expected values while masks are learned, otherwise
 * exact. They are 0 for kinds that the run does not prune.
 */
export interface LayerState {
  /** Share of its query heads that is cut. If whole layers are units, cutting the layer counts too. */
  readonly heads: number;
  /** Share of its FFN columns that is cut, counted like `heads`. */
  readonly ffn: number;
  /**
   * Share of the parameters of its linear weights that is cut, without the cut of hidden dims. The part `layers` of a
   * schedule sets this share. K and V of a KV group count as cut once all heads of the group are cut.
   */
  readonly sparsity: number;
}

/** A number that the training loop uses: fixed, or a function of what the schedule sees. */
export type Curve = number | ((input: ScheduleInput) => number);

/**
 * Units that stay as they are: heads (or KV groups) or FFN columns of a layer, all units of a layer, or hidden dims.
 * With `units`, only the listed ones. Layers and units count from 0. Kinds that the run does not prune are ignored.
 */
export type FrozenUnits =
  | { readonly layer: number; readonly kind: "heads" | "ffn"; readonly units?: readonly number[] }
  | { readonly layer: number; readonly kind: "layer" }
  | { readonly kind: "hidden"; readonly units?: readonly number[] };

/**
 * Numbers of the loop that a schedule may set: LoRA's `dropout`, and the names of `Rates` except those for the start of
 * masks and for the last stage. Rates of learned masks are for the method compresso only, and `saliencyDecay` for masks
 * that start from saliency.
 */
export const RATE_NAMES = [
  "lora",
  "mask",
  "lambda",
  "temperature",
  "noise",
  "saliencyDecay",
  "warmup",
  "tracking",
  "logAlphaLimit",
  "clipNorm",
  "weightDecay",
  "dropout",
] as const satisfies readonly RateName[];
/** Name of a number that the training loop uses. */
export type RateName =
  | "lora"
  | "mask"
  | "lambda"
  | "temperature"
  | "noise"
  | "saliencyDecay"
  | "warmup"
  | "tracking"
  | "logAlphaLimit"
  | "clipNorm"
  | "weightDecay"
  | "dropout";
/** Name of a number that a schedule may set: a {@link RateName}, or `focus`, which only the last stage has. */
export type LoopNumber = RateName | "focus";

/** Numbers that every step of LoRA has, in all stages. */
export const LORA_RATES = ["lora", "clipNorm", "weightDecay", "dropout"] as const satisfies readonly RateName[];
/** Numbers of the stages before and after pruning; only the last stage has `focus`. */
export const OUTER_RATES = {
  finetune: LORA_RATES,
  postfinetune: [...LORA_RATES, "focus"],
} as const satisfies { readonly [stage in OuterStage]: readonly LoopNumber[] };
/** The stages before and after pruning, in which LoRA is trained alone. */
export const OUTER_STAGES = ["finetune", "postfinetune"] as const satisfies readonly OuterStage[];
/** Name of a stage before or after pruning. */
export type OuterStage = "finetune" | "postfinetune";

/**
 * LoRA's numbers in a stage before or after pruning. `lora` is the learning rate; it replaces the stage's own warm-up
 * or cosine.
 */
export type LoraCurves = { readonly [rate in "lora" | "clipNorm" | "weightDecay" | "dropout"]?: Curve };

/** What a schedule decides in a stage before or after pruning. */
export interface StageDefinition extends LoraCurves {
  /** Whether the stage ends before this step. If true at the first step, the stage is skipped. */
  readonly end?: (input: ScheduleInput) => boolean;
}

/** What a schedule decides in the last stage. */
export interface LastStageDefinition extends StageDefinition {
  /** Share of the labels on which the step trains, in (0, 1]; see `PruneOptions.focus`. Not for the method flap. */
  readonly focus?: Curve;
}

/**
 * What a schedule decides. All parts are optional; without a part, the run decides. Every function must depend on its
 * input alone, without memory, clock or random numbers: only then does a resumed run end with the same bits.
 */
export interface ScheduleDefinition {
  /** Sparsity to hold now, in [0, 1). */
  readonly sparsity?: Curve;
  /**
   * Sparsity of each layer, in [0, 1], as a share of the layer's parameters; null leaves a layer free. The list has one
   * entry per layer. Not for the layout uniform, nor for one-shot methods. Without `end`, the last step is also
   * evaluated before the first one: layers that do not add up to the target are then refused at once.
   */
  readonly layers?: (input: ScheduleInput) => readonly (number | null)[];
  /**
   * Units whose masks do not change in this step; not for one-shot methods. They may still be cut when the masks become
   * hard. If whole layers are units, the layer of a frozen unit does not change either. The method gradual changes
   * masks only before every third step.
   */
  readonly freeze?: (input: ScheduleInput) => readonly FrozenUnits[];
  /**
   * Whether the pruning stage ends before this step. If it ends before its first step, nothing is cut, except for a
   * target size or a uniform layout; the run then has records of fine-tuning only.
   */
  readonly end?: (input: ScheduleInput) => boolean;
  /**
   * Numbers of the training loop in the pruning stage. Learned masks start at the run's own temperature and noise: if
   * the schedule starts at others, give them to the run too. In a schedule with `sparsity`, `warmup` only says when
   * monitors start to compare the sparsity with the target.
   */
  readonly rates?: { readonly [rate in RateName]?: Curve };
  /**
   * Numbers and end of the stage before pruning, which must have steps. `progress`, `step` and `steps` count in that
   * stage.
   */
  readonly finetune?: StageDefinition;
  /**
   * The same for the stage after pruning, where `layers` are exact. A one-shot method has all its steps in this stage.
   */
  readonly postfinetune?: LastStageDefinition;
}

/** A schedule that {@link defineSchedule} has checked. */
export interface Schedule {
  /** What it decides. */
  readonly definition: ScheduleDefinition;
}

/**
 * Makes a schedule: the default export of a script, or the option `schedule` of a program's run.
 *
 * @throws CompressoError("usage") for a part that does not exist, or that is neither a number in range nor a function.
 *
 * @example
 * ```ts
 * import { defineSchedule } from "compresso/schedule";
 * export default defineSchedule({ sparsity: ({ progress }) => progress < 0.5 ? 0.1 : 0.1 + 0.3 * (progress - 0.5) });
 * ```
 *
 * @example The rate of LoRA in all stages
 * ```ts
 * import { cosine, defineSchedule, linear } from "compresso/schedule";
 * export default defineSchedule({
 *   finetune: { lora: linear({ to: 1e-3, warmup: 0.5 }) },
 *   rates: { lora: 1e-3 },
 *   postfinetune: { lora: cosine({ from: 1e-3, to: 0 }) },
 * });
 * ```
 */
export function defineSchedule(definition: ScheduleDefinition): Schedule {
  checkKeys(definition, PARTS, "part");
  for (const name of FUNCTIONS) check(definition[name], { name, bounds: null });
  check(definition.sparsity, { name: "sparsity", bounds: SPARSITY_BOUNDS });
  const { rates = {}, finetune, postfinetune } = definition;
  return Object.freeze({
    definition: Object.freeze({
      ...definition,
      rates: checkCurves(checkKeys(rates, RATE_NAMES, "rate"), "rates", RATE_NAMES),
      ...(finetune === undefined ? {} : { finetune: checkStage(finetune, "finetune") }),
      ...(postfinetune === undefined ? {} : { postfinetune: checkStage(postfinetune, "postfinetune") }),
    }),
  });
}

/** A frozen copy of a stage's parts, checked. */
function checkStage<T extends StageDefinition>(given: T, stage: OuterStage): Readonly<T> {
  checkKeys(given, STAGE_PARTS[stage], `${stage} part`);
  check(given.end, { name: `${stage}.end`, bounds: null });
  return checkCurves(given, stage, OUTER_RATES[stage]);
}

/** A frozen copy of an object with curves, checked. */
function checkCurves<T extends { readonly [rate in LoopNumber]?: Curve }>(
  given: T,
  part: string,
  names: readonly LoopNumber[],
): Readonly<T> {
  for (const name of names) check(given[name], { name: `${part}.${name}`, bounds: rateBounds(name) });
  return Object.freeze({ ...given });
}

/** A script's default export, or what a program gives, as a schedule. Throws `CompressoError` for anything else. */
export function asSchedule(given: unknown, { isExport = true }: { readonly isExport?: boolean } = {}): Schedule {
  if (isObject(given) && isObject(given["definition"])) return defineSchedule(given["definition"]);
  const kind = given === null ? "null" : typeof given;
  throw isExport
    ? refusal("input", "cannot use the script as a schedule", {
      rule: "its default export is defineSchedule({ … })",
      value: given === undefined ? "no default export" : kind,
      fix: "write `export default defineSchedule({ … })`",
    })
    : refusal("usage", "cannot use this as a schedule", {
      rule: "it is a schedule of defineSchedule({ … }), a name, a path or a URL",
      value: kind === "object" ? "an object without a definition" : kind,
      fix: "write defineSchedule({ … })",
    });
}

/** The values of a schedule for a step, unchecked; parts that it leaves out are absent. Throws what its functions throw. */
export function rawOutput({ definition }: Schedule, input: ScheduleInput): unknown {
  const { sparsity, layers, freeze, end } = definition;
  const valueOf = (curve: Curve): unknown => typeof curve === "function" ? settled(curve(input)) : curve;
  const valuesOf = (curves: { readonly [name in LoopNumber]?: Curve } = {}): unknown =>
    Object.fromEntries(
      Object.entries(curves).filter(([, curve]) => curve !== undefined).map(([name, curve]) => [name, valueOf(curve)]),
    );
  const outer = outerStage(input);
  if (outer) {
    const { end, ...rates } = definition[outer] ?? {};
    return { ...(end === undefined ? {} : { end: settled(end(input)) }), rates: valuesOf(rates) };
  }
  return {
    ...(sparsity === undefined ? {} : { sparsity: valueOf(sparsity) }),
    ...(layers === undefined ? {} : { layers: settled(layers(input)) }),
    ...(freeze === undefined ? {} : { freeze: settled(freeze(input)) }),
    ...(end === undefined ? {} : { end: settled(end(input)) }),
    rates: valuesOf(definition.rates),
  };
}

/** The stage of a step, where it is not the pruning stage. */
export function outerStage({ stage }: Pick<ScheduleInput, "stage">): OuterStage | undefined {
  return OUTER_STAGES.find((name) => name === stage);
}

/** Refuses a promise, or a list with one, whose failure would end the program. */
function settled(value: unknown): unknown {
  const promises = (Array.isArray(value) ? value : [value]).filter((entry) => entry instanceof Promise);
  if (promises.length === 0) return value;
  for (const promise of promises) promise.catch(() => {});
  refuse("input", "cannot use the schedule", {
    rule: "it decides at once: its functions are not async",
    value: "a promise",
    fix: "return the value itself",
  });
}

/** A part that a schedule may decide. */
export type SchedulePart =
  | keyof ScheduleDefinition
  | `rates.${RateName}`
  | `finetune.${keyof StageDefinition}`
  | `postfinetune.${keyof LastStageDefinition}`;

const STAGE_PARTS = {
  finetune: [...OUTER_RATES.finetune, "end"],
  postfinetune: [...OUTER_RATES.postfinetune, "end"],
} as const;
const FUNCTIONS = ["layers", "freeze", "end"] as const;
const PARTS = ["sparsity", ...FUNCTIONS, "rates", ...OUTER_STAGES] as const;

/** Which parts a schedule decides. */
export function partsOf({ definition }: Schedule): readonly SchedulePart[] {
  const { rates = {}, finetune = {}, postfinetune = {} } = definition;
  const set = [
    ...RATE_NAMES.filter((name) => rates[name] !== undefined).map((name) => `rates.${name}` as const),
    ...STAGE_PARTS.finetune.filter((name) => finetune[name] !== undefined).map((name) => `finetune.${name}` as const),
    ...STAGE_PARTS.postfinetune.filter((name) => postfinetune[name] !== undefined)
      .map((name) => `postfinetune.${name}` as const),
  ];
  return [
    ...PARTS.filter((part) =>
      part === "sparsity" || FUNCTIONS.some((name) => name === part)
        ? definition[part] !== undefined
        : set.some((name) => name.startsWith(`${part}.`))
    ),
    ...set,
  ];
}

const ALL_PARTS: readonly SchedulePart[] = [
  ...PARTS,
  ...RATE_NAMES.map((name) => `rates.${name}` as const),
  ...STAGE_PARTS.finetune.map((name) => `finetune.${name}` as const),
  ...STAGE_PARTS.postfinetune.map((name) => `postfinetune.${name}` as const),
];

/** The parts that another process names; other names are left out. */
export function namedParts(said: unknown): readonly SchedulePart[] {
  return ALL_PARTS.filter((part) => Array.isArray(said) && said.includes(part));
}

/** Bounds of a number; default for the least value: 0. */
export interface Bounds {
  readonly above?: number;
  readonly most?: number;
  readonly below?: number;
  /** Whether the GPU uses it as f32: its f32 value must be within the bounds too. */
  readonly single?: boolean;
}

/** Bounds of a sparsity. */
export const SPARSITY_BOUNDS: Bounds = { below: 1 };

const RATE_BOUNDS: { readonly [name in LoopNumber]?: Bounds } = {
  temperature: { above: 0 },
  saliencyDecay: { most: 1 },
  warmup: { most: 1 },
  tracking: { most: 1 },
  logAlphaLimit: { above: 0 },
  clipNorm: { above: 0 },
  dropout: { below: 1 },
  focus: { above: 0, most: 1 },
};

/** Bounds of a number of the loop. */
export function rateBounds(name: LoopNumber): Bounds {
  return { single: true, ...RATE_BOUNDS[name] };
}

/** Whether a value is a number within bounds. */
export function isWithin(value: unknown, { above, most, below, single = false }: Bounds): value is number {
  const fits = (number: number): boolean =>
    Number.isFinite(number) && number >= 0 && number > (above ?? -Infinity) && number <= (most ?? Infinity) &&
    number < (below ?? Infinity);
  return typeof value === "number" && fits(value) && (!single || fits(Math.fround(value)));
}

/** The bounds in words. */
export function boundsText({ above, most, below, single = false }: Bounds): string {
  const bounds = [
    above === undefined ? "at least 0" : `above ${above}`,
    ...(most === undefined ? [] : [`at most ${most}`]),
    ...(below === undefined ? [] : [`below ${below}`]),
  ];
  return `a finite number${single ? " of f32 (up to 3.4e38)" : ""}, ${bounds.join(" and ")}`;
}

/** Throws if an object has other keys than it may. */
function checkKeys<T extends object>(object: T, known: readonly string[], word: string): T {
  const keys: readonly string[] | null = isObject(object) ? Object.keys(object) : null;
  const stranger = keys?.find((key) => !known.includes(key));
  if (keys && stranger === undefined) return object;
  refuse("usage", "cannot define the schedule", {
    rule: `its ${word}s are some of ${known.join(", ")}`,
    value: stranger ?? show(object),
    fix: stranger === undefined ? "give an object of them" : "rename or remove it",
  });
}

/** Refuses a part that is neither a function nor, if it has bounds, a number within them. */
function check(value: unknown, { name, bounds }: { readonly name: string; readonly bounds: Bounds | null }): void {
  if (value === undefined || typeof value === "function" || (bounds && isWithin(value, bounds))) return;
  refuse("usage", "cannot define the schedule", {
    rule: `${name} is ${bounds ? `${boundsText(bounds)}, or a function` : "a function"}`,
    value: show(value),
  });
}

/** A short text of any value, for a message. */
function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "a list" : "an object";
  return typeof value === "function" ? "a function" : String(value);
}
