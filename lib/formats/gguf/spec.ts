// Metadata of a GGUF as a DecoderSpec.
import {
  biasName,
  type DecoderSpec,
  type LayerSpec,
  MOST_CONVOLVED,
  type Projection,
  PROJECTIONS,
  type RopeScaling,
  withBiases,
  withWindow,
} from "../../spec/decoder.ts";
import { GGUF_ARCHS, ggufArchOf, GIVE_FAMILY } from "../../families/all.ts";
import { type GgufArch, type GgufKeys, ZERO_KEYS } from "../../families/gguf_arch.ts";
import type { GgufFile } from "./file.ts";
import { ggufExperts } from "./experts.ts";
import { epsKey, ggufNames, ROPE_FREQS, ROPE_LONG, ROPE_SHORT, storedFusions } from "./names.ts";
import { metadataReader } from "./metadata.ts";
import { fusedGgufName } from "../fused.ts";
import { withoutUndefined } from "../../core/check_options.ts";
import {
  ATTENTION_KEY,
  BETA_FAST_KEY,
  BETA_SLOW_KEY,
  LOCAL_BASE,
  LOCAL_BASE_KEY,
  MORE_EOS_KEY,
  ORIGINAL_KEY,
  QUERY_GROWTH_KEY,
  WINDOW_KEY,
  WINDOW_PATTERN_KEY,
} from "./spec_keys.ts";
import { ggufError } from "./types.ts";

const YARN_LOG_KEY = "rope.scaling.yarn_log_multiplier";

/**
 * Reads the spec from metadata, and RoPE divisors from `rope_freqs.weight`.
 *
 * @throws CompressoError("input") naming the key, if a {@link DecoderSpec} cannot describe the model.
 */
export async function ggufSpec(file: GgufFile): Promise<{ readonly spec: DecoderSpec; readonly arch: GgufArch }> {
  const { path, metadata } = file, keys = metadataReader(file);
  // Before all else: the parts but the first hold nothing else.
  if (keys.number("split.count", 1) > 1) {
    const fix = "join the parts with llama-gguf-split --merge";
    throw ggufError(path, { rule: "the file is the whole model", value: "one part of several", fix });
  }
  const given = metadata.get("general.architecture"), arch = ggufArchOf(given);
  if (!arch) {
    const kind = given === "clip"
      ? ", the part of a multimodal model that reads images or sound"
      : String(given).endsWith("moe")
      ? ", a mixture of experts"
      : "";
    const rule = `general.architecture is ${GGUF_ARCHS.map(({ arch }) => arch).join(", ")}`;
    throw ggufError(path, { rule, value: `${given}${kind}`, fix: GIVE_FAMILY });
  }
  const own = (key: string): string => `${arch.arch}.${key}`;
  for (const key of arch.zeroKeys ?? ZERO_KEYS) {
    keys.check(own(key), keys.number(own(key), 0), (value) => value === 0, "it is 0 or absent");
  }
  const isCausal = metadata.get(own("attention.causal")) ?? true;
  if (isCausal !== true) {
    const rule = `${own("attention.causal")} is true or absent: attention looks back alone`;
    throw ggufError(path, { rule, value: String(isCausal) });
  }
  const above = (key: string): number => {
    const value = keys.decimal(own(key));
    keys.check(own(key), value, (value) => value > 0, "a number above 0");
    return value;
  };
  const hidden = keys.size(own("embedding_length"));
  const maxPosition = keys.size(own("context_length"));
  const { window, slides } = windowsOf(file, { arch, maxPosition }), { hasLocalRope, isOptional } = arch.windows ?? {};
  const experts = ggufExperts(file, arch);
  const layers = layersOf(file, arch).map((layer, index) => ({
    ...withWindow(layer, slides(index) ? window : undefined),
    ...hasLocalRope && slides(index) ? { rope: "local" as const } : {},
    ...arch.skipsRope?.(index, slides(index)) ? { rope: "none" as const } : {},
    ...experts && index >= experts.dense
      ? { ffn: experts.shared, experts: { count: experts.count, ffn: experts.ffn } }
      : {},
  }));
  const hasLocal = hasLocalRope && (!isOptional || layers.some(({ rope }) => rope === "local"));
  const base = metadata.has(own("rope.freq_base")) ? above("rope.freq_base") : 10000;
  const localBase = isOptional ? base : LOCAL_BASE;
  const firstHeads = layers[0]?.heads ?? 0;
  const headDim = metadata.has(own("attention.key_length"))
    ? keys.size(own("attention.key_length"))
    : firstHeads > 0
    ? hidden / firstHeads
    : 0;
  keys.check(
    own("attention.key_length"),
    headDim,
    (value) => value > 0 && value % 2 === 0,
    "it is even, given or implied",
  );
  const width = `the head's width, ${headDim}`,
    valueKey = own("attention.value_length"),
    dimsKey = own("rope.dimension_count");
  keys.check(valueKey, keys.number(valueKey, headDim), (value) => value === headDim, `it equals ${width}`);
  // llama.cpp takes a part of a head in these architectures alone.
  const dims = keys.number(dimsKey, headDim), isPartial = arch.partialRope;
  keys.check(
    dimsKey,
    dims,
    (value) => isPartial ? value > 0 && value <= headDim && value % 2 === 0 : value === headDim,
    isPartial ? `it is even and at most ${width}` : `it equals ${width}`,
  );
  const vocab = file.tensors.get("token_embd.weight")?.shape[0] ?? 0;
  const id = (name: string): number | null => {
    const key = `tokenizer.ggml.${name}_token_id`;
    const value = keys.number(key, NONE);
    // Some writers say "none" with −1 as u32.
    if (value === NONE || value === 2 ** 32 - 1 || (name === "padding" && value >= vocab)) return null;
    keys.check(key, value, (id) => Number.isInteger(id) && id >= 0 && id < vocab, `a token id below ${vocab}`);
    return value;
  };
  const more = metadata.get(MORE_EOS_KEY),
    others = ArrayBuffer.isView(more) ? Array.from<number | bigint, number>(more, Number) : [];
  for (const value of others) {
    keys.check(MORE_EOS_KEY, value, (id) => id >= 0 && id < vocab, `token ids below ${vocab}`);
  }
  const eosIds = [id("eos"), id("eot"), id("eom"), ...others].filter((value) => value !== null);
  const spec = withBiases({
    vocab,
    hidden,
    headDim,
    layers,
    normEps: above(epsKey(arch)),
    rope: {
      base,
      scaling: await ropeScaling(file, { arch, dims, maxPosition }),
      ...hasLocal ? { localBase: metadata.has(own(LOCAL_BASE_KEY)) ? above(LOCAL_BASE_KEY) : localBase } : {},
      ...dims < headDim ? { dims } : {},
    },
    tied: !file.tensors.has("output.weight"),
    ...experts ? { router: experts.router } : {},
    ...convolutionOf(file, arch, layers),
    ...withoutUndefined(arch.read?.(keysOf(file, arch), { hidden, headDim, layers }) ?? {}),
    maxPosition,
    bosId: id("bos"),
    eosIds: [...new Set(eosIds)],
    padId: id("padding"),
  }, biasesOf(file, { layers: layers.length, arch }));
  return { spec, arch };
}

/** The convolutions of a file with layers that have one. */
function convolutionOf(
  file: GgufFile,
  { arch, convolutionKey }: GgufArch,
  layers: readonly LayerSpec[],
): Pick<DecoderSpec, "convolution"> {
  if (!convolutionKey || !layers.some(({ conv }) => conv)) return {};
  const keys = metadataReader(file), key = `${arch}.${convolutionKey}`, length = keys.size(key);
  keys.check(key, length, (value) => value >= 2 && value <= MOST_CONVOLVED, `from 2 to ${MOST_CONVOLVED} tokens`);
  return { convolution: { length } };
}

/** The keys of a file that begin with the name of the architecture. */
function keysOf(file: GgufFile, { arch }: GgufArch): GgufKeys {
  const { path, metadata, tensors } = file, keys = metadataReader(file);
  return {
    has: (key) => metadata.has(`${arch}.${key}`),
    hasTensor: (name) => tensors.has(name),
    decimal(key, fallback): number {
      const own = `${arch}.${key}`, value = metadata.has(own) ? keys.decimal(own) : fallback;
      keys.check(own, value, (value) => value >= 0, "a number from 0 on");
      return value;
    },
    flag(key): boolean {
      const own = `${arch}.${key}`, value = metadata.get(own);
      if (typeof value === "boolean") return value;
      throw ggufError(path, { rule: `${own} is true or false`, value: String(value ?? "not given") });
    },
    fail(rule, value): never {
      throw ggufError(path, { rule, value });
    },
  };
}

/** Biases that the file has tensors for. No key names them; llama.cpp too uses each bias that it finds. */
function biasesOf(
  { tensors }: GgufFile,
  { layers, arch }: { readonly layers: number; readonly arch: GgufArch },
): Projection[] {
  const names = ggufNames(layers), fusions = storedFusions(arch, tensors);
  return PROJECTIONS.filter((projection) => {
    const fusion = fusions.find(({ parts }) => parts.includes(projection));
    return Array.from(
      { length: layers },
      (_, layer) =>
        fusion ? fusedGgufName({ layer, fusion, kind: "bias" }) : names.get(biasName(layer, projection))?.name ?? "",
    ).some((name) => tensors.has(name));
  });
}

/**
 * The window, undefined if it is no shorter than the context, and which layers slide: a list, or a number n for all
 * but each n-th. llama.cpp gives only architectures with `windows` a window.
 */
function windowsOf(
  file: GgufFile,
  { arch, maxPosition }: { readonly arch: GgufArch; readonly maxPosition: number },
): { readonly window: number | undefined; readonly slides: (layer: number) => boolean } {
  const keys = metadataReader(file), windowKey = `${arch.arch}.${WINDOW_KEY}`;
  const patternKey = `${arch.arch}.${WINDOW_PATTERN_KEY}`, implied = arch.windows;
  const window = keys.number(windowKey, implied?.window ?? 0);
  keys.check(windowKey, window, (value) => Number.isInteger(value) && value >= 0, "a whole number from 0 on");
  if (window === 0) return { window: undefined, slides: () => false };
  const shown = window < maxPosition ? window : undefined, pattern = file.metadata.get(patternKey);
  if (Array.isArray(pattern)) return { window: shown, slides: (layer) => pattern[layer] === true };
  const period = keys.number(patternKey, implied?.period ?? 0);
  keys.check(
    patternKey,
    period,
    (value) => Number.isInteger(value) && value >= 0,
    "a list of true and false, or a whole number",
  );
  return { window: shown, slides: (layer) => period === 0 || layer % period < period - 1 };
}

const NONE = -1;

/** Key of the number of layers at the end that predict further tokens, after the prefix `arch.`. */
const LATER_KEY = "nextn_predict_layers";

function layersOf(file: GgufFile, { arch, laterLayers, convolutionKey }: GgufArch): LayerSpec[] {
  const keys = metadataReader(file);
  const length = keys.size(`${arch}.block_count`), laterKey = `${arch}.${LATER_KEY}`;
  const later = laterLayers ? keys.number(laterKey, 0) : 0;
  keys.check(laterKey, later, (value) => Number.isInteger(value) && value >= 0 && value < length, `below ${length}`);
  // A broken count must not make a list of a billion layers.
  const rule = `a layer has at least one of the file's ${file.tensors.size} tensors`;
  keys.check(`${arch}.block_count`, length, (value) => value <= file.tensors.size, rule);
  const counts = (key: string, fallback?: readonly number[]): readonly number[] => {
    const value = file.metadata.get(`${arch}.${key}`);
    if (value === undefined && fallback) return fallback;
    if (typeof value === "number") return Array.from({ length }, () => value);
    const list = ArrayBuffer.isView(value) ? Array.from<number | bigint, number>(value, Number) : [];
    if (list.length === length) return list;
    const shown = value === undefined ? "not given" : `${list.length} numbers`;
    throw ggufError(file.path, {
      rule: `${arch}.${key} is a number, or one for each of ${length} layers`,
      value: shown,
    });
  };
  const heads = counts("attention.head_count");
  const kvHeads = counts("attention.head_count_kv", heads);
  const ffn = counts("feed_forward_length");
  return Array.from({ length: length - later }, (_, layer) => {
    const own = { heads: heads[layer] ?? 0, kvHeads: kvHeads[layer] ?? 0, ffn: ffn[layer] ?? 0 };
    const spec: LayerSpec = convolutionKey && own.kvHeads === 0 ? { ...own, heads: 0, conv: true } : own;
    const shown = `layer ${layer}: ${spec.heads} heads, ${spec.kvHeads} KV heads, ${spec.ffn} FFN columns`;
    if (Object.values(own).some((count) => !Number.isInteger(count) || count < 0)) {
      throw ggufError(file.path, { rule: "heads and FFN columns are whole numbers from 0 on", value: shown });
    }
    if (spec.heads > 0 && spec.kvHeads === 0) {
      throw ggufError(file.path, {
        rule: "a layer with heads has KV heads (linear attention is not supported)",
        value: shown,
        fix: GIVE_FAMILY,
      });
    }
    if (spec.heads === 0 ? spec.kvHeads > 0 : spec.heads % spec.kvHeads !== 0) {
      throw ggufError(file.path, { rule: "KV heads divide the heads", value: shown });
    }
    return spec;
  });
}

/** `rope_freqs.weight` holds divisors of the frequencies; linear scaling divides all of them once more. */
async function ropeScaling(
  file: GgufFile,
  { arch, dims, maxPosition }: {
    readonly arch: GgufArch;
    readonly dims: number;
    readonly maxPosition: number;
  },
): Promise<RopeScaling> {
  const keys = metadataReader(file);
  const own = (key: string): string => `${arch.arch}.${key}`;
  const type = file.metadata.get(own("rope.scaling.type")) ?? "linear";
  const attention = own(ATTENTION_KEY);
  if (type === "longrope" || (arch.longRope && file.tensors.has(ROPE_LONG))) {
    const original = own(ORIGINAL_KEY), originalMaxPosition = keys.number(original, maxPosition);
    keys.check(
      original,
      originalMaxPosition,
      (value) => Number.isInteger(value) && value > 0,
      "a whole number above 0",
    );
    return {
      kind: "longrope",
      short: await divisors(file, ROPE_SHORT, dims),
      long: await divisors(file, ROPE_LONG, dims),
      attention: file.metadata.has(attention) ? keys.decimal(attention) : 1,
      originalMaxPosition,
    };
  }
  if (type === "yarn") {
    const decimal = (key: string, fallback: number): number => {
      const value = file.metadata.has(own(key)) ? keys.decimal(own(key)) : fallback;
      keys.check(own(key), value, (value) => value > 0, "a number above 0");
      return value;
    };
    const factor = keys.decimal(own("rope.scaling.factor")), original = keys.number(own(ORIGINAL_KEY), maxPosition);
    keys.check(own("rope.scaling.factor"), factor, (value) => value > 0, "a number above 0");
    keys.check(own(ORIGINAL_KEY), original, (value) => Number.isInteger(value) && value > 0, "a whole number above 0");
    const logarithm = arch.queryGrowth && file.metadata.has(own(YARN_LOG_KEY)) ? keys.decimal(own(YARN_LOG_KEY)) : 0;
    return {
      kind: "yarn",
      factor,
      betaFast: decimal(BETA_FAST_KEY, 32),
      betaSlow: decimal(BETA_SLOW_KEY, 1),
      attention: decimal(ATTENTION_KEY, 1) * (1 + 0.1 * Math.log(factor)) / (1 + 0.1 * logarithm * Math.log(factor)),
      originalMaxPosition: original,
      ...arch.queryGrowth && file.metadata.has(own(QUERY_GROWTH_KEY))
        ? { queryGrowth: decimal(QUERY_GROWTH_KEY, 1) }
        : {},
    };
  }
  if (type !== "none" && type !== "linear") {
    const rule = `${own("rope.scaling.type")} is none, linear, yarn or longrope, or the file has rope_freqs.weight`;
    throw ggufError(file.path, { rule, value: String(type), fix: "give the model as a Hugging Face folder" });
  }
  keys.check(attention, keys.number(attention, 1), (value) => value === 1, "it is 1 or absent");
  // llama.cpp takes linear for granted where a factor is given without a type, under an older key too.
  const key = file.metadata.has(own("rope.scaling.factor")) ? own("rope.scaling.factor") : own("rope.scale_linear");
  const given = type === "linear" && file.metadata.has(key) ? keys.decimal(key) : 1;
  const factor = given === 0 ? 1 : given;
  keys.check(key, factor, (value) => value > 0, "it is above 0");
  if (!arch.divisors || !file.tensors.has(ROPE_FREQS)) {
    return factor === 1 ? { kind: "none" } : { kind: "linear", factor };
  }
  const factors = await divisors(file, ROPE_FREQS, dims);
  return { kind: "factors", factors: factors.map((value) => value * factor) };
}

/** A tensor of divisors of the frequencies. */
async function divisors(file: GgufFile, name: string, dims: number): Promise<number[]> {
  const rule = `${name} has ${dims / 2} numbers above 0, one for each frequency`;
  if (!file.tensors.has(name)) throw ggufError(file.path, { rule, value: "no such tensor" });
  const values = Array.from(await file.readTensor(name));
  if (values.length === dims / 2 && values.every((value) => value > 0 && value < Infinity)) return values;
  throw ggufError(file.path, { rule, value: `${values.length} numbers, ${values.slice(0, 4).join(", ")} …` });
}
