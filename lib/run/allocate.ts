// Plans, allocates and frees the GPU memory of a run.
import type { StepState } from "../nn/train/step_state.ts";
import type { UnitTable } from "../units/table.ts";
import { adapterOf, type MemoryPlan } from "./memory/plan.ts";
import { checkMemory } from "./memory/advice.ts";
import type { Model } from "../model/model.ts";
import { withCompensation } from "./methods/compensation.ts";
import type { MemoryOptions, PruneOptions, ResolvedOptions } from "./options/options.ts";
import { memoryOptionsOf } from "./options/resolve.ts";
import type { RunData } from "./data.ts";
import { hardenAt, type SizeGoal } from "./size_goal.ts";
import { openSteerer, type Steerer } from "./steering.ts";
import type { SharedWork } from "./shared_work.ts";
import type { ScriptOpener } from "../schedule/open.ts";
import { optionNumbers } from "./schedule_parts.ts";
import { Trainer } from "./trainer.ts";
import type { SelectorParts, UnitSelector } from "./methods/selector.ts";
import { compensates, methodOf } from "./methods/all.ts";
import { learnedSelector } from "./methods/learned_selector.ts";
import { gradualSelector } from "./methods/gradual_selector.ts";

/** What a run has from its first step on. */
export interface Allocated {
  /** Keeps the weights of the model that the run was given. */
  readonly entered: Disposable;
  readonly trainer: Trainer;
  readonly steerer: Steerer;
  readonly selector: UnitSelector;
  readonly place: RunPlace;
  /** The model that is trained: the run's own, or a copy with added biases. */
  readonly model: Model;
  /** Most bytes that the device is planned to hold, and how many of them existed before the run. */
  readonly plannedBytes: number;
  readonly otherBytes: number;
}

/** What a run is made of. */
export interface RunSetup extends RunData {
  readonly options: ResolvedOptions;
  readonly table: UnitTable;
  /** The size that the run must reach; null if it has a target sparsity. */
  readonly goal: SizeGoal | null;
  /** The options as the caller has them, without defaults. */
  readonly original: PruneOptions;
  /** Work shared with other runs; absent if the run is alone. */
  readonly work?: SharedWork | undefined;
}

/** Current state of a run, read when needed. */
interface RunPlace {
  /** Numbers of a step without any rate. */
  readonly state: () => StepState;
  /**
   * Whether a schedule ended the pruning stage, after at least one step, before it had reached what the run's size
   * requires.
   */
  readonly goesBeforeSize: () => boolean;
}

/** Opens the schedule, plans the memory and allocates. Throws `CompressoError("gpu")` if the run does not fit. */
export async function allocateRun(
  base: Model,
  { options, table, goal, original }: RunSetup,
  { complete, openScript, ...place }: RunPlace & {
    readonly openScript: ScriptOpener | null;
    /** Completes the setup once the schedule is known to fit the run and the run the memory. */
    readonly complete: (steerer: Steerer, plan: MemoryPlan) => Promise<RunSetup>;
  },
): Promise<Allocated> {
  const { batch, accumulate, seq, documentMask, seed, lora, recompute, objective, optimizer } = options,
    { device } = base;
  const { schedule, trustSchedule: trust, signal, ranks, onDealt, onScheduleLog: onLog } = original,
    given = optionNumbers(original);
  // If an allocation fails, the earlier ones are freed.
  await using stack = new AsyncDisposableStack();
  const entered = stack.use(base.enter());
  const steerer = stack.use(
    await openSteerer(table, options, { schedule, given, goal, trust, signal, onLog, openScript }),
  );
  const plan = await checkMemory(base.spec, plannedOptions(base, options, steerer), {
    memoryLimit: device.memoryLimit,
    deviceBytes: device.bytes,
  });
  const setup = await complete(steerer, plan);
  device.resetPeak();
  const drops = lora.dropout > 0 || steerer.drops;
  const model = compensates(options.method) ? stack.use(await withCompensation(base)) : base;
  const trainer = stack.use(
    new Trainer(model, {
      ...{ batch, accumulate, ranks, onDealt, seq, documentMask, seed, lora, table },
      ...{ recompute, drops, objective, optimizer },
      keepsBest: options.evalEvery > 0,
    }),
  );
  const selector = await selectorOf(setup, { model, trainer, place });
  stack.move();
  const { peakBytes, otherBytes } = plan;
  return { entered, trainer, steerer, selector, place, model, plannedBytes: peakBytes + otherBytes, otherBytes };
}

/** The selector of the run's method, which remembers nothing yet. */
export async function selectorOf(
  { options, table, goal, makeBatches, calibration, original: { signal, ranks, onScoring }, work }: RunSetup,
  { model, trainer, place: { state, goesBeforeSize } }: Pick<Allocated, "model" | "trainer" | "place">,
): Promise<UnitSelector> {
  const at = (): { readonly state: StepState; readonly signal?: AbortSignal | undefined } => ({
    state: state(),
    signal,
  });
  const parts: SelectorParts = {
    model,
    table,
    options,
    trainer,
    ranks,
    signal,
    onScoring,
    work,
    makeBatches,
    calibration,
    counts: goal?.counts ?? null,
    harden: hardenAt(goal, goesBeforeSize),
    maskGradients: (data) => trainer.maskGradients(data, at()),
    weightTerms: (data) => trainer.weightTerms(data, at()),
  };
  const method = methodOf(options.method);
  if (method.kind === "one-shot") {
    const { oneShotSelector } = await import("./methods/one_shot_selector.ts");
    return oneShotSelector(parts, method);
  }
  return method.kind === "gradual" ? gradualSelector(parts) : learnedSelector(parts);
}

/** Options of a plan for a run on a model whose vocabulary is cut already. */
export function plannedOptions(
  { device, source, weights: { baseDtype } }: Model,
  options: ResolvedOptions,
  { drops, focuses }: Pick<Steerer, "drops" | "focuses">,
): MemoryOptions & Pick<ResolvedOptions, "rules"> {
  const { lora, focus } = options;
  // The memory is the same for every share that a schedule may set.
  const steered = {
    lora: drops ? { ...lora, dropout: SOME_SHARE } : lora,
    focus: focuses ? SOME_SHARE : focus,
  };
  const storedDtype = (name: string): string => source.storedDtype(name);
  const own = { baseDtype, storedDtype, adapter: adapterOf(device) };
  return memoryOptionsOf({ ...options, ...steered, vocab: null }, own);
}

const SOME_SHARE = 0.5;

/** Frees the trainer and ends a schedule's process; `model`, which the run was given, stays. */
export function freeRun({ entered, trainer, steerer, model: own }: Allocated, model: Model): void {
  trainer[Symbol.dispose]();
  // After the last record, or an error, this does nothing.
  void steerer[Symbol.asyncDispose]();
  if (own !== model) own[Symbol.dispose]();
  entered[Symbol.dispose]();
}
