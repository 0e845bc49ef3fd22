// The benchmark suite: opens the device, measures the machine, runs the parts in order, and collects their results.
import { basename, resolve } from "node:path";
import { openDevice } from "../../lib/gpu/device.ts";
import { type ModelFiles } from "../../lib/formats/open.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { Scale } from "./cases.ts";
import { type DecodeResult, measureDecoding } from "./decoding.ts";
import { type FamiliesResult, measureFamilies } from "./families.ts";
import { type FileRow, measureFiles } from "./files.ts";
import { type GrowthResult, measureGrowth } from "./growth.ts";
import { type KernelRow, measureKernels } from "./kernels.ts";
import { clockOf, commit, describeMachine, type Machine } from "./machine.ts";
import type { BenchOptions, Part } from "./options.ts";
import { measurePeaks } from "./peaks.ts";
import { createPeers } from "./peers.ts";
import { type DecoderConfig, randomModel, SMOLLM2, specOf } from "./random_model.ts";
import { measureStep, type StepResult } from "./step.ts";
import type { Effort } from "./timing.ts";

/** Everything that was measured; bench.json holds this. Seconds and bytes throughout. */
export interface BenchResults {
  readonly format: 1;
  readonly date: string;
  /** Null outside of a checkout; a "+" means that files were changed. */
  readonly commit: string | null;
  readonly options: {
    readonly parts: readonly Part[];
    readonly scale: Scale;
    readonly model: string;
    readonly peers: boolean;
  };
  readonly machine: Machine;
  readonly kernels?: readonly KernelRow[];
  readonly step?: StepResult;
  readonly decode?: DecodeResult;
  readonly load?: readonly FileRow[];
  readonly slice?: readonly FileRow[];
  readonly growth?: GrowthResult;
  readonly families?: FamiliesResult;
  /** Peers and cases that were left out, with the reason. */
  readonly problems: readonly string[];
}

const EFFORTS: Readonly<Record<Scale, Effort>> = {
  full: { repeats: 7, repeatSeconds: 0.2 },
  quick: { repeats: 3, repeatSeconds: 0.05 },
  tiny: { repeats: 2, repeatSeconds: 0.002 },
};
/** Bytes of each buffer that measures the memory. */
export const STREAM_BYTES: Readonly<Record<Scale, number>> = { full: 64 << 20, quick: 64 << 20, tiny: 1 << 20 };
/** Shape of the random model. */
export const MODELS: Readonly<Record<Scale, DecoderConfig>> = {
  full: SMOLLM2,
  quick: { ...SMOLLM2, layers: 2, vocab: 8192 },
  tiny: { ...SMOLLM2, hidden: 32, layers: 1, heads: 4, kvHeads: 2, headDim: 8, ffn: 64, vocab: 64 },
};

/** Progress of a run of the suite. */
export interface SuiteEvents {
  /** A line for each thing that is begun. */
  readonly log: (line: string) => void;
  /** All results so far, after each part: a run is long. */
  readonly save: (results: BenchResults) => Promise<void>;
}

/** Runs the parts. */
export async function runSuite(options: BenchOptions, { log, save }: SuiteEvents): Promise<BenchResults> {
  const { scale, parts } = options, effort = EFFORTS[scale];
  using device = await openDevice();
  const clock = clockOf(device);
  log("machine: peaks");
  const machine = await describeMachine(device, {
    clock,
    peaks: await measurePeaks(device, { clock, effort, bytes: STREAM_BYTES[scale] }),
  });
  const peers = createPeers({ enabled: options.peers, torchDevice: device.facts.isCpu ? "cpu" : "cuda" });
  const { files, name, path } = await openFiles(options);
  const common = { machine, effort, scale, peers, log }, { source } = files;
  const ggufPath = path && (await Deno.stat(path)).isFile ? path : null;
  let results: BenchResults = {
    format: 1,
    date: new Date().toISOString(),
    commit: await commit(),
    options: { parts: [...parts], scale, model: name, peers: options.peers },
    machine,
    problems: peers.problems,
  };
  const add = async (measured: Partial<BenchResults>): Promise<void> => {
    results = { ...results, ...measured };
    await save(results);
  };
  if (parts.has("kernels")) await add({ kernels: await measureKernels(device, { ...common, filter: options.filter }) });
  if (parts.has("step")) await add({ step: await measureStep(device, { ...common, source, name }) });
  if (parts.has("decode")) await add({ decode: await measureDecoding(device, { ...common, source, name, ggufPath }) });
  const onDisk = { load: parts.has("load"), slice: parts.has("slice") };
  if (onDisk.load || onDisk.slice) {
    const { load, slice } = await measureFiles(device, {
      ...common,
      files,
      modelPath: path,
      parts: onDisk,
      folder: options.out,
    });
    await add({ ...(onDisk.load ? { load } : {}), ...(onDisk.slice ? { slice } : {}) });
  }
  if (parts.has("growth")) await add({ growth: await measureGrowth(device, common) });
  if (parts.has("families")) await add({ families: await measureFamilies(device, common) });
  return results;
}

async function openFiles(
  { model, scale }: BenchOptions,
): Promise<{ readonly files: ModelFiles; readonly name: string; readonly path: string | null }> {
  if (model !== null) {
    const path = resolve(model);
    return { files: await openModelFiles(path), name: basename(path), path };
  }
  const config = MODELS[scale], { layers, vocab } = config;
  const name = scale === "full"
    ? "random weights of SmolLM2-135M's shape"
    : `random weights, SmolLM2's widths, ${layers} layers, vocabulary ${vocab}`;
  return { files: { source: randomModel(specOf(config), { seed: 1 }), tokenizer: null }, name, path: null };
}
