// A dense model made into one with experts: the FFN of each layer is split by columns, and a router is fitted to it.
import { type Device } from "../../lib/gpu/device.ts";
import { embedded, grouped, layerOutputs } from "../../lib/slice/by_layers.ts";
import {
  type DecoderSpec,
  type ExpertMatrix,
  expertsName,
  normName,
  projectionName,
  routerName,
} from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";

/** How a model is split. */
export interface Splitting {
  readonly device: Device;
  /** Experts of a layer; they divide its columns. */
  readonly count: number;
  /** Experts of a token. */
  readonly topK: number;
  /** Sequences on which routers are fitted. */
  readonly tokens: readonly (readonly number[])[];
  readonly window: number;
}

/** The parts of a layer that are not the dense model's. */
interface SplitLayer {
  /** Columns of the dense FFN by expert [count · size]. */
  readonly columns: Int32Array;
  /** [count, hidden]. */
  readonly router: Float32Array<ArrayBuffer>;
  /** Factor of the output of each expert. */
  readonly scale: Float32Array;
}

/** Logits are this much of the predicted logarithm of the norm: weights of a token's experts differ, but not by much. */
const SHARPNESS = 0.25;
/** Share of the mean square of the inputs that is added to each, for stable fits. */
const RIDGE = 0.01;
const ROUNDS = 8;

/**
 * Splits the FFN of each layer: columns whose rows of the gate are alike form an expert (k-means with clusters of equal
 * size). The router predicts the logarithm of the norm of each expert's output by least squares, so that the experts
 * that add most are chosen. Each expert has a factor, also by least squares, so that their weighted sum is near the FFN's.
 */
export async function splitModel(
  source: WeightSource,
  how: Splitting,
): Promise<{ readonly source: WeightSource; readonly layers: readonly SplitLayer[] }> {
  const { spec } = source, groups = grouped(how.tokens, { window: how.window, rows: how.window });
  const run = { device: how.device, groups, signal: undefined }, layers: SplitLayer[] = [];
  const attention = { source: { ...source, spec: without(spec, "ffn") }, adapters: {} };
  const ffn = { source: { ...source, spec: without(spec, "heads") }, adapters: {} };
  let states: readonly Float32Array<ArrayBuffer>[] = await embedded({ source, adapters: {} }, run);
  for (const index of spec.layers.keys()) {
    const middle = await layerOutputs(attention, index, { ...run, inputs: states });
    layers.push(await splitLayer(source, index, { ...how, inputs: middle }));
    states = await layerOutputs(ffn, index, { ...run, inputs: middle });
  }
  return { source: splitSource(source, layers, how), layers };
}

/** The spec with one half of each layer. */
function without(spec: DecoderSpec, half: "ffn" | "heads"): DecoderSpec {
  const empty = half === "ffn" ? { ffn: 0 } : { heads: 0, kvHeads: 0 };
  return { ...spec, layers: spec.layers.map((layer) => ({ ...layer, ...empty })) };
}

/** The model with these experts. `scale` 1 and a router of zeros with all experts for each token is the dense model. */
export function splitSource(
  source: WeightSource,
  layers: readonly SplitLayer[],
  { count, topK }: Pick<Splitting, "count" | "topK">,
): WeightSource {
  const { spec } = source, parts = new Map<string, () => Promise<Float32Array<ArrayBuffer>>>();
  for (const [index, { columns, router, scale }] of layers.entries()) {
    const size = columns.length / count;
    parts.set(routerName(index), () => Promise.resolve(router));
    for (const matrix of ["gate", "up", "down"] as const) {
      parts.set(expertsName(index, matrix), async () => {
        const all = await source.read(projectionName(index, matrix));
        return matrix === "down"
          ? downOf(all, { columns, size, scale, hidden: spec.hidden })
          : rowsOf(all, columns, spec.hidden);
      });
    }
  }
  return {
    spec: {
      ...spec,
      router: { topK, renormalised: true },
      layers: spec.layers.map(({ ffn, ...layer }) => ({ ...layer, ffn: 0, experts: { count, ffn: ffn / count } })),
    },
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const part = parts.get(name);
      if (!part) return await source.read(name, rows);
      const all = await part(), width = widthOf(name, spec, layers[0], count);
      return rows ? all.slice(rows.start * width, (rows.start + rows.count) * width) : all;
    },
    storedDtype: (name) => parts.has(name) ? "f32" : source.storedDtype(name),
  };
}

function widthOf(name: string, { hidden }: DecoderSpec, layer: SplitLayer | undefined, count: number): number {
  const down: ExpertMatrix = "down";
  return name.endsWith(`experts.${down}_proj.weight`) ? (layer?.columns.length ?? 0) / count : hidden;
}

function rowsOf(all: Float32Array, rows: Int32Array, width: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(rows.length * width);
  rows.forEach((row, at) => values.set(all.subarray(row * width, (row + 1) * width), at * width));
  return values;
}

/** [count · hidden, size] of [hidden, columns]. */
function downOf(all: Float32Array, { columns, size, scale, hidden }: {
  readonly columns: Int32Array;
  readonly size: number;
  readonly scale: Float32Array;
  readonly hidden: number;
}): Float32Array<ArrayBuffer> {
  const values = new Float32Array(hidden * columns.length);
  for (const [expert, factor] of scale.entries()) {
    for (let row = 0; row < hidden; row++) {
      for (let column = 0; column < size; column++) {
        const from = all[row * columns.length + (columns[expert * size + column] ?? 0)] ?? NaN;
        values[(expert * hidden + row) * size + column] = factor * from;
      }
    }
  }
  return values;
}

async function splitLayer(
  source: WeightSource,
  index: number,
  { count, topK, inputs }: Splitting & { readonly inputs: readonly Float32Array[] },
): Promise<SplitLayer> {
  const { hidden, layers, normEps } = source.spec, width = layers[index]?.ffn ?? 0, size = width / count;
  const read = (matrix: ExpertMatrix) => source.read(projectionName(index, matrix));
  const gate = await read("gate"), up = await read("up"), down = await read("down");
  const columns = clusters(gate, { rows: width, width: hidden, count });
  const h = normed(inputs, await source.read(normName(index, "ffn")), { hidden, eps: normEps });
  const tokens = h.length / hidden, norms = new Float64Array(tokens * count);
  const outputs = new Float32Array(tokens * count * hidden);
  const parts = Array.from({ length: count }, (_, expert) => {
    const own = columns.subarray(expert * size, (expert + 1) * size);
    const turned = new Float32Array(size * hidden);
    own.forEach((column, at) => {
      for (let row = 0; row < hidden; row++) turned[at * hidden + row] = down[row * width + column] ?? NaN;
    });
    return { gate: rowsOf(gate, own, hidden), up: rowsOf(up, own, hidden), down: turned };
  });
  for (let token = 0; token < tokens; token++) {
    const x = h.subarray(token * hidden, (token + 1) * hidden);
    for (const [expert, part] of parts.entries()) {
      const at = (token * count + expert) * hidden, y = outputs.subarray(at, at + hidden);
      for (let column = 0; column < size; column++) {
        const g = dot(part.gate, column * hidden, x), a = g / (1 + Math.exp(-g)) * dot(part.up, column * hidden, x);
        for (let row = 0; row < hidden; row++) y[row] = (y[row] ?? 0) + a * (part.down[column * hidden + row] ?? 0);
      }
      norms[token * count + expert] = Math.log(Math.sqrt(dot(y, 0, y)) + 1e-9);
    }
  }
  const router = fit(h, norms, { tokens, hidden, count });
  return { columns, router, scale: scales(router, { h, outputs }, { tokens, hidden, count, topK }) };
}

function dot(a: Float32Array, from: number, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < b.length; i++) sum += (a[from + i] ?? 0) * (b[i] ?? 0);
  return sum;
}

/** RMSNorm of all rows. */
function normed(
  inputs: readonly Float32Array[],
  weight: Float32Array,
  { hidden, eps }: { readonly hidden: number; readonly eps: number },
): Float32Array {
  const all = new Float32Array(inputs.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const input of inputs) {
    for (let row = 0; row < input.length; row += hidden, at += hidden) {
      const x = input.subarray(row, row + hidden), factor = 1 / Math.sqrt(dot(x, 0, x) / hidden + eps);
      x.forEach((value, i) => all[at + i] = value * factor * (weight[i] ?? NaN));
    }
  }
  return all;
}

/** Rows of a matrix in clusters of equal size: the numbers of the rows, cluster after cluster. */
function clusters(
  matrix: Float32Array,
  { rows, width, count }: { readonly rows: number; readonly width: number; readonly count: number },
): Int32Array {
  const size = rows / count;
  const unit = new Float32Array(matrix.length);
  for (let row = 0; row < rows; row++) {
    const own = matrix.subarray(row * width, (row + 1) * width), length = Math.sqrt(dot(own, 0, own)) || 1;
    own.forEach((value, i) => unit[row * width + i] = value / length);
  }
  let centers = Array.from({ length: count }, (_, one) => {
    const row = Math.floor((one + 0.5) * size);
    return unit.slice(row * width, (row + 1) * width);
  });
  let order = new Int32Array(rows);
  for (let round = 0; round < ROUNDS; round++) {
    const near = Array.from({ length: rows }, (_, row) => centers.map((center) => dot(unit, row * width, center)));
    // Rows that lose most by another cluster come first.
    const gains = near.map((own) => {
      const [first = 0, second = 0] = own.toSorted((a, b) => b - a);
      return first - second;
    });
    const members = centers.map(() => new Array<number>());
    for (const row of [...near.keys()].sort((a, b) => (gains[b] ?? 0) - (gains[a] ?? 0))) {
      const own = near[row] ?? [];
      const free = [...own.keys()].filter((one) => (members[one]?.length ?? size) < size);
      const best = free.reduce((a, b) => (own[b] ?? 0) > (own[a] ?? 0) ? b : a);
      members[best]?.push(row);
    }
    order = Int32Array.from(members.flatMap((own) => own.toSorted((a, b) => a - b)));
    centers = members.map((own) => {
      const mean = new Float32Array(width);
      for (const row of own) for (let i = 0; i < width; i++) mean[i] = (mean[i] ?? 0) + (unit[row * width + i] ?? 0);
      const length = Math.sqrt(dot(mean, 0, mean)) || 1;
      return mean.map((value) => value / length);
    });
  }
  return order;
}

/** Router [count, hidden] whose products with the inputs are nearest to the norms, less the mean of a token, times {@link SHARPNESS}. */
function fit(
  h: Float32Array,
  norms: Float64Array,
  { tokens, hidden, count }: { readonly tokens: number; readonly hidden: number; readonly count: number },
): Float32Array<ArrayBuffer> {
  const square = new Float64Array(hidden * hidden), right = new Float64Array(count * hidden);
  for (let token = 0; token < tokens; token++) {
    const x = h.subarray(token * hidden, (token + 1) * hidden),
      own = norms.subarray(token * count, (token + 1) * count);
    const mean = own.reduce((sum, value) => sum + value, 0) / count;
    for (let i = 0; i < hidden; i++) {
      const xi = x[i] ?? 0;
      for (let j = 0; j <= i; j++) square[i * hidden + j] = (square[i * hidden + j] ?? 0) + xi * (x[j] ?? 0);
      for (let e = 0; e < count; e++) {
        right[e * hidden + i] = (right[e * hidden + i] ?? 0) + xi * ((own[e] ?? 0) - mean) * SHARPNESS;
      }
    }
  }
  let trace = 0;
  for (let i = 0; i < hidden; i++) trace += square[i * hidden + i] ?? 0;
  for (let i = 0; i < hidden; i++) square[i * hidden + i] = (square[i * hidden + i] ?? 0) + RIDGE * trace / hidden;
  return solved(square, right, { size: hidden, count });
}

/** Solutions [count, size] of A·x = b for a positive definite A [size, size], of which the lower half is read (Cholesky). */
function solved(
  a: Float64Array,
  b: Float64Array,
  { size, count }: { readonly size: number; readonly count: number },
): Float32Array<ArrayBuffer> {
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a[i * size + j] ?? 0;
      for (let k = 0; k < j; k++) sum -= (a[i * size + k] ?? 0) * (a[j * size + k] ?? 0);
      a[i * size + j] = i === j ? Math.sqrt(sum) : sum / (a[j * size + j] ?? 1);
    }
  }
  const result = new Float32Array(count * size), z = new Float64Array(size);
  for (let e = 0; e < count; e++) {
    for (let i = 0; i < size; i++) {
      let sum = b[e * size + i] ?? 0;
      for (let k = 0; k < i; k++) sum -= (a[i * size + k] ?? 0) * (z[k] ?? 0);
      z[i] = sum / (a[i * size + i] ?? 1);
    }
    for (let i = size - 1; i >= 0; i--) {
      let sum = z[i] ?? 0;
      for (let k = i + 1; k < size; k++) sum -= (a[k * size + i] ?? 0) * (z[k] ?? 0);
      z[i] = sum / (a[i * size + i] ?? 1);
    }
    result.set(z, e * size);
  }
  return result;
}

/** Factors of the experts with which the sum of the chosen ones is nearest to that of all. */
function scales(
  router: Float32Array,
  { h, outputs }: { readonly h: Float32Array; readonly outputs: Float32Array },
  { tokens, hidden, count, topK }: {
    readonly tokens: number;
    readonly hidden: number;
    readonly count: number;
    readonly topK: number;
  },
): Float32Array {
  const square = new Float64Array(count * count), right = new Float64Array(count);
  for (let token = 0; token < tokens; token++) {
    const x = h.subarray(token * hidden, (token + 1) * hidden), whole = new Float32Array(hidden);
    const own = Array.from({ length: count }, (_, e) => {
      const at = (token * count + e) * hidden, y = outputs.subarray(at, at + hidden);
      y.forEach((value, i) => whole[i] = (whole[i] ?? 0) + value);
      return y;
    });
    const logits = own.map((_, e) => dot(router, e * hidden, x));
    const top = [...logits.keys()].sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0)).slice(0, topK);
    const total = top.reduce((sum, e) => sum + Math.exp(logits[e] ?? 0), 0);
    const added = top.map((e) => ({ e, y: own[e] ?? whole, weight: Math.exp(logits[e] ?? 0) / total }));
    for (const { e, y, weight } of added) {
      right[e] = (right[e] ?? 0) + weight * dot(y, 0, whole);
      for (const other of added) {
        const at = e * count + other.e;
        square[at] = (square[at] ?? 0) + weight * other.weight * dot(y, 0, other.y);
      }
    }
  }
  let trace = 0;
  for (let e = 0; e < count; e++) trace += square[e * count + e] ?? 0;
  // An expert that no token chose keeps the factor of equal weights.
  for (let e = 0; e < count; e++) {
    const least = 1e-3 * trace / count;
    square[e * count + e] = (square[e * count + e] ?? 0) + least;
    right[e] = (right[e] ?? 0) + least * topK;
  }
  return solved(square, right, { size: count, count: 1 });
}
