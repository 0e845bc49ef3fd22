// Isolated scripts: where there is no Deno to run them, limits that are none, and what a command line does not hold.
import assert from "node:assert/strict";
import { openSchedule, SCRIPT_API } from "../../lib/schedule/host.ts";
import type { IsolationLimits } from "../../lib/schedule/sandbox/process.ts";
import { spawnSandbox } from "../../lib/schedule/sandbox/sandbox.ts";
import { refuses, rejectsWith } from "../formats/files.ts";
import { INPUT, Lair, scriptOf } from "../run/helpers/scripts.ts";

Deno.test("a program made by deno compile starts no sandbox, which would be the program itself, and names the way out", () => {
  const options = { name: "mine.ts", heapMiB: 64, processorSeconds: 1, kitNames: SCRIPT_API, toolkitImports: [] };
  const said = /cannot isolate the schedule mine\.ts.*deno compile.*trustSchedule/;
  refuses(() => spawnSandbox(options, { isStandalone: true }), "usage", said);
});

Deno.test("limits of an isolated script that no timer, heap or system can hold are refused before it starts", async () => {
  await using lair = new Lair();
  const script = await lair.write(scriptOf({}));
  const broken: readonly (readonly [IsolationLimits, RegExp])[] = [
    ...[Infinity, NaN, 0, -1, 2_147_484].map((value): [IsolationLimits, RegExp] => [
      { startSeconds: value },
      RegExp(`limit startSeconds of.*a number above 0, at most 2000000; got: ${value}`),
    ]),
    [{ stepSeconds: Infinity }, /limit stepSeconds of.*got: Infinity/],
    [{ heapMiB: 1.5 }, /limit heapMiB of.*a whole number above 0.*got: 1\.5/],
    [{ processorSeconds: Infinity }, /limit processorSeconds of.*got: Infinity/],
  ];
  for (const [limits, message] of broken) {
    await rejectsWith(openSchedule(script, { limits }), "usage", message);
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
    const said = /0\.5 s of processor time in all.*last checkpoint with resume.*fix the script/;
    await rejectsWith(schedule.evaluate(INPUT), "input", said);
  },
});

Deno.test("names of mod.ts that are too long for a command line are refused, and shorter ones are not", async () => {
  await using lair = new Lair();
  const names = (text: string): string =>
    Array.from({ length: 31 }, (_, index) => `// from "${text}${index}/mod.ts"`).join("\n");
  // Six characters each where they stand in JSON.
  const long = await lair.write(scriptOf({ top: names("\u0001".repeat(490)) }), "long.ts");
  const said = /cannot read the schedule .*long\.ts.*command line.*32 such names.*one short/;
  await rejectsWith(openSchedule(long), "input", said);
  await using schedule = await openSchedule(await lair.write(scriptOf({ top: names("x".repeat(490)) }), "short.ts"));
  assert.equal((await schedule.evaluate(INPUT)).sparsity, 0.1);
});

Deno.test("a schedule that is asked for two steps at once, or after its end, blames the program and no script", async () => {
  await using lair = new Lair();
  const schedule = await openSchedule(await lair.write(scriptOf({})));
  assert.deepEqual(schedule.parts, ["sparsity"]);
  const first = schedule.evaluate(INPUT);
  await assert.rejects(schedule.evaluate(INPUT), { code: "usage", message: /one step at a time/ });
  assert.equal((await first).sparsity, 0.1);
  await schedule[Symbol.asyncDispose]();
  await assert.rejects(schedule.evaluate(INPUT), { code: "usage", message: /before it is disposed/ });
});
