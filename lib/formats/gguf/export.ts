// A model as a GGUF for llama.cpp.
import { CompressoError } from "../../core/errors.ts";
import {
  type DecoderSpec,
  headNormName,
  type LayerCount,
  layerOf,
  type LayerSpec,
  parameterCount,
  projectionName,
  QWEN2_BIASES,
  ropeDims,
  tensorShapes,
  windowsOf,
  withCounts,
} from "../../spec/decoder.ts";
import { ropeFrequencies } from "../../spec/rope.ts";
import type { FileSystem, Staged } from "../../files/system.ts";
import type { GgufArch } from "../families.ts";
import { fusedGgufName, fusedTensors, joined } from "../fused.ts";
import {
  ATTENTION_KEY,
  GEMMA_ARCHS,
  type GemmaArch,
  gemmaScale,
  GRANITE_KEYS,
  LOCAL_BASE_KEY,
  LOGIT_CAP_KEY,
  MORE_EOS_KEY,
  ORIGINAL_KEY,
  SCORE_CAP_KEY,
  SMOLLM3_STEP,
  turnsNeighbours,
  WINDOW_KEY,
  WINDOW_PATTERN_KEY,
} from "./spec.ts";
import {
  archFusions,
  epsKey,
  type GgufName,
  ggufNames,
  ggufRow,
  hasLayerNorm,
  PARALLEL_KEY,
  ROPE_FREQS,
  ROPE_LONG,
  ROPE_SHORT,
} from "./names.ts";
import { ALL_UNGATED } from "../hf/config.ts";
import { fixedHeads, layerNormForm } from "../hf/stock_config.ts";
import { fileTypeId, type GgufWriteType, matrixTypes } from "./mixes.ts";
import { provenanceEntries } from "./provenance.ts";
import { NO_TOKENIZER, TOKEN_TYPE } from "./tokenizer.ts";
import type { GgufTyped, GgufValue } from "./types.ts";
import { ggufBytes, type GgufContent, type GgufItem, stageGgufFile } from "./write.ts";
import { elementCount } from "../../spec/row_range.ts";
import type { Provenance } from "../../spec/provenance.ts";
import type { WeightSource } from "../../spec/source.ts";

/** How to export. */
export interface GgufExportOptions {
  /**
   * Type of the weight matrices by llama.cpp's rules (see `typeChooser`); vectors are always f32. Where a row is not a multiple of 256 values, types
   * of such blocks fall back to one of blocks of 32 values, and where it is none of 32 either, to f16.
   */
  readonly dtype: GgufWriteType;
  /** `auto` (default): that of the family where all layers are alike and whole, llama or deci where it cannot hold them; see {@link ggufArch}. */
  readonly arch?: "auto" | GgufArch;
  /** `tokenizer.*` entries, written as they are. */
  readonly tokenizerMetadata: ReadonlyMap<string, GgufValue | GgufTyped>;
  /** Name of the model, `general.name`. */
  readonly name: string;
  /** Origin of the model that this one was made from. Default: unknown. */
  readonly provenance?: Provenance;
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface GgufExport {
  readonly arch: GgufArch;
  /** The layers as the file holds them: for deci, some have a zero head or a zero FFN column more than the model. */
  readonly layers: readonly LayerSpec[];
  /** Tensors that are f16 in place of a type of blocks, by their GGUF names. */
  readonly fellBack: readonly string[];
}

/**
 * Writes the weights of `source` as a GGUF beside its place, a tensor at a time.
 *
 * @throws CompressoError("usage") for an arch that cannot hold the model.
 * @throws CompressoError("mismatch") for a vocabulary of another size than the embedding.
 * @throws CompressoError("numeric") for weights that are not finite or too large for the type.
 */
export async function stageGguf(
  source: WeightSource,
  path: string,
  options: GgufExportOptions & { readonly files: FileSystem },
): Promise<Staged & { readonly result: GgufExport }> {
  const { content, ...result } = contentOf(source, options);
  const file = await stageGgufFile(path, content, options);
  return { result, commit: () => file.commit(), [Symbol.dispose]: () => file[Symbol.dispose]() };
}

/** Bytes of the file that {@link stageGguf} would write for a model of this shape. */
export function ggufFileBytes(spec: DecoderSpec, options: GgufExportOptions): number {
  const read = (): never => {
    throw new Error("only the size is asked for");
  };
  return ggufBytes(contentOf({ spec, read, storedDtype: read }, options).content);
}

function contentOf(
  source: WeightSource,
  options: GgufExportOptions,
): GgufExport & { readonly content: GgufContent } {
  const { spec } = source;
  const arch = ggufArch(spec, options.arch);
  const layers = arch === "deci"
    ? deciLayers(spec.layers)
    : arch === "openelm"
    ? openelmLayers(spec.layers)
    : spec.layers;
  const fellBack: string[] = [];
  const tensors = ropeItems(spec);
  const names = ggufNames(layers.length);
  const own = tensorShapes(spec), shapes = tensorShapes({ ...spec, layers });
  const types = matrixTypes(options.dtype, { ...spec, layers }, shapes);
  const fused = fusedTensors({ ...spec, layers }, archFusions(arch));
  for (const [canonical, shape] of shapes) {
    const gguf = names.get(canonical) ?? { name: canonical }, choice = types.get(canonical);
    const whole = fused.get(canonical), parts = whole?.parts.map((part) => part.name) ?? [canonical];
    // A fused tensor takes the place of its first part.
    if (parts[0] !== canonical) continue;
    const name = whole ? fusedGgufName(whole) : gguf.name;
    if (choice?.type === "f16" && choice.wanted !== "f16") fellBack.push(name);
    tensors.push({
      name,
      type: choice?.type ?? "f32",
      shape: whole?.shape ?? shape,
      data: async () => {
        options.signal?.throwIfAborted();
        const read = (part: string): Promise<Float32Array> =>
          tensorData(source, { canonical: part, gguf, shape: shapes.get(part) ?? [], arch, added: !own.has(part) });
        return whole ? joined(await Promise.all(parts.map(read))) : await read(canonical);
      },
    });
  }
  const metadata = modelMetadata({ ...spec, layers }, { ...options, arch });
  const weights = (items: readonly GgufItem[]): number =>
    items.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const matrices = tensors.filter(({ shape }) => shape.length > 1);
  const isMostlyF16 = 2 * weights(matrices.filter(({ type }) => type === "f16")) > weights(matrices);
  metadata.set("general.file_type", fileTypeId(isMostlyF16 ? "f16" : options.dtype));
  return { arch, layers, fellBack, content: { metadata, tensors } };
}

/** llama.cpp's openelm has heads and FFN columns in every layer: one of zeros changes no value. */
function openelmLayers(layers: readonly LayerSpec[]): LayerSpec[] {
  return layers.map((layer) =>
    withCounts(layer, {
      heads: Math.max(1, layer.heads),
      kvHeads: Math.max(1, layer.kvHeads),
      ffn: Math.max(1, layer.ffn),
    })
  );
}

/**
 * The layers that llama.cpp's deci computes rightly: without FFN it leaves a layer before adding its attention, and aborts in
 * the last layer; without heads it fails in the first. One zero FFN column, or one zero head, changes no value.
 */
export function deciLayers(layers: readonly LayerSpec[]): LayerSpec[] {
  return layers.map((layer, index) => {
    const { heads, kvHeads, ffn } = layer;
    const head = heads === 0 && index === 0;
    const column = ffn === 0 && (heads > 0 || head || index === layers.length - 1);
    return withCounts(layer, { heads: head ? 1 : heads, kvHeads: head ? 1 : kvHeads, ffn: column ? 1 : ffn });
  });
}

/**
 * The architecture that a model of this shape is written as: `wanted`, or by default the first that can hold it.
 *
 * @throws CompressoError("usage") where `wanted` cannot.
 * @throws CompressoError("input") where none can.
 */
export function ggufArch(spec: DecoderSpec, wanted: "auto" | GgufArch = "auto"): GgufArch {
  if (isLayerNormModel(spec)) {
    const arch = layerNormArch(spec);
    if (wanted === "auto" || wanted === arch) return arch;
    const fix = `take arch ${arch}, or leave it out`;
    throw new CompressoError("usage", {
      what: `cannot export as arch ${wanted}`,
      rule: "norms are RMSNorm",
      value: "LayerNorm",
      fix,
    });
  }
  if (wanted !== "auto") {
    const found = misfit(spec, wanted);
    if (found === null) return wanted;
    throw new CompressoError("usage", { what: `cannot export as arch ${wanted}`, ...found });
  }
  const candidates = PREFERRED.filter((arch) => {
    if (isGemma(spec)) return arch === gemmaArch(spec);
    if (isOlmo2(spec)) return arch === "olmo2";
    return !GEMMA_ARCHS[arch] && arch !== "olmo2" && isNormed(arch) === (spec.qkNorm !== undefined) &&
      (arch !== "phi3" || spec.fused === true) && (arch === "smollm3") === isWithoutRope(spec) &&
      (arch === "granite") === isGranite(spec);
  });
  const [first = "deci", ...others] = candidates;
  const found = misfit(spec, first);
  if (found === null) return first;
  const other = others.find((arch) => misfit(spec, arch) === null);
  if (other) return other;
  throw unwritable(spec, found);
}

/**
 * Refuses a model whose GGUF cannot have layers that differ, whatever they will be.
 *
 * @throws CompressoError("input") for norms of q and k heads and a head of its own, for RoPE of a part of each head, for
 * layers without RoPE, for factors as Granite has them, for a Gemma and an OLMo 2.
 */
export function refuseUnlike(spec: DecoderSpec): void {
  const { qkNorm, tied, rope: { dims } } = spec;
  if (isLayerNormModel(spec)) {
    throw layerNormMisfit({ rule: "all layers are alike", value: "the layout compact", fix: ALIKE });
  }
  if (
    (qkNorm && !tied) || dims !== undefined ||
    [isGemma, isWithoutRope, isGranite, isOlmo2].some((is) => is(spec))
  ) {
    throw unwritable(spec, { rule: "all layers are alike", value: "the layout compact", fix: ALIKE });
  }
}

/** Whether a model is of the families with LayerNorm, or lacks a part of what LLaMA's relatives have. */
function isLayerNormModel({ norm, ungated, parallel, positions, activation }: DecoderSpec): boolean {
  return norm !== undefined || ungated !== undefined || parallel !== undefined || positions !== undefined ||
    activation === "relu" || activation === "gelu";
}

/**
 * The architecture of a model with LayerNorm.
 *
 * @throws CompressoError("input") where there is none.
 */
function layerNormArch(spec: DecoderSpec): "gpt2" | "gptneox" | "stablelm" {
  const { activation, biases = [], layers: [first], rope: { scaling: { kind } } } = spec;
  const form = layerNormForm(spec), fix = "export as a Hugging Face folder", unlike = unlikeLayers(spec);
  const heads = fixedHeads(spec);
  if (spec.norm && unlike) throw layerNormMisfit({ ...unlike, fix: ALIKE });
  if (spec.norm && heads !== null && first?.heads !== heads) {
    const rule = `layers have hidden / head_dim = ${heads} heads`, again = "export with the layout padded";
    throw layerNormMisfit({ rule, value: `${first?.heads} heads`, fix: again });
  }
  if (form === null || form === "opt") {
    const rule = "llama.cpp has an architecture with these layers: it has none for OPT";
    throw layerNormMisfit({ rule, value: "LayerNorm, its positions, and an FFN without gate", fix });
  }
  if (form !== "gpt2" && spec.tied) {
    throw layerNormMisfit({ rule: "the output head is a matrix of its own", value: "it is the embedding", fix });
  }
  if (kind !== "none" && kind !== "linear") {
    throw layerNormMisfit({ rule: "RoPE is not scaled, or linearly", value: kind, fix });
  }
  if (form === "stablelm") return form;
  const own = form === "gpt2" ? "gelu_tanh" : "gelu";
  if (activation !== own) throw layerNormMisfit({ rule: `its FFN has ${own}`, value: String(activation), fix });
  if (biases.length !== ALL_UNGATED.length) {
    throw layerNormMisfit({ rule: "all projections have biases", value: biases.join(", ") || "none", fix });
  }
  return form === "gpt2" ? "gpt2" : "gptneox";
}

function layerNormMisfit(found: Misfit): CompressoError {
  const what = "cannot write a GGUF: of llama.cpp's architectures only gpt2, gptneox and stablelm have such norms";
  return new CompressoError("input", { what, ...found });
}

function unwritable(spec: DecoderSpec, found: Misfit): CompressoError {
  const { qkNorm, rope: { dims } } = spec;
  const what = isGemma(spec)
    ? "cannot write a GGUF: of llama.cpp's architectures only those of Gemma have such a gate and such norms"
    : isOlmo2(spec)
    ? "cannot write a GGUF: of llama.cpp's architectures only olmo2 has norms of outputs alone, or of q and k as wholes"
    : isGranite(spec)
    ? "cannot write a GGUF: of llama.cpp's architectures only granite has such factors"
    : isWithoutRope(spec)
    ? "cannot write a GGUF: of llama.cpp's architectures only smollm3 has layers without RoPE"
    : qkNorm
    ? "cannot write a GGUF: of llama.cpp's architectures only qwen3 has such norms of q and k heads, " +
      "and openelm where the output head is the embedding"
    : dims !== undefined
    ? "cannot write a GGUF: of llama.cpp's architectures only phi3 has this RoPE of a part of each head"
    : "cannot write a GGUF";
  return new CompressoError("input", { what, ...found });
}

/** Whether a model has what of llama.cpp's architectures those of Gemma alone have. */
function isGemma({ activation, normPlaces, scales, softCaps, rope }: DecoderSpec): boolean {
  return activation === "gelu_tanh" || normPlaces === "both" ||
    [softCaps, rope.localBase].some((part) => part !== undefined) ||
    (scales?.embedding !== undefined && scales.logits === undefined);
}

/** The architecture of the Gemma that a model is most alike. */
function gemmaArch({ normPlaces, qkNorm, rope }: DecoderSpec): "gemma" | "gemma2" | "gemma3" {
  return qkNorm || rope.localBase !== undefined ? "gemma3" : normPlaces ? "gemma2" : "gemma";
}

/** Whether a model has norms that of llama.cpp's architectures olmo2 alone has. */
function isOlmo2({ normPlaces, qkNorm }: DecoderSpec): boolean {
  return normPlaces === "after" || qkNorm === "whole";
}

/** Its q is as wide as the residual stream, and its output head is a matrix of its own; it has no biases and no RoPE divisors. */
function noOlmo2(spec: DecoderSpec): Misfit | null {
  const { normPlaces, qkNorm, hidden, headDim, layers: [first], biases = [], tied, scales } = spec;
  const fix = "export as a Hugging Face folder", unlike = unlikeLayers(spec), width = (first?.heads ?? 0) * headDim;
  if (normPlaces !== "after" || qkNorm !== "whole" || scales) {
    return { rule: "the model is an OLMo 2", value: "it is not", fix: "leave out the arch" };
  }
  if (unlike) return { ...unlike, fix: ALIKE };
  if (width !== hidden) return { rule: `heads · head_dim = ${hidden}, the hidden dims`, value: String(width), fix };
  if (tied) return { rule: "the output head is a matrix of its own", value: "it is the embedding", fix };
  if (biases.length > 0) return { rule: "no part has a bias", value: biases.join(", "), fix };
  return noDivisors(spec, fix);
}

/** Whether a model has factors that of llama.cpp's architectures granite alone has. */
function isGranite(spec: DecoderSpec): boolean {
  return spec.scales !== undefined && !isGemma(spec);
}

/** All layers are alike, without norms of q and k heads and with RoPE everywhere; biases it takes. */
function noGranite(spec: DecoderSpec): Misfit | null {
  const fix = "export as a Hugging Face folder", unlike = unlikeLayers(spec);
  if (!isGranite(spec)) {
    return { rule: "the model has the factors of a Granite", value: "it has none", fix: "take arch llama" };
  }
  if (unlike) return { ...unlike, fix: ALIKE };
  if (spec.qkNorm) return { rule: "q and k heads have no norms", value: "they have", fix };
  return null;
}

const ALIKE = "export with the layout padded, or prune with the layout uniform";

const PREFERRED: readonly GgufArch[] = [
  "gemma",
  "gemma2",
  "gemma3",
  "olmo2",
  "granite",
  "smollm3",
  "phi3",
  "qwen3",
  "openelm",
  "qwen2",
  "llama",
  "deci",
];

/** Whether an architecture norms the heads of q and k. */
function isNormed(arch: GgufArch): boolean {
  return arch === "qwen3" || arch === "openelm" || arch === "gemma3";
}

interface Misfit {
  readonly rule: string;
  readonly value: string;
  readonly fix: string;
}

/** Why llama.cpp would not load, or compute, a model of this shape as `arch`; null where it does. */
function misfit(spec: DecoderSpec, arch: GgufArch): Misfit | null {
  if (hasLayerNorm(arch)) return { rule: "norms are LayerNorm", value: "RMSNorm", fix: "leave out the arch" };
  if (arch === "smollm3") return noSmolLm3(spec);
  if (isWithoutRope(spec)) return { rule: "all layers have RoPE", value: "some have none", fix: "take arch smollm3" };
  if (arch === "phi3") return noPhi3(spec);
  const { dims } = spec.rope;
  if (dims !== undefined) {
    const value = `the first ${dims} of ${spec.headDim} dims`, fix = "export as a Hugging Face folder";
    return { rule: "RoPE rotates whole heads", value, fix };
  }
  if (arch === "olmo2") return noOlmo2(spec);
  if (isOlmo2(spec)) return { rule: "the model is no OLMo 2", value: "it has its norms", fix: "take arch olmo2" };
  if (arch === "granite") return noGranite(spec);
  if (isGranite(spec)) {
    return { rule: "the model has no factors", value: "those of a Granite", fix: "take arch granite" };
  }
  const gemma = GEMMA_ARCHS[arch];
  if (gemma) return noGemma(spec, arch, gemma);
  if (isGemma(spec)) {
    return { rule: "the model is no Gemma", value: "it has its norms or gate", fix: `take arch ${gemmaArch(spec)}` };
  }
  if (isNormed(arch)) return noNorms(spec, arch);
  if (spec.qkNorm) {
    return { rule: "q and k heads have no norms", value: "they have", fix: "take arch qwen3" };
  }
  return arch === "deci" ? null : unlikeLayers(spec) ?? (arch === "qwen2" ? noQwen2(spec) : null);
}

/** It has norms of heads, no biases and no RoPE divisors; all layers of a qwen3 are alike, and the head of an openelm is the embedding. */
function noNorms(spec: DecoderSpec, arch: GgufArch): Misfit | null {
  if (!spec.qkNorm) return { rule: "q and k heads have norms", value: "they have none", fix: "take arch llama" };
  const fix = "export as a Hugging Face folder", unlike = arch === "qwen3" ? unlikeLayers(spec) : null;
  if (unlike) return { ...unlike, fix: ALIKE };
  if (arch === "openelm" && !spec.tied) return { rule: "the output head is the embedding", value: "it is not", fix };
  if (spec.biases?.length) return { rule: "no part has a bias", value: spec.biases.join(", "), fix };
  return noDivisors(spec, fix);
}

/** It is a whole Gemma of this architecture: its layers are alike, and those that slide are all but each n-th. */
function noGemma(spec: DecoderSpec, arch: GgufArch, gemma: GemmaArch): Misfit | null {
  const fix = "export as a Hugging Face folder", { hidden, layers, rope, scales, softCaps } = spec;
  const isThree = arch === "gemma3", isTwo = arch === "gemma2", hasCaps = softCaps?.attention && softCaps.logits;
  const isWhole = spec.activation === "gelu_tanh" && (spec.normPlaces !== undefined) === (isTwo || isThree) &&
    (spec.qkNorm !== undefined) === isThree && (rope.localBase !== undefined) === isThree &&
    (isTwo ? hasCaps : !softCaps) && Math.abs((scales?.embedding ?? 1) / Math.sqrt(hidden) - 1) <= 1e-6;
  if (!isWhole) return { rule: `the model is a ${arch}`, value: "it has other parts", fix };
  const unlike = unlikeLayers(spec);
  if (unlike) return { ...unlike, fix: ALIKE };
  if (spec.biases?.length) return { rule: "no part has a bias", value: spec.biases.join(", "), fix };
  if (!isThree && !spec.tied) return { rule: "the output head is the embedding", value: "it is not", fix };
  const sees = layers.map(({ rope, window }) => `${rope ?? "full"} ${window ?? "all"}`).join(", ");
  if (!isTwo && layers.some(({ rope, window }) => rope !== "local" && window !== undefined)) {
    return {
      rule: isThree ? "layers with a window have a RoPE of their own" : "no layer has a window",
      value: sees,
      fix,
    };
  }
  if (gemma.period !== null && slidingPeriod(arch, layers) === null) {
    return { rule: "layers with a window are all but each n-th", value: sees, fix };
  }
  return noDivisors(spec, fix);
}

/** The n such that all layers but each n-th slide: 0 if all do; null if there is none. */
function slidingPeriod(arch: GgufArch, layers: readonly LayerSpec[]): number | null {
  const slides = layers.map(({ rope, window }) => arch === "gemma3" ? rope === "local" : window !== undefined);
  const first = slides.indexOf(false), usual = GEMMA_ARCHS[arch]?.period ?? 0;
  if (first < 0) return layers.length < usual ? usual : 0;
  const period = first + 1;
  return slides.every((own, layer) => own === (layer % period < period - 1)) ? period : null;
}

function unlikeLayers({ layers }: DecoderSpec): Misfit | null {
  const [first] = layers;
  const other = layers.findIndex(({ heads, kvHeads, ffn }) =>
    heads === 0 || ffn === 0 || heads !== first?.heads || kvHeads !== first.kvHeads || ffn !== first.ffn
  );
  if (other < 0) return null;
  const { heads, kvHeads, ffn } = layers[other] ?? { heads: 0, kvHeads: 0, ffn: 0 };
  return {
    rule: "all layers have the same heads, KV heads and FFN columns, and at least one of each",
    value: `layer ${other}: ${heads} heads, ${kvHeads} KV heads, ${ffn} FFN columns`,
    fix: "take arch deci, or pad the layers",
  };
}

/** Its q is as wide as the residual stream, and it has these biases, no others, and no RoPE divisors. */
function noQwen2(spec: DecoderSpec): Misfit | null {
  const { hidden, headDim, layers: [first], biases = [] } = spec, width = (first?.heads ?? 0) * headDim;
  const fix = "take arch llama";
  if (biases.join() !== QWEN2_BIASES.join()) {
    return { rule: "q, k and v have biases and no other part has", value: biases.join(", ") || "none", fix };
  }
  if (width !== hidden) return { rule: `heads · head_dim = ${hidden}, the hidden dims`, value: String(width), fix };
  return noDivisors(spec, fix);
}

/** Whether some layers have no RoPE. */
function isWithoutRope({ layers }: DecoderSpec): boolean {
  return layers.some(({ rope }) => rope === "none");
}

/** Each fourth layer has no RoPE, whatever the file says; all layers are alike, without biases, norms of heads and RoPE divisors. */
function noSmolLm3(spec: DecoderSpec): Misfit | null {
  const { layers, biases = [], qkNorm } = spec, fix = "export as a Hugging Face folder", unlike = unlikeLayers(spec);
  if (unlike) return { ...unlike, fix: ALIKE };
  const other = layers.findIndex(({ rope }, index) => (rope === "none") !== ((index + 1) % SMOLLM3_STEP === 0));
  if (other >= 0) {
    const rule = `each ${SMOLLM3_STEP}th layer has no RoPE, and the others have`;
    return { rule, value: `layer ${other} ${layers[other]?.rope === "none" ? "has none" : "has RoPE"}`, fix };
  }
  if (biases.length > 0) return { rule: "no part has a bias", value: biases.join(", "), fix };
  if (qkNorm) return { rule: "q and k heads have no norms", value: "they have", fix };
  return noDivisors(spec, fix);
}

/** Its q is as wide as the residual stream, and it has no biases and no RoPE but plain and LongRoPE. */
function noPhi3(spec: DecoderSpec): Misfit | null {
  const { hidden, headDim, layers: [first], biases = [] } = spec, width = (first?.heads ?? 0) * headDim;
  const fix = spec.rope.dims === undefined ? "take arch llama" : HEADS_STAY, { kind } = spec.rope.scaling;
  const unlike = unlikeLayers(spec);
  if (unlike) return { ...unlike, fix: ALIKE };
  if (spec.qkNorm) return { rule: "q and k heads have no norms", value: "they have", fix: "take arch qwen3" };
  if (biases.length > 0) return { rule: "no part has a bias", value: biases.join(", "), fix };
  if (width !== hidden) return { rule: `heads · head_dim = ${hidden}, the hidden dims`, value: String(width), fix };
  if (kind === "none" || kind === "longrope") return null;
  return { rule: "RoPE is not scaled, or by LongRoPE", value: kind, fix };
}

const HEADS_STAY = "export as a Hugging Face folder, or prune neither heads nor hidden dims for a GGUF";

function noDivisors({ rope: { scaling: { kind } } }: DecoderSpec, fix: string): Misfit | null {
  return kind === "none" || kind === "linear" ? null : { rule: "RoPE is not scaled, or linearly", value: kind, fix };
}

/** The windows of layers, of which the format can say one. Throws `CompressoError("input")` for more. */
export function slidingWindows(spec: DecoderSpec): number[] {
  const windows = windowsOf(spec).filter((window) => window !== undefined);
  if (windows.length < 2) return windows;
  throw new CompressoError("input", {
    what: "cannot export a GGUF",
    rule: "all layers with a sliding window have the same one",
    value: `windows of ${windows.join(", ")} tokens`,
    fix: "export a folder of Hugging Face alone",
  });
}

function modelMetadata(
  spec: DecoderSpec,
  options: GgufExportOptions & { readonly arch: GgufArch },
): Map<string, GgufValue | GgufTyped> {
  const { arch, tokenizerMetadata } = options;
  const [first] = spec.layers;
  const float = (value: number): GgufTyped => ({ type: "f32", value });
  const counts = (key: LayerCount): GgufValue =>
    arch !== "deci" && arch !== "openelm" ? first?.[key] ?? 0 : Int32Array.from(spec.layers, (layer) => layer[key]);
  const metadata = new Map<string, GgufValue | GgufTyped>([
    ["general.architecture", arch],
    ["general.type", "model"],
    ["general.name", options.name],
    ["general.quantization_version", 2],
    [`${arch}.vocab_size`, spec.vocab],
    [`${arch}.context_length`, spec.maxPosition],
    [`${arch}.embedding_length`, spec.hidden],
    [`${arch}.block_count`, spec.layers.length],
    [`${arch}.feed_forward_length`, counts("ffn")],
    [`${arch}.attention.head_count`, counts("heads")],
    [`${arch}.attention.head_count_kv`, counts("kvHeads")],
    [`${arch}.attention.key_length`, spec.headDim],
    [`${arch}.attention.value_length`, spec.headDim],
    [`${arch}.${epsKey(arch)}`, float(spec.normEps)],
  ]);
  if (arch === "gptneox" || arch === "stablelm") metadata.set(`${arch}.${PARALLEL_KEY}`, spec.parallel === true);
  if (!spec.positions) {
    metadata.set(`${arch}.rope.dimension_count`, ropeDims(spec));
    metadata.set(`${arch}.rope.freq_base`, float(spec.rope.base));
  }
  if (arch === "granite") {
    const { embedding = 1, attention = spec.headDim ** -0.5, residual = 1, logits = 1 } = spec.scales ?? {};
    for (const [part, value] of Object.entries({ embedding, attention, residual, logits })) {
      metadata.set(`${arch}.${GRANITE_KEYS[part as keyof typeof GRANITE_KEYS]}`, float(value));
    }
  }
  const [window] = slidingWindows(spec);
  const usual = GEMMA_ARCHS[arch]?.period ?? null;
  if (usual !== null) {
    metadata.set(`${arch}.${WINDOW_KEY}`, window ?? spec.maxPosition);
    const period = slidingPeriod(arch, spec.layers);
    if (period !== null && period !== usual) metadata.set(`${arch}.${WINDOW_PATTERN_KEY}`, period);
    // llama.cpp takes the local RoPE for layers with a window.
    const { rope: { localBase }, softCaps = {} } = spec;
    const numbers = [[LOCAL_BASE_KEY, localBase], [SCORE_CAP_KEY, softCaps.attention], [
      LOGIT_CAP_KEY,
      softCaps.logits,
    ]] as const;
    for (const [key, value] of numbers) if (value !== undefined) metadata.set(`${arch}.${key}`, float(value));
  } else if (window !== undefined) {
    metadata.set(`${arch}.${WINDOW_KEY}`, window);
    const pattern = spec.layers.map((layer) => layer.window !== undefined);
    if (pattern.includes(false)) metadata.set(`${arch}.${WINDOW_PATTERN_KEY}`, pattern);
  }
  if (spec.rope.scaling.kind === "linear") {
    metadata.set(`${arch}.rope.scaling.type`, "linear");
    metadata.set(`${arch}.rope.scaling.factor`, float(spec.rope.scaling.factor));
  }
  if (spec.rope.scaling.kind === "longrope") {
    const { attention, originalMaxPosition } = spec.rope.scaling;
    metadata.set(`${arch}.rope.scaling.type`, "longrope");
    metadata.set(`${arch}.${ATTENTION_KEY}`, float(attention));
    metadata.set(`${arch}.${ORIGINAL_KEY}`, originalMaxPosition);
  }
  for (const entry of provenanceEntries(options.provenance ?? {}, parameterCount(spec))) metadata.set(...entry);
  for (const [key, value] of tokenizerMetadata) {
    if (!key.startsWith("tokenizer.")) {
      throw new CompressoError("usage", {
        what: "cannot export the tokenizer",
        rule: "its keys start with tokenizer.",
        value: key,
      });
    }
    metadata.set(key, value);
  }
  const tokens = tokenizerMetadata.get("tokenizer.ggml.tokens");
  if (Array.isArray(tokens) && tokens.length !== spec.vocab) {
    throw new CompressoError("mismatch", {
      what: "cannot export the tokenizer",
      rule: `it has a token for each of the ${spec.vocab} rows of the embedding`,
      value: `${tokens.length} tokens`,
      fix: "export a folder of Hugging Face alone, or give the model with its own tokenizer",
    });
  }
  // Without a tokenizer the file loads all the same, for token ids.
  if (!metadata.has("tokenizer.ggml.model")) metadata.set("tokenizer.ggml.model", NO_TOKENIZER);
  // Ids that the tokenizer does not name come from the model.
  const own = tokenizerMetadata.get("tokenizer.ggml.eos_token_id"), others = spec.eosIds.filter((id) => id !== own);
  // All of them end a text: that of the tokenizer, of a turn, of a message.
  const [eos, eot, eom, ...more] = own === undefined ? others : [undefined, ...others];
  // The format has no place for more.
  if (more.length > 0) metadata.set(MORE_EOS_KEY, Int32Array.from(more, Number));
  const types = tokenizerMetadata.get("tokenizer.ggml.token_type");
  // config.json may name any token, such as "!", for padding: readers that call it special for that would lose it from texts.
  const unlessText = (id: number | null): number | null =>
    id !== null && ArrayBuffer.isView(types) && TEXT_TYPES.has(Number(types[id])) ? null : id;
  const ids = { bos: unlessText(spec.bosId), eos, eot, eom, padding: unlessText(spec.padId) };
  for (const [name, id] of Object.entries(ids)) {
    const key = `tokenizer.ggml.${name}_token_id`;
    if (typeof id === "number" && !metadata.has(key)) metadata.set(key, id);
  }
  return metadata;
}

/** Types of tokens that are in texts and decoded with them. */
const TEXT_TYPES: ReadonlySet<number> = new Set([TOKEN_TYPE.normal, TOKEN_TYPE.userDefined, TOKEN_TYPE.byte]);

/** llama.cpp knows the llama3 rule only as its result: divisors of the frequencies. */
function ropeItems({ rope, headDim }: DecoderSpec): GgufItem[] {
  const { scaling } = rope;
  const item = (name: string, factors: readonly number[]): GgufItem => {
    return { name, type: "f32", shape: [factors.length], data: () => Float32Array.from(factors) };
  };
  if (scaling.kind === "longrope") return [item(ROPE_SHORT, scaling.short), item(ROPE_LONG, scaling.long)];
  if (scaling.kind !== "llama3" && scaling.kind !== "factors") return [];
  const plain = ropeFrequencies({ headDim, rope: { base: rope.base, scaling: { kind: "none" } } });
  const scaled = ropeFrequencies({ headDim, rope });
  return [item(ROPE_FREQS, Array.from(plain, (frequency, i) => frequency / (scaled[i] ?? frequency)))];
}

/** The model's factor of q·k over that of an architecture of Gemma, in the last weights of q; 1 in other tensors. */
function queryScale(spec: DecoderSpec, canonical: string, gemma: GemmaArch): number {
  const layer = layerOf(canonical), name = spec.qkNorm ? headNormName(layer, "q") : projectionName(layer, "q");
  return canonical === name ? (spec.scales?.attention ?? spec.headDim ** -0.5) / gemmaScale(gemma, spec) : 1;
}

async function tensorData(
  source: WeightSource,
  tensor: {
    readonly canonical: string;
    readonly gguf: GgufName;
    readonly shape: readonly number[];
    readonly arch: GgufArch;
    readonly added: boolean;
  },
): Promise<Float32Array> {
  const { canonical, gguf, shape, arch } = tensor;
  // What the model does not have is added: weights and biases of 0, and norms of 1 so that nothing divides by them.
  if (tensor.added) return new Float32Array(elementCount(shape)).fill(gguf.part ? 0 : 1);
  const data = await source.read(canonical), gemma = GEMMA_ARCHS[arch];
  const scale = gemma ? queryScale(source.spec, canonical, gemma) : 1;
  // llama.cpp's factor of q·k goes by the shape: what differs goes into the weight of the norm of q, or of q.
  if (scale !== 1) return data.map((value) => value * scale);
  const projection = gguf.part?.projection;
  if (!turnsNeighbours(arch) || (projection !== "q" && projection !== "k")) return data;
  const out = new Float32Array(data.length);
  const [rows = 0, width = 1] = shape;
  for (let row = 0; row < rows; row++) {
    out.set(data.subarray(row * width, (row + 1) * width), ggufRow(row, source.spec.headDim) * width);
  }
  return out;
}
