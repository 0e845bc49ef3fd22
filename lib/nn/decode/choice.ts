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
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly seed: number;
  /** Tokens of the prompt. */
  readonly prompt: Iterable<number>;
  /** Tokens chosen after it, as often as they were. The GPU adds the tokens that it chooses. */
  readonly chosen: Iterable<number>;
}

/** Buffers of the choice. */
export interface ChoiceState extends Disposable {
  /** Whether the next run draws tokens; else it takes the most likely ones. */
  draws: boolean;
  readonly settings: DeviceBuffer;
  readonly table: DeviceBuffer;
  readonly weights: DeviceBuffer;
  readonly seen: DeviceBuffer;
  readonly vocab: number;
}

/** Stream of the random numbers that choose tokens. */
export const CHOICE_STREAM = 0x6e78;
/** Probabilities and random numbers are parts of this. */
export const CHOICE_UNIT = 2 ** 25;
/** Weight of the most likely token. */
const WEIGHT_UNIT = 2 ** 30;
/** Words of the settings of a row. */
const SETTINGS = 8;
/** Penalties of frequency and presence are parts of this. */
const PENALTY_UNIT = 2 ** 16;
/** The most times that a token counts, and the largest sum of penalties in units; as in kernels/shared/sample_next.wgsl. */
const MOST_TIMES = 16383, MOST_PENALTY = 2 ** 24;
/** Set of a token that the prompt has. */
const IN_PROMPT = 2 ** 31;

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

/** Penalties, as `SamplingOptions` has them. */
interface Penalties {
  readonly repetitionPenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  readonly presencePenalty?: number | undefined;
}

/** Whether penalties change logits. */
export function isPenalized(
  { repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0 }: Penalties,
): boolean {
  return repetitionPenalty !== 1 || penaltyUnits(frequencyPenalty) !== 0 || penaltyUnits(presencePenalty) !== 0;
}

/** What is taken from the logit of a token that was chosen `times` times, at least once. */
export function takenFrom(times: number, { frequencyPenalty = 0, presencePenalty = 0 }: Penalties): number {
  const sum = penaltyUnits(frequencyPenalty) * Math.min(times, MOST_TIMES) + penaltyUnits(presencePenalty);
  return Math.max(-MOST_PENALTY, Math.min(MOST_PENALTY, sum)) / PENALTY_UNIT;
}

function penaltyUnits(penalty: number): number {
  return Math.round(penalty * PENALTY_UNIT);
}

/** Allocates the buffers for `rows` sequences. */
export function createChoice(
  device: Device,
  { rows, vocab }: { readonly rows: number; readonly vocab: number },
): ChoiceState {
  const stack = new DisposableStack();
  try {
    return {
      draws: false,
      vocab,
      settings: stack.use(device.createBuffer("draw settings", 4 * SETTINGS * rows)),
      table: stack.use(device.uploadBuffer("weight table", weightTable())),
      weights: stack.use(device.createBuffer("token weights", 4 * rows * strideOf(vocab))),
      seen: stack.use(device.createBuffer("seen tokens", 4 * rows * vocab)),
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
  const { vocab } = choice;
  rows.forEach((row, index) => {
    floats.set([0, 1, 1], index * SETTINGS); // the most likely token, without a penalty
    if (!row) return;
    const { temperature, topK, topP, repetitionPenalty, frequencyPenalty, presencePenalty, seed } = row;
    floats.set([inverseTemperature(temperature), repetitionPenalty, 1 / repetitionPenalty], index * SETTINGS);
    words.set([topK, Math.round(topP * CHOICE_UNIT), seed], index * SETTINGS + 3);
    words.set([frequencyPenalty, presencePenalty].map(penaltyUnits), index * SETTINGS + 6);
    if (!isPenalized(row)) return;
    const seen = new Uint32Array(vocab);
    for (const id of row.prompt) seen[id] = IN_PROMPT;
    for (const id of row.chosen) seen[id] = (seen[id] ?? 0) + 1;
    device.write(choice.seen, seen, 4 * vocab * index);
  });
  device.write(choice.settings, words);
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
        params: [...sizes, CHOICE_STREAM].map(u32),
      }],
      { groups: [rows], cost: 100 * rows * vocab },
    ));
}
