// records.jsonl of a session's export: of this run alone, whatever stood in the folder. And an export that is not wanted any more.
import assert from "node:assert/strict";
import { openDevice, prune, type PruneOptions } from "../../mod.ts";
import { loadModelFrom, openModelFiles, type WeightSource } from "../../lib/model/mod.ts";
import { rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { BASE, withShortDemo } from "./helpers/demo_run.ts";

const SHORT = { ...BASE, steps: 2, prefinetune: 1, postfinetune: 1 } as const;
const UNTRAINED = { rows: BASE.rows, method: "magnitude", sparsity: 0.2, steps: 0, batch: 1, seq: 80 } as const;
const OTHERS = [1, 2, 3, 4].map((step) => `${JSON.stringify({ step, loss: 1, gradNorm: 1 })}\n`).join("");

async function linesIn(path: string): Promise<string[]> {
  return (await Deno.readTextFile(path)).split("\n").filter((line) => line !== "");
}

Deno.test("an export of a run without steps keeps no records of an earlier run, and replaces none unasked", async () => {
  await withShortDemo(async ({ model }) => {
    await inTemporaryFolder(async (dir) => {
      const path = `${dir}/records.jsonl`;
      await Deno.writeTextFile(path, OTHERS);
      using run = prune(model, UNTRAINED);
      for await (const _ of run);
      await rejects(run.export(dir, { formats: ["gguf"] }), "input", { names: "records.jsonl" });
      assert.equal(await Deno.readTextFile(path), OTHERS);
      await run.export(dir, { formats: ["gguf"], replace: true });
      assert.deepEqual(await linesIn(path), []);
      await run.export(dir, { formats: ["hf"] });
    });
  });
});

Deno.test("an export of a resumed run takes up its own records, and none of another run", async () => {
  await withShortDemo(async ({ model }) => {
    await inTemporaryFolder(async (dir) => {
      const checkpoint = { path: `${dir}/checkpoint.safetensors`, every: 1000 };
      const before: string[] = [], after: string[] = [];
      const options: PruneOptions = { ...SHORT, checkpoint };
      const controller = new AbortController(), { signal } = controller;
      await assert.rejects(async () => {
        using run = prune(model, { ...options, signal });
        for await (const record of run) {
          if (before.push(JSON.stringify(record)) === 2) controller.abort(new Error("enough"));
        }
      }, /enough/);
      using run = prune(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
      for await (const record of run) after.push(JSON.stringify(record));
      assert.deepEqual([before.length, after.length], [2, 2]);
      for (
        const [name, there, wanted] of [["others", OTHERS, after], ["own", before.join("\n") + "\n", [
          ...before,
          ...after,
        ]]] as const
      ) {
        const out = `${dir}/${name}`, path = `${out}/records.jsonl`;
        await Deno.mkdir(out);
        await Deno.writeTextFile(path, there);
        await run.export(out, { formats: ["gguf"], replace: true });
        assert.deepEqual(await linesIn(path), wanted, name);
      }
      // Taken up once more there is no step left, and the records that stand there are known.
      using done = prune(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
      for await (const _ of done) assert.fail("a step too many");
      await done.export(`${dir}/own`, { formats: ["gguf"], replace: true });
      assert.deepEqual(await linesIn(`${dir}/own/records.jsonl`), [...before, ...after]);
      await Deno.writeTextFile(`${dir}/own/records.jsonl`, [...before, after[0], '{"stage":"po'].join("\n"));
      await Deno.remove(`${dir}/own/model.gguf`);
      await done.export(`${dir}/own`, { formats: ["gguf"] });
      assert.deepEqual(await linesIn(`${dir}/own/records.jsonl`), [...before, after[0]]);
    });
  });
});

Deno.test("an export whose signal has fired already calls no hook and makes no folder", async () => {
  await withShortDemo(async ({ model }) => {
    await inTemporaryFolder(async (dir) => {
      let calls = 0;
      using run = prune(model, { ...SHORT, hooks: { beforeExport: () => void calls++ } });
      for await (const _ of run);
      const signal = AbortSignal.abort(new Error("not wanted"));
      await assert.rejects(run.export(`${dir}/new`, { signal }), /not wanted/);
      assert.deepEqual([calls, await Array.fromAsync(Deno.readDir(dir))], [0, []]);
    });
  });
});

Deno.test("where the sliced model differs from the masked one nothing is written", async () => {
  const { source } = await openModelFiles("demo"), tensor = "model.layers.1.mlp.down_proj.weight";
  let reads = 0, drifts = false;
  const drifting: WeightSource = {
    ...source,
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const values = await source.read(name, rows);
      // Each reading gives others, so that the two models do not have the same.
      if (drifts && name === tensor) values.fill(reads++);
      return values;
    },
  };
  using device = await openDevice();
  const { tokenizer } = await openModelFiles("demo");
  using model = await loadModelFrom(drifting, { device, tokenizer });
  await inTemporaryFolder(async (folder) => {
    using run = prune(model, UNTRAINED);
    for await (const _ of run);
    drifts = true;
    await rejects(run.export(`${folder}/run`), "mismatch", { value: "layer 1" });
    assert.ok(reads > 1, `${reads}`);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  });
});
