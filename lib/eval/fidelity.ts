// How faithful a pruned or quantised model is to the dense one: KL divergence and first choices on a text.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { digestOf } from "../core/digest.ts";
import { refuse } from "../core/errors.ts";
import { IGNORED_LABEL } from "../data/prompts/encode.ts";
import type { Adapters, LabelAgreement, Model } from "../model/model.ts";
import { headSource } from "../nn/head_source.ts";
import type { BaseDtype } from "../nn/weights.ts";
import { loadWeights } from "../nn/weights.ts";
import { dealt, type Ranks } from "../ranks/ranks.ts";
import type { WeightSource } from "../spec/source.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type Agreement, agreementOf } from "./agreement.ts";
import { asDense, denseIds } from "./common_tokens.ts";
import { lossRatio, type PerplexityRatio } from "./compare.ts";
import { checkPerplexity, encodeText, type WindowLoss } from "./perplexity.ts";
import { labelBytes } from "./text_bytes.ts";

/** Options of {@link readReference}. */
export interface ReferenceOptions {
  /** Tokens of a window, at least 3. llama.cpp's default is 512. */
  readonly window: number;
  /** Tokenizer of the models to compare, where a part of the dense model's vocabulary was cut. Default: the dense model's. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Rows of the embedding of these models. Default: as the dense model has. */
  readonly vocab?: number | undefined;
  /** Characters (code points) of the text that are used. Default: all. */
  readonly limitChars?: number | undefined;
  /** Windows at most. Default: all. */
  readonly maxWindows?: number | undefined;
  /**
   * Processes that share the windows. All call this function with the same text and options, and then {@link fidelity}.
   */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with the windows read so far. */
  readonly onProgress?: ((windows: number, total: number) => void) | undefined;
}

const REFERENCE_NAMES: NamesOf<ReferenceOptions> = {
  window: "number",
  tokenizer: true,
  vocab: "number",
  limitChars: "number",
  maxWindows: "number",
  ranks: true,
  signal: true,
  onProgress: true,
};

/**
 * What is kept of a dense model for comparisons. It holds no GPU memory, and 4 · hidden bytes of main memory for each
 * compared token.
 */
export interface FidelityReference {
  /** Tokens of a window. */
  readonly window: number;
  /** Windows. */
  readonly windows: number;
  /** Rows of the embedding that compared models have. */
  readonly vocab: number;
  /**
   * The windows in the ids of the compared models, one after another.
   *
   * @internal
   */
  readonly tokens: readonly number[];
  /**
   * The dense model's id of each token of these models, −1 for a token that it lacks; null if all ids are the same.
   *
   * @internal
   */
  readonly ids: Int32Array<ArrayBuffer> | null;
  /**
   * What the dense model's head reads at the compared tokens, by the first window of a batch.
   *
   * @internal
   */
  readonly states: ReadonlyMap<number, Float32Array<ArrayBuffer>>;
  /**
   * Where the head is read from.
   *
   * @internal
   */
  readonly source: WeightSource;
  /** Type of the dense model's weights on the GPU. */
  readonly baseDtype: BaseDtype;
  /** Bytes in UTF-8 of the compared tokens. */
  readonly bytes: number;
  /** Hash of the tokens. */
  readonly digest: string;
}

/** Options of {@link fidelity}. */
export interface FidelityOptions {
  /** Masks and LoRA of the model. */
  readonly adapters?: Adapters | undefined;
  /** Processes that share the windows, as in {@link ReferenceOptions}. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with the windows measured so far. */
  readonly onProgress?: ((windows: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<FidelityOptions> = { adapters: true, ranks: true, signal: true, onProgress: true };

/** Perplexity of a model over the compared tokens. */
export interface ComparedLoss {
  /** exp(nll). */
  readonly perplexity: number;
  /** Mean negative log-likelihood of a token, in nats. */
  readonly nll: number;
  /** The same loss in bits for each byte of the text in UTF-8; null if the tokens have no text. */
  readonly bitsPerByte: number | null;
}

/** What was measured. All figures are over the same tokens. */
export interface FidelityResult extends Agreement, ComparedLoss {
  /** The dense model's. */
  readonly dense: ComparedLoss;
  /** The model's perplexity over the dense model's. */
  readonly ratio: PerplexityRatio;
  /** Windows. */
  readonly windows: number;
  /** Tokens of a window. */
  readonly window: number;
  /** Hash of the tokens. */
  readonly digest: string;
}

const WHAT = "cannot compare a model with the dense one";
const BATCH_TOKENS = 2048;
const LEAST_WINDOW = 3;

/**
 * Reads a text with the dense model, for {@link fidelity} of other models. The dense model can be disposed afterwards:
 * the inputs of its output head are kept in memory, and `fidelity` loads the head alone again. So the two models need
 * not be in GPU memory at the same time.
 *
 * Windows are those of llama.cpp's perplexity. The text with its leading tokens (BOS) is cut into whole windows, and
 * leading tokens replace the first tokens of each. Each window is read alone. The models are compared at the tokens of
 * its second half, so that each has at least half a window before it.
 *
 * @throws CompressoError("usage") for options out of range or that do not exist.
 * @throws CompressoError("input") for a text shorter than a window, and a model without tokenizer.
 * @throws CompressoError("mismatch") if the dense model lacks a token of the text.
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { fidelity, readReference } from "compresso/evaluate";
 *
 * using device = await openDevice();
 * const text = "Small models can do one thing well. ".repeat(40);
 * using dense = await loadModel("demo", { device, baseDtype: "f32" });
 * const reference = await readReference(dense, text, { window: 64 });
 * using stored = await loadModel("demo", { device, baseDtype: "q8" });
 * const { kl, top1 } = await fidelity(stored, reference);
 * if (!(kl > 0 && kl < 0.1 && top1 > 0.9)) throw new Error(`KL ${kl}, top-1 ${top1}`);
 * ```
 */
export async function readReference(dense: Model, text: string, options: ReferenceOptions): Promise<FidelityReference> {
  checkNames(options, REFERENCE_NAMES, { whose: "readReference" });
  const { window, maxWindows = Infinity, vocab = dense.spec.vocab, ranks, signal, onProgress } = options;
  if (!dense.tokenizer) throw noTokenizer(WHAT);
  const tokenizer = options.tokenizer ?? dense.tokenizer, { leading } = tokenizer;
  checkPerplexity(dense, text, { ...options, leading });
  if (window < LEAST_WINDOW) {
    const rule = `a window has at least ${LEAST_WINDOW} tokens: its second half is compared`;
    refuse("usage", WHAT, { rule, value: window });
  }
  const all = [...leading, ...encodeText({ tokenizer }, text, options.limitChars)];
  const windows = Math.min(maxWindows, Math.floor(all.length / window));
  if (windows < 1) {
    const rule = `the text has at least one window of ${window} tokens`, fix = "use a longer text or a smaller window";
    refuse("input", WHAT, { rule, value: `${all.length} tokens`, fix });
  }
  const tokens = all.slice(0, windows * window);
  for (let at = 0; at < tokens.length; at += window) tokens.splice(at, leading.length, ...leading);
  const ids = denseIds({ vocab, tokenizer }, { vocab: dense.spec.vocab, tokenizer: dense.tokenizer });
  const read = asDense(tokens, ids), states = new Map<number, Float32Array<ArrayBuffer>>();
  const run = async (first: number): Promise<null> => {
    signal?.throwIfAborted();
    const own = batchOf(read, { first, window, windows });
    states.set(first, await dense.labelStates(own.tokens, own.labels, { batch: own.batch, signal }));
    return null;
  };
  for await (const [first] of dealt(firstsOf({ window, windows }), ranks, run)) {
    onProgress?.(Math.min(windows, first + batchSize({ window, windows })), windows);
  }
  await dense.release();
  return {
    window,
    windows,
    vocab,
    tokens,
    ids,
    states,
    source: dense.source,
    baseDtype: dense.weights.baseDtype,
    bytes: bytesOf(tokens, { window, tokenizer }),
    digest: digestOf([Uint32Array.from(tokens)]),
  };
}

/**
 * Compares a model with the dense one on the text that {@link readReference} has read. Gives the mean, median and 99th
 * percentile of the KL divergence in nats, the share of equal first choices, and both perplexities, as llama.cpp's
 * `--kl-divergence` defines them. During the call the dense model's head is on the model's device.
 *
 * @throws CompressoError("mismatch") if the model's vocabulary does not have the size of the reference's `vocab`.
 * @throws CompressoError("numeric") if a logit is not finite.
 */
export async function fidelity(
  model: Model,
  reference: FidelityReference,
  options: FidelityOptions = {},
): Promise<FidelityResult> {
  checkNames(options, NAMES, { whose: "fidelity" });
  const { adapters, ranks, signal, onProgress } = options, { window, windows, tokens, ids, states, digest } = reference;
  if (model.spec.vocab !== reference.vocab) {
    refuse("mismatch", WHAT, {
      rule: "the reference was read for the model's vocabulary",
      value: `${model.spec.vocab} tokens, read for ${reference.vocab}`,
      fix: "give readReference the model's tokenizer and vocab",
    });
  }
  const { device } = model, { source, baseDtype } = reference;
  using weights = await loadWeights(device, headSource(source), { baseDtype, signal });
  const dense = { weights, ids };
  const run = async (first: number): Promise<LabelAgreement> => {
    signal?.throwIfAborted();
    const own = batchOf(tokens, { first, window, windows }), { batch } = own;
    const kept = states.get(first) ?? new Float32Array();
    return await model.agreement(own.tokens, own.labels, { batch, dense, states: kept, adapters, signal });
  };
  const parts: LabelAgreement[] = [];
  for await (const [first, part] of dealt(firstsOf(reference), ranks, run)) {
    parts.push(part);
    onProgress?.(Math.min(windows, first + batchSize(reference)), windows);
  }
  await model.release();
  const whole = joined(parts), agreement = agreementOf(whole);
  if (!agreement || ![agreement.kl, agreement.dropped].every(Number.isFinite)) {
    refuse("numeric", WHAT, {
      rule: "all logits of both models are finite",
      value: `the mean KL is ${agreement?.kl}`,
      fix: "check the weights, masks and LoRA",
    });
  }
  const counted = comparedOf(window),
    perWindow = [whole.denseLoss, whole.loss].map((losses) =>
      Array.from({ length: windows }, (_, index): WindowLoss => ({
        nll: losses.subarray(index * counted, (index + 1) * counted).reduce((sum, loss) => sum + loss, 0),
        tokens: counted,
      }))
    );
  const [before = [], after = []] = perWindow;
  return {
    ...agreement,
    ...lossOf(after, reference),
    dense: lossOf(before, reference),
    ratio: lossRatio(before, after),
    windows,
    window,
    digest,
  };
}

/** Tokens of a window that are compared: those after the first one of its second half. */
function comparedOf(window: number): number {
  return window - 1 - Math.floor(window / 2);
}

/** How many windows run at once. */
function batchSize({ window, windows }: Pick<FidelityReference, "window" | "windows">): number {
  return Math.min(windows, Math.max(1, Math.floor(BATCH_TOKENS / window)));
}

function firstsOf(shape: Pick<FidelityReference, "window" | "windows">): number[] {
  const batch = batchSize(shape);
  return Array.from({ length: Math.ceil(shape.windows / batch) }, (_, index) => index * batch);
}

/** One batch. A last batch that is not full keeps the size: its missing windows hold token 0 and no label. */
function batchOf(all: readonly number[], { first, window, windows }: {
  readonly first: number;
  readonly window: number;
  readonly windows: number;
}): { readonly tokens: Uint32Array; readonly labels: Int32Array; readonly batch: number } {
  const batch = batchSize({ window, windows }), tokens = new Uint32Array(batch * window);
  const labels = new Int32Array(batch * window).fill(IGNORED_LABEL);
  tokens.set(all.slice(first * window, (first + batch) * window));
  for (let index = 0; index < Math.min(batch, windows - first); index++) {
    const own = labelsOf(tokens.subarray(index * window, (index + 1) * window));
    labels.set(own, index * window);
  }
  return { tokens, labels, batch };
}

/** The labels of a window: its tokens after the first one of the second half. */
function labelsOf(tokens: Uint32Array): Int32Array {
  return Int32Array.from(tokens).fill(IGNORED_LABEL, 0, tokens.length - comparedOf(tokens.length));
}

function bytesOf(
  tokens: readonly number[],
  { window, tokenizer }: { readonly window: number; readonly tokenizer: Pick<Tokenizer, "decode"> },
): number {
  let bytes = 0;
  for (let at = 0; at < tokens.length; at += window) {
    const own = tokens.slice(at, at + window);
    bytes += labelBytes(tokenizer, own, labelsOf(Uint32Array.from(own)));
  }
  return bytes;
}

function joined(parts: readonly LabelAgreement[]): LabelAgreement {
  const column = (of: keyof LabelAgreement): Float32Array<ArrayBuffer> =>
    Float32Array.from(parts.flatMap((part) => [...part[of]]));
  return {
    divergence: column("divergence"),
    isSame: column("isSame"),
    loss: column("loss"),
    denseLoss: column("denseLoss"),
    dropped: column("dropped"),
  };
}

function lossOf(windows: readonly WindowLoss[], { bytes }: { readonly bytes: number }): ComparedLoss {
  const tokens = windows.reduce((sum, window) => sum + window.tokens, 0);
  const nats = windows.reduce((sum, window) => sum + window.nll, 0), nll = nats / tokens;
  return { perplexity: Math.exp(nll), nll, bitsPerByte: bytes > 0 ? nats / bytes / Math.LN2 : null };
}
