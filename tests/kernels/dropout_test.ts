// Dropout, and the random numbers of all kernels against those of lib/core/random.ts.
import assert from "node:assert/strict";
import { type KernelSource } from "../../kernels/source.ts";
import { dropout } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { recordDropout } from "../../lib/nn/ops.ts";
import { randomU32, uniform } from "../../lib/core/random.ts";
import {
  assertActivation,
  type Cell,
  dense,
  denseOf,
  ROUND,
  staleActivation,
  stateBuffer,
  uploadActivation,
} from "./helpers/cells.ts";

const device: Device = await openDevice();
const SEED = 4000000001, STEP = 12;

/** The kernels' uniform number: that of lib/core/random.ts as f32, where the largest stays below 1. */
function uniformF32(...words: readonly [seed: number, step: number, stream: number, counter: number]): number {
  const [seed, ...rest] = words;
  return Math.min(Math.fround(uniform(seed, ...rest)), 1 - 2 ** -24);
}

Deno.test("kernels draw the numbers of lib/core/random.ts to the bit, and never 1", async () => {
  // The preludes of a kernel that draws, with a main that shows what it draws.
  const prelude = dropout.code.slice(0, dropout.code.indexOf("struct Params"));
  const source: KernelSource = {
    name: "show_random",
    bindings: ["read", "storage"],
    code: `${prelude}
@group(0) @binding(0) var<storage, read> words: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> drawn: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= arrayLength(&words)) { return; }
  let w = words[id.x];
  drawn[id.x] = uniform_random(w.x, w.y, w.z, w.w);
}
`,
  };
  const words: [number, number, number, number][] = [
    [3, 5, 1, 7844266], // its 24 bits are all ones
    [0, 0, 0, 0],
    [4294967295, 4294967295, 4294967295, 4294967295],
  ];
  for (let i = 0; i < 1000; i++) words.push([SEED + i % 3, i % 7, 1 + i % 5, i * 77777]);
  assert.equal(randomU32(3, 5, 1, 7844266) >>> 8, 0xffffff);
  using input = device.uploadBuffer("words", Uint32Array.from(words.flat()));
  using drawn = device.createBuffer("drawn", 4 * words.length);
  using plan = new Plan(device);
  plan.dispatch(compileKernel(device, source), [input, drawn], { groups: [Math.ceil(words.length / 64)] });
  await plan.run();
  const got = await device.readFloats(drawn, words.length);
  words.forEach((word, index) => assert.equal(got[index], uniformF32(...word), `words ${word}`));
  assert.ok(got.every((u) => u > 0 && u < 1));
});

/** Runs dropout once on values and returns its checked cells. */
async function check(
  { rows, width, rate, stream, step, firstRow = 0, accumulate = false }: {
    rows: number;
    width: number;
    rate: number;
    stream: number;
    step: number;
    firstRow?: number;
    accumulate?: boolean;
  },
): Promise<void> {
  const x = dense(rows, width, { seed: 1 }), before = dense(rows, width, { seed: 2 }), stride = strideOf(width);
  using state = stateBuffer(device, { seed: SEED, step, dropout: rate, firstRow });
  using xBuffer = uploadActivation(device, x);
  using y = accumulate ? uploadActivation(device, before) : staleActivation(device, rows, width);
  using plan = new Plan(device);
  recordDropout(plan, { x: xBuffer, state, y }, { rows, width, stream, accumulate });
  await plan.run();
  await assertActivation(device, y, {
    what: `${rows} × ${width}, rate ${rate}${accumulate ? " (+=)" : ""}`,
    rows,
    cols: width,
    ...(accumulate ? { fill: 0 } : {}),
    want(row, column): Cell {
      const isKept = uniformF32(SEED, step, stream, (firstRow + row) * stride + column) >= Math.fround(rate);
      const base = accumulate ? before.at(row, column) : 0;
      if (!isKept) return { value: base, bound: 0 };
      const value = x.at(row, column) / (1 - Math.fround(rate));
      // A difference, a division of 2.5 ulp, a product and the sum.
      return { value: base + value, bound: 8 * ROUND * (Math.abs(value) + Math.abs(base)) };
    },
  });
}

Deno.test("recordDropout() drops what lib/core/random.ts draws and scales the rest, for every size", async () => {
  for (const [rows, width] of [[1, 1], [3, 63], [65, 64], [2, 65], [3, 300]] as const) {
    for (const rate of [0.05, 0.5, 0.9]) await check({ rows, width, rate, stream: 0x105, step: STEP });
    await check({ rows, width, rate: 0.3, stream: 0x100, step: STEP + 1, accumulate: true });
  }
  await check({ rows: 2, width: 65, rate: 0, stream: 0x100, step: 0 });
  await check({ rows: 3, width: 65, rate: 0.5, stream: 0x100, step: 0, firstRow: 48 });
});

Deno.test("recordDropout() keeps the mean, draws the same for a stream and step, and another for others", async () => {
  const rows = 100, width = 200, rate = 0.25;
  const ones = denseOf(rows, width, new Float32Array(rows * width).fill(1));
  const draw = async (stream: number, step: number): Promise<Float32Array> => {
    using state = stateBuffer(device, { seed: SEED, step, dropout: rate });
    using x = uploadActivation(device, ones);
    using y = device.createBuffer("y", 4 * rows * strideOf(width));
    using plan = new Plan(device);
    recordDropout(plan, { x, state, y }, { rows, width, stream, accumulate: false });
    await plan.run();
    return await device.readFloats(y, rows * strideOf(width));
  };
  const first = await draw(1, 5);
  const mean = first.reduce((sum, value) => sum + value, 0) / (rows * width);
  // Standard deviation of the mean √(rate / (1 − rate) / 20000) = 0.004; five of it.
  assert.ok(Math.abs(mean - 1) < 0.02, `mean ${mean}`);
  assert.deepEqual(await draw(1, 5), first);
  for (const [stream, step] of [[2, 5], [1, 6]] as const) {
    const other = await draw(stream, step);
    const same = first.reduce((count, value, i) => count + (value > 0 && (other[i] ?? 0) > 0 ? 1 : 0), 0);
    // Independent draws both keep (1 − rate)² = 0.5625 of 20000: 11250 with a standard deviation of 70; five of it.
    assert.ok(Math.abs(same - 11250) < 350, `stream ${stream}, step ${step}: ${same} kept by both`);
  }
});

Deno.test("recordDropout() leaves no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
