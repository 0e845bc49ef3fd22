// The collaborative prompt, on and off in training and at inference: the four cases of the paper, on the demo model.
//
//   deno run -A scripts/examples/prompt_ablation.ts [steps] [questions] [rows]
//
// Prints the tokens of the prompt and the share of held-out questions that each pruned model answers correctly. With few steps by default it takes minutes
// on a CPU: the figures illustrate the method; findings need more steps and several seeds.
import { loadModel, openDevice, prune, readRows } from "compresso";
import { COLLABORATIVE_PROMPT } from "compresso/data";
import { encodeChoices, scoreChoices } from "compresso/evaluate";
import { demoData, loadModelFrom } from "compresso/model";

const steps = Number(Deno.args[0] ?? 40), limit = Number(Deno.args[1] ?? 100);
using device = await openDevice();
using model = await loadModel("demo", { device });
const { tokenizer } = model;
if (!tokenizer) throw new Error("the demo has no tokenizer");
const { rows } = await readRows(demoData("train"), { limit: Number(Deno.args[2] ?? 4000) });
const heldout = await readRows(demoData("heldout"));
console.log("prompt in training  at inference  its tokens in a row  tokens of a question  right");
for (const trained of [true, false]) {
  const prompt = trained ? COLLABORATIVE_PROMPT : null;
  using run = prune(model, { rows, sparsity: 0.3, steps, batch: 4, seq: 240, units: ["kv", "ffn", "hidden"], prompt });
  for await (const { step, loss } of run) {
    if (step % 20 === 0) console.error(`step ${step} of ${run.steps}: loss ${loss.toFixed(3)}`);
  }
  const { source } = await run.slice();
  using small = await loadModelFrom(source, { device, tokenizer });
  for (const asked of [true, false]) {
    const questions = encodeChoices(heldout.rows, {
      tokenizer,
      prompt: asked ? COLLABORATIVE_PROMPT : null,
      limit,
    });
    const { accuracy } = await scoreChoices(small, questions);
    const length = questions.reduce((sum, { prefix }) => sum + prefix.length, 0) / questions.length;
    const cost = [String(run.data.promptTokens).padEnd(21), length.toFixed(0).padEnd(22)].join("");
    console.log(`${word(trained).padEnd(20)}${word(asked).padEnd(14)}${cost}${(100 * accuracy).toFixed(1)} %`);
  }
}

function word(isOn: boolean): string {
  return isOn ? "on" : "off";
}
