// Medians and growth fits of measurements.

export { median } from "../../lib/bench/stats.ts";

/** y ≈ Σ coefficients[i]·xⁱ. */
export interface Fit {
  /** a, b, … in units of y, y/x, … */
  readonly coefficients: readonly number[];
  /** Share of the variance of y that the fit explains, at most 1. */
  readonly r2: number;
}

/**
 * Least squares of relative residuals: each point weighs 1/y², since the noise of a time is proportional to it. y must be positive, and there
 * must be more than `degree` points.
 */
export function polynomialFit(
  x: readonly number[],
  y: readonly number[],
  { degree }: { readonly degree: number },
): Fit {
  const size = degree + 1, scale = Math.max(...x);
  if (x.length !== y.length || x.length < size) {
    throw new RangeError(`polynomialFit: ${x.length} and ${y.length} points, degree ${degree}`);
  }
  // Normal equations in x/max(x), which keeps them well conditioned for these low degrees.
  const matrix = Array.from({ length: size }, () => new Float64Array(size + 1));
  x.forEach((value, point) => {
    const target = y[point] ?? NaN, weight = 1 / (target * target);
    const powers = Array.from({ length: size }, (_, power) => (value / scale) ** power);
    matrix.forEach((row, i) => {
      const factor = weight * (powers[i] ?? 0);
      powers.forEach((power, j) => row[j] = (row[j] ?? 0) + factor * power);
      row[size] = (row[size] ?? 0) + factor * target;
    });
  });
  const coefficients = [...solve(matrix)].map((value, power) => value / scale ** power);
  const mean = y.reduce((sum, value) => sum + value, 0) / y.length;
  const squares = (of: (value: number, index: number) => number): number =>
    y.reduce((sum, value, index) => sum + of(value, index) ** 2, 0);
  const rest = squares((value, index) => value - evaluate(coefficients, x[index] ?? NaN));
  const total = squares((value) => value - mean);
  return { coefficients, r2: total === 0 ? 1 : 1 - rest / total };
}

/** Σ coefficients[i]·xⁱ. */
export function evaluate(coefficients: readonly number[], x: number): number {
  return coefficients.reduceRight((sum, coefficient) => sum * x + coefficient, 0);
}

/** p of y ∝ x^p, by least squares of ln y on ln x. */
export function logLogExponent(x: readonly number[], y: readonly number[]): number {
  const lnX = x.map(Math.log), lnY = y.map(Math.log);
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanX = mean(lnX), meanY = mean(lnY);
  let product = 0, square = 0;
  lnX.forEach((value, index) => {
    product += (value - meanX) * ((lnY[index] ?? NaN) - meanY);
    square += (value - meanX) ** 2;
  });
  return product / square;
}

/** Gaussian elimination with pivots of [A | b]; overwrites it. */
function solve(rows: Float64Array[]): Float64Array {
  const size = rows.length, result = new Float64Array(size);
  const at = (row: number, col: number): number => rows[row]?.[col] ?? NaN;
  for (let col = 0; col < size; col++) {
    let pivot = col;
    for (let row = col + 1; row < size; row++) if (Math.abs(at(row, col)) > Math.abs(at(pivot, col))) pivot = row;
    const [upper, lower] = [rows[col], rows[pivot]];
    if (upper && lower) [rows[col], rows[pivot]] = [lower, upper];
    for (let row = col + 1; row < size; row++) {
      const factor = at(row, col) / at(col, col);
      rows[row]?.forEach((value, index, all) => all[index] = value - factor * at(col, index));
    }
  }
  for (let row = size - 1; row >= 0; row--) {
    let sum = at(row, size);
    for (let col = row + 1; col < size; col++) sum -= at(row, col) * (result[col] ?? NaN);
    result[row] = sum / at(row, row);
  }
  return result;
}
