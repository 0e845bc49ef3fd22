// How much errors of each input column of a matrix matter: the importance matrix of llama.cpp, for quantised files.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import type { Importance } from "../formats/gguf/importance.ts";
import type { Device } from "../gpu/device.ts";
import type { ObservedInput } from "../nn/context.ts";
import { convName, presentProjections, type Projection, projectionName } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import { embedded, grouped, layerOutputs } from "./by_layers.ts";

/** Options of {@link measureImportance}. */
export interface ImportanceOptions {
  /** Device to run on. */
  readonly device: Device;
  /** Sequences of token ids. Long ones are split into pieces of `window` tokens. */
  readonly tokens: readonly (readonly number[])[];
  /** Tokens per piece. Default 512, as llama.cpp has it. */
  readonly window?: number | undefined;
  /** Tokens per pass, in whole pieces and at least one. Default 512. */
  readonly rows?: number | undefined;
  /** Aborts the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the completed share, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

const NAMES: NamesOf<ImportanceOptions> = {
  device: true,
  tokens: true,
  window: "number",
  rows: "number",
  signal: true,
  onProgress: true,
};

/** The input that a projection reads. */
const INPUT_OF: Readonly<Record<Projection, ObservedInput["of"]>> = {
  q: "attention",
  k: "attention",
  v: "attention",
  o: "o",
  gate: "ffn",
  up: "ffn",
  down: "down",
};

/**
 * Runs a model over tokens and returns the mean square of every input channel of the layers' projections, by canonical
 * name of the weight, as `llama-imatrix` does. Like there by default, embedding and output head are left out. It uses
 * f32 and holds half a layer on the GPU at a time.
 *
 * @throws CompressoError("input") if there are no tokens.
 * @throws CompressoError("numeric") if the model's activations are not finite.
 * @throws CompressoError("usage") for unknown options.
 */
export async function measureImportance(source: WeightSource, options: ImportanceOptions): Promise<Importance> {
  checkNames(options, NAMES, { whose: "measureImportance" });
  const { device, tokens, window = WINDOW, rows = WINDOW, signal, onProgress } = options, { spec } = source;
  const groups = grouped(tokens, { window: Math.min(window, spec.maxPosition), rows });
  if (groups.length === 0) {
    refuse("input", "cannot measure the importance of columns", {
      rule: "there are tokens to run the model on",
      value: "none",
    });
  }
  const side = { source, adapters: {} }, run = { device, groups, signal }, found = new Map<string, Float32Array>();
  let states: readonly Float32Array<ArrayBuffer>[] = await embedded(side, run);
  for (const [index, layer] of spec.layers.entries()) {
    const inputs = new Map<ObservedInput["of"], Float32Array>();
    states = await layerOutputs(side, index, {
      ...run,
      inputs: states,
      onInputs: (moments, count) => {
        for (const { of, mean, squares } of moments) {
          inputs.set(
            of,
            mean.map((m, j) => m * m + (squares[j] ?? NaN) / count),
          );
        }
      },
    });
    for (const projection of presentProjections(spec, layer)) {
      const of = inputs.get(INPUT_OF[projection]);
      if (!of) continue;
      if (!of.every(Number.isFinite)) throw notFinite(index, projection);
      found.set(projectionName(index, projection), of);
    }
    for (const [part, input] of layer.conv ? [["in", "attention"], ["out", "o"]] as const : []) {
      const of = inputs.get(input);
      if (of?.every(Number.isFinite)) found.set(convName(index, part), of);
    }
    onProgress?.((index + 1) / spec.layers.length);
  }
  return found;
}

const WINDOW = 512;

function notFinite(layer: number, projection: Projection): CompressoError {
  return refusal("numeric", "cannot measure the importance of columns", {
    rule: "the model's activations are finite",
    value: `NaN or infinity before ${projection} of layer ${layer}`,
    fix: "check the weights, or give other tokens",
  });
}
