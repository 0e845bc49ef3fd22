// Scoring by token trees with sliding windows: each sequence as it is read alone.
import assert from "node:assert/strict";
import { createTreeBuilder } from "../../lib/nn/token_tree.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

for (const name of ["mistral_window", "ministral_window"] as const) {
  Deno.test(`${name}: losses of sequences that share more than a window are those of each alone`, async () => {
    const device = await sharedDevice();
    const { model } = await openGoldenModel(name, { device });
    using _ = model;
    const prefix = someTokens(20, model.spec.vocab), builder = createTreeBuilder();
    const choices = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [3, 4, 6], [5, 9], [5, 10, 30, 31]];
    for (const choice of choices) {
      const sequence = { prefix, choice };
      builder.add(sequence, builder.shared(sequence));
    }
    const tree = builder.finish();
    assert.ok(tree.tokens.length < 40, "the beginning is read once");
    const losses = await model.treeLosses(tree, { rows: 64 });
    for (const [index, choice] of choices.entries()) {
      const rows = await model.logits([...prefix, ...choice]), { vocab } = model.spec;
      for (const [at, token] of choice.entries()) {
        const position = prefix.length - 1 + at, row = rows.subarray(position * vocab, (position + 1) * vocab);
        const top = Math.max(...row), sum = row.reduce((total, logit) => total + Math.exp(logit - top), 0);
        const wanted = top + Math.log(sum) - (row[token] ?? NaN), actual = losses[tree.paths[index]?.[at] ?? -1] ?? NaN;
        assert.ok(Math.abs(actual - wanted) < 1e-4, `choice ${index}, token ${at}: ${actual}, expected ${wanted}`);
      }
    }
  });
}
