// Sets up one training step of a given model for timing, and profiles it by section.
import { Plan, type RunOptions } from "../../lib/gpu/plan.ts";
import type { Projection } from "../../lib/spec/decoder.ts";
import { IDLE_STATE, type StepState } from "../../lib/nn/train/step_state.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { unitTable } from "../../lib/units/table.ts";
import { randomU32 } from "../../lib/core/random.ts";
import type { Batch } from "../../lib/data/batches.ts";
import type { Model } from "../../lib/model/model.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { type Effort, prepare, timePlan, type Timing } from "./timing.ts";

/** What is trained: LoRA on q and v, as published, and single heads and hidden dims as units, which is the most that can be learned. */
export const TRAINING = {
  rank: 8,
  alpha: 16,
  targets: ["q", "v"] satisfies Projection[],
  units: ["heads", "ffn", "hidden"] satisfies UnitKind[],
} as const;

/** Tokens of a step. */
export interface StepShape {
  readonly batch: number;
  readonly seq: number;
}

/** A recorded and compiled step. */
export interface Step extends Disposable {
  /** Runs one step of LoRA and masks and waits for the GPU. */
  run(): Promise<void>;
  /** Times each section's dispatches and copies alone, replayed; operands are warmer in the caches than within a step. */
  sections(effort: Effort): Promise<Record<string, Timing>>;
  /** Wall seconds of the dispatches of one step by section, from timestamp queries; null where the adapter has none. */
  timestamps(): Promise<Record<string, number> | null>;
  /** Most GPU memory in use since before the step's buffers were made, with the model's weights, in bytes. */
  readonly peakBytes: number;
}

/** Sections of a step in the order in which they are shown. "copies" are those between buffers and to textures, of all sections. */
export const SECTIONS: readonly string[] = [
  "products",
  "attention",
  "head",
  "lora",
  "elementwise",
  "embedding",
  "masks",
  "update",
  "copies",
];

const SEED = 1;

/** Allocates a step and runs it once, which records its plans and compiles kernels. */
export async function openStep(
  model: Model,
  shape: StepShape,
  { recompute = true, units = TRAINING.units }: {
    readonly recompute?: boolean;
    readonly units?: readonly UnitKind[];
  } = {},
): Promise<Step> {
  const { device, spec } = model;
  device.resetPeak();
  const { rank, alpha, targets } = TRAINING;
  const stack = new DisposableStack();
  const trainer = stack.use(
    new Trainer(model, {
      ...shape,
      seed: SEED,
      lora: { rank, alpha, targets },
      table: unitTable(spec, units),
      recompute,
    }),
  );
  const batch = randomBatch(spec.vocab, shape);
  let step = 0;
  const run = (): Promise<void> => trainer.step("masks", batch, { state: stateAt(step++) });
  const plans = new Map<string, Plan>();
  await mirroring((name) => {
    let plan = plans.get(name);
    if (!plan) plans.set(name, plan = stack.use(new Plan(device)));
    return plan;
  }, run);
  const { peakBytes } = device;
  return {
    peakBytes,
    run,
    async sections(effort): Promise<Record<string, Timing>> {
      const timings: Record<string, Timing> = {};
      for (const name of new Set([...SECTIONS, ...plans.keys()])) {
        const plan = plans.get(name);
        if (plan) timings[name] = await timePlan(await prepare(plan, effort), effort);
      }
      return timings;
    },
    async timestamps(): Promise<Record<string, number> | null> {
      if (!device.features.has("timestamp-query")) return null;
      const profile = new Map<string, number>();
      await profiled(profile, run);
      return Object.fromEntries(profile);
    },
    [Symbol.dispose]: () => stack[Symbol.dispose](),
  };
}

/**
 * Runs `work` with a profile of every plan that it runs. The trainer owns its plans and does not lend them, so the profile goes in
 * through the class for as long as this takes.
 */
async function profiled(profile: Map<string, number>, work: () => Promise<void>): Promise<void> {
  const { run } = Plan.prototype;
  Plan.prototype.run = function (this: Plan, options: RunOptions = {}): Promise<void> {
    return run.call(this, { ...options, profile });
  };
  try {
    await work();
  } finally {
    Plan.prototype.run = run;
  }
}

/** Runs `work`, and records all that its plans record a second time, into a plan for each section and one for copies. */
async function mirroring(planOf: (section: string) => Plan, work: () => Promise<void>): Promise<void> {
  const { section, dispatch, copy, copyToTexture, clear } = Plan.prototype;
  const labels = new WeakMap<Plan, string>();
  Object.assign(
    Plan.prototype,
    {
      section(this: Plan, label: string): void {
        labels.set(this, label);
        section.call(this, label);
      },
      dispatch(this: Plan, ...args: Parameters<typeof dispatch>): void {
        for (const plan of [this, planOf(labels.get(this) ?? args[0].name)]) dispatch.apply(plan, args);
      },
      copy(this: Plan, ...args: Parameters<typeof copy>): void {
        for (const plan of [this, planOf("copies")]) copy.apply(plan, args);
      },
      copyToTexture(this: Plan, ...args: Parameters<typeof copyToTexture>): void {
        for (const plan of [this, planOf("copies")]) copyToTexture.apply(plan, args);
      },
      clear(this: Plan, ...args: Parameters<typeof clear>): void {
        for (const plan of [this, planOf("copies")]) clear.apply(plan, args);
      },
    } satisfies Partial<Plan>,
  );
  try {
    await work();
  } finally {
    Object.assign(Plan.prototype, { section, dispatch, copy, copyToTexture, clear });
  }
}

/** Random tokens, all of which are labels. */
function randomBatch(vocab: number, { batch, seq }: StepShape): Batch {
  const tokens = Uint32Array.from({ length: batch * seq }, (_, index) => randomU32(SEED, index) % vocab);
  return { tokens, labels: Int32Array.from(tokens), realTokens: tokens.length, labelTokens: batch * (seq - 1) };
}

/** Small rates: the values stay finite however often the step is repeated, and every kernel does its whole work. */
function stateAt(step: number): StepState {
  return {
    ...IDLE_STATE,
    seed: SEED,
    step,
    target: 0.1,
    loraRate: 1e-5,
    maskRate: 1e-3,
    lambdaRate: 0.1,
    noise: 0.2,
    loraUpdates: step + 1,
    maskUpdates: step + 1,
    clipNorm: 1,
    weightDecay: 0.01,
    tracking: 1,
    limit: 100,
  };
}
