// Isolated scripts: where there is no Deno to run them, limits that are none, and what a command line does not hold.
import assert from "node:assert/strict";
import { openSchedule, SCRIPT_API } from "../../lib/schedule/host.ts";
import type { IsolationLimits } from "../../lib/schedule/sandbox/process.ts";
import { spawnSandbox } from "../../lib/schedule/sandbox/sandbox.ts";
import { type Refusal, refuses, rejects } from "../refuses.ts";
import { INPUT, Lair, scriptOf } from "../run/helpers/scripts.ts";

Deno.test("a program made by deno compile starts no sandbox, which would be the program itself, and names the way out", () => {
  const options = { name: "mine.ts", heapMiB: 64, processorSeconds: 1, kitNames: SCRIPT_API, toolkitImports: [] };
  refuses(() => spawnSandbox(options, { isStandalone: true }), "usage", { names: "mine.ts" });
});

Deno.test("limits of an isolated script that no timer, heap or system can hold are refused before it starts", async () => {
  await using lair = new Lair();
  const script = await lair.write(scriptOf({}));
  const broken: readonly (readonly [IsolationLimits, Refusal])[] = [
    ...[Infinity, NaN, 0, -1, 2_147_484].map((value): [IsolationLimits, Refusal] => [
      { startSeconds: value },
      { value, names: ["startSeconds", 2000000] },
    ]),
    [{ stepSeconds: Infinity }, { names: "stepSeconds" }],
    [{ heapMiB: 1.5 }, { value: 1.5, names: ["heapMiB", 0] }],
    [{ processorSeconds: Infinity }, { names: "processorSeconds" }],
  ];
  for (const [limits, message] of broken) {
    await rejects(openSchedule(script, { limits }), "usage", message);
  }
  const largest = { startSeconds: 2_000_000, stepSeconds: 2_000_000, processorSeconds: 2_000_000 };
  await using schedule = await openSchedule(script, { limits: { ...largest, heapMiB: 2_000_000 } });
  assert.equal((await schedule.evaluate(INPUT)).sparsity, 0.1);
});

Deno.test({
  name: "a script that has used its processor time is told how a run goes on",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await using lair = new Lair();
    const limits = { stepSeconds: 60, processorSeconds: 0.5 };
    await using schedule = await openSchedule(await lair.write(scriptOf({ body: "for (;;) {}" })), { limits });
    await rejects(schedule.evaluate(INPUT), "input", { value: 0.5 });
  },
});

Deno.test("names of mod.ts that are too long for a command line are refused, and shorter ones are not", async () => {
  await using lair = new Lair();
  const names = (text: string): string =>
    Array.from({ length: 31 }, (_, index) => `// from "${text}${index}/mod.ts"`).join("\n");
  // Six characters each where they stand in JSON.
  const long = await lair.write(scriptOf({ top: names("\u0001".repeat(490)) }), "long.ts");
  await rejects(openSchedule(long), "input", { value: 32, names: "long.ts" });
  await using schedule = await openSchedule(await lair.write(scriptOf({ top: names("x".repeat(490)) }), "short.ts"));
  assert.equal((await schedule.evaluate(INPUT)).sparsity, 0.1);
});

Deno.test("a schedule that is asked for two steps at once, or after its end, blames the program and no script", async () => {
  await using lair = new Lair();
  const schedule = await openSchedule(await lair.write(scriptOf({})));
  assert.deepEqual(schedule.parts, ["sparsity"]);
  const first = schedule.evaluate(INPUT);
  await rejects(schedule.evaluate(INPUT), "usage", { names: "script.ts" });
  assert.equal((await first).sparsity, 0.1);
  await schedule[Symbol.asyncDispose]();
  await rejects(schedule.evaluate(INPUT), "usage", { names: "script.ts" });
});
