// What the JavaScript peers of the benchmark share: cases from standard input, results to standard output, the clock, the check of a product.
// The protocol is one JSON object in, and one JSON line per result out.
import { cpuUsage } from "node:process";

/** y[tokens, out] = x·Wᵀ (forward) or dx[tokens, in] = dy·W (backward), f32, W [out, in]. */
export interface ProductCase {
  readonly name: string;
  readonly kind: "product";
  readonly direction: "forward" | "backward";
  readonly tokens: number;
  readonly out: number;
  readonly in: number;
}

/** Shape of a LLaMA decoder. */
export interface DecoderConfig {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly tied: boolean;
}

/** One training step of LoRA and masks on random weights. */
export interface StepCase {
  readonly name: string;
  readonly kind: "step";
  readonly config: DecoderConfig;
  readonly batch: number;
  readonly seq: number;
  readonly rank: number;
  readonly targets: readonly ("q" | "v")[];
  readonly masks: boolean;
}

/** Cases of any peer; a peer refuses the kinds that it has no program for. */
export type Case = ProductCase | StepCase | { readonly name: string; readonly kind: "decode" };

/** Seconds of each repeat. */
export interface Times {
  readonly seconds: readonly number[];
  readonly cpuSeconds: readonly number[];
  readonly note?: string;
}

/** Work of one timed repeat, so that short products are repeated within it. */
const RUN_FLOPS = 2e9;
/** Results of all of them are held until the last is there. */
const MAX_COUNT = 256;
/** A case whose repeats take longer than this together stops repeating. */
const BUDGET_SECONDS = 300;

/** Reads the request, runs each case and prints its line; `open` may fail where the software is not there. */
export async function servePeer(
  peer: { readonly name: string; readonly version: string },
  open: () => Promise<(work: Case, repeats: number) => Promise<Times>>,
): Promise<void> {
  const request: { cases: Case[]; repeats?: number } = await new Response(Deno.stdin.readable).json();
  let run;
  try {
    run = await open();
  } catch (error) {
    console.log(JSON.stringify({ peer: peer.name, missing: text(error) }));
    return;
  }
  for (const work of request.cases) {
    const head = { peer: peer.name, version: peer.version, case: work.name };
    try {
      console.log(JSON.stringify({ ...head, ...await run(work, request.repeats ?? 7) }));
    } catch (error) {
      console.log(JSON.stringify({ ...head, error: text(error) }));
    }
  }
}

/** Wall and process CPU seconds of `run`, which does its work `count` times, after one run to warm up. */
export async function measure(
  run: () => Promise<void>,
  { repeats, count = 1 }: { readonly repeats: number; readonly count?: number },
): Promise<Times> {
  await run();
  const begin = performance.now();
  const seconds: number[] = [], cpuSeconds: number[] = [];
  while (seconds.length < repeats && (seconds.length === 0 || performance.now() - begin < 1000 * BUDGET_SECONDS)) {
    const start = performance.now(), before = cpuUsage();
    await run();
    const { user, system } = cpuUsage(before);
    seconds.push((performance.now() - start) / 1000 / count);
    cpuSeconds.push((user + system) / 1e6 / count);
  }
  return { seconds, cpuSeconds };
}

/** How often a product is done in one timed repeat. */
export function productCount({ tokens, out, in: inputs }: ProductCase): number {
  return Math.min(MAX_COUNT, Math.ceil(RUN_FLOPS / (2 * tokens * out * inputs)));
}

/** Random operands of a product, uniform in [-1, 1): the activation and W [out, in]. */
export function productOperands(work: ProductCase): { a: Float32Array<ArrayBuffer>; w: Float32Array<ArrayBuffer> } {
  const random = uniform(1);
  const fill = (length: number): Float32Array<ArrayBuffer> => Float32Array.from({ length }, () => 2 * random() - 1);
  const { tokens, out, in: inputs } = work;
  return { a: fill(tokens * (work.direction === "forward" ? inputs : out)), w: fill(out * inputs) };
}

/** Compares nine elements of a result, corners and middle, with a sum in f64; throws on the first that is off. */
export function checkProduct(
  work: ProductCase,
  { a, w, y }: { readonly a: Float32Array; readonly w: Float32Array; readonly y: ArrayLike<number> },
): void {
  const { tokens, out, in: inputs } = work;
  const forward = work.direction === "forward";
  const [depth, width] = forward ? [inputs, out] : [out, inputs];
  if (y.length !== tokens * width) throw new Error(`the product has ${y.length} elements, not ${tokens * width}`);
  for (const row of [0, tokens >> 1, tokens - 1]) {
    for (const col of [0, width >> 1, width - 1]) {
      let exact = 0, size = 0;
      for (let k = 0; k < depth; k++) {
        const term = (a[row * depth + k] ?? NaN) * (w[forward ? col * inputs + k : k * inputs + col] ?? NaN);
        exact += term;
        size += Math.abs(term);
      }
      const found = y[row * width + col] ?? NaN;
      // Rounding of a sum in f32, whatever its order: errors add up like a random walk.
      if (!(Math.abs(found - exact) <= 2 ** -23 * Math.sqrt(depth) * size)) {
        throw new Error(`product[${row}, ${col}] is ${found}, in f64 ${exact}`);
      }
    }
  }
}

/** Numbers in [0, 1) from a seed (mulberry32). */
export function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
