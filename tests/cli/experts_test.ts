// Experts cut from the command line: scored on data, cut again by the scores of the first run, and what is refused.
import assert from "node:assert/strict";
import { ROWS, writeExperts } from "../run/helpers/experts.ts";
import { stringWidth } from "../../cli/packages.ts";
import { expertLines } from "../../cli/verbs/inspect/experts.ts";
import type { ExpertUse } from "../../lib/slice/expert_use.ts";
import { assertNames } from "../refuses.ts";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("prune cuts experts by its data, and another share by the scores that it left", async () => {
  using folder = new TemporaryFolder();
  const { gguf, folder: model } = await writeExperts(folder.path),
    first = folder.at("first"),
    second = folder.at("second");
  const how = ["--units", "experts", "--steps", "0", "--no-tuning"];
  const data = ["--data", ROWS, "--limit-rows", "40", "--seq", "48"];
  const text = folder.at("text.txt");
  await Deno.writeTextFile(
    text,
    "Tom went to the garden by train, and Ann looked for the red ball all day. ".repeat(40),
  );
  const measured = [...data, "--eval-text", text];
  const one = await json(["prune", gguf, ...how, "--sparsity", "0.3", ...measured, "--out", first]);
  assert.deepEqual([one.experts.before, one.experts.after, one.options.method], [12, 8, "reap"]);
  await assertPlanned(gguf, one, first);
  await assertInspected(gguf, ["--limit-rows", "40", "--seq", "48"], one.experts.use);
  const scores = `${first}/scores.json`;
  const two = await json(["prune", gguf, ...how, "--sparsity", "0.6", "--scores", scores, "--out", second]);
  assert.deepEqual([two.experts.after, two.data.rows], [4, 0]);
  assert.deepEqual(two.experts.scores, one.experts.scores);
  const { spec } = await json(["inspect", `${second}/model.gguf`]);
  assert.deepEqual(spec.layers.map((layer: { experts: { count: number } }) => layer.experts.count), [2, 2]);
  // The folder has weights of f32, so these are scores of another model.
  const out = folder.at("third"), other = ["prune", model, ...how, "--sparsity", "0.3", "--scores", scores];
  await refused([...other, "--out", out], "mismatch");
  const broken = folder.at("broken.json");
  await Deno.writeTextFile(broken, "{");
  await refused(["prune", gguf, ...how, "--sparsity", "0.3", "--scores", broken, "--out", out], "input", {
    names: broken,
  });
  // Units of the layers are refused before their other options are looked at.
  const usual = ["prune", gguf, "--sparsity", "0.3", "--data", ROWS, "--seq", "100000", "--out", out];
  await refused(usual, "usage", { names: ["--units experts", "--steps 0"] });
});

/** `plan` tells the experts that stay, the bytes of the files, and the memory that the run took. */
async function assertPlanned(model: string, summary: Summary, out: string): Promise<void> {
  const args = ["plan", model, "--units", "experts", "--seq", "48"], share = ["--sparsity", "0.3"];
  const { peakBytes, experts: told } = await json([...args, ...share]), { experts, kept, parameters, files } = told;
  assert.deepEqual([experts, kept], [{ before: 12, after: 8 }, [4, 4]]);
  assert.deepEqual(parameters, summary.parameters);
  assert.equal(peakBytes, summary.peakGpuBytes);
  // 32 sequences twice, 8 of 48 tokens and 40 windows of 512 three times, 64 values of 4 bytes each.
  assert.equal(told.stateBytes, 4 * 64 * (2 * 32 * 48 + 3 * (8 * 48 + 40 * 512)));
  const bytes = async (path: string): Promise<number> => (await Deno.stat(path)).size;
  assert.equal(files.hf.after, await bytes(`${out}/model/model.safetensors`));
  // Both files have the tokenizer too. Only the entries for name and origin differ.
  const added = await bytes(model) - files.gguf.before, own = await bytes(`${out}/model.gguf`) - files.gguf.after;
  assert.ok(added > 0 && Math.abs(own - added) <= 256, `${added}, ${own}`);
  assert.equal(files.gguf.dtype, "q8_0");
  const { code, stdout } = await cli([...args, ...share]);
  assert.equal(code, 0);
  assertNames(stdout, ["4 of 6", "q8_0", "units experts"]);
  assert.equal((await json(args)).experts.experts, null);
  await refused([...args, "--sparsity", "0.9"], "usage", { option: "--sparsity", value: 0.9 });
  await refused([...args, ...share, "--time"], "usage", { value: "--units experts" });
  await refused([...args, ...share, "--rank", "4"], "usage", { option: "--rank" });
  await refused([...args, "--target-params", "1M"], "usage", { option: "--sparsity" });
  await refused(["plan", "demo", ...share], "usage", { option: "--sparsity" });
  await refused(["plan", "demo", "--units", "experts"], "usage", { value: "dense" });
}

/** The part of the run's summary that a plan foretells. */
interface Summary {
  readonly parameters: unknown;
  readonly peakGpuBytes: number;
}

/** `inspect` shows the use that the run has measured on the same rows. */
async function assertInspected(model: string, how: readonly string[], use: ExpertUse): Promise<void> {
  const args = ["inspect", model, "--experts", ROWS, ...how], { experts } = await json(args);
  assert.deepEqual([experts.data, experts.tokens, experts.topK], [ROWS, use.tokens, 2]);
  for (const [layer, own] of use.layers.entries()) {
    const { tokens, share, weight, reap } = experts.layers[layer];
    assert.deepEqual({ tokens, weight, output: reap }, own);
    // A token has two experts.
    assert.ok(Math.abs(share.reduce((sum: number, one: number) => sum + one, 0) - 2) <= 1e-12);
  }
  const { code, stdout } = await cli(args), lines = stdout.split("\n");
  assert.equal(code, 0);
  const table = lines.slice(lines.findIndex((line) => line.startsWith("layer  measure")) + 1).join("\n");
  const [first] = use.layers, most = Math.max(...first?.tokens ?? []);
  assert.ok(table.includes(`${(100 * most / use.tokens).toFixed(2)} % (${first?.tokens.indexOf(most)})`), table);
}

Deno.test("the table of experts fits 80 columns, with a dense layer and many experts", () => {
  const count = 130, tokens = Array.from({ length: count }, (_, expert) => expert % 7 === 0 ? 0 : expert);
  const own = { tokens, share: tokens.map((one) => one / 500), weight: tokens, reap: tokens.map((one) => one * 1e-7) };
  const lines = expertLines({ data: "rows.jsonl", tokens: 500, topK: 8, layers: [null, own] });
  assert.deepEqual(lines.filter((line) => stringWidth(line) > 80), []);
  // 130 experts in lines of 32, for each of three measures.
  const [, ...blocks] = lines.filter((line) => /[█·]/.test(line));
  assert.equal(blocks.length, 3 * 5);
  assert.equal([...blocks.join("").matchAll(/[·▁▂▃▄▅▆▇█]/g)].length, 3 * count);
  assert.equal([...blocks.join("").matchAll(/·/g)].length, 3 * 19);
  assert.ok(lines.some((line) => line.trim() === "0  dense"));
});

Deno.test("inspect refuses to measure experts of a dense model, and flags of the measure without it", async () => {
  await refused(["inspect", "demo", "--experts", ROWS], "usage", { value: "dense" });
  await refused(["inspect", "demo", "--limit-rows", "3"], "usage", { option: "--limit-rows", value: "--experts" });
  await refused(["inspect", "fixtures/golden_experts/qwen3_moe/model", "--experts", ROWS], "input", {
    value: "no tokenizer",
  });
});
