// What the fuzzers found: each file ended in an exception that was no CompressoError.
import assert from "node:assert/strict";
import { shownJson } from "../../lib/core/text.ts";
import { openEvaluationFile, QUESTIONS } from "../../lib/eval/evaluation_file.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { readSpec } from "../../lib/formats/open.ts";
import { parseTuning } from "../../lib/gpu/tuning.ts";
import { parseEvaluation } from "../../lib/report/evaluation.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { fixture, jsonFile } from "./format.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { refuses, rejects } from "../refuses.ts";

const UNPRINTABLE = { toString: 1 };

Deno.test("an evaluation's line whose model, task or scores are no texts and numbers is refused", async () => {
  const head = { compresso: "evaluation", version: 1, identity: {} };
  const line = { model: "demo", task: "piqa", place: 0, scores: [-1, -2], truncated: false };
  for (
    const change of [{ model: UNPRINTABLE }, { task: UNPRINTABLE }, { scores: [UNPRINTABLE, -1] }, { scores: [null] }]
  ) {
    await inTemporaryFolder(async (folder) => {
      const lines = [head, line, { ...line, ...change }];
      await Deno.writeTextFile(`${folder}/a.jsonl`, lines.map((one) => `${JSON.stringify(one)}\n`).join(""));
      const opened = openEvaluationFile(`${folder}/a.jsonl`, {}, { kind: QUESTIONS });
      await rejects(opened, "input", { names: "a.jsonl" });
    });
  }
});

Deno.test("an experiment whose share is an object is refused", async () => {
  await inTemporaryFolder(async (folder) => {
    const definition = { name: "a", model: "demo", base: { sparsity: UNPRINTABLE }, grid: {} };
    await Deno.writeTextFile(`${folder}/a.json`, JSON.stringify(definition));
    await rejects(openExperiment(`${folder}/a.json`), "usage", { names: "sparsity" });
  });
});

Deno.test("a tuning table whose version is an object is no table", () => {
  const table = JSON.stringify({ format: "compresso-tuning", version: UNPRINTABLE, entries: {} });
  const read = parseTuning(table, { adapter: "a", kernels: "k" });
  assert.ok(!read.isFit && read.reason.includes(JSON.stringify(UNPRINTABLE)));
});

Deno.test("a value that JSON has no text for is named by what it is", () => {
  assert.deepEqual([shownJson([1n]), shownJson({ a: 1n }), shownJson(1n)], ["a list", "an object", "1"]);
});

Deno.test("an evaluation of more models than a table can show is refused", () => {
  const models = (count: number): string =>
    JSON.stringify({
      models: Array.from({ length: count }, (_, at) => ({ model: `${at}`, perplexity: 9, window: 64 })),
    });
  assert.equal(parseEvaluation(models(100), "a.json").length, 100);
  refuses(() => parseEvaluation(models(101), "a.json"), "input", { names: [101, 100] });
});

Deno.test("a config.json whose type or number of experts is an object is refused", async () => {
  const config = JSON.parse(new TextDecoder().decode(fixture("golden/gqa_llama3/model/config.json")));
  for (const change of [{ model_type: UNPRINTABLE }, { text_config: { model_type: UNPRINTABLE } }]) {
    const files = memoryFiles([["model/config.json", jsonFile({ ...config, ...change })]]);
    await rejects(readSpec(files, "model"), "input", { names: "model/config.json" });
  }
  const files = memoryFiles([["model/config.json", jsonFile({ ...config, num_experts: UNPRINTABLE })]]);
  assert.equal((await readSpec(files, "model")).hidden, config.hidden_size);
});
