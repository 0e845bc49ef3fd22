// What stands at an axis' ticks: as many digits as tell two of them apart. Owns these; refuses to place ticks.
import { scaleLinear } from "../core/packages.ts";

/** Labels of the ticks of a linear axis that has about `count` of them; "share" shows 0.2 as 20 %. */
export function tickFormat(
  [first, last]: readonly [first: number, last: number],
  { count, format = "plain" }: { readonly count: number; readonly format?: "plain" | "share" | undefined },
): (value: number) => string {
  const factor = format === "share" ? 100 : 1, unit = format === "share" ? " %" : "";
  const label = scaleLinear<number, number>().domain([factor * first, factor * last]).tickFormat(count);
  return (value) => label(factor * value) + unit;
}
