// Matrices of a GGUF's own blocks: how their codes and scales are arranged in texels, and WGSL that decodes them.
//
// GGML's blocks are 18 to 210 bytes, which WGSL cannot address in words. So the codes and the scales of four rows are
// rearranged in texels of four words, a word for each row. All bits of the file are kept and none is rounded. A decoded
// value has the bits of `dequantize` in f32.

/**
 * How 32 columns of a row are stored. Codes: `low` texels with the lower bits of the codes, then `high` texels with the
 * bits from 4 on; the first column lies in the lowest bits. Value = d·(q − zero), or d·q + m with `zero` 0.
 */
export interface FileLayout {
  readonly low: 4 | 8;
  readonly high: 0 | 1 | 2;
  readonly zero: number;
  /** Columns that share a scale. */
  readonly group: 16 | 32;
  readonly scales: ScaleForm;
}

/** A word of scales of a row. */
type ScaleForm =
  /** d of two groups as f16. */
  | "one"
  /** d and m of a group as f16. */
  | "pair"
  /** Two groups, 16 bits each: 6 bits s, 6 bits t; after four such words d and e as f16. A group's d is d·s, m is −e·t. */
  | "six"
  /** Four groups: signed bytes s; after four such words d as f16. A group's d is d·s. */
  | "signed";

/** A layout for each type of block. */
export const FILE_LAYOUTS = {
  q4_0: { low: 4, high: 0, zero: 8, group: 32, scales: "one" },
  q5_0: { low: 4, high: 1, zero: 16, group: 32, scales: "one" },
  q5_1: { low: 4, high: 1, zero: 0, group: 32, scales: "pair" },
  q8_0: { low: 8, high: 0, zero: 128, group: 32, scales: "one" },
  q4_k: { low: 4, high: 0, zero: 0, group: 32, scales: "six" },
  q5_k: { low: 4, high: 1, zero: 0, group: 32, scales: "six" },
  q6_k: { low: 4, high: 2, zero: 32, group: 16, scales: "signed" },
} as const satisfies Readonly<Record<string, FileLayout>>;

/** A matrix of the blocks of a file, named as the type of the file. */
export type FileDtype = keyof typeof FILE_LAYOUTS;

/** Whether a matrix holds a file's own blocks. */
export function isFileDtype(dtype: string): dtype is FileDtype {
  return dtype in FILE_LAYOUTS;
}

/** The layout of a dtype. */
export function fileLayout(dtype: FileDtype): FileLayout {
  return FILE_LAYOUTS[dtype];
}

/** Whether 256 columns share a scale of their scales, so that rows are multiples of 256 columns. */
export function isLongBlock(dtype: FileDtype): boolean {
  const { scales } = fileLayout(dtype);
  return scales === "six" || scales === "signed";
}

/** Texels of four rows of `columns` values, a multiple of 64, and of 256 for long blocks: of codes, and of scales. */
export function fileTexels(dtype: FileDtype, columns: number): { readonly codes: number; readonly scales: number } {
  const { low, high, scales } = fileLayout(dtype);
  return {
    codes: columns / 32 * (low + high),
    scales: scales === "one" ? columns / 64 : scales === "pair" ? columns / 32 : columns / 256 * 5,
  };
}

/** WGSL expressions of a texel of a row, and of the first bit of what is wanted of it. */
export interface Place {
  readonly texel: string;
  readonly shift: string;
}

/** Where the codes of the columns 4·c4 to 4·c4 + 3 lie: their lower bits, and the bits from 4 on (null if there are none). */
export function codePlaces(dtype: FileDtype, c4: string): { readonly low: Place; readonly high: Place | null } {
  const { low, high } = fileLayout(dtype), first = `(${c4}) / 8u * ${low + high}u`;
  return {
    low: low === 8
      ? { texel: c4, shift: "0u" }
      : { texel: `${first} + (${c4}) / 2u % 4u`, shift: `(${c4}) % 2u * 16u` },
    high: high === 0
      ? null
      : high === 1
      ? { texel: `${first} + 4u`, shift: `(${c4}) % 8u * 4u` }
      : { texel: `${first} + 4u + (${c4}) / 4u % 2u`, shift: `(${c4}) % 4u * 8u` },
  };
}

/** Texels of the scales of a group of columns: its own, and the one of its 256 columns (null for short blocks). */
export function scaleTexels(
  dtype: FileDtype,
  group: string,
): { readonly own: string; readonly top: string | null } {
  switch (fileLayout(dtype).scales) {
    case "one":
      return { own: `(${group}) / 2u`, top: null };
    case "pair":
      return { own: group, top: null };
    case "six":
      return { own: `(${group}) / 8u * 5u + (${group}) / 2u % 4u`, top: `(${group}) / 8u * 5u + 4u` };
    case "signed":
      return { own: `(${group}) / 16u * 5u + (${group}) / 4u % 4u`, top: `(${group}) / 16u * 5u + 4u` };
  }
}

const SCALE_TEXT: Readonly<Record<ScaleForm, string>> = {
  one: "  return FileScale(widened(own >> vec4u(group % 2u * 16u)), vec4f());",
  pair: "  return FileScale(widened(own), widened(own >> vec4u(16u)));",
  six: `  let bits = own >> vec4u(group % 2u * 16u);
  let least = widened(top >> vec4u(16u)) * vec4f(vec4i((bits >> vec4u(6u)) & vec4u(63u)));
  return FileScale(widened(top) * vec4f(vec4i(bits & vec4u(63u))), -least);`,
  signed: `  let steps = bitcast<vec4i>(own << vec4u(24u - group % 4u * 8u)) >> vec4u(24u);
  return FileScale(widened(top) * vec4f(steps), vec4f());`,
};

/**
 * `file_scale(own, top, group)`: d and m of four rows from the texels of {@link scaleTexels}; without a top texel the
 * argument does not matter. On GPUs f16 widen by integers: `unpack2x16float` may drop the subnormal ones, which scales of
 * long blocks often are. CPUs have an instruction for it.
 */
export function scaleFunction(dtype: FileDtype, placement: "texture" | "buffer"): string {
  return `struct FileScale { d: vec4f, m: vec4f }
${WIDENED_TEXT[placement]}
fn file_scale(own: vec4u, top: vec4u, group: u32) -> FileScale {
${SCALE_TEXT[fileLayout(dtype).scales]}
}
`;
}

/** widened(bits): the f16 in the lower halves. */
const WIDENED_TEXT = {
  texture: `fn widened(bits: vec4u) -> vec4f {
  return vec4f(${["x", "y", "z", "w"].map((part) => `unpack2x16float(bits.${part}).x`).join(", ")});
}`,
  buffer: `fn widened(bits: vec4u) -> vec4f {
  let size = bits & vec4u(0x7fffu);
  let normal = bitcast<vec4f>((size << vec4u(13u)) + vec4u(0x38000000u));
  let value = select(normal, vec4f(vec4i(size)) * 0x1p-24, size < vec4u(0x400u));
  return bitcast<vec4f>(bitcast<vec4u>(value) | ((bits & vec4u(0x8000u)) << vec4u(16u)));
}`,
} as const;

/**
 * WGSL of codes minus zero as floats. `low` and `high` are of the WGSL type `of`, and the code begins at these bits of
 * them.
 */
export function fileCodes(
  dtype: FileDtype,
  { low, high, lowBit, highBit, of }: {
    readonly low: string;
    readonly high: string;
    /** WGSL expressions of the same type, or numbers. */
    readonly lowBit: string | number;
    readonly highBit: string | number;
    readonly of: "vec4" | "scalar";
  },
): string {
  const layout = fileLayout(dtype);
  const [uint, int, float] = of === "vec4" ? ["vec4u", "vec4i", "vec4f"] : ["u32", "i32", "f32"];
  const shifted = (word: string, bit: string | number): string =>
    bit === 0 ? word : `(${word} >> ${typeof bit === "number" ? `${uint}(${bit}u)` : bit})`;
  const lower = `${shifted(low, lowBit)} & ${uint}(${2 ** layout.low - 1}u)`;
  const code = layout.high === 0
    ? lower
    : `(${lower}) | ((${shifted(high, highBit)} & ${uint}(${2 ** layout.high - 1}u)) << ${uint}(4u))`;
  // Through i32, as a CPU converts signed integers in one instruction, unsigned ones in eight.
  return `${float}(${int}(${code})${layout.zero === 0 ? "" : ` - ${int}(${layout.zero})`})`;
}

/** A value of codes minus zero and their scale. */
export function fileValue(
  dtype: FileDtype,
  codes: string,
  { d, m }: { readonly d: string; readonly m: string },
): string {
  return fileLayout(dtype).zero === 0 ? `${codes} * ${d} + ${m}` : `${codes} * ${d}`;
}
