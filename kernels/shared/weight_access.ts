// WGSL that reads four values of a frozen matrix, for each storage type.
import type { Binding } from "../source.ts";
import {
  codePlaces,
  fileCodes,
  type FileDtype,
  fileLayout,
  fileTexels,
  fileValue,
  isFileDtype,
  isLongBlock,
  scaleFunction,
  scaleTexels,
} from "./file_blocks.ts";

/** Storage type of the values of a frozen matrix. */
export type WeightDtype = "f32" | "f16" | QuantDtype | FileDtype;
/** Storage in blocks of {@link QUANT_BLOCK} columns of a row: value = d·q + m, q of 8 or 4 bits, d and m f16. */
export type QuantDtype = "q8" | "q4";

/** Storage of a frozen matrix: see `Matrix` in lib/nn. */
export interface WeightStorage {
  readonly placement: "texture" | "buffer";
  readonly dtype: WeightDtype;
}

/** Columns of a row that share d and m. */
export const QUANT_BLOCK = 32;
/** Rows of a texel of codes, one per component, and of a texel of scales. */
export const QUANT_ROWS = 4;

/** Whether a matrix holds codes that are rounded here. */
export function isQuantized(dtype: WeightDtype): dtype is QuantDtype {
  return dtype === "q8" || dtype === "q4";
}

/** Whether a matrix holds codes and scales, of {@link QUANT_ROWS} rows a texel. */
export function hasCodes(dtype: WeightDtype): dtype is QuantDtype | FileDtype {
  return isQuantized(dtype) || isFileDtype(dtype);
}

/** Number of bits of a code. */
export function quantBits(dtype: QuantDtype): 4 | 8 {
  return dtype === "q8" ? 8 : 4;
}

/**
 * Columns of a texel of codes: 4 rows × 8 columns of 4 bits, or 4 rows × 4 columns of 8 bits, the first column lowest.
 */
export function quantColumns(dtype: QuantDtype): number {
  return 32 / quantBits(dtype);
}

/**
 * Binding types of a matrix: its values or codes, and the scales of codes (of q8 and q4 a texel is 4 rows of one block,
 * d in the lower half, m in the upper).
 */
export function weightBindings({ placement, dtype }: WeightStorage): Binding[] {
  if (hasCodes(dtype)) return placement === "buffer" ? ["read", "read"] : ["texture-u32", "texture-u32"];
  if (placement === "buffer") return ["read"];
  return [dtype === "f32" ? "texture-f32" : "texture-u32"];
}

/**
 * Declares the bindings of a matrix, starting at `first`, and `load_weight4(row, c4, stride4)`: the values of columns
 * 4·c4 … 4·c4 + 3.
 */
export function weightAccess({ placement, dtype }: WeightStorage, first: number): string {
  const head = `@group(0) @binding(${first}) var`;
  const signature = "fn load_weight4(row: u32, c4: u32, stride4: u32) -> vec4f";
  if (isQuantized(dtype)) return quantAccess({ placement, dtype }, first, signature);
  if (isFileDtype(dtype)) return fileAccess({ placement, dtype }, first, signature);
  if (placement === "texture" && dtype === "f32") {
    return `${head} weight: texture_storage_2d<rgba32float, read>;
${signature} { return textureLoad(weight, vec2u(c4, row)); }
`;
  }
  if (placement === "texture") {
    return `${head} weight: texture_storage_2d<rgba32uint, read>;
${signature} {
  let texel = textureLoad(weight, vec2u(c4 / 2u, row));
  let half = select(texel.xy, texel.zw, c4 % 2u == 1u);
  return vec4f(unpack2x16float(half.x), unpack2x16float(half.y));
}
`;
  }
  if (dtype === "f32") {
    return `${head}<storage, read> weight: array<vec4f>;
${signature} { return weight[row * stride4 + c4]; }
`;
  }
  return `${head}<storage, read> weight: array<vec2u>;
${signature} {
  let pair = weight[row * stride4 + c4];
  return vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));
}
`;
}

/** Like {@link weightAccess}: four codes of a word, and the scale of their block. */
function quantAccess(storage: Coded<QuantDtype>, first: number, signature: string): string {
  const words = quantColumns(storage.dtype) / 4, { declare, word } = codedAccess(storage, first);
  return `${declare}
${signature} {
  let word = ${word("weight", `c4 / ${words}u`, `stride4 / ${words}u`)}${
    words === 1 ? "" : ` >> (c4 % ${words}u * 16u)`
  };
  let scale = unpack2x16float(${word("scales", "c4 / 8u", "stride4 / 8u")});
  return ${quantValues("vec4u(word)", storage.dtype)} * scale.x + scale.y;
}
`;
}

/** Like {@link weightAccess} for blocks of a file. */
function fileAccess(storage: Coded<FileDtype>, first: number, signature: string): string {
  const { dtype } = storage, { declare, word } = codedAccess(storage, first), layout = fileLayout(dtype);
  const { low, high } = codePlaces(dtype, "c4"), { own, top } = scaleTexels(dtype, "group");
  const whole = fileTexels(dtype, 256), codesRow = `stride4 / 8u * ${whole.codes / 8}u`;
  const scalesRow = isLongBlock(dtype) ? `stride4 / 64u * ${whole.scales}u` : `stride4 / 16u * ${whole.scales / 4}u`;
  const bits = (width: number): string => `vec4u(${[0, 1, 2, 3].map((i) => `${i * width}u`).join(", ")})`;
  const codes = fileCodes(dtype, {
    ...{ low: "vec4u(low)", high: "vec4u(high)", lowBit: bits(layout.low), highBit: bits(layout.high), of: "vec4" },
  });
  return `${declare}
${scaleFunction(dtype, storage.placement)}${signature} {
  let group = c4 / ${layout.group / 4}u;
  let low = ${word("weight", low.texel, codesRow)} >> (${low.shift});
${high ? `  let high = ${word("weight", high.texel, codesRow)} >> (${high.shift});\n` : ""}  let own = ${
    word("scales", own, scalesRow)
  };
  let scale = file_scale(vec4u(own), vec4u(${top ? word("scales", top, scalesRow) : "0u"}), group);
  return ${fileValue(dtype, codes, { d: "scale.d.x", m: "scale.m.x" })};
}
`;
}

/** A storage of codes and scales. */
interface Coded<Dtype> {
  readonly placement: WeightStorage["placement"];
  readonly dtype: Dtype;
}

/** Declares `weight` and `scales`, and gives the word of `row` in the texel of a column of texels. */
function codedAccess({ placement }: Coded<WeightDtype>, first: number): {
  readonly declare: string;
  readonly word: (name: "weight" | "scales", column: string, perRow: string) => string;
} {
  const one = (name: string, index: number): string =>
    `@group(0) @binding(${first + index}) ` +
    (placement === "buffer"
      ? `var<storage, read> ${name}: array<u32>;`
      : `var ${name}: texture_storage_2d<rgba32uint, read>;`);
  return {
    declare: ["weight", "scales"].map(one).join("\n"),
    word: (name, column, perRow) =>
      placement === "buffer"
        ? `${name}[(row / ${QUANT_ROWS}u * (${perRow}) + ${column}) * ${QUANT_ROWS}u + row % ${QUANT_ROWS}u]`
        : `textureLoad(${name}, vec2u(${column}, row / ${QUANT_ROWS}u))[row % ${QUANT_ROWS}u]`,
  };
}

/** The lowest four codes of a word as vec4f; `words` repeats the word four times. */
export function quantValues(words: string, dtype: QuantDtype, firstBit = 0): string {
  const bits = quantBits(dtype);
  const shifts = [0, 1, 2, 3].map((i) => `${firstBit + i * bits}u`);
  // Through i32, as a CPU converts signed integers in one instruction, unsigned ones in eight.
  return `vec4f(vec4i((${words} >> vec4u(${shifts.join(", ")})) & vec4u(${2 ** bits - 1}u)))`;
}
