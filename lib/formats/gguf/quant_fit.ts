// The fits of ggml's quantisers, with and without an importance matrix: scales, minima and codes of a group of values. Every product, sum and quotient is rounded to f32 in ggml's order.

const fround = Math.fround;
/** Groups of values below this are zeros, as in ggml. */
export const LEAST: number = fround(1e-15);

/** What one block is worked out in. */
export interface Work {
  readonly values: Float32Array;
  /** Importance of the columns, which repeat; null if all values count alike. */
  readonly importance: Float32Array | null;
  /** Of all values of the block. */
  readonly codes: Int8Array;
  /** Of the group that is fitted: a trial's codes, weights, and weights times values. */
  readonly trial: Uint8Array;
  readonly weights: Float32Array;
  readonly moments: Float32Array;
  /** Of the groups. */
  readonly scales: Float32Array;
  readonly minima: Float32Array;
  /** Sums of the weights of the groups. */
  readonly sums: Float32Array;
}

/** Room for blocks of up to 256 values. */
export function createWork(values: Float32Array, importance: Float32Array | null): Work {
  return {
    values,
    importance,
    codes: new Int8Array(256),
    trial: new Uint8Array(32),
    weights: new Float32Array(32),
    moments: new Float32Array(32),
    scales: new Float32Array(16),
    minima: new Float32Array(16),
    sums: new Float32Array(16),
  };
}

/** A group of values in a block. */
export interface Group {
  /** Where the block begins. */
  readonly from: number;
  readonly group: number;
}

/** The trials where an importance matrix weighs the errors. */
export const WEIGHTED_STEPS: Pick<Fit, "low" | "rise" | "steps" | "isAbsolute"> = {
  low: fround(-0.9),
  rise: fround(0.05),
  steps: 36,
  isAbsolute: false,
};

/** How a group is fitted by scale and minimum. */
export interface Fit extends Group {
  readonly count: number;
  /** Largest code. */
  readonly most: number;
  /** Trials have scales of (largest − least) / (most + low + rise · step), in f32. */
  readonly low: number;
  readonly rise: number;
  readonly steps: number;
  /** Whether errors count by their size; else by their square. */
  readonly isAbsolute: boolean;
}

/** Scale, minimum (from 0 on, to be taken away) and codes of a group, x ≈ scale·code − minimum, of least weighted error among the trials. */
export function fitFromLeast(work: Work, { from, group, count, most, low, rise, steps, isAbsolute }: Fit): void {
  const { values, codes, trial, weights, scales, minima } = work;
  const first = from + count * group, to = count * group;
  let least = values[first] as number, largest = least, sumW = 0, sumX = 0;
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number, w = weights[i] as number;
    if (x < least) least = x;
    if (x > largest) largest = x;
    sumW = fround(sumW + w);
    sumX = fround(sumX + fround(w * x));
  }
  if (least > 0) least = 0;
  minima[group] = -least;
  scales[group] = 0;
  if (largest === least) {
    codes.fill(0, to, to + count);
    return;
  }
  const inverse = fround(most / fround(largest - least));
  let scale = fround(1 / inverse), error = 0, minimum = least;
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number;
    const code = bounded(nearest(fround(inverse * fround(x - least))), 0, most);
    const difference = fround(fround(fround(scale * code) + least) - x);
    codes[to + i] = code;
    error = fround(
      error + fround(weights[i] as number * (isAbsolute ? Math.abs(difference) : fround(difference * difference))),
    );
  }
  for (let step = 0; step <= steps; step++) {
    // From the minimum that is best so far.
    const factor = fround(fround(fround(low + fround(rise * step)) + most) / fround(largest - minimum));
    let sumL = 0, sumLL = 0, sumXL = 0;
    for (let i = 0; i < count; i++) {
      const x = values[first + i] as number;
      const code = bounded(nearest(fround(factor * fround(x - minimum))), 0, most);
      const weighted = fround(weights[i] as number * code);
      trial[i] = code;
      sumL = fround(sumL + weighted);
      sumLL = fround(sumLL + fround(weighted * code));
      sumXL = fround(sumXL + fround(weighted * x));
    }
    const determinant = fround(fround(sumW * sumLL) - fround(sumL * sumL));
    if (!(determinant > 0)) continue;
    let newScale = fround(fround(fround(sumW * sumXL) - fround(sumX * sumL)) / determinant);
    let newMinimum = fround(fround(fround(sumLL * sumX) - fround(sumL * sumXL)) / determinant);
    if (newMinimum > 0) {
      newMinimum = 0;
      newScale = fround(sumXL / sumLL);
    }
    let newError = 0;
    // It only grows: no more of it than to know that it is no less.
    for (let i = 0; i < count && newError < error; i++) {
      const fitted = fround(fround(newScale * (trial[i] as number)) + newMinimum);
      const difference = fround(fitted - (values[first + i] as number));
      const size = isAbsolute ? Math.abs(difference) : fround(difference * difference);
      newError = fround(newError + fround((weights[i] as number) * size));
    }
    if (!(newError < error)) continue;
    for (let i = 0; i < count; i++) codes[to + i] = trial[i] as number;
    error = newError;
    scale = newScale;
    minimum = newMinimum;
  }
  scales[group] = scale;
  minima[group] = -minimum;
}

/** Of the values that {@link fitSigned} fits. */
const WEIGHTS = new Float32Array(32), MOMENTS = new Float32Array(32);

/** What {@link fitSigned} fits. */
export interface SignedFit {
  readonly values: Float32Array;
  /** Where they begin, and how many. */
  readonly first: number;
  readonly count: number;
  /** Weights of their errors, from 0 on. Default: the squares of the values. */
  readonly weights?: Float32Array | undefined;
  /** Codes are written here, from `to` on, and lie around `half`. */
  readonly codes: Int8Array;
  readonly to: number;
  readonly half: number;
}

/** Scale of values as codes from 0 to 2·half − 1: the best of 19 trials, by weighted squares of errors. */
export function fitSigned({ values, first, count, weights, codes, to, half }: SignedFit): number {
  const extreme = extremeOf(values, first, count);
  if (Math.abs(extreme) < LEAST) {
    codes.fill(0, to, to + count);
    return 0;
  }
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number, w = weights ? weights[i] as number : fround(x * x);
    WEIGHTS[i] = w;
    MOMENTS[i] = w * x;
  }
  let scale = 0, best = 0;
  for (let trial = 0; trial < 19; trial++) {
    // The plain one comes first, then −9 … 9 without 0.
    const step = trial === 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
    const inverse = fround(-fround(half + fround(fround(0.1) * step)) / extreme);
    let sumXL = 0, sumLL = 0;
    for (let i = 0; i < count; i++) {
      const level = bounded(nearest(fround(inverse * (values[first + i] as number))), -half, half - 1);
      sumXL = fround(sumXL + fround(MOMENTS[i] as number * level));
      sumLL = fround(sumLL + fround(fround(WEIGHTS[i] as number * level) * level));
    }
    const isBetter = trial === 0 || (sumLL > 0 && fround(sumXL * sumXL) > fround(best * sumLL));
    if (!isBetter) continue;
    for (let i = 0; i < count; i++) {
      codes[to + i] = bounded(nearest(fround(inverse * (values[first + i] as number))), -half, half - 1) + half;
    }
    scale = sumLL === 0 ? 0 : fround(sumXL / sumLL);
    best = fround(scale * sumXL);
  }
  return scale;
}

/** Scale of values from 0 on as codes up to `most`, by weighted squares of errors: trials, then codes that change one by one. */
export function fitPositive(
  values: Float32Array,
  weights: Float32Array,
  { count, most, codes }: { readonly count: number; readonly most: number; readonly codes: Uint8Array },
): number {
  const largest = largestOf(values, count);
  if (largest < LEAST) {
    codes.fill(0, 0, count);
    return 0;
  }
  let best = 0, inverse = fround(most / largest);
  for (let trial = 0; trial < 9; trial++) {
    // The plain one comes first, then −4 … 4 without 0.
    const step = trial === 0 ? 0 : trial <= 4 ? trial - 5 : trial - 4;
    const factor = trial === 0 ? inverse : fround(fround(fround(fround(0.1) * step) + most) / largest);
    const scale = fround(1 / factor);
    let error = 0;
    for (let i = 0; i < count; i++) {
      const x = values[i] as number, code = Math.min(most, nearest(fround(factor * x)));
      const difference = fround(x - fround(scale * code));
      error = fround(error + fround(fround(weights[i] as number * difference) * difference));
    }
    if (trial > 0 && !(error < best)) continue;
    best = error;
    inverse = factor;
  }
  let sumXL = 0, sumLL = 0;
  for (let i = 0; i < count; i++) {
    const x = values[i] as number, w = weights[i] as number, code = Math.min(most, nearest(fround(inverse * x)));
    codes[i] = code;
    sumXL = fround(sumXL + fround(fround(w * x) * code));
    sumLL = fround(sumLL + fround(fround(w * code) * code));
  }
  for (let round = 0; round < 5; round++) {
    let hasChanged = false;
    for (let i = 0; i < count; i++) {
      const x = values[i] as number, w = weights[i] as number, code = codes[i] as number, moment = fround(w * x);
      let xl = fround(sumXL - fround(moment * code)), ll = fround(sumLL - fround(fround(w * code) * code));
      if (!(xl > 0 && ll > 0)) continue;
      const next = Math.min(most, nearest(fround(fround(x * ll) / xl)));
      if (next === code) continue;
      xl = fround(xl + fround(moment * next));
      ll = fround(ll + fround(fround(w * next) * next));
      if (!(fround(fround(xl * xl) * sumLL) > fround(fround(sumXL * sumXL) * ll))) continue;
      codes[i] = next;
      sumXL = xl;
      sumLL = ll;
      hasChanged = true;
    }
    if (!hasChanged) break;
  }
  return sumLL > 0 ? fround(sumXL / sumLL) : 0;
}

/** Scale of 16 values as codes of 3 bits around 4, which it writes: codes change one by one while the error, weighted by squares, falls. */
export function fitThird({ values, codes, weights, moments }: Work, from: number, group: number): number {
  const first = from + 16 * group, to = 16 * group;
  const extreme = extremeOf(values, first);
  if (Math.abs(extreme) < LEAST) {
    codes.fill(0, to, to + 16);
    return 0;
  }
  const inverse = fround(-4 / extreme);
  let sumXL = 0, sumLL = 0;
  for (let i = 0; i < 16; i++) {
    const x = values[first + i] as number, w = fround(x * x);
    const level = bounded(nearest(fround(inverse * x)), -4, 3), moment = fround(w * x);
    weights[i] = w;
    moments[i] = moment;
    codes[to + i] = level;
    sumXL = fround(sumXL + fround(moment * level));
    sumLL = fround(sumLL + fround(fround(w * level) * level));
  }
  for (let round = 0; round < 5; round++) {
    let hasChanged = false;
    for (let i = 0; i < 16; i++) {
      const level = codes[to + i] as number, w = weights[i] as number, moment = moments[i] as number;
      let xl = fround(sumXL - fround(moment * level));
      if (!(xl > 0)) continue;
      let ll = fround(sumLL - fround(fround(w * level) * level));
      const next = bounded(nearest(fround(fround(values[first + i] as number * ll) / xl)), -4, 3);
      if (next === level) continue;
      xl = fround(xl + fround(moment * next));
      ll = fround(ll + fround(fround(w * next) * next));
      if (!(ll > 0 && fround(fround(xl * xl) * sumLL) > fround(fround(sumXL * sumXL) * ll))) continue;
      codes[to + i] = next;
      sumXL = xl;
      sumLL = ll;
      hasChanged = true;
    }
    if (!hasChanged) break;
  }
  for (let i = 0; i < 16; i++) codes[to + i] = codes[to + i] as number + 4;
  return sumLL > 0 ? fround(sumXL / sumLL) : 0;
}

/** Recomputes the codes of a group for the stored scale d and minimum m; does nothing for a scale of 0. */
export function recode(
  { values, codes }: Work,
  { from, group, count, d, m, most }: Group & {
    readonly count: number;
    readonly d: number;
    readonly m: number;
    readonly most: number;
  },
): void {
  if (d === 0) return;
  for (let i = count * group; i < count * (group + 1); i++) {
    codes[i] = bounded(nearest(fround(fround(values[from + i] as number + m) / d)), 0, most);
  }
}

/** The same of 16 codes around `half`. */
export function recodeSigned(
  { values, codes }: Work,
  { from, group, d, half }: Group & { readonly d: number; readonly half: number },
): void {
  if (d === 0) return;
  for (let i = 16 * group; i < 16 * (group + 1); i++) {
    codes[i] = bounded(nearest(fround(values[from + i] as number / d)), -half, half - 1) + half;
  }
}

/**
 * Writes weights of the errors of values, importance · √(sigma2 + x²), where `sigma2` is a mean of squares around them, and returns their sum.
 *
 * @param first - Where the values begin.
 */
export function weighErrors(
  { values, importance, weights }: Pick<Work, "values" | "weights"> & { readonly importance: Float32Array },
  { first, count, sigma2 }: { readonly first: number; readonly count: number; readonly sigma2: number },
): number {
  const column = first % importance.length;
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number, size = fround(Math.sqrt(fround(sigma2 + fround(x * x))));
    const weight = fround(importance[column + i] as number * size);
    weights[i] = weight;
    sum = fround(sum + weight);
  }
  return sum;
}

/** The sum of squares of values, in order. */
export function squaresOf(values: Float32Array, first: number, count: number): number {
  let squares = 0;
  for (let i = first; i < first + count; i++) {
    const x = values[i] as number;
    squares = fround(squares + fround(x * x));
  }
  return squares;
}

/** The nearest whole number, halves to even, of an f32 within ±2²²: the sum has no bits for a fraction. */
export function nearest(value: number): number {
  return fround(value + SHIFT) - SHIFT;
}

const SHIFT = 1.5 * 2 ** 23;

export function bounded(value: number, least: number, most: number): number {
  return value < least ? least : value > most ? most : value;
}

/** The largest of the first values, or 0. */
export function largestOf(values: Float32Array, count: number): number {
  let largest = 0;
  for (let i = 0; i < count; i++) if (values[i] as number > largest) largest = values[i] as number;
  return largest;
}

/** The first of some values that has the largest size. */
export function extremeOf(values: Float32Array, from = 0, count = 16): number {
  let extreme = 0;
  for (let i = from; i < from + count; i++) {
    if (Math.abs(values[i] as number) > Math.abs(extreme)) extreme = values[i] as number;
  }
  return extreme;
}
