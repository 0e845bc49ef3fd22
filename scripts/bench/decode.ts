// Tokens a second of generation: `deno run -A scripts/bench/decode.ts [MODEL] [--dtype f16,q4] [--sparsity 0,0.4] [--sequences 1,8] [--tokens N] [--prompt N] [--repeats N] [--profile]`.
// Asserts nothing, and does not measure quality.
//
// Decoding reads every weight once a token, so the yardstick is the speed of reading: that of a kernel that only adds up a large texture (a
// buffer where matrices lie in buffers). On an adapter that is a CPU figures are by CPU time, see timing.ts; wall clock stands beside.
import { parseArgs } from "node:util";
import type { KernelSource } from "../../kernels/source.ts";
import { bytesOfToken } from "../../lib/bench/token_bytes.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { DEMO, openModelFiles } from "../../lib/local/open_model.ts";
import { type BatchRow, DecodeBatch } from "../../lib/nn/decode/batch.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { clockOf } from "./machine.ts";
import { randomSlice } from "./slicing.ts";
import { median } from "./stats.ts";
import { secondsBy, timed, type Timing, typical } from "./timing.ts";

/** Length of a measured decoding. */
export interface DecodeLength {
  /** Token ids that are read before the clock starts, at least one. */
  readonly prompt: readonly number[];
  /** Tokens that are generated. */
  readonly tokens: number;
  readonly repeats: number;
}

/** Times `tokens` greedy tokens after a prompt, in seconds of each repeat; loading the prompt and compiling kernels is not timed. */
export async function measureDecode(model: Model, { prompt, tokens, repeats }: DecodeLength): Promise<Timing> {
  const { device, weights } = model, last = prompt.at(-1) ?? 0;
  return await timeRepeats(repeats, async () => {
    using pass = createDecodePass(device, weights, { capacity: prompt.length + tokens });
    await pass.prefill(prompt.slice(0, -1));
    return await timed(() => pass.next(last, { count: tokens }), { repeats: 1 });
  });
}

/** Times `tokens` greedy tokens of each of several sequences, decoded together after prompts of the length of `prompt`. */
async function measureBatch(
  model: Model,
  { prompt, tokens, repeats, sequences }: DecodeLength & { readonly sequences: number },
): Promise<Timing> {
  return await timeRepeats(repeats, async () => {
    using opened = await openBatch(model, { prompt, tokens, sequences });
    return await timed(() => opened.batch.next(opened.rows, { count: tokens }), { repeats: 1 });
  });
}

/** The timings of repeats; the first run, which compiles the kernels, is not among them. */
async function timeRepeats(repeats: number, once: () => Promise<Timing>): Promise<Timing> {
  const { seconds: [firstSeconds = 0] } = await once(), timings: Timing[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) timings.push(await once());
  return {
    seconds: timings.flatMap((timing) => timing.seconds),
    cpuSeconds: timings.flatMap((timing) => timing.cpuSeconds),
    firstSeconds,
  };
}

/** Sequences whose prompts are read but for the last token. */
async function openBatch(
  model: Model,
  { prompt, tokens, sequences }: Omit<DecodeLength, "repeats"> & { readonly sequences: number },
): Promise<{ readonly batch: DecodeBatch; readonly rows: readonly BatchRow[] } & Disposable> {
  const capacity = prompt.length + tokens, { vocab } = model.spec;
  const batch = new DecodeBatch(model.device, model.weights, { sequences, capacity }), rows: BatchRow[] = [];
  for (let text = 0; text < sequences; text++) {
    const own = prompt.map((id) => (id + text * 104729) % vocab), sequence = batch.open(capacity);
    if (!sequence) throw new Error(`${sequences} sequences do not fit`);
    await sequence.prefill(own.slice(0, -1));
    rows.push({ sequence, token: own.at(-1) ?? 0 });
  }
  return { batch, rows, [Symbol.dispose]: () => batch[Symbol.dispose]() };
}

/** Texels of a row and rows of the texture that {@link readingSpeed} adds up: 256 MiB. */
const TEXELS = 1024, ROWS = 16384;
const ROWS_OF_GROUP = 256;

/** Bytes a second of adding up a texture, or a buffer where matrices lie in buffers, row by row. */
export async function readingSpeed(device: Device, { repeats }: { readonly repeats: number }): Promise<number> {
  const isTexture = device.facts.isCpu, lanes = isTexture ? 8 : 64, bytes = 16 * TEXELS * ROWS;
  const rows = isTexture ? ROWS_OF_GROUP : 4;
  const load = (i: number): string =>
    isTexture ? `textureLoad(source, vec2u(c + ${i * lanes}u, r))` : `source[r * ${TEXELS}u + c + ${i * lanes}u]`;
  const kernel: KernelSource = {
    name: "reading speed",
    bindings: [isTexture ? "texture-u32" : "read", "storage", "uniform"],
    code: `struct Params { rows: u32 }
@group(0) @binding(0) var${
      isTexture ? " source: texture_storage_2d<rgba32uint, read>" : "<storage, read> source: array<vec4u>"
    };
@group(0) @binding(1) var<storage, read_write> sums: array<vec4u>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var sum = vec4u();
  for (var r = group.x * params.rows; r < (group.x + 1u) * params.rows; r++) {
    for (var c = lane; c < ${TEXELS}u; c += ${8 * lanes}u) {
      sum ^= ${Array.from({ length: 8 }, (_, i) => load(i)).join(" ^ ")};
    }
  }
  sums[group.x * ${lanes}u + lane] = sum;
}
`,
  };
  using source = isTexture
    ? device.createTexture("source", TEXELS, ROWS, "rgba32uint")
    : device.createBuffer("source", Math.min(bytes, device.limits.maxStorageBufferBindingSize));
  using sums = device.createBuffer("sums", 16 * lanes * ROWS / rows);
  using plan = new Plan(device);
  const groups = Math.floor(source.bytes / (16 * TEXELS) / rows);
  plan.dispatch(compileKernel(device, kernel), [source, sums, { params: [u32(rows)] }], { groups: [groups] });
  await plan.run();
  return source.bytes / typical(clockOf(device), await timed(() => plan.run(), { repeats }));
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      dtype: { type: "string", default: "f16" },
      sparsity: { type: "string", default: "0" },
      sequences: { type: "string", default: "1" },
      tokens: { type: "string", default: "64" },
      prompt: { type: "string", default: "64" },
      repeats: { type: "string", default: "5" },
      profile: { type: "boolean", default: false },
    },
  });
  const { source } = await openModelFiles(positionals[0] ?? DEMO);
  const tokens = Number(values.tokens), repeats = Number(values.repeats);
  const prompt = Array.from({ length: Number(values.prompt) }, (_, index) => (index * 7919 + 5) % source.spec.vocab);
  using device = await openDevice();
  const clock = clockOf(device), speed = await readingSpeed(device, { repeats });
  console.log(`${device.facts.description}, ${tokens} tokens after ${prompt.length}, median of ${repeats}`);
  console.log(`reading: ${(speed / 1e9).toFixed(1)} GB/s by ${clock.kind} time`);
  console.log(
    "dtype sparsity sequences parameters  MB/token  tokens/s by " + `${clock.kind}`.padEnd(5) +
      " wall    share of reading",
  );
  for (const dtype of values.dtype.split(",") as BaseDtype[]) {
    for (const sparsity of values.sparsity.split(",").map(Number)) {
      using model = await loadModelFrom(randomSlice(source, { sparsity }), { device, baseDtype: dtype });
      const bytes = bytesOfToken(model);
      for (const sequences of values.sequences.split(",").map(Number)) {
        const timing = sequences === 1
          ? await measureDecode(model, { prompt, tokens, repeats })
          : await measureBatch(model, { prompt, tokens, repeats, sequences });
        const rate = sequences * tokens / median(secondsBy(clock, timing));
        console.log([
          dtype.padEnd(5),
          String(sparsity).padEnd(8),
          String(sequences).padEnd(9),
          String(parameterCount(model.spec)).padStart(10),
          (bytes / 1e6).toFixed(1).padStart(9),
          rate.toFixed(1).padStart(16),
          (sequences * tokens / median(timing.seconds)).toFixed(1).padStart(8),
          `${(100 * rate / sequences * bytes / speed).toFixed(0)} %`.padStart(9),
        ].join(" "));
        if (values.profile) await profile(model, { prompt, tokens: Math.min(8, tokens), sequences });
      }
    }
  }
}

/** Prints the seconds of each part of a step, a token of each sequence, by the device's own timestamps. */
async function profile(
  model: Model,
  { prompt, tokens, sequences }: Omit<DecodeLength, "repeats"> & { readonly sequences: number },
): Promise<void> {
  const parts = new Map<string, number>(), options = { count: tokens, profile: parts };
  if (sequences === 1) {
    using pass = createDecodePass(model.device, model.weights, { capacity: prompt.length + tokens });
    await pass.prefill(prompt.slice(0, -1));
    await pass.next(prompt.at(-1) ?? 0, options);
  } else {
    using opened = await openBatch(model, { prompt, tokens, sequences });
    await opened.batch.next(opened.rows, options);
  }
  const all = [...parts.values()].reduce((sum, seconds) => sum + seconds, 0);
  for (const [part, seconds] of parts) {
    const share = `${(100 * seconds / all).toFixed(0)} %`;
    console.log(`  ${part.padEnd(12)} ${(seconds * 1e3 / tokens).toFixed(2)} ms ${share.padStart(5)}`);
  }
}

if (import.meta.main) await main();
