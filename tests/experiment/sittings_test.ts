// Sittings of an experiment in one folder at a time. On the demo model.
import assert from "node:assert/strict";
import { CompressoError, openDevice } from "../../mod.ts";
import { defineExperiment, planExperiment, runExperiment } from "../../lib/experiment/mod.ts";
import { exists } from "../../lib/files/exists.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { LOCK_FILE } from "../../lib/files/lock.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { rejects } from "../refuses.ts";
import { experimentTest, TINY } from "./tiny.ts";
import type { RunExperimentOptions } from "../../lib/experiment/types.ts";

experimentTest(
  "files that change while a sitting goes on end it before the next cell, and the cells before it stay",
  async (run, out, other) => {
    const schedule = `${other}/schedule.ts`, data = `${other}/rows.jsonl`;
    const lines = (await Deno.readTextFile(demoData("train"))).split("\n").slice(0, 60);
    const script = (share: number): string =>
      `import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: ${share} });`;
    const given: readonly (readonly [path: string, text: string])[] = [
      [schedule, script(0.2)],
      [data, lines.join("\n")],
    ];
    const two = { ...TINY, base: { ...TINY.base, schedule }, data, grid: { seed: [1, 2] }, evaluate: {} };
    const changes = [
      [schedule, script(0.1), /^schedule: script \w+ then, script \w+ now$/],
      [data, lines.slice(1).join("\n"), /^data: \w+ then, \w+ now$/],
    ] as const;
    for (const [path, text, value] of changes) {
      for (const [path, text] of given) await Deno.writeTextFile(path, text);
      const folder = `${out}/${path.length}`, cells: string[] = [];
      const onCell = ({ name }: { readonly name: string }): void => {
        if (cells.push(name) === 2) Deno.writeTextFileSync(path, text);
      };
      await assert.rejects(run(two, folder, { onCell }), (error) => {
        assert.ok(error instanceof CompressoError && error.code === "mismatch");
        assert.match(error.parts.value ?? "", value);
        return true;
      });
      assert.deepEqual(cells, ["seed=1", "seed=2"]);
      assert.ok(!(await exists(`${folder}/cells/seed=2`)));
      for (const [path, text] of given) await Deno.writeTextFile(path, text);
      const { worked, result } = await run(two, folder);
      assert.deepEqual([worked, result.failed, result.left], [["seed=2"], [], 0]);
    }
  },
);

experimentTest("a number of runs that is none is refused before one begins", async (run, out) => {
  for (const maxCells of [-1, 1.5, NaN]) {
    const onCell = (): void => assert.fail("a run was begun");
    await assert.rejects(run(TINY, out, { maxCells, onCell }), /maxCells is a whole number/, String(maxCells));
  }
});

experimentTest("a second sitting in the folder of one that works is refused, and may follow it", async (run, out) => {
  const one = { ...TINY, grid: { rank: [2] }, evaluate: {} }, tried: Promise<void>[] = [];
  const onCell = (): void => {
    tried.push(assert.rejects(run(one, out, { redo: true }), (error) => {
      assert.ok(error instanceof CompressoError);
      assert.deepEqual([error.code, error.parts.value], ["usage", "another one writes to it"]);
      return true;
    }));
  };
  const { result } = await run(one, out, { onCell, maxCells: 1 });
  assert.equal(tried.length, 1);
  await Promise.all(tried);
  assert.deepEqual([result.failed, result.left], [[], 0]);
  for (const folder of [out, `${out}/cells/rank=2`]) assert.ok(!(await exists(`${folder}/${LOCK_FILE}`)), folder);
  const { result: again } = await run(one, out);
  assert.deepEqual([again.failed, again.left], [[], 0]);
});

experimentTest(
  "a run that breaks the GPU ends the sitting, and the others have their turn in the next one first",
  async (run, out) => {
    const two = { ...TINY, grid: { seed: [1, 2] }, evaluate: {} }, notes: string[] = [];
    using fragile = await openDevice();
    const worked: string[] = [];
    const { failed, left } = await runExperiment(defineExperiment(two), {
      device: fragile,
      out,
      onCell: ({ name }) => void worked.push(name),
      onRecord: ({ step }) => {
        if (step === 2) fragile.gpu.destroy();
      },
      onNote: (line) => notes.push(line),
    });
    assert.deepEqual([worked, left], [["seed=1"], 2]);
    assert.deepEqual(failed.map(({ cell }) => cell), ["seed=1"]);
    assert.match(notes.join(), /the GPU failed, so the experiment stops here/);
    const { worked: next, result } = await run(two, out);
    assert.deepEqual([next, result.failed, result.left], [["seed=2", "seed=1"], [], 0]);
  },
);

experimentTest(
  "what a program's own function throws ends the sitting as it is, and its cell goes on in the next one",
  async (run, out) => {
    const mine = new RangeError("the program's own");
    const fail = (): never => {
      throw mine;
    };
    const definition = { ...TINY, grid: { seed: [1, 2] } };
    let isWritten = false;
    const cases: readonly (readonly [state: string, options: Partial<RunExperimentOptions>])[] = [
      ["new", { onModel: () => Promise.reject(mine) }],
      ["new", { onModel: fail }],
      ["stopped", { onRecord: ({ step }) => void (step === 2 && fail()) }],
      ["stopped", { onRecord: ({ step }) => step === 2 ? Promise.reject(mine) : Promise.resolve() }],
      ["stopped", { onPhase: (text) => void (text === "writing the model" && fail()) }],
      // Of the pruned model, not of the one that it was; a measure's own errors are told with its name.
      ["pruned", {
        onPhase: (text) => {
          isWritten ||= text === "writing the model";
          if (isWritten && text.startsWith("measuring")) fail();
        },
      }],
    ];
    for (const [index, [state, options]] of cases.entries()) {
      const worked: string[] = [], failures: string[] = [], folder = `${out}/${index}`;
      await assert.rejects(
        run(definition, folder, {
          ...options,
          onCell: ({ name }) => void worked.push(name),
          onFailure: ({ name }) => void failures.push(name),
        }),
        (error) => error === mine,
        String(index),
      );
      assert.deepEqual([worked, failures], [["seed=1"], []], String(index));
      const [cell] = await planExperiment(defineExperiment(definition), { out: folder });
      assert.equal(cell?.state.kind, state, String(index));
      assert.match(await Deno.readTextFile(`${folder}/report.md`), RegExp(`- seed=1: ${state}\\n`));
    }
    const { result } = await run(definition, `${out}/2`);
    assert.deepEqual([result.failed, result.left], [[], 0]);
    // Work on the cell's model that cannot be done is a failure of that cell.
    const unfit = new CompressoError("numeric", { what: "cannot measure kernels" });
    const { result: { failed } } = await run(definition, `${out}/unfit`, { onModel: () => Promise.reject(unfit) });
    assert.deepEqual(failed.map(({ cell }) => cell), ["seed=1", "seed=2"], "each is told of the model");
  },
);

experimentTest(
  "an error of a program's own function ends the sitting also where its cell comes to its end",
  async (run, out) => {
    const base = {
      ...TINY.base,
      sparsity: 0.4,
      method: "magnitude",
      lora: false,
      onAlarm: "dead-layer=warn:0.1",
    } as const;
    const definition = { ...TINY, base, grid: { seed: [1, 2] }, evaluate: {} }, mine = new RangeError("its own");
    let calls = 0;
    const onAlarm = (): never => {
      calls++;
      throw mine;
    };
    await assert.rejects(run(definition, out, { onAlarm }), (error) => error === mine);
    assert.equal(calls, 1, "none is called after it");
    const cells = await planExperiment(defineExperiment(definition), { out });
    assert.deepEqual(cells.map(({ state }) => state.kind), ["done", "new"]);
  },
);

Deno.test("an experiment is planned without a GPU and without a trace", async () => {
  await inTemporaryFolder(async (folder) => {
    const cells = await planExperiment(defineExperiment(TINY), { out: `${folder}/out`, set: { steps: [9] } });
    assert.deepEqual(cells.map(({ name, steps, state }) => [name, steps, state.kind]), [
      ["rank=2,alpha=4,seed=1", 11, "new"],
      ["rank=4,alpha=8,seed=1", 11, "new"],
      ["rank=2,alpha=4,seed=2", 11, "new"],
      ["rank=4,alpha=8,seed=2", 11, "new"],
    ]);
    assert.ok(!(await exists(`${folder}/out`)));
  });
});

Deno.test("options that sittings and plans do not have, and another word of what is kept, are refused", async () => {
  const refused: readonly (readonly [json: string, plan: string, run: string])[] = [
    ['{"out": "x", "keeps": "models"}', "'keeps'", "keep?"],
    ['{"out": "x", "keep": "all"}', "'keep'", "'all'"],
    ['{"out": "x", "redo": true, "evaluateonly": true}', "'redo'", "evaluateOnly?"],
    ['{"out": "x", "model": {}}', "models?", "models?"],
  ];
  for (const [options, plan, run] of refused) {
    await rejects(planExperiment(defineExperiment(TINY), JSON.parse(options)), "usage", { names: plan });
    await rejects(runExperiment(defineExperiment(TINY), JSON.parse(options)), "usage", { names: run });
  }
});
