// Reads the golden values made by scripts/golden/golden_models.py, and reports how far a tensor is from them.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openSafetensors } from "../../disk.ts";
import type { Projection } from "../../../lib/spec/decoder.ts";

const ROOT = fileURLToPath(new URL("../../../fixtures/golden/", import.meta.url));
const HYBRIDS = fileURLToPath(new URL("../../../fixtures/golden_hybrids/", import.meta.url));

/** The random models of fixtures/golden_hybrids. */
export const HYBRID_NAMES: readonly string[] = ["lfm2", "lfm2_long"];

const { rank, alpha, targets, models } = JSON.parse(await Deno.readTextFile(`${ROOT}golden.json`));

/** The random models of fixtures/golden. */
export const GOLDEN_NAMES: readonly string[] = Object.keys(models);

/** One of {@link GOLDEN_NAMES} or {@link HYBRID_NAMES}. */
export type GoldenName = string;

/** Two right-padded sequences, or one of odd length. */
export type BatchName = "pair" | "single";

/** What is attached to the model: nothing, LoRA, or LoRA and masks. */
export type RunName = "bare" | "lora" | "full";

/** Golden values of one model. */
export interface Golden {
  readonly modelPath: string;
  readonly rank: number;
  readonly alpha: number;
  readonly targets: Projection[];
  /** LoRA weights by the names of their gradients. */
  readonly lora: Map<string, Float32Array>;
  /** Masks by the names of their gradients: mask.head, mask.ffn, mask.hidden. */
  readonly masks: Map<string, Float32Array>;
  batch(name: BatchName): Promise<GoldenBatch>;
  run(batch: BatchName, run: RunName): Promise<GoldenRun>;
}

/** One batch: rows of equal length, and the bare model's logits of each row, [T × vocab]. */
export interface GoldenBatch {
  readonly tokens: number[][];
  readonly labels: number[][];
  readonly logits: Float32Array[];
}

/** Loss and gradients of one run, by name. */
export interface GoldenRun {
  readonly loss: number;
  readonly gradients: Map<string, Float32Array>;
}

/** Opens the golden values of a model. */
export async function openGolden(name: GoldenName): Promise<Golden> {
  const folder = `${HYBRID_NAMES.includes(name) ? HYBRIDS : ROOT}${name}`;
  const file = await openSafetensors(`${folder}/golden.safetensors`);

  async function withPrefix(prefix: string, cut: number): Promise<Map<string, Float32Array>> {
    const found = new Map<string, Float32Array>();
    for (const key of [...file.tensors.keys()].filter((key) => key.startsWith(prefix)).sort()) {
      found.set(key.slice(cut), await file.read(key));
    }
    assert.ok(found.size > 0, `no tensor of ${name} starts with ${prefix}`);
    return found;
  }

  async function rows(key: string): Promise<Float32Array[]> {
    const [count = 0] = file.tensors.get(key)?.shape ?? [];
    const values = await file.read(key), size = values.length / count;
    return Array.from({ length: count }, (_, row) => values.subarray(row * size, (row + 1) * size));
  }

  return {
    modelPath: `${folder}/model`,
    rank,
    alpha,
    targets,
    lora: await withPrefix("lora.", 0),
    masks: await withPrefix("mask.", 0),
    async batch(batch): Promise<GoldenBatch> {
      const integers = async (key: string): Promise<number[][]> => (await rows(key)).map((row) => Array.from(row));
      return {
        tokens: await integers(`${batch}.tokens`),
        labels: await integers(`${batch}.labels`),
        logits: await rows(`${batch}.logits`),
      };
    },
    async run(batch, run): Promise<GoldenRun> {
      const prefix = `${batch}.${run}.grad.`;
      const [loss = NaN] = await file.read(`${batch}.${run}.loss`);
      return { loss, gradients: await withPrefix(prefix, prefix.length) };
    },
  };
}

/** Where a tensor is furthest from the golden one. */
export interface Distance {
  /** Largest |actual − expected| as part of the largest |expected|; NaN where either holds NaN. */
  readonly relative: number;
  /** The sentence that a failing test shows: worst index, both values. */
  readonly text: string;
}

/** Largest difference of two tensors relative to the largest golden value of that tensor. */
export function distance(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>): Distance {
  assert.equal(actual.length, expected.length, `${name} has ${actual.length} elements, golden has ${expected.length}`);
  let worst = 0, index = 0, scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN));
    scale = Math.max(scale, Math.abs(expected[i] ?? NaN));
    if (!(difference <= worst)) { // also where it is NaN
      worst = difference;
      index = i;
      if (Number.isNaN(difference)) break;
    }
  }
  const relative = worst / scale;
  return {
    relative,
    text: `${name}[${index}] of ${expected.length} is ${actual[index]}, golden ${expected[index]}, ` +
      `off by ${relative.toExponential(2)} of the largest`,
  };
}

/** Fails with the worst tensor and its worst index where any tensor is further than `tolerance`. */
export function assertClose(distances: readonly Distance[], tolerance: number): void {
  assert.ok(distances.length > 0, "nothing was compared");
  const badness = ({ relative }: Distance): number => Number.isNaN(relative) ? Infinity : relative;
  const far = distances.filter(({ relative }) => !(relative <= tolerance)).sort((a, b) => badness(b) - badness(a));
  const [first] = far;
  if (first) {
    assert.fail(`${first.text}; tolerance ${tolerance}; ${far.length} of ${distances.length} tensors are too far`);
  }
}
