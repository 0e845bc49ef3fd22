// Matrix units of a GPU: whether the adapter offers them to WGSL as subgroup matrices, and whether they compute right.
import { type MatrixUnits, productMatrix } from "../../kernels/mod.ts";
import type { KernelSource } from "../../kernels/source.ts";

/** Dawn's feature, offered if unsafe APIs are allowed, and the features that it needs. */
const FEATURES: readonly string[] = ["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"];

/** What Dawn adds to the properties of an adapter. */
interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/**
 * A shape of the adapter that kernels can use: f16 with sums in f32, in subgroups of one size. Null if there is none.
 * https://dawn.googlesource.com/dawn/+/refs/heads/main/docs/dawn/features/subgroup_matrix.md
 */
export function offeredUnits({ features, info }: Pick<GPUAdapter, "features" | "info">): MatrixUnits | null {
  const { subgroupMinSize: least, subgroupMaxSize: lanes } = info;
  const { subgroupMatrixConfigs: configs = [] } = info as { subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig> };
  const granted = new Set<string>(features);
  if (!FEATURES.every((feature) => granted.has(feature)) || least !== lanes || !(lanes > 0)) return null;
  const found = [...configs].find(({ componentType, resultComponentType, M, N, K }) =>
    componentType === "f16" && resultComponentType === "f32" && 32 % M === 0 && 32 % N === 0 && 16 % K === 0
  );
  return found ? { lanes, m: found.M, n: found.N, k: found.K } : null;
}

/** A device with the features that matrix units need. Null if it is refused. */
export async function requestUnits(adapter: GPUAdapter, descriptor: GPUDeviceDescriptor): Promise<GPUDevice | null> {
  const requiredFeatures = [...descriptor.requiredFeatures ?? [], ...FEATURES as GPUFeatureName[]];
  try {
    return await adapter.requestDevice({ ...descriptor, requiredFeatures });
  } catch {
    return null;
  }
}

/** Sides of the product of the probe: more rows and columns than a workgroup has, and three steps. */
const M = 70, N = 72, K = 48;
/** Row strides, and stored rows of W. */
const STRIDE = 64, WIDTH = 128;

/**
 * Multiplies small matrices and compares them with sums in f64. False if the compiler refuses the kernel, or if a value
 * is further off than sums in f32 can be.
 */
export async function unitsAreRight(
  gpu: GPUDevice,
  units: MatrixUnits,
  { code }: KernelSource = productMatrix(units),
): Promise<boolean> {
  const x = new Float32Array(M * STRIDE), w = new Float16Array(WIDTH * STRIDE);
  for (let row = 0; row < M; row++) {
    for (let i = 0; i < K; i++) x[row * STRIDE + i] = Math.sin(row * 12.9898 + i * 78.233) * 2 ** (row % 7);
  }
  for (let row = 0; row < N; row++) for (let i = 0; i < K; i++) w[row * STRIDE + i] = Math.cos(row * 37.719 + i);
  const got = await product(gpu, code, { x, w });
  if (!got) return false;
  for (let row = 0; row < M; row++) {
    for (let column = 0; column < N; column++) {
      let sum = 0, size = 0;
      for (let i = 0; i < K; i++) {
        const term = (x[row * STRIDE + i] ?? 0) * (w[column * STRIDE + i] ?? 0);
        sum += term;
        size += Math.abs(term);
      }
      // Units may cut the sums of f32 off; the halves of x keep 22 bits.
      if (!(Math.abs((got[row * WIDTH + column] ?? NaN) - sum) <= (K + 4) * 2 ** -22 * size)) return false;
    }
  }
  return true;
}

async function product(
  gpu: GPUDevice,
  code: string,
  { x, w }: { readonly x: Float32Array<ArrayBuffer>; readonly w: Float16Array<ArrayBuffer> },
): Promise<Float32Array | null> {
  const bytes = 4 * M * WIDTH, own: GPUBuffer[] = [];
  const buffer = (size: number, usage: number): GPUBuffer => {
    const made = gpu.createBuffer({ size, usage });
    own.push(made);
    return made;
  };
  const filled = (
    data: Float32Array<ArrayBuffer> | Float16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
    usage: number,
  ) => {
    const target = buffer(data.byteLength, usage | 0x08); // COPY_DST
    gpu.queue.writeBuffer(target, 0, new Uint8Array(data.buffer));
    return target;
  };
  gpu.pushErrorScope("validation");
  const params = Uint32Array.of(M, N, K / 16, 0, STRIDE / 4, STRIDE / 4, 0, WIDTH / 4, 0, 0, 0, 0);
  const y = buffer(bytes, 0x80 | 0x04), staging = buffer(bytes, 0x01 | 0x08); // STORAGE | COPY_SRC, MAP_READ | COPY_DST
  const bound = [filled(x, 0x80), filled(w, 0x80), y, filled(params, 0x40)]; // STORAGE, UNIFORM
  const module = gpu.createShaderModule({ label: "matrix units", code });
  const pipeline = gpu.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const encoder = gpu.createCommandEncoder(), pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    gpu.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })),
    }),
  );
  pass.dispatchWorkgroups(2, 2);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  try {
    if (await gpu.popErrorScope() !== null) return null;
    await staging.mapAsync(0x01);
    return new Float32Array(staging.getMappedRange().slice(0));
  } finally {
    own.forEach((made) => made.destroy());
  }
}
