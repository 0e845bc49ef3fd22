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

Deno.test("a message has at most 2,048 characters, whatever its parts hold: the middle of long ones is left out", () => {
  const long = (letter: string): string => `begin ${letter.repeat(1_000_000)} end`;
  const parts = { what: long("a"), rule: long("b"), value: long("c"), fix: long("d") };
  const error = new CompressoError("input", parts);
  assert(error.message.length <= 2048, `${error.message.length}`);
  assert.match(
    error.message,
    /^begin aa.* … .*aa end; expected: begin b.*b end; got: begin c.*c end; fix: begin d.*d end$/,
  );
  assert.equal(error.parts.value?.length, 500);
  const short = { what: "cannot read it", rule: "a".repeat(1900), value: "b" };
  assert.equal(new CompressoError("input", short).parts, short);
});
