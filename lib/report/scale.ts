// A linear scale from values to pixels, with ticks at 1, 2 or 5 times a power of ten, as d3-scale places them.

/** From a value to its pixel. */
export interface Scale {
  (value: number): number;
  /** First and last value. */
  readonly domain: Span;
  /** Their pixels. */
  readonly range: Span;
}

type Span = readonly [number, number];

/** The scale that maps the ends of `domain`, which ascends, to those of `range`. */
export function linearScale(domain: Span, range: Span = [0, 1]): Scale {
  const [first, last] = domain, [from, to] = range;
  const pixel = (value: number): number => {
    const share = last === first ? 0.5 : (value - first) / (last - first);
    return from * (1 - share) + to * share;
  };
  return Object.assign(pixel, { domain, range });
}

/** A domain that ends at ticks, of which it has about `count`. */
export function niceDomain([first, last]: Span, count: number): Span {
  let domain: Span = [first, last], before: number | null = null;
  // A wider domain can have a wider step.
  for (let turn = 0; turn < 10; turn++) {
    const { per, step } = stepOf(domain, count), unit = step / per;
    if (unit === before || !(unit > 0 && unit < Infinity)) break;
    domain = [Math.floor(domain[0] * per / step) * step / per, Math.ceil(domain[1] * per / step) * step / per];
    before = unit;
  }
  return domain;
}

/** About `count` ticks within a domain, in ascending order. */
export function tickValues([first, last]: Span, count: number): number[] {
  if (first === last) return [first];
  const { per, step } = stepOf([first, last], count);
  let begin = Math.round(first * per / step), end = Math.round(last * per / step);
  if (begin * step / per < first) begin++;
  if (end * step / per > last) end--;
  if (end < begin && count >= 0.5 && count < 2) return tickValues([first, last], 2 * count);
  return Array.from({ length: Math.max(0, end - begin + 1) }, (_, at) => (begin + at) * step / per);
}

/** Writes numbers with as many digits as tell two ticks of a domain apart, and a comma between thousands. */
export function tickFormat(domain: Span, count: number): (value: number) => string {
  const { per, step } = stepOf(domain, count), power = Math.floor(Math.log10(step / per) + 1e-9);
  const digits = Number.isFinite(power) ? Math.min(20, Math.max(0, -power)) : 0;
  const format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return (value) => format.format(Number(value.toFixed(digits)) || 0).replace("-", "\u2212");
}

/** The step between ticks as step / per. One of both is 1: ticks below 1 are quotients, which are exact where products are not. */
function stepOf([first, last]: Span, count: number): { readonly per: number; readonly step: number } {
  const ideal = (last - first) / Math.max(0, count), power = Math.floor(Math.log10(ideal));
  const error = ideal / 10 ** power,
    factor = error >= Math.sqrt(50) ? 10 : error >= Math.sqrt(10) ? 5 : error >= Math.SQRT2 ? 2 : 1;
  return power < 0 ? { per: 10 ** -power / factor, step: 1 } : { per: 1, step: 10 ** power * factor };
}
