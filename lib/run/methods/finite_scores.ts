// Refuses scores of units that are not finite.
import { option, refuse } from "../../core/errors.ts";
import { unitName, type UnitTable } from "../../units/table.ts";

/** Throws `CompressoError("numeric")` for values of units, computed from gradients on rows, that are not finite. */
export function checkUnits(
  table: UnitTable,
  values: readonly number[] | Float64Array,
  { what, fix = ROWS_FIX }: { readonly what: string; readonly fix?: string },
): void {
  const unit = values.findIndex((value) => !Number.isFinite(value));
  if (unit < 0) return;
  refuse("numeric", what, {
    rule: "the model's gradients on the rows are finite",
    value: `${values[unit]} for ${unitName(table, unit)}`,
    fix,
  });
}

/** Fix for training rows on which units cannot be scored. */
export const OUT_OF_ROWS = "leave the rows out that do this";
/** Fix for rows on which units cannot be scored. */
export const ROWS_FIX = `${OUT_OF_ROWS}, or give others by ${option("calibration")}`;
