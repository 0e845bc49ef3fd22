// A loaded model: logits, gradients and losses.
import { checkNames, checkWord, type NamesOf } from "../core/check_options.ts";
import type { Device } from "../gpu/device.ts";
import type { Plan } from "../gpu/plan.ts";
import type { WeightSource } from "../spec/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { notFinite } from "../nn/decode/pass.ts";
import { lossByRow, recordFinalNorm, recordLogits, recordLoss, targetStates, writeTargets } from "../nn/head.ts";
import { strideOf } from "../nn/padding.ts";
import { loraScale } from "../spec/lora.ts";
import { unpackLora } from "../nn/lora.ts";
import { type MaskKind, unpackMasks } from "../nn/mask_slots.ts";
import { BASE_DTYPES, type BaseDtype } from "../nn/weights.ts";
import type { Pass } from "../nn/context.ts";
import { refuseExperts } from "../nn/experts.ts";
import { createPass, recordForward, recordGradients, shiftLabels } from "../nn/pass.ts";
import {
  type AgreementPass,
  createAgreementPass,
  type DenseSide,
  type LabelAgreement,
  labelAgreement,
} from "../nn/agreement.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { IDLE_STATE, writeStepState } from "../nn/train/step_state.ts";
import { createTopPass, type TopLogprobs, type TopPass } from "../nn/top_pass.ts";
import { checkRoom, type TokenTree, writeTree } from "../nn/token_tree.ts";
import { loadWeights, type Weights } from "../nn/weights.ts";
import { Lifetime } from "./lifetime.ts";
import {
  type Adapters,
  checkLabels,
  checkLength,
  checkNext,
  checkTokens,
  copyAdapters,
  flatten,
  type GradientInput,
  lengthOfRows,
  type ModelCallOptions,
  stopOf,
  unlikeTokens,
  writeAdapters,
} from "./input.ts";

export type { Adapters, GradientInput, LoraInput, ModelCallOptions } from "./input.ts";
export type { LabelAgreement } from "../nn/agreement.ts";

/** Options of `loadModel`. */
export interface LoadModelOptions {
  /** The device that holds the model. */
  readonly device: Device;
  /** Storage of the frozen weights on the GPU. Default "f16". */
  readonly baseDtype?: BaseDtype | undefined;
  /** Share of the weights that has been loaded, 0 to 1. */
  readonly onProgress?: ((done: number) => void) | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
}

/** Names of the options of {@link LoadModelOptions}. */
export const LOAD_NAMES: NamesOf<LoadModelOptions> = { device: true, baseDtype: true, onProgress: true, signal: true };

/** Mean loss over the labels, and gradients by name. */
export interface GradientResult {
  /** Mean cross-entropy over the labels, in nats. */
  readonly loss: number;
  /** `lora.<layer>.<projection>.<A|B>`, `mask.head` [Σ heads], `mask.ffn` [Σ ffn], `mask.hidden` [hidden]. */
  readonly gradients: Map<string, Float32Array>;
}

/** Tokens of a pass of the model. */
interface ModelPassShape {
  readonly batch: number;
  readonly seq: number;
  /** What a sequence is, if not one text. */
  readonly ranges?: "trees";
}

/** Sequences with labels: how many, and what they run with. */
interface LabelOptions {
  readonly batch: number;
  readonly adapters?: Adapters | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A pass with the plans that were recorded over it. */
interface CachedPass {
  readonly key: string;
  readonly pass: Pass;
  layers: Plan | null;
  loss: Plan | null;
  top: TopPass | null;
  agreement: AgreementPass | null;
}

/**
 * A model on the GPU. Calls may overlap: each call copies its input when it is made. Dispose the model to free its
 * memory; calls in progress finish first. Later calls throw `CompressoError("usage")`.
 */
export class Model implements Disposable {
  /** The device that holds the model. */
  readonly device: Device;
  /** Weights as they were read. */
  readonly source: WeightSource;
  /**
   * Weights on the GPU.
   *
   * @internal
   */
  readonly weights: Weights;
  /** Null if the model has no tokenizer. */
  readonly tokenizer: Tokenizer | null;
  #cached: CachedPass | null = null;
  /** Settled when the calls made so far are over. */
  #turn: Promise<unknown> = Promise.resolve();
  readonly #life = new Lifetime("model");

  /**
   * Wraps loaded weights; use `loadModel`.
   *
   * @internal
   */
  constructor(device: Device, source: WeightSource, parts: { weights: Weights; tokenizer: Tokenizer | null }) {
    this.device = device;
    this.source = source;
    this.weights = parts.weights;
    this.tokenizer = parts.tokenizer;
  }

  /** Shape of the model. */
  get spec(): DecoderSpec {
    return this.weights.spec;
  }

  /** Storage of the frozen weights on the GPU. */
  get baseDtype(): BaseDtype {
    return this.weights.baseDtype;
  }

  /**
   * Logits [T × vocab] of one sequence of T tokens, row-major.
   *
   * @throws CompressoError("input") for no tokens, more than the model's context, ids outside the vocabulary, and masks or LoRA of another model.
   * @throws CompressoError("usage") once the model is disposed.
   * @throws CompressoError("gpu") if the pass does not fit; and the signal's reason.
   */
  async logits(tokens: ArrayLike<number>, options: ModelCallOptions = {}): Promise<Float32Array<ArrayBuffer>> {
    const { vocab } = this.spec, seq = tokens.length, stop = stopOf(options);
    checkTokens(tokens, vocab);
    checkLength(seq, this.spec);
    const ids = Uint32Array.from(tokens), own = copyAdapters(options);
    return await this.#inTurn(async () => {
      const prepared = this.#prepare({ batch: 1, seq }, own), { pass } = prepared, { act } = pass;
      this.device.write(act.tokens, ids);
      await this.#layersOf(prepared).run(stop);
      const result = new Float32Array(seq * vocab), stride = strideOf(vocab);
      for (let first = 0; first < seq; first += act.shape.headRows) {
        const rows = Math.min(act.shape.headRows, seq - first);
        const context = pass.plan();
        using plan = context.plan;
        recordLogits(context, { first, rows });
        await plan.run(stop);
        const chunk = await this.device.readFloats(act.logits, rows * stride);
        for (let row = 0; row < rows; row++) {
          result.set(chunk.subarray(row * stride, row * stride + vocab), (first + row) * vocab);
        }
      }
      return result;
    });
  }

  /**
   * Residual stream of one sequence of T tokens: the masked embedding, then the output of each layer; [layers + 1] arrays [T × hidden].
   *
   * @throws CompressoError("usage") for a model with experts.
   * @throws as {@link Model.logits}.
   */
  async hiddenStates(tokens: ArrayLike<number>, options: ModelCallOptions = {}): Promise<Float32Array<ArrayBuffer>[]> {
    const { vocab, hidden } = this.spec, seq = tokens.length, stride = strideOf(hidden);
    checkTokens(tokens, vocab);
    checkLength(seq, this.spec);
    refuseExperts(this.spec, "cannot read the hidden states of this model");
    using _entered = this.#life.enter();
    // A pass for backward keeps the input of every layer.
    using pass = createPass(this.device, this.weights, { batch: 1, seq, backward: true, lora: options.lora ?? null });
    this.#applyAdapters(pass, options);
    const context = pass.plan();
    using plan = context.plan;
    recordForward(context);
    writeStepState(this.device, pass.state, IDLE_STATE);
    this.device.write(pass.act.tokens, Uint32Array.from(tokens));
    await plan.run(stopOf(options));
    const stored = await this.device.read(pass.act.x.map((buffer) => ({ buffer, bytes: seq * stride * 4 })));
    return stored.map((bytes) => {
      const rows = new Float32Array(bytes), values = new Float32Array(seq * hidden);
      for (let t = 0; t < seq; t++) values.set(rows.subarray(t * stride, t * stride + hidden), t * hidden);
      return values;
    });
  }

  /**
   * Negative log-likelihood of each next token, in nats. Value [b · seq + t] is that of token t + 1 of sequence b given
   * the tokens up to t; 0 if `labels` (unshifted, −100 = ignored) has no label there.
   *
   * @throws CompressoError("usage") for a batch that does not divide the tokens.
   * @throws CompressoError("input") for no tokens, sequences longer than the model's context, other than one label for each token, and ids outside
   * the vocabulary.
   */
  async tokenLosses(
    tokens: ArrayLike<number>,
    labels: ArrayLike<number>,
    options: {
      readonly batch: number;
      readonly adapters?: Adapters | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Float32Array<ArrayBuffer>> {
    return await this.#atLabels(tokens, labels, options, async (prepared, targets) => {
      return await this.#losses(prepared, targets, options);
    });
  }

  /**
   * What the output head reads at each label [labels, embeddingWidth], in their order: what {@link Model.agreement}
   * takes of a dense model. The head itself is not computed.
   *
   * @internal
   *
   * @throws as {@link Model.tokenLosses}.
   */
  async labelStates(
    tokens: ArrayLike<number>,
    labels: ArrayLike<number>,
    options: LabelOptions,
  ): Promise<Float32Array<ArrayBuffer>> {
    return await this.#atLabels(tokens, labels, options, async (prepared, targets) => {
      await this.#layersOf(prepared).run(stopOf(options));
      return await targetStates(prepared.pass, targets);
    });
  }

  /**
   * {@link Model.tokenLosses} and {@link Model.labelStates} from one forward pass.
   *
   * @internal
   *
   * @throws as {@link Model.tokenLosses}.
   */
  async lossesAndStates(
    tokens: ArrayLike<number>,
    labels: ArrayLike<number>,
    options: LabelOptions,
  ): Promise<{ readonly losses: Float32Array<ArrayBuffer>; readonly states: Float32Array<ArrayBuffer> }> {
    return await this.#atLabels(tokens, labels, options, async (prepared, targets) => {
      const losses = await this.#losses(prepared, targets, options);
      return { losses, states: await targetStates(prepared.pass, targets) };
    });
  }

  /** Checks `batch` sequences and their labels, writes the tokens, and calls `run` with the next-token targets. */
  async #atLabels<T>(
    tokens: ArrayLike<number>,
    labels: ArrayLike<number>,
    { batch, adapters = {} }: LabelOptions,
    run: (prepared: CachedPass, targets: Int32Array<ArrayBuffer>) => Promise<T>,
  ): Promise<T> {
    const { vocab } = this.spec, seq = lengthOfRows(tokens, batch);
    checkTokens(tokens, vocab);
    checkLength(seq, this.spec);
    checkLabels(tokens, labels, vocab);
    const ids = Uint32Array.from(tokens), targets = shiftLabels(labels, { seq }), own = copyAdapters(adapters);
    return await this.#inTurn(async () => {
      const prepared = this.#prepare({ batch, seq }, own);
      this.device.write(prepared.pass.act.tokens, ids);
      return await run(prepared, targets);
    });
  }

  /** The loss of each token's target [tokens]; 0 for a token without a target. */
  async #losses(
    prepared: CachedPass,
    targets: Int32Array,
    options: Pick<LabelOptions, "signal">,
  ): Promise<Float32Array<ArrayBuffer>> {
    writeTargets(prepared.pass, targets);
    await this.#lossOf(prepared).run(stopOf(options));
    return lossByRow(await this.device.readFloats(prepared.pass.act.loss, targets.length), targets);
  }

  /**
   * Compares the model with a dense one at every label, from one forward pass and the `states` that
   * {@link Model.labelStates} of the dense model gave for the same tokens. Only the head of the dense model is
   * needed here, on the same device.
   *
   * @internal
   *
   * @throws as {@link Model.tokenLosses}.
   */
  async agreement(
    tokens: ArrayLike<number>,
    labels: ArrayLike<number>,
    options: LabelOptions & { readonly dense: DenseSide; readonly states: Float32Array },
  ): Promise<LabelAgreement> {
    const { dense, states, signal } = options;
    return await this.#atLabels(tokens, labels, options, async (prepared, targets) => {
      if (prepared.agreement?.dense !== dense) {
        prepared.agreement?.[Symbol.dispose]();
        prepared.agreement = null;
        prepared.agreement = createAgreementPass(prepared.pass, dense);
      }
      const values = await prepared.agreement.run({ targets, states, signal });
      return labelAgreement(values);
    });
  }

  /**
   * Log-probabilities of next tokens, in nats, from one forward pass over right-padded sequences. Entry b · seq + t is
   * that of the token after token t of sequence b. `next` holds the ids whose log-probabilities are returned; for −1
   * the entry is 0. Each entry also has the `top` most likely tokens.
   *
   * @throws CompressoError("input") for no tokens, sequences longer than the model's context and ids outside the vocabulary.
   * @throws CompressoError("usage") for `next` of another length, a `top` out of range and a batch that does not divide the tokens.
   * @throws CompressoError("numeric") if a log-probability is not finite.
   */
  async nextLogprobs(
    tokens: ArrayLike<number>,
    next: ArrayLike<number>,
    options: {
      readonly batch: number;
      readonly top: number;
      readonly adapters?: Adapters | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<TopLogprobs> {
    const { batch, top, adapters = {}, signal } = options, { vocab } = this.spec, seq = lengthOfRows(tokens, batch);
    checkTokens(tokens, vocab);
    checkLength(seq, this.spec);
    checkNext(tokens, next, { top, vocab });
    const ids = Uint32Array.from(tokens), asked = Int32Array.from(next), own = copyAdapters(adapters);
    return await this.#inTurn(async () => {
      const prepared = this.#prepare({ batch, seq }, own);
      if (prepared.top?.top !== top) {
        prepared.top?.[Symbol.dispose]();
        prepared.top = null;
        prepared.top = createTopPass(prepared.pass, { top });
      }
      this.device.write(prepared.pass.act.tokens, ids);
      const found = await prepared.top.run(asked, { signal });
      if (![found.chosen, found.values].every((values) => values.every(Number.isFinite))) throw notFinite();
      return found;
    });
  }

  /**
   * Negative log-likelihood of each edge of token trees, in nats: of the edge's token after the path from the root to
   * the edge's start. A node that several sequences share is computed once. `rows` is the size of the pass, at least
   * the number of nodes and of edges; the pass is kept for the next call of the same size. `createTreeBuilder` makes
   * such trees.
   *
   * @internal
   *
   * @throws CompressoError("usage") for fewer rows.
   * @throws CompressoError("input") for no tokens, nodes deeper than the model's context, and ids outside the vocabulary.
   */
  async treeLosses(
    tree: TokenTree,
    options: {
      readonly rows: number;
      readonly adapters?: Adapters | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Float32Array<ArrayBuffer>> {
    checkTokens(tree.tokens, this.spec.vocab);
    checkTokens(tree.edgeTokens, this.spec.vocab);
    checkLength(1 + tree.positions.reduce((most, depth) => Math.max(most, depth), 0), this.spec);
    const { rows, adapters = {} } = options, nodes = structuredClone(tree), own = copyAdapters(adapters);
    checkRoom(tree, rows);
    return await this.#inTurn(async () => {
      const prepared = this.#prepare({ batch: 1, seq: rows, ranges: "trees" }, own), { pass } = prepared;
      writeTree(pass, nodes);
      await this.#lossOf(prepared).run(stopOf(options));
      return await this.device.readFloats(pass.act.loss, nodes.edgeNodes.length);
    });
  }

  /**
   * Loss and gradients of LoRA and masks (with respect to z), at the given masks and LoRA.
   *
   * @throws CompressoError("input") for no tokens, sequences of different lengths or longer than the model's context, labels of another shape, ids
   * outside the vocabulary, and masks or LoRA of another model.
   * @throws CompressoError("usage") once the model is disposed.
   * @throws CompressoError("gpu") if the pass does not fit; and the signal's reason.
   */
  async lossAndGradients(input: GradientInput): Promise<GradientResult> {
    const { tokens, batch, seq } = flatten(input.tokens), { tokens: labels, ...given } = flatten(input.labels);
    checkTokens(tokens, this.spec.vocab);
    checkLength(seq, this.spec);
    if (given.batch !== batch || given.seq !== seq) {
      throw unlikeTokens(`${batch} × ${seq} tokens, ${given.batch} × ${given.seq} labels`);
    }
    checkLabels(tokens, labels, this.spec.vocab);
    using _entered = this.#life.enter();
    const targets = shiftLabels(labels, { seq });
    const count = targets.reduce((sum, target) => sum + (target >= 0 ? 1 : 0), 0);
    using pass = createPass(this.device, this.weights, { batch, seq, backward: true, lora: input.lora ?? null });
    this.#applyAdapters(pass, input);
    const maskGrads = new Set<MaskKind>(["head", "ffn", "hidden"]);
    const context = pass.plan({ maskGrads });
    using plan = context.plan;
    recordGradients(context);
    this.device.write(pass.act.tokens, Uint32Array.from(tokens));
    writeTargets(pass, targets);
    writeStepState(this.device, pass.state, { ...IDLE_STATE, lossScale: 1 / Math.max(1, count) });
    await plan.run(stopOf(input));
    const { lora, masks, act } = pass;
    const [lossBytes, maskBytes, loraBytes] = await this.device.read([
      { buffer: act.loss, bytes: act.rows * 4 },
      { buffer: masks.dz, bytes: masks.layout.count * 4 },
      ...(lora ? [{ buffer: lora.grads, bytes: lora.count * 4 }] : []),
    ]);
    const losses = new Float32Array(lossBytes ?? new ArrayBuffer(0));
    const dz = unpackMasks(this.spec, masks.layout, new Float32Array(maskBytes ?? new ArrayBuffer(0)));
    const gradients: Map<string, Float32Array> = lora
      ? unpackLora(this.spec, lora, new Float32Array(loraBytes ?? new ArrayBuffer(0)))
      : new Map<string, Float32Array>();
    for (const kind of maskGrads) gradients.set(`mask.${kind}`, dz[kind]);
    return { loss: losses.reduce((sum, loss) => sum + loss, 0) / Math.max(1, count), gradients };
  }

  /**
   * Begins work on the GPU that needs the weights. They stay until the returned object is disposed. Throws
   * `CompressoError("usage")` once the model is disposed.
   */
  enter(): Disposable {
    return this.#life.enter();
  }

  /** Frees the buffers that are kept for a next call of the same shape. The next call allocates them again. */
  async release(): Promise<void> {
    await this.#inTurn(() => Promise.resolve(this.#release()));
  }

  /** Frees the weights and all cached buffers: at once, or where something is under way, as soon as that has ended. */
  [Symbol.dispose](): void {
    this.#life.end(() => {
      this.#release();
      this.weights[Symbol.dispose]();
    });
  }

  /** What uses the cached pass: one call's buffers are not another's. */
  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    this.#life.check();
    const result = this.#turn.then(() => this.#life.during(work));
    this.#turn = result.catch(() => {});
    return await result;
  }

  #prepare(shape: ModelPassShape, adapters: Adapters): CachedPass {
    const { lora } = adapters;
    const key = JSON.stringify([shape, lora ? [lora.rank, loraScale(lora), lora.targets] : null]);
    if (this.#cached?.key !== key) {
      this.#release();
      const pass = createPass(this.device, this.weights, { ...shape, lora: lora ?? null });
      writeStepState(this.device, pass.state, IDLE_STATE);
      this.#cached = { key, pass, layers: null, loss: null, top: null, agreement: null };
    }
    this.#applyAdapters(this.#cached.pass, adapters);
    return this.#cached;
  }

  /** The plan up to what the head reads. */
  #layersOf(prepared: CachedPass): Plan {
    if (!prepared.layers) {
      const context = prepared.pass.plan();
      recordForward(context);
      recordFinalNorm(context);
      prepared.layers = context.plan.finish();
    }
    return prepared.layers;
  }

  /** The plan up to the losses. */
  #lossOf(prepared: CachedPass): Plan {
    if (!prepared.loss) {
      const context = prepared.pass.plan();
      recordForward(context);
      recordLoss(context, { gradient: false });
      prepared.loss = context.plan.finish();
    }
    return prepared.loss;
  }

  #applyAdapters(pass: Pass, adapters: Adapters): void {
    writeAdapters(this.device, pass, { ...adapters, spec: this.spec });
  }

  #release(): void {
    this.#cached?.loss?.[Symbol.dispose]();
    this.#cached?.top?.[Symbol.dispose]();
    this.#cached?.agreement?.[Symbol.dispose]();
    this.#cached?.layers?.[Symbol.dispose]();
    this.#cached?.pass[Symbol.dispose]();
    this.#cached = null;
  }
}

/**
 * Loads a model onto the GPU from any weight source, for example a sliced model that is not on disk.
 *
 * @throws CompressoError("gpu") if the weights do not fit into the memory or the limits of the device.
 * @throws CompressoError("usage") for options that do not exist.
 * @throws CompressoError("numeric") for weights that are not finite, or not finite in `baseDtype`.
 * @example
 * ```ts
 * import { loadModelFrom, openDevice, sliceModel } from "compresso";
 * import { openModelFiles } from "compresso/model";
 *
 * const { source, tokenizer } = await openModelFiles("demo");
 * using device = await openDevice();
 * using model = await loadModelFrom(sliceModel(source, {}), { device, tokenizer });
 * if (model.spec.layers.length !== source.spec.layers.length) throw new Error("another model");
 * ```
 */
export async function loadModelFrom(
  source: WeightSource,
  options: LoadModelOptions & { readonly tokenizer?: Tokenizer | null },
): Promise<Model> {
  checkNames(options, { ...LOAD_NAMES, tokenizer: true }, { whose: "loadModelFrom" });
  const { device, baseDtype = "f16", onProgress, signal, tokenizer = null } = options;
  checkWord(baseDtype, BASE_DTYPES, { what: "cannot store weights so" });
  const weights = await loadWeights(device, source, {
    baseDtype,
    onProgress,
    signal,
  });
  return new Model(device, source, { weights, tokenizer });
}
