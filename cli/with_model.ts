// What every verb that runs a model needs: device, loaded weights, Ctrl-C, progress. Owns their lifetime; refuses what is done with them.
import { CompressoError } from "../lib/errors.ts";
import { openDevice } from "../lib/gpu/device.ts";
import type { Tokenizer } from "../lib/io/tokenizer.ts";
import { loadModel, type Model } from "../lib/run/model.ts";
import { watchInterrupt } from "./interrupt.ts";
import { type Progress, stderrProgress } from "./progress.ts";

/** Options of {@link withModel}; absent or undefined means the default. */
export interface ModelSettings {
  /** Storage of the weights on the GPU. */
  readonly baseDtype?: "f16" | "f32" | undefined;
  /** Bytes of GPU memory that may be used. */
  readonly memoryLimit?: number | undefined;
  /** What is said at the first Ctrl-C. */
  readonly onInterrupt?: string;
  /** Whether the work itself calls `listen`; until then Ctrl-C ends the process at once. Default false. */
  readonly listensLater?: boolean;
}

/** What {@link withModel} lends. */
export interface Loaded {
  readonly model: Model;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** From here on Ctrl-C fires `signal`. */
  readonly listen: () => void;
}

/** Words of `--base-dtype`. */
export const BASE_DTYPES = ["f16", "f32"] as const;

/** Opens the device, loads the model, and frees both when the work is done or has failed. */
export async function withModel<T>(
  path: string,
  settings: ModelSettings,
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { baseDtype = "f16", memoryLimit, onInterrupt, listensLater } = settings;
  using interrupt = watchInterrupt(onInterrupt);
  if (!listensLater) interrupt.start();
  using progress = stderrProgress();
  using device = await openDevice(memoryLimit === undefined ? {} : { memoryLimit });
  const { signal } = interrupt;
  using model = await loadModel(path, {
    device,
    baseDtype,
    signal,
    onProgress: (share) => progress.phase("loading the model", share),
  });
  signal.throwIfAborted();
  return await work({ model, signal, progress, listen: interrupt.start });
}

/** The model's tokenizer. Throws `CompressoError("input")` where it has none. */
export function tokenizerOf({ tokenizer }: Model): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new CompressoError("input", {
    what: "cannot read text",
    rule: "the model has a tokenizer",
    value: "there is none beside the weights",
    mend: "put tokenizer.json into the model's folder",
  });
}
