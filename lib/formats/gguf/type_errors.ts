// What types do to the values of a matrix, on a thread.
import { dequantize } from "./dequant.ts";
import { quantize } from "./quant.ts";
import type { GgufTensorType } from "./types.ts";

/** Sums over values w of rows: of importance · w², and for each type of importance · (w − stored w)². */
export interface TypeErrors {
  readonly energy: number;
  readonly errors: readonly number[];
}

/**
 * The errors of types on whole rows; each type's block must divide a row.
 *
 * @param importance - Of each column; null for 1. Types of blocks are fitted by it, as in the file.
 */
export function typeErrors(
  values: Float32Array<ArrayBuffer>,
  columns: number,
  types: readonly GgufTensorType[],
  importance: Float32Array | null,
): TypeErrors {
  const sum = (of: (at: number) => number): number => {
    let total = 0;
    for (let row = 0; row < values.length; row += columns) {
      for (let column = 0; column < columns; column++) {
        const x = of(row + column);
        total += (importance?.[column] ?? 1) * x * x;
      }
    }
    return total;
  };
  const stored = new Float32Array(values.length);
  const errors = types.map((type) => {
    dequantize(quantize(values, type, importance), type, { out: stored, at: 0 });
    return sum((at) => (values[at] as number) - (stored[at] as number));
  });
  return { energy: sum((at) => values[at] as number), errors };
}
