// Log-probabilities of next tokens from a forward pass.
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Plan } from "../gpu/plan.ts";
import { recordTop, writeTargets } from "./head.ts";
import type { Pass } from "./context.ts";
import { recordForward } from "./pass.ts";

/** Log-probabilities of the token after each token of a pass, in nats; all 0 for rows without a requested target. */
export interface TopLogprobs {
  /** Log-probability of the requested token [tokens]. */
  readonly chosen: Float32Array<ArrayBuffer>;
  /** The `top` most likely tokens, the lowest id first among equals [tokens · top]. */
  readonly ids: Uint32Array<ArrayBuffer>;
  /** Their log-probabilities [tokens · top]. */
  readonly values: Float32Array<ArrayBuffer>;
}

/** A forward pass that returns log-probabilities. */
export interface TopPass extends Disposable {
  readonly top: number;
  /** Runs on act.tokens. targets [rows] are token ids, −1 for none. */
  run(targets: Int32Array, options: { readonly signal?: AbortSignal | undefined }): Promise<TopLogprobs>;
}

/** Records the plan and allocates its output buffers. */
export function createTopPass(pass: Pass, { top }: { readonly top: number }): TopPass {
  const { device, act } = pass, { rows } = act;
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const make = (label: string, each: number): DeviceBuffer =>
      own(device.createBuffer(label, 4 * rows * Math.max(1, each)));
    const chosen = make("log-probabilities", 1), ids = make("likely tokens", top), values = make("their p", top);
    const context = pass.plan();
    const plan: Plan = own(context.plan);
    recordForward(context);
    recordTop(context, { chosen, ids, values, top });
    plan.finish();
    return {
      top,
      async run(targets, { signal }): Promise<TopLogprobs> {
        writeTargets(pass, targets);
        await plan.run(signal ? { signal } : {});
        const wanted = act.wanted.rows, each = wanted * top;
        const result = {
          chosen: new Float32Array(targets.length),
          ids: new Uint32Array(targets.length * top),
          values: new Float32Array(targets.length * top),
        };
        if (wanted === 0) return result;
        const [chosenBytes, idBytes, valueBytes] = await device.read([
          { buffer: chosen, bytes: 4 * wanted },
          ...(each > 0 ? [{ buffer: ids, bytes: 4 * each }, { buffer: values, bytes: 4 * each }] : []),
        ]);
        const stored = {
          chosen: new Float32Array(chosenBytes ?? new ArrayBuffer(0)),
          ids: new Uint32Array(idBytes ?? new ArrayBuffer(0)),
          values: new Float32Array(valueBytes ?? new ArrayBuffer(0)),
        };
        let at = 0;
        targets.forEach((target, row) => {
          if (target < 0) return;
          result.chosen[row] = stored.chosen[at] ?? NaN;
          result.ids.set(stored.ids.subarray(at * top, (at + 1) * top), row * top);
          result.values.set(stored.values.subarray(at * top, (at + 1) * top), row * top);
          at++;
        });
        return result;
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}
