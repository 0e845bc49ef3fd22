// The architecture of llama.cpp that a model is written as, and why another one cannot hold it.
import { CompressoError } from "../../core/errors.ts";
import { type DecoderSpec, type LayerSpec, QWEN2_BIASES, windowsOf, withCounts } from "../../spec/decoder.ts";
import type { GgufArch } from "../families.ts";
import { GEMMA_ARCHS, type GemmaArch, SMOLLM3_STEP } from "./spec.ts";
import { hasLayerNorm } from "./names.ts";
import { ALL_UNGATED } from "../hf/config.ts";
import { fixedHeads, layerNormForm } from "../hf/stock_config.ts";

/** llama.cpp's openelm has heads and FFN columns in every layer: one of zeros changes no value. */
export function openelmLayers(layers: readonly LayerSpec[]): LayerSpec[] {
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
function isLayerNormModel(spec: DecoderSpec): boolean {
  const { norm, ungated, parallel, positions, headBias, embeddingWidth, activation } = spec;
  return [norm, ungated, parallel, positions, headBias, embeddingWidth].some((part) => part !== undefined) ||
    activation === "relu" || activation === "gelu";
}

/**
 * The architecture of a model with LayerNorm.
 *
 * @throws CompressoError("input") where there is none.
 */
function layerNormArch(spec: DecoderSpec): GgufArch {
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
  const own = form === "gpt_neox" ? "gelu" : "gelu_tanh";
  if (activation !== own) throw layerNormMisfit({ rule: `its FFN has ${own}`, value: String(activation), fix });
  if (biases.length !== ALL_UNGATED.length) {
    throw layerNormMisfit({ rule: "all projections have biases", value: biases.join(", ") || "none", fix });
  }
  return ({ gpt2: "gpt2", gpt_neox: "gptneox", phi: "phi2" } as const)[form];
}

function layerNormMisfit(found: Misfit): CompressoError {
  const what =
    "cannot write a GGUF: of llama.cpp's architectures only gpt2, gptneox, stablelm and phi2 have such norms";
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
export function slidingPeriod(arch: GgufArch, layers: readonly LayerSpec[]): number | null {
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
