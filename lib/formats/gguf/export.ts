// A model as a GGUF for llama.cpp.
import { refuse } from "../../core/errors.ts";
import {
  type DecoderSpec,
  headNormName,
  isCurve,
  type LayerCount,
  layerOf,
  type LayerSpec,
  parameterCount,
  projectionName,
  ropeDims,
  tensorShapes,
} from "../../spec/decoder.ts";
import { neighbourRow, ropeFrequencies } from "../../spec/rope.ts";
import type { FileSystem, Staged } from "../../files/system.ts";
import { type GgufArch, slidingPeriod } from "../../families/gguf_arch.ts";
import { curveEntries, emptyCurves } from "./curves.ts";
import { expertKeys } from "./experts.ts";
import { fusedGgufName, fusedTensors, joined } from "../fused.ts";
import {
  ATTENTION_KEY,
  BETA_FAST_KEY,
  BETA_SLOW_KEY,
  LOCAL_BASE_KEY,
  MORE_EOS_KEY,
  ORIGINAL_KEY,
  QUERY_GROWTH_KEY,
  WINDOW_KEY,
  WINDOW_PATTERN_KEY,
} from "./spec_keys.ts";
import {
  epsKey,
  type GgufName,
  ggufNameIn,
  ggufNames,
  ggufShape,
  PARALLEL_KEY,
  ROPE_FREQS,
  ROPE_LONG,
  ROPE_SHORT,
} from "./names.ts";
import type { Importance } from "./importance.ts";
import { fileTypeId, type GgufWriteType, matrixTypes } from "./mixes.ts";
import { provenanceEntries } from "./provenance.ts";
import { NO_TOKENIZER, TOKEN_TYPE } from "./tokenizer_parts.ts";
import { type GgufTensorType, type GgufTyped, type GgufValue, TENSOR_FORMATS } from "./types.ts";
import { ggufBytes, type GgufContent, type GgufItem, stageGgufFile } from "./write.ts";
import { elementCount } from "../../spec/row_range.ts";
import type { Provenance } from "../../spec/provenance.ts";
import type { WeightSource } from "../../spec/source.ts";
import { ggufArch, slidingWindows } from "./architecture.ts";

/** How to export. */
export interface GgufExportOptions {
  /**
   * Type of the weight matrices by llama.cpp's rules (see `typeChooser`); vectors and learned positions are always f32.
   * If the row length is not a multiple of 256, types with blocks of 256 values fall back to a type with blocks of 32;
   * if it is not a multiple of 32 either, to f16.
   */
  readonly dtype: GgufWriteType;
  /**
   * Types of single matrices in place of these rules, by canonical name; of a fused matrix by the name of its first
   * part. See `fitTypes`.
   */
  readonly types?: ReadonlyMap<string, GgufTensorType> | undefined;
  /** Name of the architecture; `auto` (default) for the first that holds the model, see {@link ggufArch}. */
  readonly arch?: string;
  /** `tokenizer.*` entries, written as they are. */
  readonly tokenizerMetadata: ReadonlyMap<string, GgufValue | GgufTyped>;
  /** Name of the model, `general.name`. */
  readonly name: string;
  /** Importance of columns, by which quantised matrices are fitted. Default: none. */
  readonly importance?: Importance | undefined;
  /** Origin of the model that this one was made from. Default: unknown. */
  readonly provenance?: Provenance | undefined;
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface GgufExport {
  readonly arch: GgufArch;
  /** The layers as the file holds them: some may have a zero head or a zero FFN column more than the model. */
  readonly layers: readonly LayerSpec[];
  /** Tensors that are f16 in place of a type of blocks, by their GGUF names. */
  readonly fellBack: readonly string[];
}

/**
 * Writes the weights of `source` as a GGUF, a tensor at a time, to a temporary file next to `path`.
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
  for (const entry of await curveEntries(source)) content.metadata.set(...entry);
  const file = await stageGgufFile(path, content, options);
  return { result, commit: () => file.commit(), [Symbol.dispose]: () => file[Symbol.dispose]() };
}

/** Bytes of the file that {@link stageGguf} would write for a model of this shape. */
export function ggufFileBytes(spec: DecoderSpec, options: GgufExportOptions): number {
  const read = (): never => {
    throw new Error("only the size is asked for");
  };
  const { content } = contentOf({ spec, read, storedDtype: read }, options);
  for (const entry of emptyCurves(spec)) content.metadata.set(...entry);
  return ggufBytes(content);
}

/** A matrix of the file: the canonical tensors in it, and its shape. */
export interface GgufMatrix {
  readonly parts: readonly string[];
  readonly shape: readonly number[];
}

/** The matrices whose types can be chosen, in the order of the file: all but routers and learned positions. */
export function ggufMatrices(spec: DecoderSpec, arch: GgufArch): GgufMatrix[] {
  const whole = { ...spec, layers: arch.uneven?.(spec.layers) ?? spec.layers }, shapes = tensorShapes(whole);
  const fused = fusedTensors(whole, arch.fused ?? []);
  return [...matrixTypes("f16", whole, { shapes, fusesQkv: false }).keys()].flatMap((name): GgufMatrix[] => {
    const tensor = fused.get(name), parts = tensor?.parts.map((part) => part.name) ?? [name];
    return parts[0] === name ? [{ parts, shape: tensor?.shape ?? shapes.get(name) ?? [] }] : [];
  });
}

/** The type of blocks in which the file of a source has a tensor, and in which an export copies them; null for none. */
export async function copiedType(source: WeightSource, canonical: string, arch: GgufArch): Promise<string | null> {
  const type = source.storedDtype(canonical);
  if (factorOf(source, { canonical, arch }) !== 1) return null;
  return await source.readStored?.(canonical, { start: 0, count: 1 }) ? type : null;
}

function contentOf(
  source: WeightSource,
  options: GgufExportOptions,
): GgufExport & { readonly content: GgufContent & { readonly metadata: Map<string, GgufValue | GgufTyped> } } {
  const { spec } = source;
  const arch = ggufArch(spec, options.arch);
  const { fused: fusions = [] } = arch, layers = arch.uneven?.(spec.layers) ?? spec.layers;
  const fellBack: string[] = [];
  const tensors = ropeItems(spec);
  const names = ggufNames(layers.length, arch.tensorNames);
  const own = tensorShapes(spec), shapes = tensorShapes({ ...spec, layers });
  const types = matrixTypes(options.dtype, { ...spec, layers }, { shapes, fusesQkv: fusions.length > 0 });
  const fused = fusedTensors({ ...spec, layers }, fusions);
  for (const [canonical, shape] of shapes) {
    if (isCurve(canonical)) continue;
    const gguf = ggufNameIn(spec, canonical, names.get(canonical) ?? { name: canonical }),
      choice = types.get(canonical);
    const whole = fused.get(canonical), parts = whole?.parts.map((part) => part.name) ?? [canonical];
    // A fused tensor takes the place of its first part.
    if (parts[0] !== canonical) continue;
    const name = whole ? fusedGgufName(whole) : gguf.name, given = options.types?.get(canonical);
    const type = given ?? choice?.type ?? "f32";
    if (!given && choice?.type === "f16" && choice.wanted !== "f16") fellBack.push(name);
    tensors.push({
      name,
      type,
      shape: whole?.shape ?? ggufShape(spec, canonical, shape),
      // The parts of a fused tensor read the same input.
      importance: options.importance?.get(canonical),
      data: async () => {
        options.signal?.throwIfAborted();
        const tensorOf = (part: string): ExportedTensor => {
          return { canonical: part, gguf, shape: shapes.get(part) ?? [], type, arch, added: !own.has(part) };
        };
        if (!whole) {
          const tensor = tensorOf(canonical);
          return await storedData(source, tensor) ?? await tensorData(source, tensor);
        }
        return joined(await Promise.all(parts.map((part) => tensorData(source, tensorOf(part)))));
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

function modelMetadata(
  spec: DecoderSpec,
  options: Omit<GgufExportOptions, "arch"> & { readonly arch: GgufArch },
): Map<string, GgufValue | GgufTyped> {
  const { arch: record, tokenizerMetadata } = options, { arch, write, windows } = record;
  const [first] = spec.layers;
  const float = (value: number): GgufTyped => ({ type: "f32", value });
  const whole = spec.layers.find(({ conv }) => !conv) ?? first, { convolutionKey } = record;
  const counts = (key: LayerCount): GgufValue =>
    record.uneven || (convolutionKey && key === "kvHeads")
      ? Int32Array.from(spec.layers, (layer) => layer[key])
      : whole?.[key] ?? 0;
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
    [`${arch}.${epsKey(record)}`, float(spec.normEps)],
  ]);
  for (const [key, value] of Object.entries(expertKeys(spec, record))) metadata.set(`${arch}.${key}`, value);
  if (convolutionKey) metadata.set(`${arch}.${convolutionKey}`, spec.convolution?.length ?? 0);
  if (record.parallelKey) metadata.set(`${arch}.${PARALLEL_KEY}`, spec.parallel !== undefined);
  if (!spec.positions) {
    metadata.set(`${arch}.rope.dimension_count`, ropeDims(spec));
    metadata.set(`${arch}.rope.freq_base`, float(spec.rope.base));
  }
  const [window] = slidingWindows(spec);
  const isLocal = spec.layers.some(({ rope }) => rope === "local");
  if (windows && (!windows.isOptional || isLocal)) {
    metadata.set(`${arch}.${WINDOW_KEY}`, window ?? spec.maxPosition);
    const period = slidingPeriod(spec.layers, windows.period);
    if (windows.isListed) {
      metadata.set(
        `${arch}.${WINDOW_PATTERN_KEY}`,
        spec.layers.map(({ rope }) => rope === "local"),
      );
    } else if (period !== null && period !== windows.period) metadata.set(`${arch}.${WINDOW_PATTERN_KEY}`, period);
    // llama.cpp takes the local RoPE for layers with a window.
    const { rope: { localBase } } = spec;
    if (localBase !== undefined) metadata.set(`${arch}.${LOCAL_BASE_KEY}`, float(localBase));
  } else if (window !== undefined) {
    metadata.set(`${arch}.${WINDOW_KEY}`, window);
    const pattern = spec.layers.map((layer) => layer.window !== undefined);
    if (pattern.includes(false)) metadata.set(`${arch}.${WINDOW_PATTERN_KEY}`, pattern);
  }
  for (const [key, value] of Object.entries(write?.(spec) ?? {})) metadata.set(`${arch}.${key}`, value);
  if (spec.rope.scaling.kind === "linear") {
    metadata.set(`${arch}.rope.scaling.type`, "linear");
    metadata.set(`${arch}.rope.scaling.factor`, float(spec.rope.scaling.factor));
  }
  if (spec.rope.scaling.kind === "yarn") {
    const { factor, betaFast, betaSlow, attention, originalMaxPosition, queryGrowth } = spec.rope.scaling;
    metadata.set(`${arch}.rope.scaling.type`, "yarn");
    if (queryGrowth !== undefined) metadata.set(`${arch}.${QUERY_GROWTH_KEY}`, float(queryGrowth));
    metadata.set(`${arch}.rope.scaling.factor`, float(factor));
    metadata.set(`${arch}.${BETA_FAST_KEY}`, float(betaFast));
    metadata.set(`${arch}.${BETA_SLOW_KEY}`, float(betaSlow));
    metadata.set(`${arch}.${ORIGINAL_KEY}`, originalMaxPosition);
    // llama.cpp multiplies it by the factor that YaRN implies.
    metadata.set(`${arch}.${ATTENTION_KEY}`, float(attention / (1 + 0.1 * Math.log(factor))));
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
      refuse("usage", "cannot export the tokenizer", { rule: "its keys start with tokenizer.", value: key });
    }
    metadata.set(key, value);
  }
  const tokens = tokenizerMetadata.get("tokenizer.ggml.tokens");
  if (Array.isArray(tokens) && tokens.length !== spec.vocab) {
    refuse("mismatch", "cannot export the tokenizer", {
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

/** A tensor of the model as the file holds it. */
interface ExportedTensor {
  readonly canonical: string;
  readonly gguf: GgufName;
  readonly shape: readonly number[];
  readonly type: GgufTensorType;
  readonly arch: GgufArch;
  /** Whether the model does not have it. */
  readonly added: boolean;
}

/** llama.cpp derives the scale of q·k from the shape. Any remaining factor is multiplied into q's norm, or into q. */
function factorOf(
  { spec }: WeightSource,
  { canonical, arch }: Pick<ExportedTensor, "canonical" | "arch">,
): number {
  if (!arch.attentionScale) return 1;
  const layer = layerOf(canonical), name = spec.qkNorm ? headNormName(layer, "q") : projectionName(layer, "q");
  return canonical === name ? (spec.scales?.attention ?? spec.headDim ** -0.5) / arch.attentionScale(spec) : 1;
}

/** The blocks of a quantised tensor as its file has them; null if they have another type or were changed. */
async function storedData(source: WeightSource, tensor: ExportedTensor): Promise<Uint8Array<ArrayBuffer> | null> {
  const { canonical, type, added } = tensor;
  if (added || TENSOR_FORMATS[type].block === 1 || source.storedDtype(canonical) !== type) return null;
  if (factorOf(source, tensor) !== 1) return null;
  const stored = await source.readStored?.(canonical) ?? null;
  return stored && inFileOrder(stored, () => new Uint8Array(stored.length), { source, tensor });
}

async function tensorData(source: WeightSource, tensor: ExportedTensor): Promise<Float32Array> {
  const { canonical, gguf, shape, added } = tensor;
  // What the model does not have is added: weights and biases of 0, and norms of 1 so that nothing divides by them.
  if (added) return new Float32Array(elementCount(shape)).fill(gguf.part ? 0 : 1);
  const data = await source.read(canonical), factor = factorOf(source, tensor);
  if (factor !== 1) return data.map((value) => value * factor);
  return inFileOrder(data, () => new Float32Array(data.length), { source, tensor });
}

/** Rows of q and k in the order of the file; `make` gives the place for them where that differs. */
function inFileOrder<T extends Float32Array | Uint8Array<ArrayBuffer>>(
  data: T,
  make: () => T,
  { source, tensor }: { readonly source: WeightSource; readonly tensor: ExportedTensor },
): T {
  const { gguf, shape: [rows = 0], arch } = tensor, projection = gguf.part?.projection;
  if (!arch.neighbours || (projection !== "q" && projection !== "k")) return data;
  const width = data.length / rows, target = make(), { spec } = source;
  const turns = { headDim: spec.headDim, dims: ropeDims(spec) };
  for (let row = 0; row < rows; row++) {
    target.set(data.subarray(row * width, (row + 1) * width), neighbourRow(row, turns) * width);
  }
  return target;
}
