// Clocks of the benchmarks: wall and CPU seconds of repeated work.
//
// On an adapter that is a CPU the figures are by CPU time, CPU seconds of the process / cores: what the work would take with all cores to itself,
// so that other processes on the machine count little. Elsewhere they are by wall clock. Both are always kept.
import { cpuUsage } from "node:process";
import type { Plan } from "../../lib/gpu/plan.ts";
import { median } from "./stats.ts";

/** Repeats of one piece of work, in seconds each. */
export interface Timing {
  /** Wall clock. */
  readonly seconds: readonly number[];
  /** CPU seconds of the process, all threads together. */
  readonly cpuSeconds: readonly number[];
  /** Wall clock of the first run, which compiles kernels; not among the repeats. */
  readonly firstSeconds?: number;
}

/** Which of the two the figures are made from. */
export interface Clock {
  readonly kind: "cpu" | "wall";
  /** CPU seconds are divided by this. */
  readonly cores: number;
}

/** How much is measured. */
export interface Effort {
  /** Repeats of each measurement. */
  readonly repeats: number;
  /** Wanted wall seconds of a repeat; short work is replayed until it takes as long, because a wait for the GPU costs 11 ms on its own. */
  readonly repeatSeconds: number;
}

/** Work that was compiled, and how many replays make a repeat. */
export interface Prepared {
  readonly plan: Plan;
  readonly replays: number;
  readonly firstSeconds: number;
}

/** Seconds of each repeat by the clock. */
export function secondsBy(clock: Clock, { seconds, cpuSeconds }: Timing): readonly number[] {
  return clock.kind === "wall" ? seconds : cpuSeconds.map((value) => value / clock.cores);
}

/** Median seconds by the clock. */
export function typical(clock: Clock, timing: Timing): number {
  return median(secondsBy(clock, timing));
}

/** Repeats of several measurements of the same work, in order. */
export function joined(...parts: readonly Timing[]): Timing {
  const first = parts.find(({ firstSeconds }) => firstSeconds !== undefined)?.firstSeconds;
  return {
    seconds: parts.flatMap(({ seconds }) => seconds),
    cpuSeconds: parts.flatMap(({ cpuSeconds }) => cpuSeconds),
    ...(first === undefined ? {} : { firstSeconds: first }),
  };
}

/** Times work that does `count` of the wanted thing at once. */
export async function timed(
  work: () => Promise<unknown>,
  { repeats, count = 1 }: { readonly repeats: number; readonly count?: number },
): Promise<Timing> {
  const seconds: number[] = [], cpuSeconds: number[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    const start = performance.now(), before = cpuUsage();
    await work();
    const { user, system } = cpuUsage(before);
    seconds.push((performance.now() - start) / 1000 / count);
    cpuSeconds.push((user + system) / 1e6 / count);
  }
  return { seconds, cpuSeconds };
}

const MOST_REPLAYS = 4096;

/** Runs a plan until its kernels are compiled, and finds how many replays make a repeat. */
export async function prepare(plan: Plan, { repeatSeconds }: Effort): Promise<Prepared> {
  const run = async (repeat: number): Promise<number> => {
    const start = performance.now();
    await plan.run({ repeat });
    return (performance.now() - start) / 1000;
  };
  const firstSeconds = await run(1);
  let replays = 1;
  for (;;) {
    const seconds = await run(replays);
    if (seconds > repeatSeconds / 2 || replays >= MOST_REPLAYS) return { plan, replays, firstSeconds };
    replays = Math.min(MOST_REPLAYS, Math.ceil(replays * Math.min(16, Math.max(2, repeatSeconds / seconds))));
  }
}

/** Times a prepared plan; `count` is how often one replay does the wanted thing. */
export async function timePlan(
  { plan, replays, firstSeconds }: Prepared,
  { repeats, count = 1 }: { readonly repeats: number; readonly count?: number },
): Promise<Timing> {
  const timing = await timed(() => plan.run({ repeat: replays }), { repeats, count: replays * count });
  return { ...timing, firstSeconds };
}
