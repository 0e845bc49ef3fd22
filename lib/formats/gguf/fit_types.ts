// A type for each matrix of a GGUF, so that the file stays within a number of bytes and its errors are least.
import { CompressoError } from "../../core/errors.ts";
import { inOrder, onThread } from "../../core/threads.ts";
import type { GgufArch } from "../../families/gguf_arch.ts";
import { type DecoderSpec, EMBEDDING, HEAD, type Projection, PROJECTIONS, tensorShapes } from "../../spec/decoder.ts";
import { elementCount } from "../../spec/row_range.ts";
import type { WeightSource } from "../../spec/source.ts";
import { ggufArch } from "./architecture.ts";
import { copiedType, type GgufExportOptions, ggufFileBytes, ggufMatrices } from "./export.ts";
import { type GgufWriteType, typeLike } from "./mixes.ts";
import { type Choice, leastError } from "./least_error.ts";
import { typeErrors } from "./type_errors.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";
import { GGUF_ALIGNMENT } from "./write.ts";

/**
 * Types that any matrix may get. No f32: f16 holds the weights of models as they are published, or nearly. MXFP4 is for matrices that have it: q4_0 has
 * less error in about as many bits, and runs everywhere.
 */
const TYPES = (Object.keys(TENSOR_FORMATS) as GgufTensorType[]).filter((type) => type !== "f32" && type !== "mxfp4");

/** Values of a matrix that are tried, in so many spans of rows. */
const SAMPLE = 1 << 18, SPANS = 16;

/** What {@link fitTypes} is given: an export whose types are free. */
export interface FitOptions extends Omit<GgufExportOptions, "dtype" | "types"> {
  /** Bytes of the file at most. */
  readonly most: number;
  /** Called with the completed share, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Types of matrices, by the canonical name of each, and what the file will be. */
export interface FittedTypes {
  readonly types: ReadonlyMap<string, GgufTensorType>;
  /** Bytes of the file. */
  readonly bytes: number;
  /** How many matrices have each type, those of most first. */
  readonly counts: Readonly<Record<string, number>>;
  /** The type of a whole file that they are most like. */
  readonly like: GgufWriteType;
}

/** Refuses a budget that is below the smallest file. */
export class TooSmallError extends CompressoError {
  /** Bytes of the file in the smallest types. */
  readonly smallest: number;

  /** Refuses `most` bytes. */
  constructor(smallest: number, most: number) {
    super("input", {
      what: "cannot write a GGUF of this size",
      rule: `the smallest types of its matrices make ${smallest} bytes`,
      value: String(most),
      fix: "allow more, or cut more of the model",
      option: "ggufSize",
    });
    this.smallest = smallest;
  }
}

/**
 * Chooses the types of matrices whose file has at most `most` bytes, so that the sum over matrices of
 *
 *     sensitivity · Σ importance · (w − stored w)² / Σ importance · w²
 *
 * is least: KL to the unquantised model grows linearly in these relative errors while they are small (Malinovskii et al.,
 * arXiv 2411.17525, theorem 1). Errors are those of the quantiser, on up to 262,144 values of a matrix in rows spread over
 * it, weighted by the importance of columns where it is known. A type that the source's file has is copied, so it makes
 * no error. Vectors, routers and learned positions stay f32.
 *
 * @throws TooSmallError, which is a `CompressoError("input")`, for a budget below the smallest file.
 * @throws CompressoError("usage") for an arch that cannot hold the model.
 */
export async function fitTypes(source: WeightSource, options: FitOptions): Promise<FittedTypes> {
  const { most, onProgress, ...others } = options, { spec } = source;
  const arch = ggufArch(spec, options.arch), matrices = ggufMatrices(spec, arch);
  const kept = await Promise.all(
    matrices.map(async ({ parts: [first = ""] }) => await keepsMxfp4(source, first, arch)),
  );
  const candidates = matrices.map(({ shape }, at): GgufTensorType[] => {
    return [...typesOf(shape.at(-1) ?? 1), ...kept[at] ? ["mxfp4" as const] : []];
  });
  const sizes = matrices.map(({ shape }, at) => candidates[at]?.map((type) => bytesAs(type, shape)) ?? []);
  const smallest = sizes.reduce((sum, own) => sum + Math.min(...own), 0);
  const bytesWith = (types: ReadonlyMap<string, GgufTensorType>): number =>
    ggufFileBytes(spec, { ...others, dtype: "f16", types });
  // All that is not a matrix has the same bytes whichever types are chosen.
  const plain = new Map(matrices.map(({ parts: [first = ""] }) => [first, "f16" as const]));
  const rest = bytesWith(plain) - matrices.reduce((sum, { shape }) => sum + bytesAs("f16", shape), 0);
  if (rest + smallest > most) {
    throw new TooSmallError(rest + smallest, most);
  }
  const choices: { readonly type: GgufTensorType; readonly choice: Choice }[][] = [];
  await inOrder(
    [...matrices.entries()],
    async ([index, { parts, shape }]) => {
      options.signal?.throwIfAborted();
      const types = candidates[index] ?? [], errors = types.map(() => 0);
      for (const part of parts) {
        const own = await relativeErrors(source, part, { types, arch, importance: options.importance?.get(part) });
        // A fused matrix is not copied: its parts may have other types in the source.
        for (const [at, error] of own.entries()) {
          errors[at] = (errors[at] ?? 0) + sensitivityOf(part, spec) * error;
        }
      }
      return types.flatMap((type, at) => {
        const error = errors[at] ?? NaN;
        return Number.isFinite(error) ? [{ type, choice: { bytes: bytesAs(type, shape), error } }] : [];
      });
    },
    (found) => {
      choices.push(found);
      onProgress?.(choices.length / matrices.length);
    },
  );
  const chosen = leastError(choices.map((own) => own.map(({ choice }) => choice)), most - rest) ?? [];
  const types = new Map(
    matrices.map(({ parts: [first = ""] }, at) => [first, choices[at]?.[chosen[at] ?? 0]?.type ?? "f16"]),
  );
  const storedDtype = (name: string): string => types.get(name) ?? "f32";
  const like = typeLike({ spec, storedDtype }, tensorShapes(spec)) ?? "f16";
  return { types, bytes: bytesWith(types), counts: countsOf(types), like };
}

function countsOf(types: ReadonlyMap<string, string>): Record<string, number> {
  const all = [...Map.groupBy(types.values(), (type) => type)].map(([type, own]) => [type, own.length] as const);
  return Object.fromEntries(all.sort(([, a], [, b]) => b - a));
}

/** Types whose blocks divide a row. */
function typesOf(columns: number): GgufTensorType[] {
  return TYPES.filter((type) => columns % TENSOR_FORMATS[type].block === 0);
}

/** Whether a matrix is of MXFP4 blocks that are copied. */
async function keepsMxfp4(source: WeightSource, name: string, arch: GgufArch): Promise<boolean> {
  return tensorShapes(source.spec).has(name) && source.storedDtype(name) === "mxfp4" &&
    await copiedType(source, name, arch) !== null;
}

function bytesAs(type: GgufTensorType, shape: readonly number[]): number {
  const { block, bytes } = TENSOR_FORMATS[type];
  return Math.ceil(elementCount(shape) / block * bytes / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;
}

/** The errors of types as parts of a tensor's energy, on a sample of its rows. */
async function relativeErrors(
  source: WeightSource,
  name: string,
  { types, arch, importance = null }: {
    readonly types: readonly GgufTensorType[];
    readonly arch: GgufArch;
    readonly importance: Float32Array | null | undefined;
  },
): Promise<number[]> {
  const shape = tensorShapes(source.spec).get(name);
  // A part that the model does not have is written as zeros.
  if (!shape) return types.map(() => 0);
  const copied = await copiedType(source, name, arch);
  const [rows = 1, columns = 1] = shape, values = await sampled(source, name, { rows, columns });
  const { energy, errors } = await onThread(
    () => import.meta.resolve("./type_errors.ts"),
    typeErrors,
    [values, columns, types, importance],
    { transfer: [values.buffer] },
  );
  return errors.map((error, at) => types[at] === copied || error === 0 ? 0 : error / energy);
}

/** Rows spread evenly over a tensor. */
async function sampled(
  source: WeightSource,
  name: string,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): Promise<Float32Array<ArrayBuffer>> {
  const wanted = Math.ceil(SAMPLE / columns);
  if (rows <= wanted) return await source.read(name);
  const count = Math.ceil(wanted / SPANS), out = new Float32Array(SPANS * count * columns);
  for (let span = 0; span < SPANS; span++) {
    const start = Math.floor(span * (rows - count) / (SPANS - 1));
    out.set(await source.read(name, { start, count }), span * count * columns);
  }
  return out;
}

/** How much a relative error of a matrix counts; see {@link fitTypes}. */
function sensitivityOf(name: string, { tied, layers }: Pick<DecoderSpec, "tied" | "layers">): number {
  if (name === HEAD) return SENSITIVITY.head;
  if (name === EMBEDDING) return tied ? SENSITIVITY.tied : SENSITIVITY.embedding;
  const projection = /\.(\w+)_proj\.weight$/.exec(name)?.[1], own = PROJECTIONS.find((one) => one === projection);
  // Of one layer of 30; in a model of fewer layers each counts for more.
  return own ? SENSITIVITY[own] * 30 / layers.length : SENSITIVITY.other;
}

/**
 * Mean KL per relative error, for a model of 30 layers: noise of 0.4 % of the energy in one matrix of SmolLM2-135M (128
 * tokens of WikiText-2) or Gemma 3 270M (64 tokens, its 18 layers taken for 30). Medians over layers, between those of the
 * two models, which are within a factor of 2.1 of each other. llama.cpp's mixes agree: v and the head have more bits there.
 */
const SENSITIVITY: Readonly<Record<Projection | "tied" | "embedding" | "head" | "other", number>> = {
  q: 0.04,
  k: 0.03,
  v: 0.4,
  o: 0.075,
  gate: 0.08,
  up: 0.14,
  down: 0.18,
  tied: 12,
  embedding: 2,
  head: 9.5,
  other: 1,
};
