import assert from "node:assert/strict";
import { CompressoError, option, spelled } from "../../lib/core/errors.ts";

Deno.test("an error names its options as programs write them, and keeps them apart for other fronts", () => {
  const error = new CompressoError("usage", {
    what: "cannot start masks from saliency",
    rule: "the limit is at least three times the spread",
    value: "⟨no option⟩",
    fix: `raise ${option("rates.logAlphaLimit")}, or set ${option("start", "constant")}`,
    option: "rates.logAlphaLimit",
  });
  assert.match(error.message, /fix: raise rates\.logAlphaLimit, or set start: "constant"$/);
  assert.match(error.message, /got: ⟨no option⟩/);
  const flags = spelled(error.parts.fix ?? "", (path, value = "") => `--${path} ${value}`.trim());
  assert.equal(flags, "raise --rates.logAlphaLimit, or set --start constant");
});
