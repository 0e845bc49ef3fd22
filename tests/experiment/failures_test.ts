// Cells that fail: what they keep, whose turn it is then, and what is advised. On the demo model.
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { Store } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { exists } from "../../lib/files/exists.ts";
import { failureOf } from "../../lib/experiment/failure.ts";
import { CompressoError, option } from "../../lib/core/errors.ts";
import { experimentTest, json, type Run, TINY } from "./tiny.ts";
import type { CellFile, ExperimentDefinition, ExperimentReport, Measured } from "../../lib/experiment/types.ts";
import { rejects } from "../refuses.ts";

const { choices = [] } = TINY.evaluate ?? {};
const PLAIN: ExperimentDefinition = { ...TINY, grid: { seed: [1] }, evaluate: { choices } };
/** The same with a measure that cannot be taken: so short a row has no answer. */
const WITH_BROKEN: ExperimentDefinition = {
  ...PLAIN,
  evaluate: { choices, rows: [{ name: "answers", file: demoData("heldout"), last: 8, seq: 3 }] },
};
const CELL = "cells/only";

let trained: Promise<string> | null = null;

/** Puts the finished plain experiment into a folder. All tests share its one run. */
async function finish(run: Run, out: string, { keep }: { readonly keep: "none" | "models" }): Promise<void> {
  trained ??= Deno.makeTempDir().then(async (folder) => {
    globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
    await run(PLAIN, folder, { keep: "models" });
    return folder;
  });
  cpSync(await trained, out, { recursive: true });
  if (keep === "models") return;
  await Deno.remove(`${out}/${CELL}/model`, { recursive: true });
  await new Store(out).setCell("only", { ...await json<CellFile>(`${out}/${CELL}/cell.json`), keepsModel: false });
}

experimentTest(
  "running anew what lacks a measure that cannot be taken costs no finished run, and is a failure all the same",
  async (run, out) => {
    await finish(run, out, { keep: "none" });
    const result = await Deno.readTextFile(`${out}/${CELL}/run.json`);
    const values = await Deno.readTextFile(`${out}/${CELL}/measures.json`);
    const failed: string[] = [];
    const redone = await run(WITH_BROKEN, out, { redo: true, onFailure: ({ name }) => failed.push(name) });
    assert.deepEqual([redone.worked, failed], [["only"], ["only"]]);
    assert.deepEqual(redone.result.failed.map(({ cell }) => cell), ["only"]);
    assert.match(redone.result.failed[0]?.message ?? "", /perplexity over rows/);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), result);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/measures.json`), values);
    const { groups, unfinished } = await json<ExperimentReport>(`${out}/report.json`);
    assert.equal(groups[0]?.numbers["questions"]?.n, 1);
    assert.match(unfinished[0]?.state ?? "", /^failed: cannot measure perplexity over rows/);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /## Not finished\n\n- only: failed: cannot measure/);

    const later = await run(WITH_BROKEN, out);
    assert.deepEqual(later.worked, [], "without its model only --redo can measure it");
    assert.equal(later.result.failed.length, 1, "it has failed before");
    const without = await run(PLAIN, out);
    assert.deepEqual([without.worked, without.result.left, without.result.failed], [[], 0, []]);
  },
);

experimentTest(
  "a measure that fails on a model that was kept leaves the other values in the tables, and the model",
  async (run, out) => {
    await finish(run, out, { keep: "models" });
    const store = new Store(out), outcome = await store.outcome("only");
    for (const evaluateOnly of [true, false]) {
      const { worked, result } = await run(WITH_BROKEN, out, { evaluateOnly });
      assert.deepEqual([worked, result.failed.map(({ cell }) => cell)], [["only"], ["only"]]);
      assert.equal(result.report.groups[0]?.numbers["questions"]?.n, 1);
      assert.doesNotMatch(await Deno.readTextFile(`${out}/report.md`), /No cell is finished/);
    }
    assert.deepEqual(await store.outcome("only"), outcome);
    const { failure } = await json<CellFile>(`${out}/${CELL}/cell.json`);
    assert.deepEqual([failure?.code, failure?.tries], ["input", 2]);
    assert.deepEqual((await run(PLAIN, out)).worked, []);

    const ran = await Deno.readTextFile(`${out}/${CELL}/run.json`);
    const fixed = await run({ ...PLAIN, evaluate: TINY.evaluate }, out, { evaluateOnly: true, redo: true });
    assert.deepEqual([fixed.worked, fixed.result.failed, fixed.result.left], [["only"], [], 0]);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), ran, "measuring alone prunes nothing anew");
    assert.ok(await exists(`${out}/${CELL}/model`));
  },
);

experimentTest(
  "running anew a cell whose definition has changed keeps the old run until the new one begins",
  async (run, out) => {
    await finish(run, out, { keep: "none" });
    const changed = { ...WITH_BROKEN, base: { ...PLAIN.base, steps: 2 } };
    const tables = await Deno.readTextFile(`${out}/report.md`);
    await rejects(run(changed, out, { evaluateOnly: true }), "mismatch", { value: [3, 2] });
    assert.equal(await Deno.readTextFile(`${out}/report.md`), tables, "nothing is written in its place");
    // To measure alone goes before, and says so.
    const notes: string[] = [], onNote = (line: string): unknown => notes.push(line);
    assert.deepEqual((await run(changed, out, { evaluateOnly: true, redo: true, onNote })).worked, []);
    assert.match(notes.join(), /1 cells have failed or changed.*redo without evaluateOnly/);
    const { result } = await run(changed, out, { redo: true });
    assert.deepEqual(result.failed.map(({ cell }) => cell), ["only"]);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /- only: failed: cannot measure perplexity over rows/);
    const kept = await run(PLAIN, out);
    assert.deepEqual([kept.worked, kept.result.left], [[], 0]);

    // More columns stay than may: known as soon as the model is, before the first step.
    const refused = { ...PLAIN, base: { ...PLAIN.base, sparsity: 0.9, minFfn: 80, units: "ffn" } };
    assert.equal((await run(refused, out, { redo: true })).result.failed.length, 1);
    assert.equal((await run(PLAIN, out)).result.left, 0);
  },
);

experimentTest(
  "cells that failed have their turn after the others, those that were tried least first",
  async (run, out) => {
    const definition: ExperimentDefinition = {
      ...TINY,
      base: { ...TINY.base, minFfn: 80, units: "ffn" },
      grid: { sparsity: [0.9, 0.8, 0.05] },
      evaluate: {},
    };
    const worked: string[] = [];
    for (let sitting = 0; sitting < 5; sitting++) {
      worked.push(...(await run(definition, out, { maxCells: 1 })).worked.map((name) => name.replace("sparsity=", "")));
    }
    assert.deepEqual(worked, ["0.9", "0.8", "0.05", "0.9", "0.8"]);
  },
);

experimentTest(
  "changed cells that fail before they begin have their turn after the others, and are failures in later sittings too",
  async (run, out) => {
    const definition: ExperimentDefinition = {
      ...TINY,
      base: { ...TINY.base, units: "ffn" },
      grid: { sparsity: [0.2, 0.05] },
      evaluate: {},
    };
    await run(definition, out);
    const changed = { ...definition, base: { ...definition.base, minFfn: 80 } }, worked: string[] = [];
    const ran = await Deno.readTextFile(`${out}/cells/sparsity=0.2/run.json`);
    for (let sitting = 0; sitting < 3; sitting++) {
      const { worked: now, result } = await run(changed, out, { redo: true, maxCells: 1 });
      worked.push(...now);
      assert.deepEqual(result.failed.map(({ cell }) => cell), ["sparsity=0.2"], `sitting ${sitting}`);
    }
    assert.deepEqual(worked, ["sparsity=0.2", "sparsity=0.05", "sparsity=0.2"]);
    assert.equal(await Deno.readTextFile(`${out}/cells/sparsity=0.2/run.json`), ran, "what it was stays");
    assert.match(await Deno.readTextFile(`${out}/report.md`), /- sparsity=0\.2: failed: /);

    // Another definition has not failed yet, and the run that begins leaves nothing of it.
    const fixed = { ...changed, base: { ...changed.base, minFfn: 1 } };
    const { result } = await run(fixed, out, { redo: true, only: new Map([["sparsity", ["0.2"]]]) });
    assert.deepEqual([result.failed, result.left], [[], 0]);
    assert.equal((await json<CellFile>(`${out}/cells/sparsity=0.2/cell.json`)).next, undefined);
  },
);

experimentTest(
  "a measure that failed and is no longer wanted costs no kept model, and is no failure of those that come later",
  async (run, out, other) => {
    const later = { ...PLAIN, evaluate: TINY.evaluate };
    for (const folder of [out, other]) {
      const keep = folder === out ? "models" : "none";
      await finish(run, folder, { keep });
      const ran = await Deno.readTextFile(`${folder}/${CELL}/run.json`);
      for (const tries of [1, 2]) {
        assert.equal((await run(WITH_BROKEN, folder, { keep, redo: true })).result.failed.length, 1);
        assert.equal((await json<CellFile>(`${folder}/${CELL}/cell.json`)).failure?.tries, tries);
      }
      assert.deepEqual((await run(PLAIN, folder, { keep })).result.failed, []);
      const { worked, result } = await run(later, folder, { keep, redo: folder === out });
      assert.deepEqual(result.failed, []);
      assert.deepEqual([worked, result.left], folder === out ? [["only"], 0] : [[], 1]);
      assert.deepEqual(result.report.unfinished, []);
      assert.equal(await Deno.readTextFile(`${folder}/${CELL}/run.json`), ran, "nothing is pruned anew");
    }
  },
);

experimentTest(
  "a sitting that only measures leaves the model that an earlier one kept, and removes those that it prunes",
  async (run, out, other) => {
    const later = { ...PLAIN, evaluate: TINY.evaluate };
    await finish(run, out, { keep: "models" });
    const { worked, result } = await run(later, out);
    assert.deepEqual([worked, result.failed], [["only"], []]);
    assert.ok(await exists(`${out}/${CELL}/model`));
    await run(later, other);
    assert.ok(!(await exists(`${other}/${CELL}/model`)));
  },
);

experimentTest("a model that was kept stays, also where a measure of it failed meanwhile", async (run, out) => {
  await finish(run, out, { keep: "models" });
  assert.equal((await run(WITH_BROKEN, out)).result.failed.length, 1);
  // With a measure that is missing still, so that the failure stands, and then with all of them.
  const path = `${out}/${CELL}/cell.json`, file = await json<CellFile>(path);
  await Deno.writeTextFile(path, JSON.stringify({ ...file, failure: { ...file.failure, missing: undefined } }));
  const { worked, result: { failed } } = await run({ ...PLAIN, evaluate: TINY.evaluate }, out);
  assert.deepEqual([worked, failed], [["only"], []]);
  assert.ok(await exists(`${out}/${CELL}/model`));
});

experimentTest("a run that failed and has been pruned since is measured, and not pruned anew", async (run, out) => {
  await finish(run, out, { keep: "none" });
  const store = new Store(out), { identity } = await json<CellFile>(`${out}/${CELL}/cell.json`);
  // As if the GPU had been lost before the first checkpoint.
  await store.begin("only", identity, { restarts: true });
  const failure = { code: "gpu", message: "it was lost", tries: 1 } as const;
  await store.setCell("only", { identity, failure });
  assert.equal((await store.stateOf("only", identity, [])).kind, "failed");
  const stop = new AbortController(), both = { ...PLAIN, evaluate: TINY.evaluate };
  const phases: string[] = [];
  await assert.rejects(run(both, out, {
    signal: stop.signal,
    onPhase: (phase) => {
      // What the model was is measured before it is pruned.
      if (phase.startsWith("measuring") && phases.includes("writing the model")) stop.abort();
      phases.push(phase);
    },
  }));
  assert.equal((await store.stateOf("only", identity, [])).kind, "pruned");
  const ran = await Deno.readTextFile(`${out}/${CELL}/run.json`);
  const { worked, result } = await run(both, out, { redo: true });
  assert.deepEqual([worked, result.failed, result.left], [["only"], [], 0]);
  assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), ran);
});

experimentTest(
  "running anew what failed while it was measured only measures, where its model was kept",
  async (run, out) => {
    const id = "choices questions", measures = `${out}/${CELL}/measures.json`;
    await finish(run, out, { keep: "models" });
    const ran = await Deno.readTextFile(`${out}/${CELL}/run.json`), measured = await json<Measured>(measures);
    // As if the GPU had been lost meanwhile.
    const missing = { [id]: measured[id]?.identity ?? "" };
    const failure = { code: "gpu", message: "it was lost", tries: 1, missing } as const;
    await Deno.writeTextFile(measures, "{}");
    await new Store(out).setCell("only", { ...await json<CellFile>(`${out}/${CELL}/cell.json`), failure });
    const { worked, result } = await run(PLAIN, out, { keep: "models", redo: true });
    assert.deepEqual([worked, result.failed, result.left], [["only"], [], 0]);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), ran);
    assert.deepEqual(await json<Measured>(measures), measured);
  },
);

experimentTest(
  "a run that an alarm stops is advised of what an experiment can do, which costs no other run and no other setting",
  async (run, out) => {
    const base = { ...TINY.base, sparsity: 0.1, prefinetune: 6, steps: 2, postfinetune: 0 };
    const definition: ExperimentDefinition = {
      ...TINY,
      base: { ...base, onAlarm: ["divergence=stop:0.4", "constraint=off"] },
      grid: { loraRate: [0.001, 1] },
      evaluate: {},
    };
    const { result } = await run(definition, out);
    assert.deepEqual(result.failed.map(({ cell }) => cell), ["loraRate=1"]);
    const message = result.failed[0]?.message ?? "";
    assert.match(
      message,
      /got: the loss runs away.*; fix: lower the learning rate of LoRA \(loraRate, or `finetune\.lora` where a schedule sets it\).*, and run it again \(redo\); or let it continue/,
    );
    assert.match(message, /onAlarm "divergence=warn:0\.4,constraint=off" for this run/);
    assert.match(message, /and redo, which also repeats finished runs in which divergence raised an alarm$/);
    assert.doesNotMatch(message, /--resume|--overwrite|\(prune|--lora-rate/);
    assert.doesNotMatch(await Deno.readTextFile(`${out}/report.md`), /--resume/);

    const files = async (): Promise<string[]> =>
      await Promise.all(
        ["run", "cell"].map((name) => Deno.readTextFile(`${out}/cells/loraRate=0.001/${name}.json`)),
      );
    const before = await files(), [, setting = ""] = /\(set onAlarm=(\S+)\), and/.exec(message) ?? [];
    const again = await run(definition, out, { set: { onAlarm: [setting] }, redo: true });
    assert.deepEqual([again.worked, again.result.failed, again.result.left], [["loraRate=1"], [], 0]);
    assert.deepEqual(await files(), before);
    const alarms = again.result.report.cells.map(({ alarms }) => alarms.map(({ action }) => action));
    assert.deepEqual(alarms, [[], ["warn"]]);
    const { identity } = await json<CellFile>(`${out}/cells/loraRate=1/cell.json`);
    assert.partialDeepStrictEqual(identity["monitors"], {
      divergence: { action: "warn", threshold: 0.4 },
      constraint: null,
    });
  },
);

Deno.test("a fix that names options of prune names those of an experiment", () => {
  const cell = { state: { kind: "new" }, options: {} } as const;
  const fixOf = (code: "gpu" | "input", fix: string): string =>
    failureOf(new CompressoError(code, { what: "cannot go on", rule: "it fits", fix }), cell).message;
  assert.match(
    fixOf("gpu", `use ${option("baseDtype", "q4")}, or ${option("recompute", true)}`),
    /baseDtype: q4, or recompute: true$/,
  );
  assert.match(fixOf("input", `fix the row (${option("skipBroken")})`), /fix the row \(skipBroken of the data\)$/);
  assert.match(
    fixOf("input", `raise ${option("seq")}, or ${option("prompt", "null")}`),
    /raise seq, or prompt: false$/,
  );
  assert.match(fixOf("input", `lower ${option("seq")}, or give --text`), /lower seq, or give --text$/);
});

experimentTest("a prompt that texts do not get is refused, and those of instructions run", async (run, out) => {
  const file = demoData("train");
  const definition = {
    ...PLAIN,
    data: { texts: { file, textField: "input", limit: 60 }, instructions: { file, limit: 60 } },
    grid: { data: ["texts", "instructions"], prompt: [true, false] },
    base: { ...PLAIN.base, seq: 192 },
  };
  const { result } = await run(definition, out);
  assert.deepEqual(result.failed.map(({ cell }) => cell), ["data=texts,prompt=on"]);
  assert.match(result.failed[0]?.message ?? "", /set prompt to false/);
  assert.equal(result.left, 1);
});
