import assert from "node:assert/strict";
import { CompressoError, option, plainText, refusal, refuse, respelled } from "../../lib/core/errors.ts";
import { refuses } from "../refuses.ts";

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
  assert.equal(error.parts.fix, 'raise rates.logAlphaLimit, or set start: "constant"');
  const flags = (path: string, value = ""): string => `--${path} ${value}`.trim();
  assert.equal(error.partsAs(flags).fix, "raise --rates.logAlphaLimit, or set --start constant");
  assert.deepEqual(new CompressoError("usage", error.partsAs(option)).partsAs(flags), error.partsAs(flags));
});

Deno.test("a text without marks has its options and their places as data, from which fronts spell it again", () => {
  const marked = `more steps (${option("steps")}), or set ${option("rates.tracking", 1)} and ${
    option("style", "plain")
  }.`;
  const { text, options } = plainText(marked);
  assert.equal(text, 'more steps (steps), or set rates.tracking: 1 and style: "plain".');
  assert.deepEqual(options.map(({ option, value }) => [option, value]), [
    ["steps", undefined],
    ["rates.tracking", "1"],
    ["style", "plain"],
  ]);
  assert.equal(respelled(text, JSON.parse(JSON.stringify(options)), option), marked);
  assert.deepEqual(plainText(text), { text, options: [] });
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
  assert.deepEqual(new CompressoError("input", short).parts, short);
});

Deno.test("a refusal has the data that it is given, and the option that it names first", () => {
  const cause = new Error("below"), reasons = { rule: "a port is at most 65535", value: 70000, cause };
  const error = refusal("usage", `cannot use ${option("port", 70000)}`, reasons);
  refuses(() => refuse("usage", `cannot use ${option("port", 70000)}`, reasons), "usage", {
    option: "port",
    value: 70000,
    names: 65535,
  });
  assert.deepEqual(error.parts, {
    what: "cannot use port: 70000",
    rule: reasons.rule,
    value: "70000",
    option: "port",
  });
  assert.equal(error.cause, cause);
  assert.equal(refusal("usage", `cannot use ${option("port")}`, { ...reasons, option: "host" }).parts.option, "host");
});

Deno.test("an assertion of a refusal fails for another code, option, number or name, and where nothing is refused", () => {
  const work = (): never => refuse("usage", "cannot read a.json", { rule: "1 to 9", value: 13.5, option: "seed" });
  refuses(work, "usage", { option: "seed", value: 13.5, names: ["a.json", 9] });
  for (const expected of [{ option: null }, { option: "see" }, { value: 3.5 }, { value: 13 }, { names: "b.json" }]) {
    assert.throws(() => refuses(work, "usage", expected), assert.AssertionError);
  }
  assert.throws(() => refuses(work, "input"), assert.AssertionError);
  assert.throws(() => refuses(() => 1, "usage"), assert.AssertionError);
  assert.throws(() => refuses(() => JSON.parse("{"), "usage"), assert.AssertionError);
});

Deno.test("an error with another place, what or fix keeps its code, value and options, and is the new one's cause", () => {
  const error = refusal("input", "cannot encode a response", {
    rule: "it has tokens",
    value: 0,
    fix: `set ${option("skipBroken")}`,
  });
  const placed = error.with({ at: "row 3" });
  assert.equal(placed.message, "cannot encode a response, row 3; expected: it has tokens; got: 0; fix: set skipBroken");
  assert.equal(placed.partsAs((path) => `--${path}`).fix, "set --skipBroken");
  assert.ok(placed.code === "input" && placed.cause === error);
  assert.deepEqual(error.with({ what: "cannot", fix: "stop" }).parts, {
    what: "cannot",
    rule: "it has tokens",
    value: "0",
    fix: "stop",
  });
  // Spelled for good: no front spells them again.
  const spelled = error.with({ code: "mismatch", at: "cell 2", spell: (path) => `<${path}>` });
  assert.equal(spelled.code, "mismatch");
  assert.equal(spelled.parts.fix, "set <skipBroken>");
  assert.equal(spelled.cause, error);
  assert.ok(spelled.parts.what.endsWith(", cell 2"), spelled.message);
  assert.deepEqual(spelled.partsAs((path) => `--${path}`), spelled.parts);
});
