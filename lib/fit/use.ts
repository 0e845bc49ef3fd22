// What a model needs and gives where it writes text: GPU memory by a dry run, and tokens a second by a short real one.
import type { Device } from "../gpu/device.ts";
import { openDryDevice } from "../gpu/dry.ts";
import { loadModelFrom, type Model } from "../model/model.ts";
import { createDecodePass } from "../nn/decode/pass.ts";
import type { BaseDtype } from "../nn/weights.ts";
import { adapterOf, zeros } from "../run/memory/plan.ts";
import type { WeightSource } from "../spec/source.ts";

/** Tokens that are read before the clock starts, tokens on the clock, and how often. */
const READ = 8, WRITTEN = 16, REPEATS = 3;

/**
 * Bytes of GPU memory at the peak of loading a model of this shape and writing a text of `context` tokens, its prompt
 * included. As the memory plan of a run, it is counted by running the program on a dry device.
 */
export async function memoryOfUse(
  source: Pick<WeightSource, "spec" | "storedDtype">,
  { device, baseDtype, context }: {
    readonly device: Pick<Device, "limits" | "facts" | "subgroups">;
    readonly baseDtype: BaseDtype;
    readonly context: number;
  },
): Promise<number> {
  using dry = openDryDevice(adapterOf(device));
  using model = await loadModelFrom(zeros(source.spec, (name) => source.storedDtype(name)), { device: dry, baseDtype });
  await writeText(model, context);
  return dry.peakBytes;
}

/** Reads a prompt that fills a context but for one token, and writes one. */
export async function writeText(model: Model, context: number): Promise<void> {
  const { device, weights } = model;
  using _entered = model.enter();
  using pass = createDecodePass(device, weights, { capacity: context });
  await pass.prefill(new Array<number>(context - 2).fill(0));
  await pass.next(0, { count: 1 });
}

/** Tokens a second that a model writes for one sequence, after a short prompt: the best of three times. */
export async function speedOfUse(
  model: Model,
  { signal }: { readonly signal?: AbortSignal | undefined },
): Promise<number> {
  const { device, weights, spec } = model, capacity = Math.min(spec.maxPosition, READ + 1 + (1 + REPEATS) * WRITTEN);
  using _entered = model.enter();
  using pass = createDecodePass(device, weights, { capacity });
  await pass.prefill(new Array<number>(READ).fill(0), { signal });
  await pass.next(0, { count: 1, signal });
  const count = Math.floor((capacity - READ - 1) / (1 + REPEATS));
  let best = Infinity;
  for (let repeat = 0; repeat <= REPEATS; repeat++) {
    const start = performance.now();
    await pass.next(null, { count, signal });
    // The first one is a warm-up.
    if (repeat > 0) best = Math.min(best, (performance.now() - start) / 1000 / count);
  }
  return 1 / best;
}
