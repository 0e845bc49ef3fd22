// Micro-batches: the parts of a step that are trained one after the other, and the sum of their gradients.
import { accumulate } from "../../kernels/mod.ts";
import type { Batch } from "../data/batches.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { Plan, u32 } from "../gpu/plan.ts";
import type { DeviceBuffer } from "../gpu/types.ts";

/** A part of a step's batch. */
export interface MicroBatch {
  /** Token ids [batch, seq]. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** Labels [batch, seq], −100 where a token has no loss. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Tokens of the step before this part, padding included. */
  readonly firstRow: number;
}

/** A step's batch in `count` parts of `rows` tokens, in order. A dry device's batch has no tokens, nor have its parts. */
export function microBatches(
  { tokens, labels }: Pick<Batch, "tokens" | "labels">,
  { count, rows }: { readonly count: number; readonly rows: number },
): MicroBatch[] {
  return Array.from({ length: count }, (_, index) => {
    const firstRow = index * rows, end = firstRow + rows;
    return { tokens: tokens.subarray(firstRow, end), labels: labels.subarray(firstRow, end), firstRow };
  });
}

/** The sum of what the micro-batches of a step leave in some buffers. Dispose it to free its own. */
export interface GradientSum extends Disposable {
  /** Forgets the last step. */
  begin(): Promise<void>;
  /** Adds the present values of the buffers. */
  add(): Promise<void>;
  /** Writes the sums to the buffers. */
  finish(): Promise<void>;
}

/** Most invocations of one row of workgroups. */
const WIDTH = 65535 * 64;

/** Allocates a sum of `count` f32 for each buffer. Values are added in order, so that a sum has the same bits each time. */
export function createGradientSum(
  device: Device,
  parts: readonly { readonly buffer: DeviceBuffer; readonly count: number }[],
): GradientSum {
  using stack = new DisposableStack();
  const plan = (): Plan => stack.use(new Plan(device));
  const begin = plan(), add = plan(), finish = plan();
  add.section("accumulate");
  for (const { buffer, count } of parts) {
    const total = stack.use(device.createBuffer("gradient sum", 4 * count)), width = Math.min(count, WIDTH);
    begin.clear(total);
    add.dispatch(compileKernel(device, accumulate), [buffer, total, { params: [u32(count), u32(width)] }], {
      groups: [Math.ceil(width / 64), Math.ceil(count / width)],
      cost: 4 * count,
    });
    finish.copy(total, buffer, { bytes: 4 * count });
  }
  for (const one of [begin, add, finish]) one.finish();
  const owned = stack.move();
  return {
    begin: () => begin.run(),
    add: () => add.run(),
    finish: () => finish.run(),
    [Symbol.dispose]: () => owned.dispose(),
  };
}
