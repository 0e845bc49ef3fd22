// The normal distribution in f64, for oracles of GELU.

/** The normal distribution, from a series where it is not small and a continued fraction where it is. */
export function normal(x: number): number {
  const z = Math.abs(x), bell = Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI);
  let tail = 0;
  if (z < 3) {
    let term = z, sum = z;
    for (let k = 1; k < 60; k++) sum += term *= z * z / (2 * k + 1);
    tail = 0.5 - bell * sum;
  } else {
    let fraction = z;
    for (let k = 60; k > 0; k--) fraction = z + k / fraction;
    tail = bell / fraction;
  }
  return x > 0 ? 1 - tail : tail;
}
