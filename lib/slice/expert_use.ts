// How a model uses its experts on texts: how often each is chosen, and what it adds. Holds half a layer at a time.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { refuse } from "../core/errors.ts";
import type { Device } from "../gpu/device.ts";
import { type ExpertSums, noSums } from "../nn/expert_use.ts";
import type { BaseDtype } from "../nn/weights.ts";
import type { WeightSource } from "../spec/source.ts";
import { embedded, grouped, layerOutputs } from "./by_layers.ts";

/** Options of {@link measureExperts}. */
export interface ExpertUseOptions {
  /** Device to run on. */
  readonly device: Device;
  /** Sequences of token ids. Long ones are split into pieces of `window` tokens. */
  readonly tokens: readonly (readonly number[])[];
  /** Tokens per piece. Default 512. */
  readonly window?: number | undefined;
  /** Tokens per pass, in whole pieces and at least one. Default 512. */
  readonly rows?: number | undefined;
  /** Storage of the weights on the GPU. Default "f16". */
  readonly baseDtype?: BaseDtype | undefined;
  /** Aborts the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the completed share, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

const NAMES: NamesOf<ExpertUseOptions> = {
  device: true,
  tokens: true,
  window: "number",
  rows: "number",
  baseDtype: true,
  signal: true,
  onProgress: true,
};

/** The use of the experts of one layer; a value for each expert. */
export interface LayerUse {
  /** Tokens that chose it. */
  readonly tokens: readonly number[];
  /** Mean of its router weight over these tokens, as a share of all weights of a token; 0 without any. */
  readonly weight: readonly number[];
  /** Mean of weight · ‖output‖₂ over these tokens (REAP, arXiv 2510.13999); 0 without any. */
  readonly output: readonly number[];
}

/** The use of the experts of a model. */
export interface ExpertUse {
  /** Tokens of the texts. */
  readonly tokens: number;
  /** By layer; null for a dense one. */
  readonly layers: readonly (LayerUse | null)[];
}

const WINDOW = 512;

/**
 * Runs a model with experts over tokens and tells how it uses each expert. Weights of one half layer at a time are on
 * the GPU; the residual stream of all tokens is kept in main memory, 4 · tokens · hidden bytes twice.
 *
 * @example
 * ```ts
 * import { openDevice } from "compresso";
 * import { measureExperts } from "compresso/masks";
 * import { openModelFiles } from "compresso/model";
 *
 * using device = await openDevice();
 * const { source } = await openModelFiles("fixtures/golden_experts/mixtral/model");
 * const { layers } = await measureExperts(source, { device, tokens: [[1, 2, 3, 4, 5]] });
 * console.log(layers[0]?.tokens, layers[0]?.output);
 * ```
 * @throws CompressoError("usage") for a model without experts, and for unknown options.
 * @throws CompressoError("input") if there are no tokens.
 * @throws CompressoError("numeric") if what the experts add is not finite.
 */
export async function measureExperts(source: WeightSource, options: ExpertUseOptions): Promise<ExpertUse> {
  checkNames(options, NAMES, { whose: "measureExperts" });
  const { device, tokens, window = WINDOW, rows = WINDOW, baseDtype = "f16", signal, onProgress } = options;
  const { spec } = source, groups = grouped(tokens, { window: Math.min(window, spec.maxPosition), rows });
  checkExperts(source, "cannot measure the use of experts");
  if (groups.length === 0) {
    refuse("input", "cannot measure the use of experts", {
      rule: "there are tokens to run the model on",
      value: "none",
    });
  }
  const side = { source, adapters: {} }, run = { device, groups, baseDtype, signal }, layers: (LayerUse | null)[] = [];
  // What the last experts give is read by no later layer.
  const last = spec.layers.findLastIndex(({ experts }) => experts);
  let states: readonly Float32Array<ArrayBuffer>[] = await embedded(side, run);
  for (const [index, { experts }] of spec.layers.entries()) {
    const use = experts ? noSums(experts.count) : undefined;
    if (index <= last) states = await layerOutputs(side, index, { ...run, use, inputs: states });
    layers.push(use ? meansOf(index, use) : null);
    onProgress?.((index + 1) / spec.layers.length);
  }
  return { tokens: groups.reduce((sum, { rows: own }) => sum + own.length, 0), layers };
}

/** Refuses a model without experts. Throws `CompressoError("usage")`. */
export function checkExperts({ spec: { router } }: Pick<WeightSource, "spec">, what: string): void {
  if (!router) refuse("usage", what, { rule: "layers have experts", value: "a dense model" });
}

/** Means of sums over the tokens of a layer. Throws `CompressoError("numeric")` if what experts add is not finite. */
export function meansOf(layer: number, { tokens, weight, output }: ExpertSums): LayerUse {
  const mean = (sums: Float64Array): number[] => Array.from(sums, (sum, e) => sum / Math.max(1, tokens[e] ?? 0));
  if (![...weight, ...output].every(Number.isFinite)) {
    refuse("numeric", "cannot measure the use of experts", {
      rule: "what experts add is finite",
      value: `NaN or infinity in layer ${layer}`,
      fix: "check the weights, or give other tokens",
    });
  }
  return { tokens: [...tokens], weight: mean(weight), output: mean(output) };
}
