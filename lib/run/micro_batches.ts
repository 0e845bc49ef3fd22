// Micro-batches: the parts of a step that are trained one after the other, and the sum of their gradients.
import { accumulate } from "../../kernels/mod.ts";
import type { Ranks } from "../ranks/ranks.ts";
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
  /** Position of each token in its row [batch, seq]; see {@link Batch}. */
  readonly positions: Uint32Array<ArrayBuffer> | undefined;
  /** Tokens of the step before this part, padding included. */
  readonly firstRow: number;
}

/** A step's batch in `count` parts of `rows` tokens, in order. A dry device's batch has no tokens, nor have its parts. */
export function microBatches(
  { tokens, labels, positions }: Pick<Batch, "tokens" | "labels" | "positions">,
  { count, rows }: { readonly count: number; readonly rows: number },
): MicroBatch[] {
  return Array.from({ length: count }, (_, index) => {
    const firstRow = index * rows, end = firstRow + rows;
    const part = { tokens: tokens.subarray(firstRow, end), labels: labels.subarray(firstRow, end) };
    return { ...part, positions: positions?.subarray(firstRow, end), firstRow };
  });
}

/** Sums the values that each micro-batch of a step leaves in some buffers. Dispose it to free its own buffers. */
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
    const total = stack.use(device.createBuffer("lora: gradient sum", 4 * count)), width = Math.min(count, WIDTH);
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

/**
 * A sum over the micro-batches of all ranks; each rank adds its own. The values pass through the host. The result has
 * the same bits as {@link createGradientSum} for the same micro-batches on one rank.
 */
export function createRankSum(
  device: Device,
  parts: readonly { readonly buffer: DeviceBuffer; readonly count: number }[],
  ranks: Ranks,
): GradientSum {
  let own: Float32Array<ArrayBuffer>[] = [];
  return {
    begin: () => {
      own = [];
      return Promise.resolve();
    },
    async add(): Promise<void> {
      if (device.isDry) return;
      const read = await device.read(parts.map(({ buffer, count }) => ({ buffer, bytes: 4 * count })));
      const values = new Float32Array(parts.reduce((sum, { count }) => sum + count, 0));
      let start = 0;
      for (const bytes of read) {
        values.set(new Float32Array(bytes), start);
        start += bytes.byteLength / 4;
      }
      own.push(values);
    },
    async finish(): Promise<void> {
      if (device.isDry) return;
      const total = await ranks.sum(own);
      let start = 0;
      for (const { buffer, count } of parts) {
        device.write(buffer, total.subarray(start, start + count));
        start += count;
      }
    },
    [Symbol.dispose]: () => {
      own = [];
    },
  };
}
