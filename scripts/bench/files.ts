// The parts "load" and "slice": the speed of reading models from disk and writing them. The disk cache is warm.
import type { Device } from "../../lib/gpu/device.ts";
import type { GgufWriteType } from "../../lib/formats/gguf/mixes.ts";
import { disk } from "../../lib/files/disk.ts";
import { openWeights } from "../../lib/formats/open.ts";
import type { ModelFiles } from "../../lib/formats/open.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import type { Scale } from "./cases.ts";
import type { Machine } from "./machine.ts";
import { randomSlice } from "./slicing.ts";
import { timed, type Timing, typical } from "./timing.ts";

/** One way from or to disk. */
export interface FileRow {
  readonly name: string;
  readonly bytes: number;
  readonly parameters: number;
  readonly timing: Timing;
  /** Reading, writing and slicing run on one core: on a CPU adapter by CPU seconds, not divided by the cores. */
  readonly typicalSeconds: number;
  /** Bytes of the file a second. */
  readonly rate: number;
}

const REPEATS: Readonly<Record<Scale, number>> = { full: 3, quick: 2, tiny: 1 };
/** Types of GGUF files, each with the dtypes on the GPU that it is loaded as. */
const GGUF_LOADS: readonly (readonly [GgufWriteType, readonly BaseDtype[]])[] = [
  ["f32", ["f32", "f16"]],
  ["f16", ["f16"]],
  ["bf16", ["f16"]],
  ["q8_0", ["q8", "f16"]],
  ["q4_0", ["q4", "f16"]],
  ["q4_k_m", ["q4", "f16"]],
  ["q6_k", ["q8", "f16"]],
];
/** Shares of the layers' weights that are cut. */
export const SPARSITIES = [0.2, 0.4] as const;

/** Writes the model as each format, loads each to the GPU, and slices the folder. */
export async function measureFiles(
  device: Device,
  { files, modelPath, parts, folder, scale, machine, log }: {
    readonly files: ModelFiles;
    /** Where the model came from, if from a file. */
    readonly modelPath: string | null;
    readonly parts: { readonly load: boolean; readonly slice: boolean };
    /** Temporary files go here and are removed. */
    readonly folder: string;
    readonly scale: Scale;
    readonly machine: Machine;
    readonly log: (line: string) => void;
  },
): Promise<{ readonly load: FileRow[]; readonly slice: FileRow[] }> {
  const clock = { ...machine.clock, cores: 1 }, repeats = REPEATS[scale];
  const load: FileRow[] = [], slice: FileRow[] = [];
  const { tokenizer, source } = files, parameters = parameterCount(source.spec);
  const row = (name: string, timing: Timing, of: { readonly bytes: number; readonly parameters: number }): FileRow => {
    const typicalSeconds = typical(clock, timing);
    return { name, ...of, timing, typicalSeconds, rate: of.bytes / typicalSeconds };
  };
  const readBack = async (name: string, path: string, baseDtype: BaseDtype = "f16"): Promise<void> => {
    if (!parts.load) return;
    log(`load: ${name}`);
    const work = async (): Promise<void> => {
      // Weights alone: a tokenizer's time has nothing to do with bytes of weights.
      using model = await loadModelFrom(await openWeights(disk, path), { device, baseDtype });
      await model.device.idle();
    };
    await work(); // compiles the kernel that unpacks
    const timing = await timed(work, { repeats });
    load.push(row(name, timing, { bytes: await sizeOf(path), parameters }));
  };

  const temporary = await Deno.makeTempDir({ dir: folder, prefix: "bench-" });
  try {
    const shared = { tokenizer, name: "bench", replace: true, dtype: "f16" } as const;
    if (modelPath) await readBack(`${modelPath.split("/").at(-1)}, as it is`, modelPath);
    const dense = `${temporary}/dense`;
    const writeFolder = await timed(() => exportModel(source, dense, { ...shared, formats: ["hf"] }), { repeats: 1 });
    await readBack("folder, f16", `${dense}/model`);
    if (parts.load) {
      for (const [ggufDtype, dtypes] of GGUF_LOADS) {
        await exportModel(source, dense, { ...shared, ggufDtype, formats: ["gguf"] });
        for (const dtype of dtypes) await readBack(`GGUF, ${ggufDtype} as ${dtype}`, `${dense}/model.gguf`, dtype);
      }
    }
    if (parts.slice) {
      slice.push(row("written whole, folder f16", writeFolder, { bytes: await sizeOf(`${dense}/model`), parameters }));
      const opened = await openWeights(disk, `${dense}/model`);
      for (const sparsity of SPARSITIES) {
        const name = `cut by ${100 * sparsity} %, folder f16 → folder f16`, path = `${temporary}/sliced`;
        log(`slice: ${name}`);
        const sliced = randomSlice(opened, { sparsity });
        const timing = await timed(() => exportModel(sliced, path, { ...shared, formats: ["hf"] }), { repeats });
        const bytes = await sizeOf(`${path}/model`);
        slice.push(row(name, timing, { bytes, parameters: parameterCount(sliced.spec) }));
      }
    }
  } finally {
    await Deno.remove(temporary, { recursive: true });
  }
  return { load, slice };
}

/** Bytes of a file, or of the weights in a folder. */
async function sizeOf(path: string): Promise<number> {
  const info = await Deno.stat(path);
  if (!info.isDirectory) return info.size;
  let sum = 0;
  for await (const { name } of Deno.readDir(path)) {
    if (name.endsWith(".safetensors")) sum += (await Deno.stat(`${path}/${name}`)).size;
  }
  return sum;
}
