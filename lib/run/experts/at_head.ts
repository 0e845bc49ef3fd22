// Measures a whole and a cut model from the states after their last layers: their output head is the same, and loaded once.
import type { Device } from "../../gpu/device.ts";
import type { WindowLoss } from "../../eval/perplexity.ts";
import { countLabels } from "../../data/prompts/encode.ts";
import { headPart } from "../../model/parts.ts";
import { createAgreementPass, type LabelAgreement, labelAgreement } from "../../nn/agreement.ts";
import { lossByRow, recordLoss, targetStates, writeTargets } from "../../nn/head.ts";
import { createPass, shiftLabels } from "../../nn/pass.ts";
import type { BaseDtype } from "../../nn/weights.ts";
import { IDLE_STATE, writeStepState } from "../../nn/train/step_state.ts";
import { loadWeights, type Weights } from "../../nn/weights.ts";
import { type Group, type States, writeInput } from "../../slice/by_layers.ts";
import type { WeightSource } from "../../spec/source.ts";
import { type MeasuredRow, paddedRow } from "../quality.ts";

/** Sequences of one length, with the states of both models after the last layer [seq, hidden]. */
export interface StatesToMeasure {
  readonly rows: readonly MeasuredRow[];
  readonly before: readonly States[];
  readonly after: readonly States[];
}

/** Losses of both models on each sequence, and how the cut one agrees with the whole. */
export interface MeasuredStates {
  readonly before: readonly WindowLoss[];
  readonly after: readonly WindowLoss[];
  readonly agreement: readonly LabelAgreement[];
}

/** Where and how to measure. */
interface AtHead {
  readonly device: Device;
  readonly baseDtype: BaseDtype;
  readonly signal: AbortSignal | undefined;
}

/** A sequence as a group: it runs alone. */
export function groupOf({ tokens, seq }: MeasuredRow): Group {
  return { batch: 1, seq, pieces: [tokens], rows: [...tokens.keys()] };
}

/** Measures each set of sequences. The same figures as `measureQuality` gives of loaded models. */
export async function measureAtHead(
  source: WeightSource,
  sets: readonly StatesToMeasure[],
  how: AtHead,
): Promise<MeasuredStates[]> {
  const { device, baseDtype, signal } = how, found: MeasuredStates[] = [];
  if (sets.every(({ rows }) => rows.length === 0)) {
    return sets.map(() => ({ before: [], after: [], agreement: [] }));
  }
  const head = headPart(source, { start: 0, count: source.spec.vocab });
  using weights = await loadWeights(device, head, { baseDtype, signal });
  for (const set of sets) found.push(await measureSet(weights, set, how));
  return found;
}

async function measureSet(
  weights: Weights,
  { rows, before, after }: StatesToMeasure,
  { device, signal }: AtHead,
): Promise<MeasuredStates> {
  const [first] = rows, whole: WindowLoss[] = [], cut: WindowLoss[] = [], agreements: LabelAgreement[] = [];
  if (!first) return { before: [], after: [], agreement: [] };
  using pass = createPass(device, weights, { batch: 1, seq: first.seq });
  writeStepState(device, pass.state, IDLE_STATE);
  const context = pass.plan();
  using plan = context.plan;
  recordLoss(context, { gradient: false });
  plan.finish();
  using agreement = createAgreementPass(pass, { weights, ids: null }, { fromStates: true });
  for (const [index, row] of rows.entries()) {
    const { labels } = paddedRow(row), tokens = countLabels(row.labels);
    const targets = shiftLabels(labels, { seq: row.seq });
    writeInput(pass, before[index] ?? new Float32Array());
    writeTargets(pass, targets);
    await plan.run({ signal });
    const losses = lossByRow(await device.readFloats(pass.act.loss, targets.length), targets);
    const states = await targetStates(pass, targets);
    writeInput(pass, after[index] ?? new Float32Array());
    const found = labelAgreement(await agreement.run({ targets, states, signal }));
    whole.push({ nll: sumOf(losses), tokens });
    cut.push({ nll: sumOf(found.loss), tokens });
    agreements.push(found);
  }
  return { before: whole, after: cut, agreement: agreements };
}

function sumOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
