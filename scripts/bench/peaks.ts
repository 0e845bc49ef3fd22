// Measures the peak rates of the adapter: multiply-adds from registers, and bytes streamed through memory.
import type { KernelSource } from "../../kernels/source.ts";
import { requestAdapter } from "../../lib/gpu/adapter.ts";
import { Device } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { type Bound, f32, Plan, u32 } from "../../lib/gpu/plan.ts";
import { type Clock, type Effort, prepare, timePlan, type Timing, typical } from "./timing.ts";

/** One way to reach a peak. */
export interface Probe {
  readonly name: string;
  /** Operations or bytes. */
  readonly work: number;
  readonly timing: Timing;
  /** Operations or bytes a second. */
  readonly rate: number;
  /** Whether a kernel does it; only those count for the peak. */
  readonly isKernel: boolean;
}

/** The best of each, and all ways that were tried. */
export interface Peaks {
  /** Floating-point operations a second, a multiply-add counted as two. */
  readonly flops: number;
  /** Bytes a second, read and written ones together. */
  readonly bytes: number;
  readonly probes: readonly Probe[];
}

/** Multiply-adds of f16 pairs from registers, or null where the adapter computes no f16. */
export async function measureF16Peak(
  { clock, effort }: { readonly clock: Clock; readonly effort: Effort },
): Promise<number | null> {
  const { adapter, facts } = await requestAdapter({});
  if (!adapter.features.has("shader-f16")) return null;
  using device = new Device(await adapter.requestDevice({ requiredFeatures: ["shader-f16"] }), facts);
  const probes = await arithmeticProbes(device, probingOn(device, { clock, effort }), "f16");
  return Math.max(...probes.map(({ rate }) => rate));
}

type Probing = (name: string, work: number, record: (plan: Plan) => void) => Promise<Probe>;

/** Measures the peaks with buffers of `bytes` each, which should be larger than every cache. */
export async function measurePeaks(
  device: Device,
  { clock, effort, bytes }: { readonly clock: Clock; readonly effort: Effort; readonly bytes: number },
): Promise<Peaks> {
  const probe = probingOn(device, { clock, effort });
  const arithmetic = await arithmeticProbes(device, probe), memory = await memoryProbes(device, probe, bytes);
  using from = device.createBuffer("from", bytes);
  using to = device.createBuffer("to", bytes);
  // A driver that is a CPU copies on one core, so its CPU seconds are not shared out to all of them.
  const copy = await probe("copy of a buffer, no kernel", 2 * bytes, (plan) => plan.copy(from, to, { bytes }));
  const copyRate = copy.work / typical({ ...clock, cores: 1 }, copy.timing);
  const best = (probes: readonly Probe[]): number => Math.max(...probes.map(({ rate }) => rate));
  return {
    flops: best(arithmetic),
    bytes: best(memory),
    probes: [...arithmetic, ...memory, { ...copy, rate: copyRate, isKernel: false }],
  };
}

function probingOn(
  device: Device,
  { clock, effort }: { readonly clock: Clock; readonly effort: Effort },
): Probing {
  return async (name, work, record) => {
    using plan = new Plan(device);
    record(plan);
    const timing = await timePlan(await prepare(plan, effort), effort);
    return { name, work, timing, rate: work / typical(clock, timing), isKernel: true };
  };
}

async function arithmeticProbes(device: Device, probe: Probing, type: "f32" | "f16" = "f32"): Promise<Probe[]> {
  using out = device.createBuffer("out", 4 * INVOCATIONS);
  const probes: Probe[] = [];
  for (const fused of [true, false]) {
    for (const chains of [8, 10, 12]) {
      const kernel = compileKernel(device, multiplyAdds({ fused, chains, type })),
        work = (type === "f16" ? 2 : 1) * 2 * chains * UNROLL * LOOPS * INVOCATIONS;
      const bound = [out, { params: [u32(LOOPS), f32(0.999), f32(0.001)] }];
      const name = `${chains} chains, ${fused ? "fma" : "multiply and add"}`;
      probes.push(
        await probe(name, work, (plan) => plan.dispatch(kernel, bound, { groups: [INVOCATIONS / GROUP], cost: work })),
      );
    }
  }
  return probes;
}

async function memoryProbes(device: Device, probe: Probing, bytes: number): Promise<Probe[]> {
  const floats = bytes / 4, vectors = floats / 4, width = Math.min(1024, vectors / 64), height = vectors / width;
  using from = device.uploadBuffer("from", new Float32Array(floats).fill(1));
  using to = device.createBuffer("to", bytes);
  using texture = device.createTexture("texture", width, height, "rgba32float");
  using fill = new Plan(device);
  fill.copyToTexture(from, texture, { bytesPerRow: 16 * width, rows: height });
  await fill.run();
  const run = (kernel: KernelSource, bound: Bound, [groups, size]: readonly [number, number]) => (plan: Plan): void =>
    plan.dispatch(compileKernel(device, kernel), [bound, to, { params: [u32(size)] }], {
      groups: [groups],
      cost: floats,
    });
  return [
    await probe(
      "kernel, buffer to buffer",
      2 * bytes,
      run(streamCopy, from, [Math.min(65535, vectors / GROUP), vectors]),
    ),
    await probe("kernel, reads a buffer", bytes, run(streamRead, from, [Math.ceil(vectors / GROUP / SPAN), vectors])),
    await probe("kernel, reads a texture", bytes, run(streamTexture, texture, [Math.ceil(height / 8), width])),
  ];
}

const GROUP = 64;
const INVOCATIONS = 1 << 14;
const LOOPS = 256;
/** Multiply-adds of each chain in one turn of the loop. */
const UNROLL = 16;
/** vec4 that one invocation of {@link streamRead} sums. */
const SPAN = 64;

/** x := x·factor + addend in independent chains that never leave the registers; of f16, pairs. */
function multiplyAdds({ fused, chains, type }: {
  readonly fused: boolean;
  readonly chains: number;
  readonly type: "f32" | "f16";
}): KernelSource {
  const kind = type === "f16" ? "vec2<f16>" : "f32";
  const names = Array.from({ length: chains }, (_, i) => `a${i}`);
  const turn = names.map((a) => fused ? `${a} = fma(${a}, m, c);` : `${a} = ${a} * m + c;`).join(" ");
  return {
    name: `peak_multiply_add_${type}_${fused ? "fma" : "mad"}_${chains}`,
    code: `${type === "f16" ? "enable f16;\n" : ""}struct Params { loops: u32, factor: f32, addend: f32 }
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = ${kind}(${type}(params.factor));
  let c = ${kind}(${type}(params.addend));
${names.map((a, i) => `  var ${a} = ${kind}(${type}(id.x % 64u) + ${i}.0);`).join("\n")}
  for (var i = 0u; i < params.loops; i++) {
${Array.from({ length: UNROLL }, () => `    ${turn}`).join("\n")}
  }
  let sum = ${names.join(" + ")};
  out[id.x] = ${type === "f16" ? "f32(sum.x + sum.y)" : "sum"};
}`,
    bindings: ["storage", "uniform"],
  };
}

/** to[i] = from[i], vec4 by vec4. */
const streamCopy: KernelSource = {
  name: "peak_copy",
  code: `@group(0) @binding(0) var<storage, read> source: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4f>;
@group(0) @binding(2) var<uniform> count: u32;
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < count; i += groups.x * ${GROUP}u) { target_[i] = source[i]; }
}`,
  bindings: ["read", "storage", "uniform"],
};

/** Sums ${SPAN} vec4 an invocation; the lanes of a workgroup read side by side. */
const streamRead: KernelSource = {
  name: "peak_read",
  code: `@group(0) @binding(0) var<storage, read> source: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4f>;
@group(0) @binding(2) var<uniform> count: u32;
@compute @workgroup_size(${GROUP}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var sum = vec4f();
  var i = group.x * ${GROUP * SPAN}u + lane;
  for (var n = 0u; n < ${SPAN}u && i < count; n++) {
    sum += source[i];
    i += ${GROUP}u;
  }
  sums[group.x * ${GROUP}u + lane] = sum;
}`,
  bindings: ["read", "storage", "uniform"],
};

/** The same from a storage texture whose width is a multiple of 64: 8 rows an invocation group of 8 lanes, 8 loads before their sum. */
const streamTexture: KernelSource = {
  name: "peak_read_texture",
  code: `@group(0) @binding(0) var source: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4f>;
@group(0) @binding(2) var<uniform> width: u32;
@compute @workgroup_size(8) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var sum = vec4f();
  for (var r = group.x * 8u; r < group.x * 8u + 8u; r++) {
    for (var x = lane; x < width; x += 64u) {
      sum += ${Array.from({ length: 8 }, (_, i) => `textureLoad(source, vec2u(x + ${8 * i}u, r))`).join(" + ")};
    }
  }
  sums[group.x * 8u + lane] = sum;
}`,
  bindings: ["texture-f32", "storage", "uniform"],
};
