// Isolated scripts that stop: what is said of those that lack something here, and of those that are wrong anywhere.
import assert from "node:assert/strict";
import { assertNames, type Data } from "../refuses.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { INPUT, Lair, scriptOf } from "../run/helpers/scripts.ts";

type Parts = CompressoError["parts"];

/** The parts of the error that a script ends with. */
async function refusalOf(lair: Lair, text: string): Promise<Parts> {
  let parts: Parts | null = null;
  await assert.rejects(async () => {
    await using schedule = await openSchedule(await lair.write(text));
    await schedule.evaluate(INPUT);
  }, (error) => {
    assert.ok(error instanceof CompressoError, Deno.inspect(error));
    assert.equal(error.code, "input");
    parts = error.parts;
    return true;
  });
  return parts ?? { what: "" };
}

Deno.test("a script that is wrong anywhere is told of by its own fault, and not sent to --trust", async () => {
  await using lair = new Lair();
  const head = 'import { cubic, defineSchedule } from "compresso";\n', step = "step 4 of 20";
  const cases: readonly (readonly [text: string, value: Data, names?: Data])[] = [
    ["export default { sparsity: 0.2 };", "object", "defineSchedule"],
    ["export const a = 1;", [], "defineSchedule"],
    [`${head}cubic({ to: 1, warmup: 2 });`, [2, "line 2"], "warmup"],
    [`${head}export default defineSchedule({ sparcity: 1 });`, ["sparcity", "line 2"], [
      "sparsity",
      "layers",
      "freeze",
    ]],
    [scriptOf({ top: "const a = ;" }), "TypeError: SyntaxError:"],
    [scriptOf({ body: 'throw new Error("no such layer");' }), [step, "Error: no such layer", "line 3"]],
    [scriptOf({ body: "missing();" }), [step, "ReferenceError: missing is not defined", "line 3"]],
    [scriptOf({ body: "throw 7;" }), [step, 7]],
  ];
  for (const [text, value, names = []] of cases) {
    const parts = await refusalOf(lair, text);
    assertNames(parts.value ?? "", value);
    assertNames(parts.rule ?? "", names);
    assert.ok(parts.fix !== undefined && !parts.fix.includes("trust"), parts.fix);
  }
});

Deno.test("a script that wants what the sandbox took away is told of --trust", async () => {
  await using lair = new Lair();
  const wants = ["Deno.pid;", "Date.now();", "Math.random();", 'Function("return 1")();'].map((body) => ({ body }));
  const imports = ['import "./other.ts";', 'import { loadModel } from "compresso"; loadModel();'].map((top) => ({
    top,
  }));
  const fixes = new Set<unknown>();
  for (const parts of [...wants, ...imports]) {
    const { value, fix } = await refusalOf(lair, scriptOf(parts));
    assertNames(fix ?? "", "trustSchedule", value);
    fixes.add(fix);
  }
  assert.equal(fixes.size, 1, "all the same advice");
});

Deno.test("where it cannot be told which of both it is, --trust stands under a condition", async () => {
  await using lair = new Lair();
  const certain = await refusalOf(lair, scriptOf({ body: "Date.now();" }));
  const late = "Promise.reject(new Error('late')); await new Promise(() => {});";
  for (const parts of [{ body: "[].at(3).heads;" }, { body: "globalThis.Deno.pid;" }, { top: late }]) {
    const { fix } = await refusalOf(lair, scriptOf(parts));
    assertNames(fix ?? "", "trustSchedule");
    assert.notEqual(fix, certain.fix);
  }
});

Deno.test("a script's own error gives no advice in the toolkit's name", async () => {
  await using lair = new Lair();
  const { rule, fix } = await refusalOf(
    lair,
    `import { CompressoError, defineSchedule } from "compresso";
export default defineSchedule({ sparsity: () => {
  throw new CompressoError("input", { what: "no", rule: "layers\\nare even", value: "3", fix: "pass --trust" });
} });`,
  );
  assert.equal(rule, "layers are even");
  assert.ok(fix !== undefined && !fix.includes("trust"), fix);
});
