// Isolated scripts that stop: what is said of those that lack something here, and of those that are wrong anywhere.
import assert from "node:assert/strict";
import { assertNames } from "../refuses.ts";
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
  const loads = "it is a script that loads and returns values", loaded = "while it was loaded: ";
  const head = 'import { cubic, defineSchedule } from "compresso";\n';
  const cases: readonly (readonly [string, string, string])[] = [
    ["export default { sparsity: 0.2 };", "its default export is defineSchedule({ … })", `${loaded}object`],
    ["export const a = 1;", "its default export is defineSchedule({ … })", `${loaded}no default export`],
    [`${head}cubic({ to: 1, warmup: 2 });`, "warmup lies in [0, 1]", `${loaded}2, line 2`],
    [
      `${head}export default defineSchedule({ sparcity: 1 });`,
      "its parts are some of sparsity, layers, freeze, end, rates, finetune, postfinetune",
      `${loaded}sparcity, line 2`,
    ],
    [scriptOf({ top: "const a = ;" }), loads, `${loaded}TypeError: SyntaxError: `],
    [scriptOf({ body: 'throw new Error("no such layer");' }), loads, "at step 4 of 20: Error: no such layer, line 3"],
    [scriptOf({ body: "missing();" }), loads, "at step 4 of 20: ReferenceError: missing is not defined, line 3"],
    [scriptOf({ body: "throw 7;" }), loads, "at step 4 of 20: it threw 7"],
  ];
  for (const [text, rule, value] of cases) {
    const parts = await refusalOf(lair, text);
    assert.equal(parts.rule, rule);
    assert.ok(parts.value?.startsWith(value), parts.value);
    assert.equal(parts.fix, "fix the script");
  }
});

Deno.test("a script that wants what the sandbox took away is told of --trust", async () => {
  await using lair = new Lair();
  const wants = ["Deno.pid;", "Date.now();", "Math.random();", 'Function("return 1")();'].map((body) => ({ body }));
  const imports = ['import "./other.ts";', 'import { loadModel } from "compresso"; loadModel();'].map((top) => ({
    top,
  }));
  for (const parts of [...wants, ...imports]) {
    const { value, fix } = await refusalOf(lair, scriptOf(parts));
    assertNames(fix ?? "", "trustSchedule", value);
    assert.ok(!fix?.includes(";"), "without a condition");
  }
});

Deno.test("where it cannot be told which of both it is, --trust stands under a condition", async () => {
  await using lair = new Lair();
  const late = "Promise.reject(new Error('late')); await new Promise(() => {});";
  for (const parts of [{ body: "[].at(3).heads;" }, { body: "globalThis.Deno.pid;" }, { top: late }]) {
    const { rule, fix } = await refusalOf(lair, scriptOf(parts));
    assert.equal(rule, "it is a script that loads and returns values");
    assertNames(fix ?? "", "trustSchedule");
    assert.ok(fix?.includes(";"), "under a condition");
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
  assert.deepEqual([rule, fix], ["layers are even", "fix the script"]);
});
