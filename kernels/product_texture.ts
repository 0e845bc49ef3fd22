// Matrix product from storage textures, one register tile an invocation: the design for adapters that are a CPU. Owns its WGSL; imports nothing but types.
import type { KernelSource } from "./mod.ts";

/**
 * One kernel of the family C[m, n] (=|+=) α · Σₖ opA(A)[m, k] · opB(B)[k, n].
 * Lanes run along n; an invocation owns `rows` rows of `vectors` vec4 columns; a step of k loads everything first, then multiplies.
 */
export interface TextureProduct {
  /** A is stored [k][m] instead of [m][k]. */
  readonly transposeA: boolean;
  /** B is stored [n][k] instead of [k][n]. */
  readonly transposeB: boolean;
  /** How B is stored: a texel holds 4 f32 or 8 f16 consecutive values of a stored row. */
  readonly dtype: "f32" | "f16";
  /** Rows of C an invocation owns; a multiple of 4 where A is stored [k][m]. */
  readonly rows: number;
  /** vec4 columns of C an invocation owns; even where B is f16 stored [k][n]. */
  readonly vectors: number;
  /** C is stored [n][m]: lets lanes run along the longer side of a thin result. Such a C is written by single f32. */
  readonly transposeC?: boolean;
  /** C is written by single f32: any offset and stride. */
  readonly scalarC?: boolean;
  /** k is any number, and what is stored beyond it is ignored; else k is a multiple of the step. For f32 only. */
  readonly tail?: boolean;
}

/** Invocations of a workgroup: one vector of a 256-bit CPU. */
const LANES = 8;
const XYZW = ["x", "y", "z", "w"] as const;

/** Columns of C that one workgroup owns. */
export function textureTileColumns({ vectors }: TextureProduct): number {
  return LANES * 4 * vectors;
}

/** Values of k in one step. */
export function textureStep({ dtype, transposeB }: TextureProduct): number {
  return dtype === "f16" && transposeB ? 8 : 4;
}

/**
 * Bindings A (texture-f32), B (texture-f32 | texture-u32), C, params. Grid: x tiles of `rows` rows, y tiles of {@link textureTileColumns} columns.
 * Only m < rows and n < columns are written; what A and B hold beyond these does not matter.
 */
export function productTexture(variant: TextureProduct): KernelSource {
  const { rows, vectors, dtype, transposeA, transposeB, transposeC = false, tail = false } = variant;
  const scalar = transposeC || (variant.scalarC ?? false);
  const tiles = rows * vectors;
  const name = `product-${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}${transposeC ? "t" : "n"}-${dtype}-` +
    `${rows}x${vectors}${scalar ? "-scalar" : ""}${tail ? "-tail" : ""}`;
  const code = `${HEADER}
@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var b: texture_storage_2d<${dtype === "f16" ? "rgba32uint" : "rgba32float"}, read>;
@group(0) @binding(2) var<storage, read_write> c: array<${scalar ? "f32" : "vec4f"}>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.x * ${rows}u;
  let x0 = group.y * ${dtype === "f16" && !transposeB ? LANES * vectors / 2 : LANES * vectors}u + lane;
${lines(tiles, (i) => `  var c${i} = vec4f();`)}
  for (var step = 0u; step < p.steps; step++) {
${loadA(variant)}
${loadB(variant)}
${multiply(variant)}
  }
  var tile: array<vec4f, ${tiles}>;
${lines(tiles, (i) => `  tile[${i}] = c${i};`)}
  for (var i = 0u; i < ${tiles}u; i++) {
    let m = m0 + i / ${vectors}u;
    let v = i % ${vectors}u;
    let n4 = ${dtype === "f16" && !transposeB ? `2u * (x0 + v / 2u * ${LANES}u) + v % 2u` : `x0 + v * ${LANES}u`};
    if (m < p.rows && n4 * 4u < p.columns) {
${scalar ? storeScalars(transposeC) : STORE_VECTOR}
    }
  }
}
`;
  return {
    name,
    code,
    bindings: ["texture-f32", dtype === "f16" ? "texture-u32" : "texture-f32", "storage", "uniform"],
  };

  function loadA({ rows }: TextureProduct): string {
    const chunks = textureStep(variant) / 4;
    if (!transposeA) {
      return lines(rows * chunks, (i) => {
        const chunk = i % chunks, row = Math.floor(i / chunks);
        const load = `textureLoad(a, vec2u(p.first + step * ${chunks}u + ${chunk}u, m0 + ${row}u))`;
        return `    let a${row}_${chunk} = ${alongRow(load)};`;
      });
    }
    const quads = rows / 4;
    return lines(4 * chunks * quads, (i) => {
      const quad = i % quads, j = Math.floor(i / quads);
      const load = `textureLoad(a, vec2u(m0 / 4u + ${quad}u, step * ${4 * chunks}u + ${j}u))`;
      return `    let t${j}_${quad} = ${acrossRows(load, j)};`;
    });
  }

  /** A texel of four values of k. */
  function alongRow(load: string): string {
    return tail ? `select(vec4f(), ${load}, step * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(p.k))` : load;
  }

  /** A texel of one value of k. */
  function acrossRows(load: string, j: number): string {
    return tail ? `select(vec4f(), ${load}, step * 4u + ${j}u < p.k)` : load;
  }

  function loadB({ dtype }: TextureProduct): string {
    const out: string[] = [];
    if (transposeB) {
      for (let v = 0; v < vectors; v++) {
        for (let i = 0; i < 4; i++) {
          const load = `textureLoad(b, vec2u(step, (x0 + ${v * LANES}u) * 4u + ${i}u))`;
          out.push(`    let d${v}_${i} = ${dtype === "f32" ? alongRow(load) : load};`);
        }
      }
    } else if (dtype === "f32") {
      for (let j = 0; j < 4; j++) {
        for (let v = 0; v < vectors; v++) {
          const load = `textureLoad(b, vec2u(x0 + ${v * LANES}u, step * 4u + ${j}u))`;
          out.push(`    let b${j}_${v} = ${acrossRows(load, j)};`);
        }
      }
    } else {
      for (let j = 0; j < 4; j++) {
        for (let v = 0; v < vectors; v += 2) {
          out.push(`    let e${j}_${v} = textureLoad(b, vec2u(x0 + ${v / 2 * LANES}u, step * 4u + ${j}u));`);
        }
      }
    }
    return out.join("\n");
  }

  function multiply({ dtype }: TextureProduct): string {
    const out: string[] = [];
    for (let chunk = 0; chunk < textureStep(variant) / 4; chunk++) {
      for (let v = 0; v < vectors; v++) {
        if (transposeB && dtype === "f16") {
          for (let i = 0; i < 4; i++) {
            for (let pair = 0; pair < 2; pair++) {
              out.push(
                `    let u${chunk}_${v}_${i}_${pair} = unpack2x16float(d${v}_${i}.${XYZW[2 * chunk + pair]});`,
              );
            }
          }
        }
        for (let j = 0; j < 4; j++) {
          const target = `    let b${4 * chunk + j}_${v} = `;
          if (transposeB) {
            const parts = [0, 1, 2, 3].map((i) =>
              dtype === "f32" ? `d${v}_${i}.${XYZW[j]}` : `u${chunk}_${v}_${i}_${j >> 1}.${XYZW[j & 1]}`
            );
            out.push(`${target}vec4f(${parts.join(", ")});`);
          } else if (dtype === "f16") {
            const [low, high] = v % 2 === 0 ? "xy" : "zw";
            const texel = `e${j}_${v - v % 2}`;
            out.push(`${target}vec4f(unpack2x16float(${texel}.${low}), unpack2x16float(${texel}.${high}));`);
          }
        }
      }
      for (let r = 0; r < rows; r++) {
        for (let v = 0; v < vectors; v++) {
          const terms = [0, 1, 2, 3].map((j) => {
            const left = transposeA ? `t${4 * chunk + j}_${r >> 2}.${XYZW[r & 3]}` : `a${r}_${chunk}.${XYZW[j]}`;
            return `${left} * b${4 * chunk + j}_${v}`;
          });
          out.push(`    c${r * vectors + v} += ${terms.join(" + ")};`);
        }
      }
    }
    return out.join("\n");
  }
}

/** Params of the kernels, in order. */
const HEADER = `struct Params {
  rows: u32,       // m
  columns: u32,    // n, a multiple of 4 unless C is written by single f32
  k: u32,
  steps: u32,      // steps of k
  first: u32,      // first texel of A along k, where A is stored [m][k]
  offset: u32,     // first value of C, in f32; a multiple of 4 unless C is written by single f32
  stride: u32,     // of C, in f32
  accumulate: u32, // 1: +=, 0: =
  alpha: f32,
}`;

const STORE_VECTOR = `      let at = (p.offset + m * p.stride) / 4u + n4;
      var value = p.alpha * tile[i];
      if (p.accumulate == 1u) { value += c[at]; }
      c[at] = value;`;

function storeScalars(transposeC: boolean): string {
  return `      let value = p.alpha * tile[i];
      for (var j = 0u; j < min(4u, p.columns - n4 * 4u); j++) {
        let at = p.offset + ${transposeC ? "(n4 * 4u + j) * p.stride + m" : "m * p.stride + n4 * 4u + j"};
        var sum = value[j];
        if (p.accumulate == 1u) { sum += c[at]; }
        c[at] = sum;
      }`;
}

function lines(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}
