// What every verb that runs a model needs: device, loaded weights, Ctrl-C, progress.
import type { BaseDtype } from "../lib/nn/weights.ts";
import type { WeightSource } from "../lib/spec/source.ts";
import type { Device } from "../lib/gpu/device.ts";
import { openModelFiles } from "../lib/local/open_model.ts";
import { readPeftAdapter } from "../lib/local/adapter.ts";
import type { Tokenizer } from "../lib/text/tokenizer.ts";
import { noTokenizer } from "../lib/text/no_tokenizer.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { type Adapters, loadModelFrom, type Model } from "../lib/model/model.ts";
import type { OpenedModel } from "../lib/model/opened.ts";
import { fetchInputs } from "./hub.ts";
import { watchInterrupt } from "./terminal/interrupt.ts";
import { type Progress, stderrProgress } from "./terminal/progress.ts";
import type { MpiRanks } from "../lib/ranks/mpi.ts";
import { tuneFor, type TuneRequest, type TuningSetting } from "./tuning.ts";
import { openDeviceHere } from "./webgpu.ts";

/** Options of {@link withModel}; absent or undefined means the default. */
export interface ModelSettings {
  /** Storage of the weights on the GPU. */
  readonly baseDtype?: BaseDtype | undefined;
  /** Bytes of GPU memory that may be used. */
  readonly memoryLimit?: number | undefined;
  /** PEFT adapter that the work gets as `adapters`: a folder, or its .safetensors file. Default: none. */
  readonly adapter?: string | undefined;
  /** A second model, on the same device and with the same storage. Default: none. */
  readonly compare?: string | undefined;
  /** Where tuned kernels are kept. Default: the user's cache. */
  readonly tuning?: TuningSetting | undefined;
  /** Processes that share the work. */
  readonly ranks?: MpiRanks | null | undefined;
  /** Called before any weight is read; if it throws, nothing is loaded. */
  readonly onShape?: ((source: WeightSource, device: Device) => Promise<unknown>) | undefined;
  /** The message at the first Ctrl-C. */
  readonly onInterrupt?: string | undefined;
  /** Whether the work itself calls `listen`; until then Ctrl-C ends the process at once. Default false. */
  readonly listensLater?: boolean | undefined;
}

/** What {@link withModel} lends. */
export interface Loaded {
  readonly model: Model;
  /** The model of `compare`; null without. */
  readonly other: Model | null;
  /** LoRA of the adapter, where one was asked for; it is not merged. */
  readonly adapters: Adapters;
  readonly ranks: MpiRanks | undefined;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** From here on Ctrl-C fires `signal`. */
  readonly listen: () => void;
  /** To be called once what will run on each model is known, before it is recorded: measures kernels, a few seconds at most. */
  readonly tune: (request: TuneRequest) => Promise<void>;
}

/** What {@link withOpened} lends. */
export interface Opened extends Pick<Loaded, "signal" | "progress" | "listen"> {
  readonly model: OpenedModel;
}

/** Opens the device and the files of a model, whose weights are not loaded, and frees the device when the work is over. */
export async function withOpened<T>(
  path: string,
  settings: Omit<ModelSettings, "tuning" | "ranks">,
  work: (opened: Opened) => Promise<T>,
): Promise<T> {
  const { baseDtype = "f16", memoryLimit, compare, adapter, onInterrupt, listensLater } = settings;
  using interrupt = watchInterrupt(onInterrupt);
  if (!listensLater) interrupt.start();
  await fetchInputs({ model: [path, compare], adapter: [adapter] }, { signal: interrupt.signal });
  using progress = stderrProgress();
  using device = await openDeviceHere({ memoryLimit });
  progress.detail(`device      ${device.facts.description}`);
  const { source, tokenizer } = await openModelFiles(path), { signal, start: listen } = interrupt;
  await settings.onShape?.(source, device);
  return await work({ model: { device, source, tokenizer, baseDtype }, signal, progress, listen });
}

/** Opens the device, loads the model, and frees both when the work is done or has failed. */
export async function withModel<T>(
  path: string,
  settings: ModelSettings,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { compare, tuning: setting = true, ranks } = settings;
  let otherFiles: Awaited<ReturnType<typeof openModelFiles>> | null = null;
  const onShape = async (source: WeightSource, device: Device): Promise<void> => {
    // Both are opened before either is loaded, so that a wrong path fails at once.
    if (compare !== undefined) otherFiles = await openModelFiles(compare);
    await settings.onShape?.(source, device);
  };
  return await withOpened(path, { ...settings, onShape }, async ({ model: files, signal, progress, listen }) => {
    const { device, baseDtype } = files, adapters = await readAdapters(settings.adapter, files.source.spec);
    const load = async (
      { source, tokenizer }: Pick<OpenedModel, "source" | "tokenizer">,
      what: string,
    ): Promise<Model> => {
      const onProgress = (share: number): void => progress.phase(`loading ${what}`, share);
      return await loadModelFrom(source, { device, tokenizer, baseDtype, signal, onProgress });
    };
    using model = await load(files, "the model");
    using other = otherFiles && await load(otherFiles, "the model to compare with");
    signal.throwIfAborted();
    const tune = async (request: TuneRequest): Promise<void> => {
      for (const each of other ? [model, other] : [model]) await tuneFor(each, request, { setting, progress, signal });
    };
    return await work({ model, other, adapters, ranks: ranks ?? undefined, signal, progress, listen, tune });
  });
}

/** LoRA of the adapter at a path, as evaluation takes it; nothing without a path. */
export async function readAdapters(path: string | undefined, spec: DecoderSpec): Promise<Adapters> {
  if (path === undefined) return {};
  const { config, weights } = await readPeftAdapter(path, spec);
  return { lora: { ...config, weights } };
}

/** The model's tokenizer. Throws `CompressoError("input")` if the model has no tokenizer. */
export function tokenizerOf({ tokenizer }: Pick<Model, "tokenizer">): Tokenizer {
  if (tokenizer) return tokenizer;
  throw noTokenizer("cannot read text");
}
