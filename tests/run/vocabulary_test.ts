// Runs that cut the vocabulary: alone, with the layers, to a size, resumed.
import assert from "node:assert/strict";
import { prune, pruneToFolder, type RunSummary } from "../../mod.ts";
import { encodeExample } from "../../lib/data/prompts/encode.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { planMemory, type PruneToFolderOptions } from "../../lib/run/mod.ts";
import type { RunPhase } from "../../lib/types/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { loadModel, loadModelFrom, type Model, openModelFiles, parameterCount } from "../../lib/model/mod.ts";
import { rejects } from "../refuses.ts";
import { BASE, withDemo } from "./helpers/demo_run.ts";

/** Options of the demo without steps; by default no prompt stands before the rows. */
const CUT = { rows: BASE.rows, seq: 256, units: ["vocab"], steps: 0 } as const;

async function inFolder<T>(work: (out: string) => Promise<T>): Promise<T> {
  const out = await Deno.makeTempDir();
  try {
    return await work(out);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

async function keptOf(out: string): Promise<number[]> {
  const { kept }: { kept: number[] } = JSON.parse(await Deno.readTextFile(`${out}/vocabulary.json`));
  return kept;
}

Deno.test("a vocabulary is cut alone: both files give the dense model's logits of kept tokens, and its texts", async () => {
  await withDemo(async ({ model, device }) => {
    await inFolder(async (out) => {
      const shares: number[] = [],
        onPhase = (phase: RunPhase, share: number): void => {
          if (phase === "measure") shares.push(share);
        };
      const summary = await pruneToFolder(model, { ...CUT, out, vocab: { size: 0.7 }, onPhase });
      assert.deepEqual([shares[0], shares.at(-1), shares.length], [0, 1, 7]);
      const { vocabulary, parameters, before, masks, options } = summary, kept = await keptOf(out);
      assert.ok(vocabulary?.heldout && vocabulary.growth > 0);
      assert.deepEqual([vocabulary.before, vocabulary.after, kept.length], [768, 538, 538]);
      assert.deepEqual([options.units, options.vocab], [["vocab"], { size: 0.7 }]);
      assert.equal(parameters.before - parameters.after, (768 - 538) * model.spec.hidden);
      assert.deepEqual([before.hidden, masks.hidden.every((share) => share === 1)], [192, true]);
      assert.ok(Math.abs(vocabulary.heldout.before - await bitsPerByte(model)) < 1e-9);
      const text = "Which of these is a color?\n", ids = [3, 40, 200, 537];
      const whole = await model.logits(ids.map((id) => kept[id] ?? 0));
      const expected = ids.flatMap((_, row) => kept.map((id) => whole[row * 768 + id]));
      for (const path of [`${out}/model`, `${out}/model.gguf`]) {
        using small = await loadModel(path, { device });
        assert.deepEqual([...await small.logits(ids)], expected, path);
        const encoded = small.tokenizer?.encode(text) ?? [];
        assert.equal(small.tokenizer?.decode(encoded), text);
        assert.equal(model.tokenizer?.decode(encoded.map((id) => kept[id] ?? 0)), text);
        if (path.endsWith("model")) assert.ok(Math.abs(vocabulary.heldout.after - await bitsPerByte(small)) < 1e-9);
      }
      const { agreement } = vocabulary.heldout;
      assert.ok(agreement);
      const { dropped, klMax, tokens, top1 } = await agreementByHand(`${out}/model`, { model, device, kept });
      assert.equal(agreement.tokens, tokens);
      // f32 in the kernel, f64 here.
      assert.ok(Math.abs(agreement.dropped - dropped) < 1e-5, `${agreement.dropped}, ${dropped}`);
      assert.ok(dropped > 1e-4 && agreement.top1 === top1, `${agreement.top1}, ${top1}`);
      // Over the tokens that both have, softmaxes of the same logits are the same.
      assert.ok(klMax < 1e-6 && Math.abs(agreement.kl) < 1e-5, `${agreement.kl}, ${klMax}`);
      const card = await Deno.readTextFile(`${out}/model/README.md`);
      assert.match(card, /tokens of the vocabulary are removed/);
      assert.match(card, /\| vocabulary \| 538 tokens, before pruning 768/);
    });
  });
});

/** The agreement on held-out rows in f64, from whole logits of both models. */
async function agreementByHand(
  path: string,
  { model, device, kept }: { readonly model: Model; readonly device: Device; readonly kept: readonly number[] },
): Promise<{ dropped: number; klMax: number; top1: number; tokens: number }> {
  using small = await loadModel(path, { device });
  let dropped = 0, klMax = 0, same = 0, count = 0;
  for (const row of BASE.rows.slice(-6)) {
    if (row.kind !== "instruct" || !small.tokenizer) throw new Error("not an instruction of the demo");
    const { tokens, labels } = encodeExample(row, { tokenizer: small.tokenizer, prompt: null, seq: 256 });
    const own = await small.logits([...tokens]), whole = await model.logits([...tokens].map((id) => kept[id] ?? 0));
    for (let at = 0; at + 1 < tokens.length; at++) {
      if ((labels[at + 1] ?? -100) < 0) continue;
      const p = [...own.subarray(at * kept.length, (at + 1) * kept.length)].map(Math.exp);
      const q = [...whole.subarray(at * 768, (at + 1) * 768)].map(Math.exp), qKept = kept.map((id) => q[id] ?? NaN);
      const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
      const [ofP, ofQ] = [sum(p), sum(qKept)];
      dropped += 1 - ofQ / sum(q);
      klMax = Math.max(
        klMax,
        sum(qKept.map((value, id) => value / ofQ * Math.log(value / ofQ / ((p[id] ?? NaN) / ofP)))),
      );
      same += p.indexOf(Math.max(...p)) === qKept.indexOf(Math.max(...qKept)) ? 1 : 0;
      count++;
    }
  }
  return { dropped: dropped / count, klMax, top1: same / count, tokens: count };
}

/** Bits per byte of the held-out rows, a tenth of all, by the losses of their answers. */
async function bitsPerByte(model: Model): Promise<number> {
  let nats = 0, bytes = 0;
  for (const row of BASE.rows.slice(-6)) {
    if (row.kind !== "instruct" || !model.tokenizer) throw new Error("not an instruction of the demo");
    const { tokens, labels } = encodeExample(row, { tokenizer: model.tokenizer, prompt: null, seq: 256 });
    for (const loss of await model.tokenLosses(tokens, labels, { batch: 1 })) nats += loss;
    bytes += new TextEncoder().encode(row.output).length;
  }
  return nats / bytes / Math.LN2;
}

Deno.test("alone, a size is met to within one token, in parameters and in bytes of either file", async () => {
  await withDemo(async ({ model }) => {
    const run = async (size: PruneToFolderOptions["size"]): Promise<RunSummary> =>
      await inFolder(async (out) => await pruneToFolder(model, { ...CUT, out, size }));
    const wanted = parameterCount(model.spec) - 100 * model.spec.hidden - 7;
    const { parameters, vocabulary } = await run({ parameters: wanted });
    assert.ok(parameters.after <= wanted && parameters.after + model.spec.hidden > wanted);
    assert.equal(vocabulary?.after, 768 - 101);
    for (const format of ["hf", "gguf"] as const) {
      const { size, fileBytes } = await run({ bytes: 1_800_000, file: { format, dtype: "f16" } });
      const file = fileBytes.find(({ file }) => file.endsWith(format === "hf" ? "model" : "model.gguf"));
      assert.equal(size?.reached, file?.bytes, format);
      // A row of 192 values and, in a GGUF, its token: at most 64 bytes with their padding.
      assert.ok(size && size.reached <= 1_800_000 && size.reached > 1_800_000 - 2 * 192 - 64, `${size?.reached}`);
    }
    await rejects(run({ parameters: 1000 }), "usage", { value: "1,000" });
  });
});

Deno.test("with the layers, one target counts what both cut, and a resumed run needs the same tokens", async () => {
  await withDemo(async ({ model, device }) => {
    await inFolder(async (out) => {
      const stop = new AbortController();
      const options = {
        ...{ ...BASE, out, sparsity: undefined, size: { parameters: 800_000 }, steps: 3, prefinetune: 0 },
        ...{ postfinetune: 1, calibration: "none" } as const,
        units: ["kv", "ffn", "vocab"] satisfies UnitKind[],
      };
      const stopped = pruneToFolder(model, {
        ...options,
        signal: stop.signal,
        onRecord: ({ step }) => step === 2 ? stop.abort(new DOMException("stop", "AbortError")) : undefined,
      });
      await assert.rejects(stopped, { name: "AbortError" });
      const resumed = { ...options, resume: true };
      const otherRows = pruneToFolder(model, { ...resumed, vocab: { rows: BASE.rows.slice(0, 5) } });
      await rejects(otherRows, "mismatch", { value: "vocabulary:" });
      await rejects(pruneToFolder(model, { ...resumed, vocab: { size: 600 } }), "mismatch", { value: 600 });
      const summary = await pruneToFolder(model, resumed), { batch, seq } = BASE;
      const { vocabulary, parameters, layers, options: written } = summary;
      const adapter = adapterOf(device);
      const size = vocabulary?.after ?? 0, shape = { batch, seq, units: options.units, focus: written.focus, adapter };
      const { peakBytes } = await planMemory(model.spec, { ...shape, vocab: { size } });
      assert.equal(summary.plannedGpuBytes, peakBytes);
      assert.ok(summary.peakGpuBytes <= peakBytes && summary.peakGpuBytes > 0.95 * peakBytes);
      assert.ok(vocabulary && vocabulary.after < 768 && layers.some(({ ffn }) => ffn < 96));
      const rows = (768 - vocabulary.after) * model.spec.hidden, gone = parameters.before - parameters.after;
      assert.ok(rows < gone && parameters.after <= 800_000 && parameters.after > 790_000, `${rows} of ${gone}`);
      assert.deepEqual(written.units, ["kv", "ffn", "vocab"]);
      const { source, tokenizer } = await openModelFiles(`${out}/model`);
      assert.equal(source.spec.vocab, vocabulary.after);
      using small = await loadModelFrom(source, { device, tokenizer });
      assert.equal((await small.logits([1, 2])).length, 2 * vocabulary.after);
    });
  });
});

Deno.test("with steps, LoRA is trained on the cut vocabulary, and the layers keep their widths", async () => {
  await withDemo(async ({ model }) => {
    await inFolder(async (out) => {
      const { rows, batch, seq, prompt } = BASE, units = ["vocab"] as const;
      const summary = await pruneToFolder(model, {
        rows,
        batch,
        seq,
        prompt,
        out,
        units,
        steps: 3,
        vocab: { size: 600 },
      });
      const { vocabulary, heldoutLoss, layers, parameters, sparsity, options, seconds } = summary;
      assert.deepEqual([sparsity.hard, options.steps, options.prefinetune, options.postfinetune], [0, 3, 0, 0]);
      assert.ok(layers.every(({ ffn, heads }) => ffn === 96 && heads === 6));
      assert.deepEqual(parameters.before - parameters.after, (768 - 600) * model.spec.hidden);
      assert.ok(seconds.postfinetune > 0 && seconds.prune === 0 && seconds.finetune === 0);
      // Three steps change the model with the cut vocabulary; its bits per byte are those of the trained one.
      assert.ok(vocabulary?.heldout && heldoutLoss?.bitsPerByte && heldoutLoss.before !== heldoutLoss.after);
      const { agreement } = heldoutLoss;
      assert.ok(agreement && agreement.dropped > 0 && agreement.dropped < 1 && agreement.kl > 0, "cut tokens are told");
      const card = await Deno.readTextFile(`${out}/model/README.md`);
      assert.match(
        card,
        /tokens of the vocabulary are removed[^]*\| training \| LoRA of rank \d+; steps: postfinetune 3/,
      );
      assert.doesNotMatch(card, /\| (sparsity|method) \|/);
      const whole = { rows, out: `${out}/other`, units, steps: 3 };
      for (const [option, idle] of [["sparsity", { sparsity: 0.2 }], ["method", { method: "taylor" }]] as const) {
        await rejects(async () => await pruneToFolder(model, { ...whole, ...idle } as typeof whole), "usage", {
          option,
        });
      }
    });
  });
});

Deno.test("options of the vocabulary without the unit, and options of steps without layers, are refused", async () => {
  await withDemo(async ({ model }) => {
    await inFolder(async (out) => {
      const refused = (option: string, work: () => Promise<unknown>): Promise<void> =>
        rejects(work, "usage", { option });
      const { steps: _steps, ...rest } = BASE;
      await refused("vocab.size", () => pruneToFolder(model, { ...BASE, out, vocab: { size: 500 } }));
      await refused(
        "lora.rank",
        async () => await pruneToFolder(model, { ...CUT, out, ...{ lora: { rank: 3 } } }),
      );
      await refused(
        "calibration",
        async () => await pruneToFolder(model, { ...CUT, out, ...{ calibration: BASE.rows } }),
      );
      await refused("sparsity", async () => await pruneToFolder(model, { ...rest, steps: 0, out, units: ["vocab"] }));
      await refused(
        "units",
        () => Promise.resolve().then(() => prune(model, { ...BASE, units: ["ffn", "vocab"] })),
      );
    });
  });
});
