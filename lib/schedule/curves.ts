// Curves for schedules: numbers as functions of progress, in closed form.
//
// Isolated schedule scripts get this file as `compresso/schedule`: it may import only errors.ts and types.
import { type CompressoError, refusal } from "../core/errors.ts";
import type { CurveInput } from "./definition.ts";

/** A curve over a pruning stage; usable wherever a schedule takes a number. */
export type CurveFunction = (input: CurveInput) => number;

/** Where a curve starts and ends, and when it reaches its end. */
export interface RampOptions {
  /** Value at progress 0; "target" is the run's target sparsity. Default 0. */
  readonly from?: number | "target";
  /** Value from progress `warmup` on: a number or "target". */
  readonly to: number | "target";
  /** Progress, in [0, 1], at which the curve reaches `to`. Default 1. */
  readonly warmup?: number;
}

/** Options of {@link exponential}. */
export interface ExponentialOptions extends RampOptions {
  /** k of e^(−k·q), in (0, 700]; a larger k is faster at first. Default 5. ln(from / to) gives from·(to / from)^q. */
  readonly steepness?: number;
}

/**
 * A cubic ramp: to + (from − to)·(1 − q)³ with q = min(1, progress / warmup). It is fast at first, then ever slower.
 * Source: Zhu & Gupta 2017, "To prune, or not to prune".
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @example
 * ```ts
 * import { cubic } from "compresso/schedule";
 * const curve = cubic({ to: "target", warmup: 0.5 });
 * if (curve({ progress: 0.25, sparsity: 0.5 }) !== 0.4375) throw new Error("not cubic");
 * ```
 */
export function cubic(options: RampOptions): CurveFunction {
  checkNames("cubic", options, RAMP);
  return ramp("cubic", options, (q) => (1 - q) ** 3);
}

/**
 * A straight line: to + (from − to)·(1 − q) with q = min(1, progress / warmup).
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @example
 * ```ts
 * import { linear } from "compresso/schedule";
 * const rate = linear({ from: 0.2, to: 0.4 });
 * if (Math.abs(rate({ progress: 0.5, sparsity: 0.5 }) - 0.3) > 1e-12) throw new Error("not linear");
 * ```
 */
export function linear(options: RampOptions): CurveFunction {
  checkNames("linear", options, RAMP);
  return ramp("linear", options, (q) => 1 - q);
}

/**
 * Half a period of a cosine, slow at both ends: to + (from − to)·(1 + cos(π·q)) / 2 with q = min(1, progress / warmup).
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @example
 * ```ts
 * import { cosine } from "compresso/schedule";
 * const rate = cosine({ from: 1e-3, to: 0 });
 * if (Math.abs(rate({ progress: 0.5, sparsity: 0.5 }) - 5e-4) > 1e-12) throw new Error("not a cosine");
 * ```
 */
export function cosine(options: RampOptions): CurveFunction {
  checkNames("cosine", options, RAMP);
  return ramp("cosine", options, (q) => (1 + Math.cos(Math.PI * q)) / 2);
}

/**
 * An exponential decay from `from` to `to`: to + (from − to)·(e^(−k·q) − e^(−k)) / (1 − e^(−k)) with
 * q = min(1, progress / warmup) and k the steepness.
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @example
 * ```ts
 * import { exponential } from "compresso/schedule";
 * const curve = exponential({ to: "target" });
 * if (curve({ progress: 0.5, sparsity: 0.4 }) <= 0.2) throw new Error("not faster at first");
 * ```
 */
export function exponential(options: ExponentialOptions): CurveFunction {
  checkNames("exponential", options, [...RAMP, "steepness"]);
  const { steepness = 5, ...shape } = options;
  if (!(steepness > 0 && steepness <= 700)) {
    throw wrong("exponential", { rule: "steepness lies in (0, 700]", value: steepness });
  }
  // The formula of the docstring, extended by e^k, which is more precise for a small k.
  const rest = (q: number): number => Math.expm1(steepness * (1 - q)) / Math.expm1(steepness);
  return ramp("exponential", { ...shape, steepness }, rest);
}

/**
 * Stairs: each `[progress, value]` holds its value from its progress until the progress of the next. The first stair
 * begins at progress 0.
 *
 * @throws CompressoError("usage") for an empty list, for progress that does not start at 0 or does not rise, and for a
 * value that is neither a number nor "target".
 * @example
 * ```ts
 * import { steps } from "compresso/schedule";
 * const curve = steps([[0, 0.1], [0.5, "target"]]);
 * if (curve({ progress: 0.4, sparsity: 0.3 }) !== 0.1 || curve({ progress: 0.5, sparsity: 0.3 }) !== 0.3) throw new Error("no stairs");
 * ```
 */
export function steps(stairs: readonly (readonly [progress: number, value: number | "target"])[]): CurveFunction {
  if (!Array.isArray(stairs) || !stairs.every((stair) => Array.isArray(stair))) {
    throw wrong("steps", { rule: "stairs are a list of [progress, value]", value: JSON.stringify(stairs) });
  }
  stairs.forEach(([progress, value], index) => {
    const before = stairs[index - 1]?.[0] ?? -1;
    if (!(progress > before && progress <= 1) || (index === 0 && progress !== 0)) {
      throw wrong("steps", { rule: "progress begins at 0 and rises up to 1", value: progress });
    }
    checkLevel("steps", value);
  });
  if (stairs.length === 0) throw wrong("steps", { rule: "there is at least one stair", value: "none" });
  const own = stairs.map(([progress, value]) => [progress, value] as const);
  return described("steps", own, (input) => {
    let value = levelOf(own[0]?.[1] ?? 0, input);
    for (const [progress, next] of own) if (progress <= input.progress) value = levelOf(next, input);
    return value;
  });
}

/**
 * The same value at every step.
 *
 * @throws CompressoError("usage") for a value that is neither a number nor "target".
 * @example
 * ```ts
 * import { constant } from "compresso/schedule";
 * if (constant("target")({ progress: 0, sparsity: 0.3 }) !== 0.3) throw new Error("not the target");
 * ```
 */
export function constant(value: number | "target"): CurveFunction {
  checkLevel("constant", value);
  return described("constant", value, (input) => levelOf(value, input));
}

const RAMP: readonly string[] = ["from", "to", "warmup"] satisfies (keyof RampOptions)[];

/** Refuses options that the curve would ignore: Deno runs a script without checking its types. */
function checkNames(name: string, options: unknown, known: readonly string[]): void {
  const rule = `its options are ${known.join(", ")}`;
  if (typeof options !== "object" || options === null) throw wrong(name, { rule, value: options });
  const unknown = Object.keys(options).find((one) => !known.includes(one));
  if (unknown !== undefined) throw wrong(name, { rule, value: unknown });
}

/** A curve that leaves `from` as `rest` falls from 1 to 0. */
function ramp(
  name: string,
  { from = 0, to, warmup = 1, ...shape }: RampOptions & Pick<ExponentialOptions, "steepness">,
  rest: (q: number) => number,
): CurveFunction {
  checkLevel(name, from);
  checkLevel(name, to);
  checkWarmup(name, warmup);
  return described(name, { from, to, warmup, ...shape }, (input) => {
    const end = levelOf(to, input), q = warmup > 0 ? Math.min(1, input.progress / warmup) : 1;
    return q === 1 ? end : end + (levelOf(from, input) - end) * rest(q);
  });
}

/** The curve, whose text names its arguments: resuming compares schedules by the text of their functions. */
export function described(name: string, made: unknown, curve: CurveFunction): CurveFunction {
  const text = `${name}(${JSON.stringify(made)})`;
  return Object.defineProperty(curve, "toString", { value: () => text });
}

/** Throws `CompressoError("usage")` for a warm-up outside [0, 1]. */
export function checkWarmup(name: string, warmup: number): void {
  if (!(warmup >= 0 && warmup <= 1)) throw wrong(name, { rule: "warmup lies in [0, 1]", value: warmup });
}

function levelOf(level: number | "target", { sparsity }: CurveInput): number {
  return level === "target" ? sparsity : level;
}

function checkLevel(name: string, level: unknown): void {
  if (level === "target" || Number.isFinite(level)) return;
  throw wrong(name, { rule: 'a value is a finite number, or "target" for the run\'s sparsity', value: level });
}

function wrong(name: string, { rule, value }: { readonly rule: string; readonly value: unknown }): CompressoError {
  const fix = `correct what ${name}() is given`;
  return refusal("usage", `cannot make a curve with ${name}()`, { rule, value: String(value), fix });
}
