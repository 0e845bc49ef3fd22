// Optimizers of LoRA: the arrays that each keeps, and its update.
import { adamw, lion } from "../../../kernels/mod.ts";
import type { KernelSource } from "../../../kernels/source.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type Plan, u32 } from "../../gpu/plan.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";

/** An optimizer. */
export interface Optimizer {
  /** Bindings: gradients, step state, metrics, parameters, each of `arrays`, params (count, width). */
  readonly kernel: KernelSource;
  /** Names of its arrays, each as long as the parameters; checkpoints hold them by these. */
  readonly arrays: readonly string[];
  /** Operations per parameter. */
  readonly cost: number;
  /** Its default learning rate as a share of AdamW's. */
  readonly rate: number;
}

/** Optimizers by name. */
export const OPTIMIZERS = {
  adamw: { kernel: adamw, arrays: ["loraM", "loraV"], cost: 20, rate: 1 },
  /** The paper finds rates of a third to a tenth of AdamW's best. */
  lion: { kernel: lion, arrays: ["loraM"], cost: 10, rate: 0.1 },
} as const satisfies Readonly<Record<string, Optimizer>>;

/** Name of an optimizer. */
export type OptimizerName = keyof typeof OPTIMIZERS;

/** Names of all optimizers. */
export const OPTIMIZER_NAMES = Object.keys(OPTIMIZERS) as readonly OptimizerName[];

/** Whether a text is the name of an optimizer. */
export function isOptimizer(name: unknown): name is OptimizerName {
  return typeof name === "string" && Object.hasOwn(OPTIMIZERS, name);
}

/** Parameters that are optimized, and their gradients. */
export interface Optimized {
  readonly params: DeviceBuffer;
  readonly grads: DeviceBuffer;
  readonly count: number;
}

/** An optimizer of some parameters, with its arrays. Dispose it to free these. */
export interface OptimizerState extends Disposable {
  readonly arrays: readonly { readonly name: string; readonly buffer: DeviceBuffer }[];
  /** One update, by the rates of the step state and the norm in `metrics[GRAD_SQUARES]`. */
  record(plan: Plan, io: { readonly state: DeviceBuffer; readonly metrics: DeviceBuffer }): void;
}

/** Allocates the arrays, which are 0. */
export function createOptimizer(
  device: Device,
  name: OptimizerName,
  { params, grads, count }: Optimized,
): OptimizerState {
  const { kernel, arrays: names, cost }: Optimizer = OPTIMIZERS[name];
  using stack = new DisposableStack();
  const arrays = names.map((array) => ({
    name: array,
    buffer: stack.use(device.createBuffer(`lora: ${array}`, 4 * count)),
  }));
  const owned = stack.move();
  return {
    arrays,
    record(plan, { state, metrics }): void {
      const width = Math.min(count, 65535 * 64);
      plan.dispatch(
        compileKernel(plan.device, kernel),
        [grads, state, metrics, params, ...arrays.map(({ buffer }) => buffer), {
          params: [u32(count), u32(width)],
        }],
        { groups: [Math.ceil(width / 64), Math.ceil(count / width)], cost: cost * count },
      );
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}
