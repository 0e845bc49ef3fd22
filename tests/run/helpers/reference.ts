// Reference for the tests of generation and evaluation: everything computed from Model.logits alone, on the CPU in f64,
// without caches, batches and padding.
import assert from "node:assert/strict";
import type { Device } from "../../../lib/gpu/device.ts";
import { openHfFolder } from "../../disk.ts";
import type { Tokenizer } from "../../../lib/text/tokenizer.ts";
import { DEMO, openModelFiles } from "../../../lib/local/open_model.ts";
import type { BaseDtype } from "../../../lib/nn/weights.ts";
import type { DecoderSpec } from "../../../lib/spec/decoder.ts";
import { type Adapters, loadModelFrom, type Model } from "../../../lib/model/model.ts";
import { type GoldenName, openGolden } from "../../golden/helpers/golden.ts";

/** A model of fixtures/golden, with its random masks and LoRA. */
export async function openGoldenModel(
  name: GoldenName,
  options: {
    readonly device: Device;
    readonly baseDtype?: BaseDtype;
    /** In place of what the config says. */
    readonly spec?: Partial<DecoderSpec>;
  },
): Promise<{ model: Model; adapters: Required<Omit<Adapters, "experts">> }> {
  const { modelPath, rank, alpha, targets, lora, masks } = await openGolden(name);
  const source = await openHfFolder(modelPath), { device, baseDtype = "f32" } = options;
  const spec = { ...source.spec, ...options.spec };
  const [head, ffn, hidden] = ["head", "ffn", "hidden"].map((kind) => masks.get(`mask.${kind}`));
  assert.ok(head && ffn && hidden, "the golden file holds the three masks");
  return {
    model: await loadModelFrom({ ...source, spec }, { device, baseDtype }),
    adapters: { masks: { head, ffn, hidden }, lora: { rank, alpha, targets, weights: lora } },
  };
}

/** The demo model with its tokenizer. */
export async function openDemo(device: Device): Promise<{ model: Model; tokenizer: Tokenizer }> {
  const { source, tokenizer } = await openModelFiles(DEMO);
  assert.ok(tokenizer, "the demo has a tokenizer");
  return { model: await loadModelFrom(source, { device, tokenizer }), tokenizer };
}

/** Index of the largest value, the first among equals. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] ?? NaN) > (values[best] ?? NaN)) best = i;
  return best;
}

/** Row t of logits [T × vocab]. */
export function rowOf(logits: Float32Array, t: number, vocab: number): Float32Array {
  return logits.subarray(t * vocab, (t + 1) * vocab);
}

/** The most likely continuation, the whole sequence computed anew for each token; ends before an end token. */
export async function greedyReference(
  model: Model,
  prompt: readonly number[],
  options: { readonly maxTokens: number; readonly adapters?: Adapters },
): Promise<number[]> {
  const tokens = [...prompt], { vocab, eosIds } = model.spec;
  while (tokens.length < prompt.length + options.maxTokens) {
    const logits = await model.logits(tokens, options.adapters);
    const next = argmax(rowOf(logits, tokens.length - 1, vocab));
    if (eosIds.includes(next)) break;
    tokens.push(next);
  }
  return tokens.slice(prompt.length);
}

/** Σ −ln p(tokens[t] | tokens before t) over t = from … length − 1, in f64. */
export async function nllReference(
  model: Model,
  tokens: readonly number[],
  options: { readonly from: number; readonly adapters?: Adapters },
): Promise<number> {
  const { vocab } = model.spec, logits = await model.logits(tokens, options.adapters);
  let sum = 0;
  for (let t = options.from; t < tokens.length; t++) {
    const row = rowOf(logits, t - 1, vocab), top = Math.max(...row);
    const total = row.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
    sum += Math.log(total) + top - (row[tokens[t] ?? -1] ?? NaN);
  }
  return sum;
}

/** Token ids below `vocab` in a fixed, irregular order. */
export function someTokens(count: number, vocab: number): number[] {
  return Array.from({ length: count }, (_, index) => (index * index * 7 + index * 31 + 5) % vocab);
}
