// Pieces of WGSL that the attention kernels share: how the streamed side is read, unrolled dots, stores. Owns no kernel; imports types only.
import type { Binding } from "./mod.ts";

/**
 * Where a kernel reads the rows that all invocations of a workgroup share:
 * storage textures (fast where a CPU runs the shader), tiles in workgroup memory (GPUs), or the buffers themselves.
 */
export type AttentionVariant = "texture" | "workgroup" | "buffer";

/** Shape of one invocation's work. */
export interface AttentionTile {
  readonly variant: AttentionVariant;
  /** Unpadded width of a head. */
  readonly headDim: number;
  /** Invocations of a workgroup. */
  readonly lanes: number;
  /** Owned rows (queries, or keys in the dk/dv kernel) of an invocation, kept in registers. */
  readonly rows: number;
  /** Streamed rows of one loop step. */
  readonly step: number;
}

/** Streamed texels that are loaded before they are used. */
export const LOAD_CHUNK = 16;
/** Bytes of the tiles in workgroup memory; every adapter grants 16 KiB. */
const TILE_BYTES = 16384;
const LETTERS = "xyzw";

/** Numbers 0 … count − 1. */
export function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}

/** vec4 in a head. */
export function headVectors(headDim: number): number {
  return Math.ceil(headDim / 4);
}

/** a·b of two vec4 as four multiply-adds onto `sum`, or as a fresh sum. */
export function dotOnto(sum: string | null, a: string, b: string): string {
  const terms = [...LETTERS].map((letter) => `${a}.${letter} * ${b}.${letter}`);
  return (sum === null ? terms : [sum, ...terms]).join(" + ");
}

/** Two matrices [row, head] of vec4 that are streamed, with the WGSL that declares and reads them. */
export interface Stream {
  readonly binding: Binding;
  /** Declarations at module scope. */
  readonly declare: string;
  /** Wraps the body of one step; in it `j` is the first streamed row and `row(k)` its index in memory. */
  loop(bounds: { readonly from: string; readonly to: string }, body: string): string;
  /** The vec4 `c` of the row `k` of this step. */
  load(which: 0 | 1, k: number, c: number): string;
}

/**
 * Makes a stream. `locate` is WGSL statements that set `at` (the row in memory) and `column` (its first vec4) from the streamed index `e`,
 * which may lie past the end: the statements clamp it, so that what is read is finite.
 */
export function stream(
  tile: AttentionTile,
  options: {
    readonly names: readonly [string, string];
    readonly bindings: readonly [number, number];
    readonly stride: string;
    readonly locate: string;
  },
): Stream {
  const { names, bindings, stride, locate } = options;
  const vectors = headVectors(tile.headDim);
  const texture = tile.variant === "texture";
  const declare = names.map((name, i) =>
    texture
      ? `@group(0) @binding(${bindings[i]}) var ${name}: texture_storage_2d<rgba32float, read>;`
      : `@group(0) @binding(${bindings[i]}) var<storage, read> ${name}: array<vec4f>;`
  ).join("\n");
  const located = (name: string): string =>
    texture ? `textureLoad(${name}, vec2u(column + c, at))` : `${name}[at * ${stride} + column + c]`;
  if (tile.variant === "workgroup") {
    const capacity = Math.floor(TILE_BYTES / (2 * vectors * 16));
    const rows = Math.max(tile.step, Math.floor(capacity / tile.step) * tile.step);
    return {
      binding: "read",
      declare: `${declare}\n${
        names.map((name) => `var<workgroup> ${name}_tile: array<vec4f, ${rows * vectors}>;`).join("\n")
      }`,
      load: (which, k, c) => `${names[which]}_tile[slot + ${k * vectors + c}u]`,
      loop: ({ from, to }, body) => `
  for (var tile = ${from}; tile < ${to}; tile += ${rows}u) {
    workgroupBarrier();
    for (var slot = lane; slot < ${rows * vectors}u; slot += ${tile.lanes}u) {
      let e = tile + slot / ${vectors}u;
      let c = slot % ${vectors}u;
      ${locate}
${names.map((name) => `      ${name}_tile[slot] = ${located(name)};`).join("\n")}
    }
    workgroupBarrier();
    for (var slot = 0u; slot < ${rows * vectors}u; slot += ${tile.step * vectors}u) {
      let j = tile + slot / ${vectors}u;
${body}
    }
  }`,
    };
  }
  const steps = range(tile.step);
  return {
    binding: texture ? "texture-f32" : "read",
    declare,
    load: (which, k, c) =>
      texture
        ? `textureLoad(${names[which]}, vec2u(column${k} + ${c}u, at${k}))`
        : `${names[which]}[at${k} * ${stride} + column${k} + ${c}u]`,
    loop: ({ from, to }, body) => `
  for (var j = ${from}; j < ${to}; j += ${tile.step}u) {
${
      steps.map((k) =>
        `    ${
          locate.replaceAll(/\bat\b/g, `at${k}`).replaceAll(/\bcolumn\b/g, `column${k}`).replaceAll(
            /\be\b/g,
            `(j + ${k}u)`,
          )
        }`
      ).join("\n")
    }
${body}
  }`,
  };
}

/** Columns of vec4 in chunks whose loads come before their arithmetic. */
export function chunks(vectors: number, step: number): number[][] {
  const width = Math.max(1, Math.floor(LOAD_CHUNK / step));
  return range(Math.ceil(vectors / width)).map((i) => range(vectors).slice(i * width, (i + 1) * width));
}

/**
 * Statements that turn the registers `name`0 … by one: each takes the next one's value, the last one takes `last`.
 * A head is loaded and stored by a loop of such turns: unrolled buffer accesses make llvmpipe's compiler five times slower.
 */
export function turn(name: string, vectors: number, last?: string): string {
  const moves = range(vectors - 1).map((c) => `${name}_${c} = ${name}_${c + 1};`);
  return [...moves, ...(last === undefined ? [] : [`${name}_${vectors - 1} = ${last};`])].join(" ");
}

/** Declares the registers of a head. */
export function registers(name: string, vectors: number): string {
  return range(vectors).map((c) => `var ${name}_${c} = vec4f();`).join(" ");
}

/** A vec4 of a head at the position `c` with the head's padding set to zero. */
export function masked(value: string, headDim: number): string {
  if (headDim % 4 === 0) return value;
  const mask = range(4).map((i) => (i < headDim % 4 ? "1.0" : "0.0")).join(", ");
  return `${value} * select(vec4f(1.0), vec4f(${mask}), c == ${headVectors(headDim) - 1}u)`;
}

/** Statements that zero the columns of `name` from the last head's end to the stride. */
export function zeroTail(
  name: string,
  options: { readonly row: string; readonly end: string; readonly stride: string },
): string {
  const { row, end, stride } = options;
  return `for (var c = ${end}; c < ${stride}; c++) { ${name}[(${row}) * ${stride} + c] = vec4f(); }`;
}
