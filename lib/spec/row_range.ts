// Checks a range of rows of a tensor.
import { refuse } from "../core/errors.ts";
import type { RowRange } from "./source.ts";

/**
 * The rows to read: `count` rows from `start`, each of `width` values (the product of all dimensions except the first).
 */
export interface RowWindow extends RowRange {
  readonly width: number;
}

/**
 * Checks a range against a shape; without a range, returns all rows.
 *
 * @throws CompressoError("usage") for rows outside of the tensor.
 */
export function rowWindow(
  name: string,
  shape: readonly number[],
  options: { readonly rows?: RowRange | undefined },
): RowWindow {
  const total = shape[0] ?? 1;
  const width = shape.slice(1).reduce((product, size) => product * size, 1);
  const { start, count } = options.rows ?? { start: 0, count: total };
  const whole = Number.isSafeInteger(start) && Number.isSafeInteger(count);
  if (!whole || start < 0 || count < 0 || start + count > total) {
    refuse("usage", `cannot read rows of ${name}`, {
      rule: `start and count are whole, and start + count ≤ ${total}`,
      value: `start ${start}, count ${count}`,
    });
  }
  return { start, count, width };
}

/** The shape of a tensor as rows: matrices of a stack stand one after another. */
export function stackedShape(shape: readonly number[]): readonly number[] {
  return shape.length < 3 ? shape : [elementCount(shape.slice(0, -1)), shape.at(-1) ?? 1];
}

/** Number of values of a tensor with this shape. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
