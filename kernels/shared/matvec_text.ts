// WGSL shared by the matrix-vector kernels: multiplying a texel of weights by x, and writing the sums.
import { CACHE_KEYS } from "./attention_text.ts";
import type { MatvecEnding, MatvecRole } from "./matvec_types.ts";
import type { Binding } from "../source.ts";
import { codePlaces, fileCodes, type FileDtype, fileLayout, isFileDtype, scaleTexels } from "./file_blocks.ts";
import {
  isQuantized,
  QUANT_BLOCK,
  QUANT_ROWS,
  quantBits,
  quantColumns,
  type QuantDtype,
  type WeightDtype,
} from "./weight_access.ts";

const XYZW = ["x", "y", "z", "w"] as const;

/** Layout of one texel of weights. */
export interface Texel {
  /** Columns of a texel: 4 times the number of vec4 of x that it multiplies. */
  readonly columns: number;
  /** Rows of a texel. */
  readonly rows: number;
  /** Texels of 32 columns of a row; 0 without scales. */
  readonly perScale: number;
  /** WGSL type of a texel. */
  readonly type: "vec4f" | "vec4u";
}

/** Layout of the texels of a dtype, as stored by `Matrix` in lib/nn. */
export function texelOf(dtype: WeightDtype): Texel {
  if (isQuantized(dtype)) {
    const columns = quantColumns(dtype);
    return { columns, rows: QUANT_ROWS, perScale: QUANT_BLOCK / columns, type: "vec4u" };
  }
  if (isFileDtype(dtype)) {
    const columns = 32 / fileLayout(dtype).low;
    return { columns, rows: QUANT_ROWS, perScale: QUANT_BLOCK / columns, type: "vec4u" };
  }
  return dtype === "f32"
    ? { columns: 4, rows: 1, perScale: 0, type: "vec4f" }
    : { columns: 8, rows: 1, perScale: 0, type: "vec4u" };
}

/**
 * Factor by which column c of the x for a texel is multiplied in advance: codes are masked in place instead of shifted
 * down.
 */
export function columnScale(dtype: WeightDtype, column: number): number {
  if (!isQuantized(dtype)) return 1;
  const bits = quantBits(dtype), shift = bits * column;
  return shift + bits === 32 ? 1 : 2 ** -shift;
}

/** {@link columnScale} of four columns as a WGSL expression; null if all are 1. */
export function columnScale4(dtype: WeightDtype, first: number): string | null {
  const scales = [0, 1, 2, 3].map((i) => columnScale(dtype, first + i));
  return scales.every((scale) => scale === 1) ? null : `vec4f(${scales.map((scale) => scale.toString()).join(", ")})`;
}

/**
 * WGSL expression of the sum over the columns of a texel: of one row as f32, of four rows as vec4f. x holds the names
 * of its vec4. Quantised codes are not yet multiplied by their scale. `name` is a prefix for values that the statements
 * in `before` define; `isShared` defines there all that does not depend on x. With `isRow` the texel of codes is that of
 * one row, a u32. `high` is the texel of the upper bits of a file's codes.
 */
export function texelDot(
  dtype: WeightDtype,
  { texel, high = "", x, name, isShared = false, isRow = false }: {
    readonly texel: string;
    readonly high?: string;
    readonly x: readonly string[];
    readonly name: string;
    readonly isShared?: boolean;
    readonly isRow?: boolean;
  },
): { readonly before: string; readonly sum: string } {
  const factor = (column: number): string => `${x[column >> 2]}.${XYZW[column & 3]}`;
  if (dtype === "f32") {
    return { before: "", sum: [0, 1, 2, 3].map((c) => `${factor(c)} * ${texel}.${XYZW[c]}`).join(" + ") };
  }
  if (dtype === "f16") {
    return {
      before: [0, 1, 2, 3].map((i) => `let ${name}_${i} = unpack2x16float(${texel}.${XYZW[i]});`).join(" "),
      sum: Array.from({ length: 8 }, (_, c) => `${factor(c)} * ${name}_${c >> 1}.${XYZW[c & 1]}`).join(" + "),
    };
  }
  const codes = isFileDtype(dtype) ? codesOfFile(dtype, { texel, high, isRow }) : codesInPlace(dtype, { texel, isRow });
  return {
    before: isShared ? codes.map((code, c) => `let ${name}_${c} = ${code};`).join(" ") : "",
    sum: codes.map((code, c) => `${factor(c)} * ${isShared ? `${name}_${c}` : code}`).join(" + "),
  };
}

/** Codes of a texel, times the powers of two of {@link columnScale}. */
function codesInPlace(
  dtype: QuantDtype,
  { texel, isRow }: { readonly texel: string; readonly isRow: boolean },
): readonly string[] {
  const bits = quantBits(dtype), [uint, int, float] = isRow ? ["u32", "i32", "f32"] : ["vec4u", "vec4i", "vec4f"];
  return Array.from({ length: quantColumns(dtype) }, (_, c) => {
    const shift = bits * c, isLast = shift + bits === 32;
    const code = isLast ? `${texel} >> ${uint}(${shift}u)` : `${texel} & ${uint}(${(2 ** bits - 1) * 2 ** shift}u)`;
    // Through i32, as a CPU converts signed integers in one instruction, unsigned ones in eight.
    return `${float}(${int}(${code}))`;
  });
}

/** Codes of a texel of a file's blocks, minus zero. */
function codesOfFile(
  dtype: FileDtype,
  { texel, high, isRow }: { readonly texel: string; readonly high: string; readonly isRow: boolean },
): readonly string[] {
  const { low, high: upper } = fileLayout(dtype);
  return Array.from({ length: 32 / low }, (_, c) =>
    fileCodes(dtype, {
      ...{ low: texel, high, lowBit: low * c, highBit: upper * c, of: isRow ? "scalar" : "vec4" },
    }));
}

/** Statements that load texels of W from a file's blocks, and what {@link fileSum} needs of them. */
export interface FileLoads {
  /** Statements that load the texels of codes, and those of scales. */
  readonly codes: readonly string[];
  readonly scales: readonly string[];
  /** Statements that decode the scales of four rows. */
  readonly decode: readonly string[];
  /** Names of the lower and upper bits of each texel. */
  readonly texels: readonly { readonly low: string; readonly high: string }[];
}

/**
 * Loads of texels of the lower bits of a row of texels, given by their numbers: of 32 columns there are `perScale`, and
 * all are of the same 32. `name` is a part of the names of values.
 */
export function fileLoads(dtype: FileDtype, { columns, load, name }: {
  readonly columns: readonly string[];
  /** WGSL that loads a texel of codes or of scales. */
  readonly load: (of: "codes" | "scales", texel: string) => string;
  readonly name: string;
}): FileLoads {
  const { columns: width } = texelOf(dtype), { group } = fileLayout(dtype);
  const texels = columns.map((column, t) => {
    const { low, high } = codePlaces(dtype, `(${column}) * ${width / 4}u`), own = `${name}_${t}`;
    return {
      statements: [
        `let d${own} = ${load("codes", low.texel)};`,
        ...(high ? [`let hi${own} = ${load("codes", high.texel)} >> vec4u(${high.shift});`] : []),
      ],
      ...{ low: `d${own}`, high: `hi${own}` },
    };
  });
  const scales = columns.slice(0, group === 32 ? 1 : undefined).map((column, t) => {
    const number = `(${column}) / ${group / width}u`, { own, top } = scaleTexels(dtype, number), at = `${name}_${t}`;
    return {
      loads: [`let e${at} = ${load("scales", own)};`, ...(top ? [`let p${at} = ${load("scales", top)};`] : [])],
      decode: `let scale${at} = file_scale(e${at}, ${top ? `p${at}` : "vec4u()"}, ${number});`,
    };
  });
  return {
    codes: texels.flatMap(({ statements }) => statements),
    scales: scales.flatMap(({ loads }) => loads),
    decode: scales.map(({ decode }) => decode),
    texels,
  };
}

/**
 * The sum over the texels of {@link fileLoads}, from those of their codes. `total` is the sum of x over their columns;
 * `pick` takes a vec4f of four rows to what the sums are of.
 */
export function fileSum(dtype: FileDtype, { sums, name, total, pick = (rows) => rows }: {
  readonly sums: readonly string[];
  readonly name: string;
  readonly total: string;
  readonly pick?: (rows: string) => string;
}): string {
  const { zero, group } = fileLayout(dtype), all = group === 32 ? [sums.join(" + ")] : sums;
  const scaled = all.map((sum, t) => `${pick(`scale${name}_${t}.d`)} * (${sum})`).join(" + ");
  return zero === 0 ? `${scaled} + ${pick(`scale${name}_0.m`)} * ${total}` : scaled;
}

/** d and m of four rows, from a texel of scales. */
export interface TexelScale {
  /** Statements that define the names used by the others. */
  readonly before: string;
  readonly d: string;
  readonly m: string;
}

/** Unpacks a texel of scales; `name` is a prefix for the values of the statements. */
export function scaleOf(texel: string, name: string): TexelScale {
  const pick = (half: string): string => `vec4f(${XYZW.map((_, i) => `${name}_${i}.${half}`).join(", ")})`;
  return {
    before: XYZW.map((c, i) => `let ${name}_${i} = unpack2x16float(${texel}.${c});`).join(" "),
    d: pick("x"),
    m: pick("y"),
  };
}

/** d·sum + m·(sum of x) of four rows; `total` is the sum of x over the columns. */
export function scaledSum({ d, m }: TexelScale, sum: string, total: string): string {
  return `${d} * (${sum}) + ${m} * ${total}`;
}

/** Bindings of an ending, in order, each with its WGSL declaration. */
export function endingBindings(
  ending: MatvecEnding,
  roles: readonly MatvecRole[],
): readonly { readonly kind: Binding; readonly declare: string }[] {
  const y = { kind: "storage", declare: "var<storage, read_write> y: array<f32>;" } as const;
  const read = (declare: string): { readonly kind: Binding; readonly declare: string } => ({
    kind: "read",
    declare: `var<storage, read> ${declare};`,
  });
  switch (ending) {
    case "store":
      return [y];
    case "swiglu":
    case "residual":
      return [read("z: array<f32>"), y];
    case "rotate":
      return [
        read("table: array<vec2f>"),
        read("position: array<u32>"),
        read("pages: array<u32>"),
        ...roles.map((role) =>
          role === "q" ? y : {
            kind: "texture-store-f32" as const,
            declare: `var ${role}_cache: texture_storage_2d<rgba32float, write>;`,
          }
        ),
      ];
  }
}

/** Where {@link endingText} finds its sums. */
export interface EndingOptions {
  readonly ending: MatvecEnding;
  readonly roles: readonly MatvecRole[];
  /** Invocations that share the work. */
  readonly lanes: number;
  /** WGSL expression of the vector in the batch. */
  readonly vector: string;
  /** WGSL expressions of the first row n of the part and the number of rows. */
  readonly first: string;
  readonly count: string;
  /** WGSL expression of the distance between the sums of the two matrices of "swiglu". */
  readonly second: string;
  /** WGSL expression of the factor of the norm. */
  readonly factor: string;
}

/**
 * Statements that write the results of rows n = first … first + count − 1 of part `part` for one vector. `sum_of(i)` is
 * the sum of row first + i; the second matrix of "swiglu" uses i + second.
 */
export function endingText(options: EndingOptions): string {
  const { ending, roles, lanes, vector, first, count, second, factor } = options;
  const each = (body: string): string => `for (var i = lane; i < ${count}; i += ${lanes}u) { ${body} }`;
  const row = `let n = (${vector}) * pitch + offset + ${first} + i;`;
  switch (ending) {
    case "store":
      return `  ${each(`${row} y[n] = sum_of(i) * ${factor};`)}`;
    case "residual":
      return `  ${each(`${row} y[n] = fma(sum_of(i) * ${factor}, z[offset + ${first} + i], y[n]);`)}`;
    case "swiglu":
      return `  ${
        each(`
    let gate = sum_of(i) * ${factor};
    ${row}
    y[n] = gate / (1.0 + exp(-gate)) * (sum_of(i + ${second}) * ${factor}) * z[offset + ${first} + i];
  `)
      }`;
    case "rotate":
      return `  {
  let at = position[${vector}];
${
        roles.map((role, part) =>
          `  if (part == ${part}u) {
    ${
            role === "q" ? each(`${row} y[n] = rotated(i, at) * ${factor};`) : `if (at < params.capacity) {
      let page = pages[(${vector}) * params.perRow + at / ${CACHE_KEYS}u];
      for (var i = lane * 4u; i < ${count}; i += ${4 * lanes}u) {
        let value = vec4f(${
              [0, 1, 2, 3].map((j) => role === "k" ? `rotated(i + ${j}u, at)` : `sum_of(i + ${j}u)`).join(", ")
            }) * ${factor};
        let n = offset + ${first} + i;
        let column = at % ${CACHE_KEYS}u * params.headStride + n % params.headStride;
        textureStore(${role}_cache, vec2u(column / 4u, page * params.kvHeads + n / params.headStride), value);
      }
    }`
          }
  }`
        ).join("\n")
      }
  }`;
  }
}

/**
 * Functions that an ending calls. A workgroup of "rotate" owns whole heads of `params.headStride` rows, with
 * `params.half` pairs each; the rows after the pairs stay.
 */
export function endingFunctions(ending: MatvecEnding): string {
  if (ending !== "rotate") return "";
  return `
fn rotated(i: u32, at: u32) -> f32 {
  let j = i % params.headStride;
  let isLow = j < params.half;
  let pair = select(j - params.half, j, isLow);
  let own = sum_of(i);
  if (pair >= params.half) { return own; }
  let turn = table[min(at, params.positions - 1u) * params.half + pair];
  if (isLow) { return own * turn.x - sum_of(i + params.half) * turn.y; }
  return own * turn.x + sum_of(i - params.half) * turn.y;
}
`;
}
