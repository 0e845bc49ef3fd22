// Detects whether kernels may use subgroups: all subgroups must have one size and number their lanes in order.

/** Subgroups of one size. The lanes of a subgroup are the invocations of a workgroup of that size, in order. */
export interface Subgroups {
  /** Number of invocations of every subgroup. */
  readonly size: number;
  /** Directive that WGSL with subgroups must start with on this version of the runtime. */
  readonly directive: string;
}

/** The directive is standard WGSL, but Deno 2.9 (wgpu 29) supports the functions without it and rejects it. */
const DIRECTIVES = ["enable subgroups;\n", ""];

/** y[i] is the number of the last lane if lanes are numbered like invocations, otherwise another number. */
const probe = (size: number): string =>
  `@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(${size})
fn main(@builtin(local_invocation_index) i: u32, @builtin(subgroup_invocation_id) lane: u32) {
  y[i] = select(${size}u, subgroupBroadcast(i, ${size - 1}u), lane == i);
}
`;

/** Size of all subgroups of an adapter; null if it may vary or is unknown. */
export function subgroupSize({ info }: GPUAdapter): number | null {
  const { subgroupMinSize: least, subgroupMaxSize: most } = info;
  return least > 0 && least === most ? least : null;
}

/**
 * Runs a kernel that checks the properties of subgroups that kernels need. Null if they do not hold, or if the compiler
 * of the device does not support subgroups.
 */
export async function probeSubgroups(gpu: GPUDevice, size: number): Promise<Subgroups | null> {
  for (const directive of DIRECTIVES) {
    gpu.pushErrorScope("validation");
    const module = gpu.createShaderModule({ label: "subgroups", code: directive + probe(size) });
    const { messages } = await module.getCompilationInfo();
    const error = await gpu.popErrorScope();
    if (error !== null || messages.some(({ type }) => type === "error")) continue;
    const last = await run(gpu, module, size);
    return last.every((value) => value === size - 1) ? { size, directive } : null;
  }
  return null;
}

async function run(gpu: GPUDevice, module: GPUShaderModule, size: number): Promise<Uint32Array> {
  const bytes = 4 * size;
  const y = gpu.createBuffer({ size: bytes, usage: 0x80 | 0x04 }); // STORAGE | COPY_SRC
  const staging = gpu.createBuffer({ size: bytes, usage: 0x01 | 0x08 }); // MAP_READ | COPY_DST
  const pipeline = gpu.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const entries = [{ binding: 0, resource: { buffer: y } }];
  const encoder = gpu.createCommandEncoder(), pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(0x01);
  const values = new Uint32Array(staging.getMappedRange().slice(0));
  y.destroy();
  staging.destroy();
  return values;
}

/**
 * Deno 2.9 grants the feature but does not list it, so it can only be detected by requesting it. Null if it is refused.
 */
export async function requestSubgroups(
  adapter: GPUAdapter,
  descriptor: GPUDeviceDescriptor,
): Promise<GPUDevice | null> {
  try {
    const requiredFeatures = [...descriptor.requiredFeatures ?? [], "subgroups" as const];
    return await adapter.requestDevice({ ...descriptor, requiredFeatures });
  } catch {
    return null;
  }
}
