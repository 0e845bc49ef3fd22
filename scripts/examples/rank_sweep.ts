// LoRA of rank 2, 4 and 8 (the paper's sweep) at the same budget, on the demo model.
//
//   deno run -A scripts/examples/rank_sweep.ts [steps] [ranks] [rows] [questions]      for example: rank_sweep.ts 80 2,4,8,16
//
// Prints the parameters of LoRA, the loss of the last steps and the share of held-out questions answered correctly, of one seed and few steps.
import { loadModel, openDevice, prune, readRows } from "compresso";
import { encodeChoices, scoreChoices } from "compresso/evaluate";
import { demoData, loadModelFrom } from "compresso/model";

const steps = Number(Deno.args[0] ?? 40), ranks = (Deno.args[1] ?? "2,4,8").split(",").map(Number);
using device = await openDevice();
using model = await loadModel("demo", { device });
const { tokenizer } = model;
if (!tokenizer) throw new Error("the demo has no tokenizer");
const { rows } = await readRows(demoData("train"), { limit: Number(Deno.args[2] ?? 4000) });
const questions = encodeChoices((await readRows(demoData("heldout"))).rows, {
  tokenizer,
  limit: Number(Deno.args[3] ?? 100),
});
console.log("rank  trained   last loss  right");
for (const rank of ranks) {
  // alpha = 2 · rank keeps the scale of the update the same.
  const lora = { rank, alpha: 2 * rank };
  using run = prune(model, { rows, sparsity: 0.3, steps, batch: 4, seq: 128, prompt: null, lora });
  const losses: number[] = [];
  for await (const { loss } of run) losses.push(loss);
  const last = losses.slice(-8), mean = last.reduce((sum, loss) => sum + loss, 0) / last.length;
  const trained = [...run.result().lora.weights.values()].reduce((sum, { length }) => sum + length, 0);
  const { source } = await run.slice();
  using small = await loadModelFrom(source, { device, tokenizer });
  const { accuracy } = await scoreChoices(small, questions);
  console.log(
    `${String(rank).padEnd(6)}${String(trained).padEnd(10)}${mean.toFixed(3).padEnd(11)}${
      (100 * accuracy).toFixed(1)
    } %`,
  );
}
