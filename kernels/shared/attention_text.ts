// WGSL shared by the attention kernels: reading of keys and values, unrolled dot products, stores.
import { range } from "./range.ts";
import type { Binding } from "../source.ts";

/**
 * Keys of a page of the KV caches. In a texture, a row is a page of one KV head, so that a CPU reads keys in sequence.
 */
export const CACHE_KEYS = 64;

/** Shape of one invocation's work. */
export interface AttentionTile {
  /**
   * Memory from which a kernel reads the rows that all invocations of a workgroup share: storage textures (on CPU
   * adapters without subgroups) or tiles in workgroup memory (GPUs).
   */
  readonly variant: "texture" | "workgroup";
  /** Unpadded width of a head. */
  readonly headDim: number;
  /** Invocations of a workgroup. */
  readonly lanes: number;
  /** Rows (queries, or keys in the dk/dv kernel) that an invocation owns and keeps in registers. */
  readonly rows: number;
  /** Streamed rows of one loop step. */
  readonly step: number;
  /** Whether scores have a soft cap: params.cap · tanh(s / params.cap), both times log2(e). Default false. */
  readonly isCapped?: boolean;
}

/** A score, or a vector of scores, with its soft cap. tanh is 1 in f32 from 10 on; some drivers overflow for larger values. */
export function capped(score: string, type: "f32" | "vec4f" = "f32"): string {
  return `params.cap * tanh(clamp(${score} / params.cap, ${type}(-10.0), ${type}(10.0)))`;
}

/** The slope of a soft cap at a score that has it, as a factor. */
export function capSlope(score: string): string {
  return ` * (1.0 - ${score} / params.cap * (${score} / params.cap))`;
}

/** Number of streamed texels to load before they are used. */
export const LOAD_CHUNK = 16;
/** Bytes of the tiles in workgroup memory; every adapter grants 16 KiB. */
const TILE_BYTES = 16384;
const LETTERS = "xyzw";

/** Number of vec4 in a head. */
export function headVectors(headDim: number): number {
  return Math.ceil(headDim / 4);
}

/** a·b of two vec4 as four multiply-adds to `sum`, or as a new sum. */
export function dotOnto(sum: string | null, a: string, b: string): string {
  const terms = [...LETTERS].map((letter) => `${a}.${letter} * ${b}.${letter}`);
  return (sum === null ? terms : [sum, ...terms]).join(" + ");
}

/** Two streamed matrices [row, head] of vec4, with the WGSL that declares and reads them. */
export interface Stream {
  readonly binding: Binding;
  /** Declarations at module scope. */
  readonly declare: string;
  /** Wraps the body of one step, in which `j` is the first streamed row and `row(k)` its index in memory. */
  loop(bounds: { readonly from: string; readonly to: string }, body: string): string;
  /** The vec4 `c` of row `k` of this step. */
  load(which: 0 | 1, k: number, c: number): string;
}

/**
 * Makes a stream. `locate` gives the row in memory and its first vec4 for the streamed index `e`. The index may be past
 * the end, so the row is clamped: the values read are then finite, and the kernel gives them no weight.
 */
export function stream(
  tile: AttentionTile,
  options: {
    readonly names: readonly [string, string];
    readonly bindings: readonly [number, number];
    /** Row stride in vec4. */
    readonly stride: string;
    readonly locate: (e: string) => { readonly row: string; readonly column: string };
  },
): Stream {
  return tile.variant === "texture" ? textureStream(tile, options) : workgroupStream(tile, options);
}

type StreamOptions = Parameters<typeof stream>[1];

function textureStream(tile: AttentionTile, { names, bindings, locate }: StreamOptions): Stream {
  const declare = names.map((name, i) =>
    `@group(0) @binding(${bindings[i]}) var ${name}: texture_storage_2d<rgba32float, read>;`
  ).join("\n");
  const places = range(tile.step).map((k) => {
    const { row, column } = locate(`(j + ${k}u)`);
    return `    let row${k} = ${row}; let column${k} = ${column};`;
  });
  return {
    binding: "texture-f32",
    declare,
    load: (which, k, c) => `textureLoad(${names[which]}, vec2u(column${k} + ${c}u, row${k}))`,
    loop: ({ from, to }, body) => `
  for (var j = ${from}; j < ${to}; j += ${tile.step}u) {
${places.join("\n")}
${body}
  }`,
  };
}

function workgroupStream(tile: AttentionTile, { names, bindings, stride, locate }: StreamOptions): Stream {
  const vectors = headVectors(tile.headDim);
  const steps = Math.max(1, Math.floor(TILE_BYTES / (2 * 16 * vectors * tile.step)));
  const size = steps * tile.step * vectors;
  const declare = names.map((name, i) =>
    `@group(0) @binding(${bindings[i]}) var<storage, read> ${name}: array<vec4f>;
var<workgroup> ${name}_tile: array<vec4f, ${size}>;`
  ).join("\n");
  const { row, column } = locate(`(tile + slot / ${vectors}u)`);
  return {
    binding: "read",
    declare,
    load: (which, k, c) => `${names[which]}_tile[slot + ${k * vectors + c}u]`,
    loop: ({ from, to }, body) => `
  for (var tile = ${from}; tile < ${to}; tile += ${steps * tile.step}u) {
    workgroupBarrier();
    for (var slot = lane; slot < ${size}u; slot += ${tile.lanes}u) {
      let at = (${row}) * ${stride} + ${column} + slot % ${vectors}u;
${names.map((name) => `      ${name}_tile[slot] = ${name}[at];`).join("\n")}
    }
    workgroupBarrier();
    for (var slot = 0u; slot < ${size}u; slot += ${tile.step * vectors}u) {
      let j = tile + slot / ${vectors}u;
${body}
    }
  }`,
  };
}

/** Columns of vec4 in chunks, whose loads precede their arithmetic. */
export function chunks(vectors: number, step: number): number[][] {
  const width = Math.max(1, Math.floor(LOAD_CHUNK / step));
  return range(Math.ceil(vectors / width)).map((i) => range(vectors).slice(i * width, (i + 1) * width));
}

/**
 * Statements that shift the registers `name`_0 … of a head down by `by`; the last ones receive `values` if given. A
 * head is loaded and stored by a loop of such shifts: fully unrolled buffer accesses make llvmpipe's compiler five
 * times slower.
 */
export function shift(name: string, vectors: number, { by = 1, values = [] }: {
  readonly by?: number;
  readonly values?: readonly string[];
}): string {
  return [
    ...range(vectors - by).map((c) => `${name}_${c} = ${name}_${c + by};`),
    ...values.map((value, i) => `${name}_${vectors - by + i} = ${value};`),
  ].join(" ");
}

/** Declares the registers of a head. */
export function registers(name: string, vectors: number): string {
  return range(vectors).map((c) => `var ${name}_${c} = vec4f();`).join(" ");
}

/** The vec4 of a head at position `c`, with the padding of the head set to zero. */
export function masked(value: string, headDim: number): string {
  if (headDim % 4 === 0) return value;
  const mask = range(4).map((i) => (i < headDim % 4 ? "1.0" : "0.0")).join(", ");
  return `${value} * select(vec4f(1.0), vec4f(${mask}), c == ${headVectors(headDim) - 1}u)`;
}

/** Statements that zero the columns of `name` from the end of the last head to the stride. */
export function zeroTail(
  name: string,
  options: { readonly row: string; readonly end: string; readonly stride: string },
): string {
  const { row, end, stride } = options;
  return `for (var c = ${end}; c < ${stride}; c++) { ${name}[(${row}) * ${stride} + c] = vec4f(); }`;
}
