// The part "families": the training step of each family at the widths of LLaMA, against LLaMA's step in turns.
import type { Device } from "../../lib/gpu/device.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { type DecoderSpec, QWEN2_BIASES } from "../../lib/spec/decoder.ts";
import { ALL_UNGATED } from "../../lib/families/shared.ts";
import type { Scale } from "./cases.ts";
import { measureDecode } from "./decode.ts";
import type { Machine } from "./machine.ts";
import { expectedSeconds, flopsOf, stepOperations } from "./operations.ts";
import { type DecoderConfig, randomModel, SMOLLM2, specOf } from "./random_model.ts";
import { median } from "./stats.ts";
import { sectionSeconds } from "./step.ts";
import { type Effort, joined, secondsBy, timed, type Timing, typical } from "./timing.ts";
import { openStep, type StepShape } from "./training_step.ts";

/** One family's step. */
export interface FamilyRow {
  readonly family: string;
  readonly timing: Timing;
  /** Median over the repeats of its time divided by that of LLaMA in the same repeat. */
  readonly ratio: number;
  /** Ratio of the floating-point operations to those of LLaMA. */
  readonly flops: number;
  /** Ratio of the time that its operations would take at the rates that LLaMA's sections have. */
  readonly expected: number;
  /** Seconds of each section replayed alone, less those of LLaMA. */
  readonly extra: Readonly<Record<string, number>>;
  /** Tokens a second of decoding, to those of LLaMA. */
  readonly decoding: number;
}

/** Steps of all families. */
export interface FamiliesResult extends StepShape {
  readonly config: DecoderConfig;
  /** Seconds of LLaMA's step, over all repeats. */
  readonly llama: Timing;
  readonly rows: readonly FamilyRow[];
}

const SHAPES: Readonly<Record<Scale, StepShape>> = {
  full: { batch: 2, seq: 256 },
  quick: { batch: 1, seq: 128 },
  tiny: { batch: 1, seq: 16 },
};
const CONFIGS: Readonly<Record<Scale, DecoderConfig>> = {
  full: { ...SMOLLM2, layers: 4, vocab: 4096 },
  quick: { ...SMOLLM2, layers: 2, vocab: 2048 },
  tiny: { ...SMOLLM2, hidden: 32, layers: 2, heads: 4, kvHeads: 2, headDim: 8, ffn: 64, vocab: 64 },
};
const LAYER_NORM = { norm: "layer", ungated: true, biases: ALL_UNGATED } as const;
const GELU = { activation: "gelu_tanh" } as const;

/** What each family has that LLaMA does not, at LLaMA's widths; windows are a quarter of the sequence. */
const FAMILIES: Readonly<Record<string, (base: DecoderSpec, window: number) => DecoderSpec>> = {
  LLaMA: (base) => base,
  "Mistral, windows": (base, window) => ({ ...base, layers: base.layers.map((layer) => ({ ...layer, window })) }),
  Qwen2: (base) => ({ ...base, biases: QWEN2_BIASES }),
  Qwen3: (base) => ({ ...base, qkNorm: "head" }),
  Gemma: (base) => ({ ...base, ...GELU, scales: { embedding: Math.sqrt(base.hidden) } }),
  "Gemma 2": (base, window) => ({
    ...base,
    ...GELU,
    normPlaces: "both",
    scales: { embedding: Math.sqrt(base.hidden) },
    softCaps: { attention: 50, logits: 30 },
    layers: base.layers.map((layer, index) => index % 2 === 0 ? { ...layer, window } : layer),
  }),
  "Gemma 3": (base, window) => ({
    ...base,
    ...GELU,
    normPlaces: "both",
    qkNorm: "head",
    scales: { embedding: Math.sqrt(base.hidden) },
    rope: { ...base.rope, localBase: 1e4 },
    layers: base.layers.map((layer, index) => index % 6 === 5 ? layer : { ...layer, window, rope: "local" }),
  }),
  "Phi-4-mini": (base) => ({ ...base, rope: { ...base.rope, dims: base.headDim * 3 / 4 }, fused: true }),
  SmolLM3: (base) => ({
    ...base,
    layers: base.layers.map((layer, index) => index % 4 === 3 ? { ...layer, rope: "none" } : layer),
  }),
  Granite: (base) => ({ ...base, scales: { embedding: 12, attention: 1 / 64, residual: 0.22, logits: 8 } }),
  "OLMo 2": (base) => ({ ...base, normPlaces: "after", qkNorm: "whole" }),
  OPT: (base) => ({ ...base, ...LAYER_NORM, activation: "relu", positions: { offset: 2 } }),
  "OPT-350m": (base) => ({
    ...base,
    ...LAYER_NORM,
    activation: "relu",
    positions: { offset: 2 },
    normPlaces: "residual",
    embeddingWidth: base.hidden / 2,
  }),
  "GPT-2": (base) => ({ ...base, ...LAYER_NORM, ...GELU, positions: { offset: 0 } }),
  "GPT-NeoX": (base) => ({
    ...base,
    ...LAYER_NORM,
    activation: "gelu",
    parallel: "own",
    rope: { ...base.rope, dims: base.headDim / 4 },
  }),
  "Phi-2": (base) => ({
    ...base,
    ...LAYER_NORM,
    ...GELU,
    parallel: "shared",
    headBias: true,
    tied: false,
    rope: { ...base.rope, dims: base.headDim / 2 },
  }),
  StableLM: (base) => ({ ...base, norm: "layer", rope: { ...base.rope, dims: base.headDim / 4 } }),
};
const TINY: readonly string[] = ["Gemma 2", "OPT-350m"];

/** Measures the step of every family. LLaMA itself is among them: its ratio shows what is noise. */
export async function measureFamilies(
  device: Device,
  { machine: { clock }, effort, scale, log }: {
    readonly machine: Machine;
    readonly effort: Effort;
    readonly scale: Scale;
    readonly log: (line: string) => void;
  },
): Promise<FamiliesResult> {
  const shape = SHAPES[scale], config = CONFIGS[scale], { repeats } = effort;
  const base = specOf(config), window = shape.seq / 4;
  const own = stepOperations(base, shape),
    few = { repeats: Math.min(3, repeats), repeatSeconds: effort.repeatSeconds / 4 };
  using llamaModel = await loadModelFrom(randomModel(base, { seed: 1 }), { device, baseDtype: "f16" });
  // FFN columns, which all families can cut.
  using llama = await openStep(llamaModel, shape, { units: ["ffn"] });
  const usual = sectionSeconds(clock, await llama.sections(few));
  const rows: FamilyRow[] = [], all: Timing[] = [];
  const length = {
    prompt: Array.from({ length: shape.seq / 4 }, (_, index) => index % config.vocab),
    tokens: shape.seq / 4,
  };
  const decodeOf = async (one: Model): Promise<number> =>
    typical(clock, await measureDecode(one, { ...length, repeats: few.repeats }));
  for (const [family, specFor] of Object.entries(FAMILIES)) {
    if (scale === "tiny" && !TINY.includes(family)) continue;
    log(`families: ${family}, ${shape.batch} × ${shape.seq} tokens`);
    const spec = specFor(base, window), operations = stepOperations(spec, shape);
    using model = await loadModelFrom(randomModel(spec, { seed: 1 }), { device, baseDtype: "f16" });
    using step = await openStep(model, shape, { units: ["ffn"] });
    const parts: Timing[] = [], others: Timing[] = [];
    for (let repeat = 0; repeat < repeats; repeat++) {
      // Which of the two comes first changes with each repeat.
      const measure = async (which: "own" | "llama"): Promise<void> => {
        if (which === "own") parts.push(await timed(() => step.run(), { repeats: 1 }));
        else others.push(await timed(() => llama.run(), { repeats: 1 }));
      };
      for (const which of repeat % 2 === 0 ? ["own", "llama"] as const : ["llama", "own"] as const) {
        await measure(which);
      }
    }
    const timing = joined(...parts), other = joined(...others), reference = secondsBy(clock, other);
    const seconds = sectionSeconds(clock, await step.sections(few));
    all.push(other);
    const usualDecoding = await decodeOf(llamaModel);
    rows.push({
      family,
      timing,
      ratio: median(secondsBy(clock, timing).map((value, repeat) => value / (reference[repeat] ?? NaN))),
      flops: flopsOf(operations) / flopsOf(own),
      expected: expectedSeconds(operations, own, usual) / expectedSeconds(own, own, usual),
      extra: Object.fromEntries(Object.entries(seconds).map(([name, value]) => [name, value - (usual[name] ?? 0)])),
      decoding: usualDecoding / await decodeOf(model),
    });
  }
  return { ...shape, config, llama: joined(...all), rows };
}
