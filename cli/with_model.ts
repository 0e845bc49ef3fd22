// What every verb that runs a model needs: device, loaded weights, Ctrl-C, progress.
import type { MatrixDtype } from "../lib/nn/products/matrix.ts";
import type { Device } from "../lib/gpu/device.ts";
import { openModelFiles } from "../lib/local/open_model.ts";
import { readPeftAdapter } from "../lib/local/adapter.ts";
import type { Tokenizer } from "../lib/text/tokenizer.ts";
import { noTokenizer } from "../lib/text/no_tokenizer.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { type Adapters, loadModelFrom, type Model } from "../lib/model/model.ts";
import { fetchInputs } from "./hub.ts";
import { watchInterrupt } from "./terminal/interrupt.ts";
import { type Progress, stderrProgress } from "./terminal/progress.ts";
import type { MpiRanks } from "../lib/ranks/mpi.ts";
import { tuneFor, type TuneRequest, type TuningSetting } from "./tuning.ts";
import { openDeviceHere } from "./webgpu.ts";

/** Options of {@link withModel}; absent or undefined means the default. */
export interface ModelSettings {
  /** Storage of the weights on the GPU. */
  readonly baseDtype?: MatrixDtype | undefined;
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
  readonly onShape?: ((spec: DecoderSpec, device: Device) => Promise<unknown>) | undefined;
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

/** Opens the device, loads the model, and frees both when the work is done or has failed. */
export async function withModel<T>(
  path: string,
  settings: ModelSettings,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { baseDtype = "f16", memoryLimit, tuning: setting = true, onInterrupt, listensLater } = settings;
  using interrupt = watchInterrupt(onInterrupt);
  if (!listensLater) interrupt.start();
  await fetchInputs({ model: [path, settings.compare], adapter: [settings.adapter] }, { signal: interrupt.signal });
  using progress = stderrProgress();
  using device = await openDeviceHere({ memoryLimit });
  const { signal } = interrupt;
  progress.detail(`device      ${device.facts.description}`);
  const files = await openModelFiles(path), { spec } = files.source;
  // Both are opened before either is loaded, so that a wrong path fails at once.
  const otherFiles = settings.compare === undefined ? null : await openModelFiles(settings.compare);
  await settings.onShape?.(spec, device);
  const adapters = await readAdapters(settings.adapter, spec);
  const load = async ({ source, tokenizer }: typeof files, what: string): Promise<Model> => {
    const onProgress = (share: number): void => progress.phase(`loading ${what}`, share);
    return await loadModelFrom(source, { device, tokenizer, baseDtype, signal, onProgress });
  };
  using model = await load(files, "the model");
  using other = otherFiles && await load(otherFiles, "the model to compare with");
  signal.throwIfAborted();
  const tune = async (request: TuneRequest): Promise<void> => {
    for (const each of other ? [model, other] : [model]) await tuneFor(each, request, { setting, progress, signal });
  };
  return await work({
    model,
    other,
    adapters,
    ranks: settings.ranks ?? undefined,
    signal,
    progress,
    listen: interrupt.start,
    tune,
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
