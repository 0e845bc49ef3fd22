// Matrix product from storage textures, one register tile per invocation, for CPU adapters.
import { range } from "../shared/range.ts";
import type { KernelSource } from "../source.ts";
import { header, STORE_VECTOR, storeScalars } from "./product_text.ts";
import {
  codePlaces,
  fileCodes,
  type FileDtype,
  fileLayout,
  fileValue,
  isFileDtype,
  type Place,
  scaleFunction,
  scaleTexels,
} from "../shared/file_blocks.ts";
import {
  hasCodes,
  isQuantized,
  QUANT_BLOCK,
  quantBits,
  quantColumns,
  type QuantDtype,
  quantValues,
  weightBindings,
  type WeightDtype,
} from "../shared/weight_access.ts";

/**
 * One kernel of the family C[m, n] (=|+=) α · Σₖ opA(A)[m, k] · opB(B)[k, n]. Lanes run along n. An invocation owns
 * `rows` rows of `vectors` vec4 columns. A step of k loads all operands first, then multiplies.
 */
export interface TextureProduct {
  /** A is stored [k][m] instead of [m][k]. */
  readonly transposeA: boolean;
  /** B is stored [n][k] instead of [k][n]. */
  readonly transposeB: boolean;
  /**
   * Storage of B: a texel holds 4 f32 or 8 f16 consecutive values of a stored row, or codes in the layout of
   * `weightAccess`.
   */
  readonly dtype: WeightDtype;
  /** Rows of C that an invocation owns; a multiple of 4 if A is stored [k][m]. */
  readonly rows: number;
  /** vec4 columns of C that an invocation owns; even if B is stored [k][n] and not f32. */
  readonly vectors: number;
  /**
   * C is stored [n][m]. This lets lanes run along the longer side of a narrow result. Such a C is written by single
   * f32.
   */
  readonly transposeC?: boolean;
  /** C is written by single f32, with any offset and stride. */
  readonly scalarC?: boolean;
  /** k may be odd, and stored values beyond it are ignored. Otherwise k is a multiple of the step. For f32 only. */
  readonly tail?: boolean;
  /**
   * Adds `lowAlpha` · Σⱼ low A[m, j] · opB(low B)[j, n] (two more f32 textures, stored like A and B): LoRA without a
   * second pass over C.
   */
  readonly low?: boolean;
  /**
   * A workgroup is one subgroup. Its lanes load different texels of A and hand them to all others; otherwise each lane
   * loads the same texels. Requires subgroups of {@link TEXTURE_LANES}, lanes numbered like invocations, and A
   * stored [m][k].
   */
  readonly broadcast?: boolean;
}

/** Workgroup size: one vector of a 256-bit CPU. */
export const TEXTURE_LANES = 8;
const LANES = TEXTURE_LANES;
const XYZW = ["x", "y", "z", "w"] as const;

/**
 * Indices of lanes. The compiler shuffles by a constant in two instructions, and by a vector of indices in one, so it must
 * not know them: `p.accumulate` is 0 or 1. Of f32, whose tile has twice the rows, it may: the one instruction has more
 * bytes, and the loop would just fill the instruction cache, which halved its speed in some processes.
 */
function laneIndices({ dtype }: TextureProduct): string {
  const hidden = dtype === "f32" ? "" : "(p.accumulate >> 1u) + ";
  return lines(LANES, (i) => `  let lane${i} = ${hidden}${i}u;`);
}

/** Columns of C that one workgroup owns. */
export function textureTileColumns({ vectors }: TextureProduct): number {
  return LANES * 4 * vectors;
}

/** Values of k per step. */
export function textureStep({ dtype, transposeB }: TextureProduct): number {
  if (!transposeB) return 4;
  return hasCodes(dtype) ? scaleColumns(dtype) : dtype === "f16" ? 8 : 4;
}

/** Columns of a row that share a scale. */
function scaleColumns(dtype: QuantDtype | FileDtype): number {
  return isFileDtype(dtype) ? fileLayout(dtype).group : QUANT_BLOCK;
}

/**
 * Bindings A (texture-f32), B (texture-f32 | texture-u32), its scales if it is block-quantised, with `low` its two
 * (texture-f32), C, params. Grid: x tiles of `rows` rows, y tiles of {@link textureTileColumns} columns. Only m < rows
 * and n < columns are written; the contents of A and B beyond these do not matter.
 */
export function productTexture(variant: TextureProduct): KernelSource {
  const { rows, vectors, dtype, transposeA, transposeB, transposeC = false, tail = false, low = false } = variant;
  const scalar = transposeC || (variant.scalarC ?? false);
  const tiles = rows * vectors;
  const image = (format: string): string => `texture_storage_2d<${format}, read>;`;
  const declarations = [
    `var a: ${image("rgba32float")}`,
    `var b: ${image(dtype === "f32" ? "rgba32float" : "rgba32uint")}`,
    ...(hasCodes(dtype) ? [`var scales: ${image("rgba32uint")}`] : []),
    ...(low ? [`var low_a: ${image("rgba32float")}`, `var low_b: ${image("rgba32float")}`] : []),
    `var<storage, read_write> c: array<${scalar ? "f32" : "vec4f"}>;`,
    `var<uniform> p: Params;`,
  ];
  const main: Loop = {
    variant,
    a: "a",
    b: "b",
    dtype,
    start: "p.start",
    steps: "p.steps",
    first: "p.first + ",
    k: tail ? "p.k" : null,
  };
  const second: Loop = {
    variant,
    a: "low_a",
    b: "low_b",
    dtype: "f32",
    start: "0u",
    steps: "(p.lowK + 3u) / 4u",
    first: "",
    k: "p.lowK",
    alpha: "p.lowAlpha",
    columns: "p.lowColumns",
  };
  const name = `product-${[transposeA, transposeB, transposeC].map((isSet) => isSet ? "t" : "n").join("")}` +
    `-${dtype}-${rows}x${vectors}${scalar ? "-scalar" : ""}${tail ? "-tail" : ""}${low ? "-low" : ""}` +
    (variant.broadcast ? "-broadcast" : "");
  const code = `${header(low)}
${lines(declarations.length, (i) => `@group(0) @binding(${i}) ${declarations[i]}`)}
${isFileDtype(dtype) ? scaleFunction(dtype, "texture") : ""}
@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.x * ${rows}u;
  let x0 = group.y * ${isPaired(variant) ? LANES * vectors / 2 : LANES * vectors}u + lane;
${variant.broadcast ? laneIndices(variant) : ""}
${lines(tiles, (i) => `  var c${i} = vec4f();`)}
${loop(main)}
${low ? loop(second) : ""}
  var tile: array<vec4f, ${tiles}>;
${lines(tiles, (i) => `  tile[${i}] = c${i};`)}
  for (var i = 0u; i < ${tiles}u; i++) {
    let m = m0 + i / ${vectors}u;
    let v = i % ${vectors}u;
    let n4 = ${isPaired(variant) ? `2u * (x0 + v / 2u * ${LANES}u) + v % 2u` : `x0 + v * ${LANES}u`};
    if (m < p.rows && n4 * 4u < p.columns) {
${scalar ? storeScalars(transposeC) : STORE_VECTOR}
    }
  }
}
`;
  return {
    name,
    code,
    ...(variant.broadcast ? { usesSubgroups: true } : {}),
    bindings: [
      "texture-f32",
      ...weightBindings({ placement: "texture", dtype }),
      ...(low ? ["texture-f32", "texture-f32"] as const : []),
      "storage",
      "uniform",
    ],
  };
}

/** One sum over k into the accumulators. */
interface Loop {
  readonly variant: TextureProduct;
  readonly a: string;
  readonly b: string;
  readonly dtype: WeightDtype;
  readonly start: string;
  readonly steps: string;
  /** Name prefix of A's texel index along k. */
  readonly first: string;
  /** k, if it is not a multiple of the step. */
  readonly k: string | null;
  /** Factor of A. */
  readonly alpha?: string;
  /** Number of columns beyond which B counts as zero. */
  readonly columns?: string;
}

function loop(of: Loop): string {
  if (hasCodes(of.dtype) && of.variant.transposeB) return blockLoop(of, of.dtype);
  return `  for (var step = ${of.start}; step < ${of.start} + ${of.steps}; step++) {
${oneStep(of)}
  }`;
}

/** One d and m for each row of B covers 16 or 32 values of k. A step has 4 of them, as 8 would spill registers. */
function blockLoop(of: Loop, dtype: QuantDtype | FileDtype): string {
  const steps = scaleColumns(dtype) / 4;
  const scales = (v: number): string =>
    isFileDtype(dtype) ? fileScales(of.variant, dtype, v) : blockScales(of.variant, v);
  return `  for (var block = ${of.start}; block < ${of.start} + ${of.steps}; block++) {
${lines(of.variant.vectors, scales)}
    for (var part = 0u; part < ${steps}u; part++) {
    let step = block * ${steps}u + part;
${oneStep(of)}
    }
  }`;
}

/**
 * Everything is loaded first, since a load is a call that clobbers all registers. If lanes share A there are few loads
 * of it, and it is better to keep a column of B in registers for all rows: each column is loaded right before its
 * multiply-adds, unless all columns are few loads of codes or f16.
 */
function oneStep(of: Loop): string {
  const { variant, dtype } = of, { rows, vectors, broadcast } = variant;
  const all = range(vectors), chunks = range(chunksOf(variant, dtype));
  if (!broadcast) {
    return [
      loadA(of),
      loadB(of, all),
      ...chunks.flatMap((chunk) => [
        ...all.map((v) => unpack(of, chunk, v)),
        ...range(rows).flatMap((r) => all.map((v) => accumulate(of, chunk, { r, v }))),
      ]),
    ].filter((text) => text !== "").join("\n");
  }
  const width = dtype !== "f32" && !variant.transposeB ? 2 : 1; // columns of one load of B
  const isEarly = variant.transposeB ? hasCodes(dtype) : dtype === "f16";
  return [
    isEarly ? loadB(of, all) : "",
    loadA(of),
    ...range(vectors / width).flatMap((index) => {
      const columns = all.slice(index * width, (index + 1) * width);
      return [
        isEarly ? "" : loadB(of, columns),
        ...columns.flatMap((v) =>
          chunks.flatMap((chunk) => [
            unpack(of, chunk, v),
            ...range(rows).flatMap((r) => [share(chunk, { r, v }), accumulate(of, chunk, { r, v })]),
          ])
        ),
      ];
    }),
  ].filter((text) => text !== "").join("\n");
}

/** d and m of the 4 rows of B that are the v-th vec4 column. */
function blockScales(variant: TextureProduct, v: number): string {
  const pairs = XYZW.map((part) => `unpack2x16float(scale${v}.${part})`);
  const gather = (half: "x" | "y"): string => `vec4f(${pairs.map((_, i) => `pair${v}_${i}.${half}`).join(", ")})`;
  return `    let scale${v} = textureLoad(scales, vec2u(block, ${column(variant, v)}));
${lines(4, (i) => `    let pair${v}_${i} = ${pairs[i]};`)}
    let scale_d${v} = ${gather("x")};
    let scale_m${v} = ${gather("y")};`;
}

/** The same of blocks of a file. */
function fileScales(variant: TextureProduct, dtype: FileDtype, v: number): string {
  const { own, top } = scaleTexels(dtype, "block"), row = column(variant, v);
  const load = (texel: string): string => `textureLoad(scales, vec2u(${texel}, ${row}))`;
  return `    let scale${v} = file_scale(${load(own)}, ${top ? load(top) : "vec4u()"}, block);`;
}

/** Whether an invocation owns pairs of adjacent vec4 columns, as a texel of B or of its scales covers both. */
function isPaired({ dtype, transposeB }: TextureProduct): boolean {
  return dtype !== "f32" && !transposeB;
}

/** Index of the v-th vec4 column of an invocation. */
function column(variant: TextureProduct, v: number): string {
  return isPaired(variant) ? `2u * (x0 + ${(v >> 1) * LANES}u) + ${v & 1}u` : `x0 + ${v * LANES}u`;
}

function loadA(of: Loop): string {
  const { variant, a, dtype, first, k, alpha } = of, { rows, transposeA } = variant;
  const chunks = chunksOf(variant, dtype);
  const factor = alpha ? `${alpha} * ` : "";
  if (variant.broadcast) return loadShared(of, { chunks, factor });
  if (!transposeA) {
    return lines(rows * chunks, (i) => {
      const chunk = i % chunks, row = Math.floor(i / chunks);
      const load = `textureLoad(${a}, vec2u(${first}step * ${chunks}u + ${chunk}u, m0 + ${row}u))`;
      return `    let a${row}_${chunk} = ${factor}${masked(load, k && alongK(k))};`;
    });
  }
  const quads = rows / 4;
  return lines(4 * chunks * quads, (i) => {
    const quad = i % quads, j = Math.floor(i / quads);
    const load = `textureLoad(${a}, vec2u(m0 / 4u + ${quad}u, step * ${4 * chunks}u + ${j}u))`;
    return `    let t${j}_${quad} = ${factor}${masked(load, k && acrossK(k, j))};`;
  });
}

/** Texels of A along k, one row per lane. */
function loadShared(
  { variant: { rows }, a, first, k }: Loop,
  { chunks, factor }: { readonly chunks: number; readonly factor: string },
): string {
  return lines(Math.ceil(rows / LANES) * chunks, (i) => {
    const chunk = i % chunks, group = Math.floor(i / chunks);
    const load = `textureLoad(${a}, vec2u(${first}step * ${chunks}u + ${chunk}u, m0 + ${group * LANES}u + lane))`;
    return `    let s${group}_${chunk} = ${factor}${masked(load, k && alongK(k))};`;
  });
}

/** Hands the A texel of a row to all lanes, for one column: kept longer it would be spilled. */
function share(chunk: number, cell: Cell): string {
  const { r } = cell;
  return `    let ${sharedName(chunk, cell)} = subgroupShuffle(s${Math.floor(r / LANES)}_${chunk}, lane${r % LANES});`;
}

function sharedName(chunk: number, { r, v }: Cell): string {
  return `a${r}_${chunk}_${v}`;
}

/** A row and a vec4 column of the tile. */
interface Cell {
  readonly r: number;
  readonly v: number;
}

/** Texels of A along k in one step. */
function chunksOf({ transposeB }: TextureProduct, dtype: WeightDtype): number {
  return dtype === "f16" && transposeB ? 2 : 1;
}

/** Texels of B for some vec4 columns, in pairs if a texel holds two. */
function loadB({ variant, b, dtype, k, columns }: Loop, of: readonly number[]): string {
  const { transposeB } = variant, pairs = [...new Set(of.map((v) => v >> 1))];
  if (isQuantized(dtype)) return transposeB ? loadRowCodes(variant, dtype, of) : loadColumnCodes(dtype, pairs);
  if (isFileDtype(dtype)) return transposeB ? loadFileRows(variant, dtype, of) : loadFileColumns(dtype, pairs);
  if (transposeB) {
    return lines(of.length * 4, (index) => {
      const v = of[index >> 2] ?? 0, i = index & 3;
      const n = `(${column(variant, v)}) * 4u + ${i}u`;
      const guard = [k && alongK(k), columns && `vec4<bool>(${n} < ${columns})`].filter(Boolean).join(" & ");
      return `    let d${v}_${i} = ${masked(`textureLoad(${b}, vec2u(step, ${n}))`, guard, dtype)};`;
    });
  }
  const texels = dtype === "f16" ? pairs : of;
  return lines(4 * texels.length, (index) => {
    const v = texels[index % texels.length] ?? 0, j = Math.floor(index / texels.length);
    const x = dtype === "f16" ? `x0 + ${v * LANES}u` : column(variant, v);
    const guard = [
      k && `vec4<bool>(${acrossK(k, j)})`,
      columns && `((${x}) * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(${columns}))`,
    ].filter(Boolean).join(" & ");
    const load = `textureLoad(${b}, vec2u(${x}, step * 4u + ${j}u))`;
    return `    let ${dtype === "f16" ? "e" : "b"}${j}_${v} = ${masked(load, guard, dtype)};`;
  });
}

/** Codes of 4 rows of B and 4 values of k, starting at the lowest bits, for each vec4 column. */
function loadRowCodes(variant: TextureProduct, dtype: QuantDtype, of: readonly number[]): string {
  const parts = quantColumns(dtype) / 4;
  return of.map((v) => {
    const load = (x: string): string => `textureLoad(b, vec2u(${x}, ${column(variant, v)}))`;
    return `    let w${v} = ${parts === 1 ? load("step") : `${load("step / 2u")} >> vec4u(step % 2u * 16u)`};`;
  }).join("\n");
}

/** Codes of 4 values of k and 8 columns, and their d and m, for each pair of vec4 columns. */
function loadColumnCodes(dtype: QuantDtype, pairs: readonly number[]): string {
  const texels = 8 / quantColumns(dtype);
  return pairs.map((pair) => {
    const x = `(x0 + ${pair * LANES}u)`;
    return `${lines(texels, (i) => `    let w${pair}_${i} = textureLoad(b, vec2u(${x} * ${texels}u + ${i}u, step));`)}
    let scale${pair} = textureLoad(scales, vec2u(${x} / ${QUANT_BLOCK / 8}u, step));
${lines(4, (j) => `    let pair${pair}_${j} = unpack2x16float(scale${pair}.${XYZW[j]});`)}`;
  }).join("\n");
}

/** B's vec4 of the j-th value of k and the v-th vec4 column, from its codes. */
function fromCodes(
  variant: TextureProduct,
  dtype: QuantDtype,
  { j, v }: { readonly j: number; readonly v: number },
): string {
  if (variant.transposeB) {
    const bits = quantBits(dtype);
    return `vec4f(vec4i((w${v} >> vec4u(${j * bits}u)) & vec4u(${2 ** bits - 1}u))) * scale_d${v} + scale_m${v}`;
  }
  const pair = v >> 1, half = v & 1;
  const [word, firstBit] = dtype === "q4" ? [`w${pair}_0`, 16 * half] : [`w${pair}_${half}`, 0];
  return `${quantValues(`vec4u(${word}.${XYZW[j]})`, dtype, firstBit)} * pair${pair}_${j}.x + pair${pair}_${j}.y`;
}

/** Codes of 4 rows of B and 4 values of k, for each vec4 column: the lower bits, and the bits from 4 on. */
function loadFileRows(variant: TextureProduct, dtype: FileDtype, of: readonly number[]): string {
  const { low, high } = codePlaces(dtype, "step");
  return of.map((v) => {
    const load = ({ texel, shift }: Place): string =>
      `textureLoad(b, vec2u(${texel}, ${column(variant, v)}))${shift === "0u" ? "" : ` >> vec4u(${shift})`}`;
    return `    let w${v} = ${load(low)};${high ? `\n    let h${v} = ${load(high)};` : ""}`;
  }).join("\n");
}

/** Codes of 4 values of k and 8 columns, and their d and m, for each pair of vec4 columns. */
function loadFileColumns(dtype: FileDtype, pairs: readonly number[]): string {
  const { low: bits, group } = fileLayout(dtype),
    load = (name: string, texel: string): string => `textureLoad(${name}, vec2u(${texel}, step))`;
  return pairs.map((pair) => {
    const x = `at${pair}`, { own, top } = scaleTexels(dtype, `group${pair}`);
    const { low, high } = codePlaces(dtype, `(2u * ${x})`), second = codePlaces(dtype, `(2u * ${x} + 1u)`).low;
    return `    let ${x} = x0 + ${pair * LANES}u;
    let group${pair} = ${x} / ${group / 8}u;
    let w${pair}_0 = ${load("b", low.texel)};
${bits === 8 ? `    let w${pair}_1 = ${load("b", second.texel)};\n` : ""}${
      high ? `    let h${pair} = ${load("b", high.texel)} >> vec4u(${high.shift});\n` : ""
    }    let scale${pair} = file_scale(${load("scales", own)}, ${
      top ? load("scales", top) : "vec4u()"
    }, group${pair});`;
  }).join("\n");
}

/** B's vec4 of the j-th value of k and the v-th vec4 column, from its codes in a file's blocks. */
function fromFile(
  { transposeB }: TextureProduct,
  dtype: FileDtype,
  { j, v }: { readonly j: number; readonly v: number },
): string {
  const { low, high } = fileLayout(dtype);
  if (transposeB) {
    const codes = fileCodes(dtype, { low: `w${v}`, high: `h${v}`, lowBit: j * low, highBit: j * high, of: "vec4" });
    return fileValue(dtype, codes, { d: `scale${v}.d`, m: `scale${v}.m` });
  }
  const pair = v >> 1, half = v & 1, part = XYZW[j];
  const bits = (first: number, width: number): string =>
    `vec4u(${[0, 1, 2, 3].map((i) => `${first + i * width}u`).join(", ")})`;
  const codes = fileCodes(dtype, {
    low: `vec4u(w${pair}_${low === 8 ? half : 0}.${part})`,
    high: `vec4u(h${pair}.${part})`,
    lowBit: bits(low === 8 ? 0 : 16 * half, low),
    highBit: bits(4 * high * half, high),
    of: "vec4",
  });
  return fileValue(dtype, codes, { d: `scale${pair}.d.${part}`, m: `scale${pair}.m.${part}` });
}

/** Guard of a texel with four values of k. */
function alongK(k: string): string {
  return `(step * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(${k}))`;
}

/** Guard of a texel with one value of k. */
function acrossK(k: string, j: number): string {
  return `(step * 4u + ${j}u < ${k})`;
}

function masked(load: string, guard: string | null, dtype = "f32"): string {
  return guard && dtype === "f32" ? `select(vec4f(), ${load}, ${guard})` : load;
}

/** The four vec4 of B for a chunk and a column, as f32. */
function unpack({ variant, dtype }: Loop, chunk: number, v: number): string {
  const { transposeB } = variant, out: string[] = [];
  if (transposeB && dtype === "f16") {
    for (let i = 0; i < 4; i++) {
      for (let pair = 0; pair < 2; pair++) {
        out.push(`    let u${chunk}_${v}_${i}_${pair} = unpack2x16float(d${v}_${i}.${XYZW[2 * chunk + pair]});`);
      }
    }
  }
  for (let j = 0; j < 4; j++) {
    const target = `    let b${4 * chunk + j}_${v} = `;
    if (isQuantized(dtype)) {
      out.push(`${target}${fromCodes(variant, dtype, { j, v })};`);
    } else if (isFileDtype(dtype)) {
      out.push(`${target}${fromFile(variant, dtype, { j, v })};`);
    } else if (transposeB) {
      const parts = [0, 1, 2, 3].map((i) =>
        dtype === "f32" ? `d${v}_${i}.${XYZW[j]}` : `u${chunk}_${v}_${i}_${j >> 1}.${XYZW[j & 1]}`
      );
      out.push(`${target}vec4f(${parts.join(", ")});`);
    } else if (dtype === "f16") {
      const [low, high] = v % 2 === 0 ? "xy" : "zw";
      const texel = `e${j}_${v >> 1}`;
      out.push(`${target}vec4f(unpack2x16float(${texel}.${low}), unpack2x16float(${texel}.${high}));`);
    }
  }
  return out.join("\n");
}

/** Adds a chunk of four values of k to one cell of the tile. The order of the sum is the same in all variants. */
function accumulate({ variant }: Loop, chunk: number, { r, v }: Cell): string {
  const { vectors, transposeA, broadcast } = variant;
  const terms = [0, 1, 2, 3].map((j) => {
    const left = transposeA
      ? `t${4 * chunk + j}_${r >> 2}.${XYZW[r & 3]}`
      : `${broadcast ? sharedName(chunk, { r, v }) : `a${r}_${chunk}`}.${XYZW[j]}`;
    return `${left} * b${4 * chunk + j}_${v}`;
  });
  return `    c${r * vectors + v} += ${terms.join(" + ")};`;
}

function lines(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}
