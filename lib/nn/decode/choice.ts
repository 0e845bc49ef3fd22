// How the GPU chooses the next token of each sequence: the most likely token, or a drawn one.
import { greedyNext, sampleNext } from "../../../kernels/mod.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type Plan, u32 } from "../../gpu/plan.ts";
import { strideOf } from "../padding.ts";
import type { DecodeState } from "./step.ts";

/** How the tokens of a sequence are drawn; see `SamplingOptions`, which has the same definitions. */
export interface DrawSettings {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly repetitionPenalty: number;
  readonly seed: number;
  /** Tokens that the repetition penalty counts; chosen tokens are added. */
  readonly seen: Iterable<number>;
}

/** Buffers of the choice. */
export interface ChoiceState extends Disposable {
  /** Whether the next run draws tokens; else it takes the most likely ones. */
  draws: boolean;
  readonly settings: DeviceBuffer;
  readonly table: DeviceBuffer;
  readonly weights: DeviceBuffer;
  readonly seen: DeviceBuffer;
  /** Words of `seen` for a row. */
  readonly words: number;
}

/** Stream of the random numbers that choose tokens. */
export const CHOICE_STREAM = 0x6e78;
/** Probabilities and random numbers are parts of this. */
export const CHOICE_UNIT = 2 ** 25;
/** Weight of the most likely token. */
const WEIGHT_UNIT = 2 ** 30;
/** Words of the settings of a row. */
const SETTINGS = 8;

/**
 * Tables from which weights of tokens are computed: 2^30·2^(−i / 2^10) for i < 1024, then 2^26·(1 − 2^(−i / 2^20)). A
 * weight is 2^30·2^−y, y in steps of 2^−20. It is computed in integers, so that a CPU and every GPU give the same bits.
 */
export function weightTable(): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: 2048 }, (_, index) => {
    const i = index % 1024;
    return Math.round(index < 1024 ? WEIGHT_UNIT * 2 ** (-i / 1024) : 2 ** 26 * (1 - 2 ** (-i / 2 ** 20)));
  });
}

/** log2(e) / temperature as the kernel has it; 0 for the most likely token. */
export function inverseTemperature(temperature: number): number {
  return temperature === 0 ? 0 : Math.fround(Math.LOG2E / temperature);
}

/** Allocates the buffers for `rows` sequences. */
export function createChoice(
  device: Device,
  { rows, vocab }: { readonly rows: number; readonly vocab: number },
): ChoiceState {
  const stack = new DisposableStack(), words = Math.ceil(vocab / 32);
  try {
    return {
      draws: false,
      words,
      settings: stack.use(device.createBuffer("draw settings", 4 * SETTINGS * rows)),
      table: stack.use(device.uploadBuffer("weight table", weightTable())),
      weights: stack.use(device.createBuffer("token weights", 4 * rows * strideOf(vocab))),
      seen: stack.use(device.createBuffer("seen tokens", 4 * rows * words)),
      [Symbol.dispose]: () => stack.dispose(),
    };
  } catch (error) {
    stack.dispose();
    throw error;
  }
}

/** Writes how the tokens of each row are chosen; null for the most likely one. */
export function writeChoice(device: Device, choice: ChoiceState, rows: readonly (DrawSettings | null)[]): void {
  choice.draws = rows.some((row) => row !== null);
  if (!choice.draws) return;
  const words = new Uint32Array(rows.length * SETTINGS), floats = new Float32Array(words.buffer);
  const seen = new Uint32Array(rows.length * choice.words);
  rows.forEach((row, index) => {
    if (!row) return;
    const { temperature, topK, topP, repetitionPenalty, seed } = row, isPenalized = repetitionPenalty !== 1;
    floats.set([inverseTemperature(temperature), repetitionPenalty, 1 / repetitionPenalty], index * SETTINGS);
    words.set([topK, Math.round(topP * CHOICE_UNIT), seed, isPenalized ? 1 : 0], index * SETTINGS + 3);
    if (!isPenalized) return;
    for (const id of row.seen) {
      const word = index * choice.words + (id >> 5);
      seen[word] = ((seen[word] ?? 0) | (1 << (id & 31))) >>> 0;
    }
  });
  device.write(choice.settings, words);
  device.write(choice.seen, seen);
}

/**
 * Records the choice: token[r] is the most likely or a drawn token of logits[r], stored at picks[r, position[r]];
 * position[r] += 1.
 */
export function recordChoice(
  plan: Plan,
  { weights, logits, token, picks, position, capacity, rows, choice }: Omit<DecodeState, "masks" | "rope">,
): void {
  plan.section("choice");
  const { vocab } = weights.spec, sizes = [vocab, capacity, strideOf(vocab)];
  plan.optional(
    () => !choice.draws,
    () =>
      plan.dispatch(compileKernel(plan.device, greedyNext), [logits, token, picks, position, {
        params: sizes.map(u32),
      }], { groups: [rows], cost: 4 * rows * vocab }),
  );
  plan.optional(() => choice.draws, () =>
    plan.dispatch(
      compileKernel(plan.device, sampleNext),
      [logits, choice.settings, choice.table, token, picks, position, choice.weights, choice.seen, {
        params: [...sizes, choice.words, CHOICE_STREAM].map(u32),
      }],
      { groups: [rows], cost: 100 * rows * vocab },
    ));
}
