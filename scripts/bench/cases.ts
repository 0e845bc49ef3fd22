// Describes a kernel to measure as data, its work, setup and recording, and measures groups of them.
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/padding.ts";
import type { ValueDtype } from "../../lib/nn/products/matrix.ts";
import type { PeerCase } from "./peers.ts";
import { type Effort, joined, prepare, type Prepared, timePlan, type Timing } from "./timing.ts";

/** Records the kernel once. */
export type Recorder = (plan: Plan) => void;

/** One kernel at one size. */
export interface KernelCase {
  /** Operation and size; cases that do the same in another way share it. */
  readonly name: string;
  /** Distinguishes cases of one kernel: the dtype of the weights, otherwise "". */
  readonly variant: string;
  /** What `work` counts: floating-point operations, or bytes that must be read and written at least. */
  readonly unit: "flops" | "bytes";
  readonly work: number;
  /** Allocates into the stack. */
  setup(device: Device, stack: DisposableStack): Promise<Recorder>;
}

/** Cases that are measured side by side, in turns with the peers. */
export interface KernelGroup {
  readonly name: string;
  readonly cases: readonly KernelCase[];
  /** The same work for other libraries; the name is that of our cases. */
  readonly peerCases: readonly PeerCase[];
}

/** Storage of frozen weights that is measured; the first is the default of the command line. */
export const DTYPES: readonly ValueDtype[] = ["f16", "f32", "q8", "q4"];

/** How large the shapes are. */
export type Scale = "full" | "quick" | "tiny";

/** Measures a group in as many rounds as there are, and calls `between` after each round but the last. */
export async function measureGroup(
  device: Device,
  { cases }: KernelGroup,
  { effort, rounds, between }: {
    readonly effort: Effort;
    readonly rounds: number;
    readonly between: (round: number) => Promise<void>;
  },
): Promise<Timing[]> {
  using stack = new DisposableStack();
  const prepared: Prepared[] = [];
  for (const kernel of cases) {
    const record = await kernel.setup(device, stack);
    const plan = stack.use(new Plan(device));
    record(plan);
    prepared.push(await prepare(plan, effort));
  }
  const parts: Timing[][] = cases.map(() => []);
  for (const [round, repeats] of shares(effort.repeats, rounds).entries()) {
    for (const [index, entry] of prepared.entries()) parts[index]?.push(await timePlan(entry, { repeats }));
    if (round + 1 < rounds) await between(round);
  }
  return parts.map((timings) => joined(...timings));
}

/** A whole number cut into parts that are as equal as can be, each at least 1. */
export function shares(total: number, parts: number): number[] {
  return Array.from(
    { length: parts },
    (_, part) => Math.max(1, Math.floor((part + 1) * total / parts) - Math.floor(part * total / parts)),
  );
}

/** An activation [rows, strideOf(width)] of values in [−1, 1), its padding included. */
export function activation(
  device: Device,
  stack: DisposableStack,
  { rows, width }: { readonly rows: number; readonly width: number },
): DeviceBuffer {
  return stack.use(device.uploadBuffer("activation", noise(paddedRows(rows) * strideOf(width))));
}

const TILE = Float32Array.from({ length: 1 << 16 }, (_, index) => Math.sin(index * 1.7));

/** Dtypes that whole models are measured with: all, or the first alone where only the code is tested. */
export function modelDtypes(scale: Scale): readonly ValueDtype[] {
  return scale === "tiny" ? DTYPES.slice(0, 1) : DTYPES;
}

/** Values in [−1, 1) without a pattern that matters. */
export function noise(count: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let at = 0; at < count; at += TILE.length) values.set(TILE.subarray(0, Math.min(TILE.length, count - at)), at);
  return values;
}
