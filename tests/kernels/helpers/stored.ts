// Values of a matrix after rounding to a dtype, for oracles.
import type { ValueDtype } from "../../../lib/nn/products/matrix.ts";
import { dequantizeRows, quantizeRows } from "../../../lib/spec/quant.ts";

/** Every dtype of a matrix. */
export const DTYPES: readonly ValueDtype[] = ["f32", "f16", "q8", "q4"];

/** Values as a matrix of the dtype stores them; `cols` values a row. */
export function stored(
  values: Float32Array<ArrayBuffer>,
  { cols, dtype }: { readonly cols: number; readonly dtype: ValueDtype },
): Float32Array<ArrayBuffer> {
  switch (dtype) {
    case "f32":
      return values;
    case "f16":
      return Float32Array.from(new Float16Array(values));
    case "q8":
    case "q4":
      return dequantizeRows(quantizeRows(values, { cols, dtype }), cols);
  }
}
