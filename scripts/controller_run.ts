// Runs the mask learner without a model: its own kernels under a synthetic loss, for as many steps as a pruning stage.
import { record } from "../kernels/mod.ts";
import type { Device } from "../lib/gpu/device.ts";
import { compileKernel } from "../lib/gpu/kernel.ts";
import { Plan, u32 } from "../lib/gpu/plan.ts";
import { createMaskSlots, type SlotGradients } from "../lib/nn/mask_slots.ts";
import { createStepState, type StepState, writeStepState } from "../lib/nn/train/step_state.ts";
import { hardSelection } from "../lib/masks/harden.ts";
import type { Layout } from "../lib/units/layout.ts";
import { MaskLearner } from "../lib/masks/learner.ts";
import { createSaliency, maskStart, openStart, perParameter } from "../lib/masks/saliency.ts";
import { builtinSchedule, type ScheduleName } from "../lib/schedule/builtin.ts";
import { progressOf } from "../lib/schedule/ramp.ts";
import { evaluateSchedule } from "../lib/schedule/output.ts";
import { uniformGoals } from "../lib/units/uniform.ts";
import { hardSparsity } from "../lib/units/selection.ts";
import type { Selection, UnitTable } from "../lib/units/table.ts";
import { uniform } from "../lib/core/random.ts";
import { defaultRates } from "../lib/run/options/rates.ts";

/** Options of {@link runController}. */
export interface ControllerOptions {
  /** Steps of the pruning stage. */
  readonly steps: number;
  readonly sparsity: number;
  /** Default "cubic". */
  readonly schedule?: ScheduleName;
  /** Default "compact". */
  readonly layout?: Layout;
  /** Share of each layer to cut at the end; on the way it is scaled like the schedule. Default none. */
  readonly layerTargets?: readonly (number | null)[];
  /** How often it is looked what hard masks would cut; default never. Layers are free then, not alike. */
  readonly looks?: number;
  /** Default 1. */
  readonly seed?: number;
}

/** What a stage of learned masks did. */
export interface ControllerTrace {
  /** Sparsity that the schedule asked for, and that was expected after each step. */
  readonly target: readonly number[];
  readonly expected: readonly number[];
  readonly lambda1: readonly number[];
  readonly lambda2: readonly number[];
  /** The units that are kept in the end, and their exact sparsity. */
  readonly kept: Selection;
  readonly hard: number;
  /** Steps that were looked at, and the exact sparsity of masks that become hard there, at the schedule's target. */
  readonly looked: readonly (readonly [step: number, hard: number])[];
  /** log α before the first step, and after the last. */
  readonly start: Float32Array;
  readonly logAlpha: Float32Array;
}

/** Steps under way at once: reading and waiting cost more than such a step. */
const AT_ONCE = 64;
const RING_FLOATS = 16;

/**
 * Runs a pruning stage with the rates that `prune` takes for so many steps. The loss falls by the importance of what lives: Σ importance · (1 − z),
 * importance log-normal over the slots, its gradient noisy at every step; log α starts from the saliency of a few steps.
 */
export async function runController(
  device: Device,
  table: UnitTable,
  { steps, sparsity, schedule: name = "cubic", layout = "compact", layerTargets, looks = 0, seed = 1 }:
    ControllerOptions,
): Promise<ControllerTrace> {
  using learner = new MaskLearner(device, table);
  using slots = createMaskSlots(device, table.spec);
  using state = createStepState(device);
  using metrics = device.createBuffer("metrics", 32);
  using ring = device.createBuffer("ring", 4 * AT_ONCE * RING_FLOATS);
  const recordStep = (): Plan => {
    const plan = new Plan(device);
    learner.recordSample(plan, { state, slots });
    learner.recordUpdate(plan, { state, slots });
    const bound = [metrics, learner.constraint, state, ring, { params: [u32(AT_ONCE)] }];
    plan.dispatch(compileKernel(device, record), bound, { groups: [1] });
    return plan;
  };

  const rates = defaultRates(steps), schedule = builtinSchedule(name, { warmup: rates.warmup });
  const goals = layout === "uniform" ? uniformGoals(table, { target: sparsity }) : null;
  startMasks(device, learner, { rates, seed });
  const start = await device.readFloats(learner.logAlpha, table.count);
  const target: number[] = [], expected: number[] = [], lambda1: number[] = [], lambda2: number[] = [];
  const looked: [number, number][] = [];
  const atOnce = looks > 0 ? Math.min(AT_ONCE, Math.ceil(steps / looks)) : AT_ONCE;
  for (let first = 0; first < steps; first += atOnce) {
    // A plan that has not been timed yet submits such a step at once, so that steps stay in order though none is waited for.
    using plan = recordStep();
    const runs: Promise<void>[] = [], count = Math.min(atOnce, steps - first);
    for (let step = first; step < first + count; step++) {
      const at = { stage: "prune", progress: progressOf(step, steps), step, steps } as const;
      const input = { ...at, sparsity, records: [], layers: [] };
      const now = evaluateSchedule(schedule, input).sparsity ?? NaN;
      target.push(now);
      learner.setPartGoals(goals?.at(now) ?? null);
      learner.setLayerGoals(layerTargets?.map((goal) => goal === null ? null : goal * now / sparsity) ?? null);
      const { dz, squares } = gradientsOf(table, { step, seed });
      device.write(slots.dz, Float32Array.of(...dz, ...squares));
      writeStepState(device, state, stateOf({ step, seed, target: now, rates }));
      runs.push(plan.run());
    }
    await Promise.all(runs);
    const values = await device.readFloats(ring, AT_ONCE * RING_FLOATS);
    for (let step = first; step < first + count; step++) {
      const at = (step % AT_ONCE) * RING_FLOATS + 8;
      lambda1.push(values[at + 3] ?? NaN);
      lambda2.push(values[at + 4] ?? NaN);
      expected.push(values[at + 7] ?? NaN);
    }
    if (looks > 0) {
      const then = await device.readFloats(learner.logAlpha, table.count), step = first + count;
      const kept = hardSelection(table, then, { target: target[step - 1] ?? NaN, layout: "compact" });
      looked.push([step, hardSparsity(table, kept)]);
    }
  }
  const logAlpha = await device.readFloats(learner.logAlpha, table.count);
  const kept = hardSelection(table, logAlpha, {
    target: sparsity,
    layout,
    layerTargets,
    ...(goals ? { counts: goals.counts } : {}),
  });
  return { target, expected, lambda1, lambda2, kept, hard: hardSparsity(table, kept), looked, start, logAlpha };
}

function stateOf({ step, seed, target, rates }: {
  readonly step: number;
  readonly seed: number;
  readonly target: number;
  readonly rates: ReturnType<typeof defaultRates>;
}): StepState {
  const { lora, mask, lambda, noise, temperature, clipNorm, weightDecay, tracking, logAlphaLimit: limit } = rates;
  return {
    seed,
    step,
    lossScale: 1,
    target,
    loraRate: lora,
    maskRate: mask,
    lambdaRate: lambda,
    noise,
    temperature,
    loraUpdates: step + 1,
    maskUpdates: step + 1,
    clipNorm,
    weightDecay,
    tracking,
    limit,
    lambdaAdam: false,
    dropout: 0,
  };
}

/** dL/dz of every slot at a step: −importance, give or take as much again. */
function gradientsOf(
  table: UnitTable,
  { step, seed }: { readonly step: number; readonly seed: number },
): SlotGradients {
  const dz = Float32Array.from({ length: table.layout.count }, (_, slot) => {
    const importance = 1e-3 * Math.exp(3 * (uniform(seed, 0, 40, slot) - 0.5));
    return -importance * 4 * (uniform(seed, step, 41, slot) - 0.25);
  });
  return { dz, squares: dz.map((gradient) => gradient * gradient) }; // as of one block
}

/** log α from the saliency of four steps that do not come again, which it follows from then on. */
function startMasks(
  device: Device,
  learner: MaskLearner,
  { rates, seed }: { readonly rates: ReturnType<typeof defaultRates>; readonly seed: number },
): void {
  const { table } = learner, saliency = createSaliency(table);
  for (let step = 0; step < 4; step++) saliency.add(gradientsOf(table, { step: 1e6 + step, seed }));
  const { logAlpha, drift } = maskStart(perParameter(table, saliency.mean()), rates);
  device.write(learner.logAlpha, openStart(logAlpha, rates));
  learner.follow(saliency.mean(), { ...rates, prior: [], drift });
}
