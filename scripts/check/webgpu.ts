// Runs a model by two implementations of WebGPU, Deno's and that of a module such as npm:webgpu (Dawn), and compares
// logits, memory and the wait for a result.
import { parseArgs } from "node:util";
import process from "node:process";
import { loadModel, openDevice } from "../../mod.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { chosenWebgpu, setWebgpu } from "../../cli/webgpu.ts";

const HELP = `usage: deno run -A scripts/check/webgpu.ts MODEL [options]

Runs MODEL (folder or GGUF) by Deno's WebGPU and by another, and compares them.

  --webgpu MODULE     module that exports gpu or create() (npm:webgpu@0.6.2)
  --base-dtype TYPE   f32, f16, q8 or q4, dtype of the weights on the GPU (f16)
  --tokens N          length of the sequence (17)
  --tolerance X       largest difference of a logit, relative to the largest logit (1e-5)
  --help              this text`;

const { values: options, positionals: [path] } = parseArgs({
  allowPositionals: true,
  options: {
    webgpu: { type: "string", default: "npm:webgpu@0.6.2" },
    "base-dtype": { type: "string", default: "f16" },
    tokens: { type: "string", default: "17" },
    tolerance: { type: "string", default: "1e-5" },
    help: { type: "boolean", default: false },
  },
});
const dtype = (["f32", "f16", "q8", "q4"] as const).find((word) => word === options["base-dtype"]);
if (options.help || path === undefined || dtype === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

/** What one implementation gives. */
interface Outcome {
  readonly adapter: string;
  readonly logits: Float32Array;
  readonly greedy: readonly number[];
  readonly bytes: number;
  readonly waitMilliseconds: number;
}

setWebgpu(options.webgpu);
const other = await chosenWebgpu();
const [own, its] = [await outcome(path, {}), await outcome(path, other)];
const scale = own.logits.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const error = own.logits.reduce((most, value, i) => Math.max(most, Math.abs(value - (its.logits[i] ?? NaN))), 0);
const checks = {
  [`logits differ by ${(error / scale).toExponential(1)} of the largest`]: error <= Number(options.tolerance) * scale,
  [`best next tokens are ${its.greedy.join(", ")}`]: own.greedy.join() === its.greedy.join(),
  [`${its.bytes} bytes on the GPU`]: own.bytes === its.bytes,
};
console.log(`${own.adapter}; ${options.webgpu}: ${its.adapter}`);
for (const [what, isRight] of Object.entries(checks)) console.log(`${isRight ? "PASS" : "FAIL"} ${what}`);
console.log(`submit and read back: ${own.waitMilliseconds.toFixed(2)} ms, ${its.waitMilliseconds.toFixed(2)} ms`);
process.exitCode = Object.values(checks).every(Boolean) ? 0 : 1;

async function outcome(model: string, gpu: typeof other): Promise<Outcome> {
  using device = await openDevice(gpu);
  using loaded = await loadModel(model, { device, ...(dtype ? { baseDtype: dtype } : {}) });
  const { vocab } = loaded.spec, count = Number(options.tokens), { bytes } = device;
  const tokens = Array.from({ length: count }, (_, index) => Math.floor(((index + 1) * 0.6180339887) % 1 * vocab));
  const logits = await loaded.logits(tokens);
  const rows = tokens.map((_, row) => logits.subarray(row * vocab, (row + 1) * vocab));
  return {
    adapter: device.facts.description,
    logits,
    greedy: rows.map((row) => row.indexOf(row.reduce((most, value) => Math.max(most, value)))),
    bytes,
    waitMilliseconds: await wait(device),
  };
}

/** Median milliseconds to read 16 bytes back. */
async function wait(device: Device): Promise<number> {
  using buffer = device.createBuffer("wait", 16);
  const times: number[] = [];
  for (let repeat = 0; repeat < 9; repeat++) {
    const start = performance.now();
    await device.readFloats(buffer, 4);
    times.push(performance.now() - start);
  }
  return times.sort((first, second) => first - second)[4] ?? NaN;
}
