// Rows of a GGUF as they are in the file, to the texels of a matrix: GGML's blocks, bf16 and f32. Values have the bits
// of `dequantize`. Codes and scales are those of the file or, if they are rounded again, those of `quantizeRows`.
import { type FileDtype, fileLayout } from "./file_blocks.ts";
import { QUANT_BLOCK, quantColumns, type QuantDtype } from "./weight_access.ts";
import type { KernelSource } from "../source.ts";
import { type BlockedType, isBlocked, isShared, isSplit, layoutOf, loadText, UNPACK_GROUP } from "./unpack_layouts.ts";

/** Types that are unpacked. */
export type PackedType = BlockedType | "bf16" | "f32";

/** Rows of an invocation: those of a texel of codes. To begin one takes a CPU's driver as long as to unpack a fifth of a row's group. */
export const UNPACK_ROWS = 4;

/** Whether rows of a type are unpacked to a dtype here. */
export function unpacksTo(type: BlockedType, dtype: QuantDtype): boolean {
  return keepsCodes(type, dtype) || dtype === "q8" || layoutOf(type).zero > 0;
}

/** Whether rows of a type become those of a matrix without being rounded again. */
export function keepsCodes(type: BlockedType, dtype: QuantDtype): boolean {
  const { bits, isSplit = false } = layoutOf(type);
  return !isSplit && bits <= 32 / quantColumns(dtype);
}

/**
 * Unpacks rows to f16, rounded to nearest even. Shapes: raw [rows, bytes of a row] without gaps; halves
 * [rows, pitch] texels of eight values, from texel row `first` on. No value is 65,520 or more.
 * With `exchange` the invocations of a row in a workgroup share loads as a subgroup of 8. Grid: x groups of 32 values /
 * {@link UNPACK_GROUP}, y rows / {@link UNPACK_ROWS} / {@link UNPACK_GROUP}. Writes (=) all but the padding.
 */
export function unpackToHalf(type: PackedType, exchange: boolean): KernelSource {
  const texels = (codes: string, scale: string, at: number): string =>
    [0, 1].map((t) => {
      const words = [0, 1, 2, 3].map((i) => `two(${codes}[${2 * t + (i >> 1)}]${i & 1 ? " >> 16u" : ""}, ${scale})`);
      return `  target_texels[to + ${at + t}u] = vec4u(${words.join(", ")});`;
    }).join("\n");
  const body = type === "f32"
    ? `  let at = (row * p.groups + id.x) * 32u;
${[0, 1, 2, 3].map((t) => `  target_texels[to + ${t}u] = vec4u(${pairs((i) => `at + ${8 * t + i}u`)});`).join("\n")}`
    : type === "bf16"
    ? `  let at = (row * p.groups + id.x) * 16u;
${
      [0, 1, 2, 3].map((t) =>
        `  target_texels[to + ${t}u] = vec4u(${[0, 1, 2, 3].map((i) => `upper(raw[at + ${4 * t + i}u])`).join(", ")});`
      ).join("\n")
    }`
    : `  let first = ${scaleOf(type, "block.first")};
${isSplit(type) ? `  let second = ${scaleOf(type, "block.second")};\n` : ""}${texels("block.low", "first", 0)}
${texels("block.high", isSplit(type) ? "second" : "first", 2)}`;
  const shares = exchange && isShared(type);
  return {
    name: `unpack-${type}-f16`,
    bindings: ["read", "storage", "uniform"],
    ...(shares ? { usesSubgroups: true } : {}),
    code: `struct Params { rows: u32, groups: u32, pitch: u32, first: u32, scalePitch: u32, zero: u32 }
@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_texels: array<vec4u>;
@group(0) @binding(2) var<uniform> p: Params;
${HALF}${isBlocked(type) ? loadText(type, shares) + valueText(type) + twoText(type) : FLOATS}
@compute @workgroup_size(${UNPACK_GROUP}, ${UNPACK_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  for (var row = id.y * ${UNPACK_ROWS}u; row < (id.y + 1u) * ${UNPACK_ROWS}u; row++) {
${isBlocked(type) ? "  let block = load(row, id.x);\n" : ""}  if ((id.x < p.groups) & (row < p.rows)) {
  let to = (p.first + row) * p.pitch + id.x * 4u;
${body}
  }
  }
}
`,
  };
}

/**
 * Unpacks rows to codes and scales: those of the file where {@link keepsCodes}, otherwise rounded again. Shapes: raw as
 * above; codes [rows / 4, pitch] texels of four rows, from texel row `first` on; scales [rows / 4, scalePitch] likewise.
 * Grid and `exchange` as above. Writes (=) all but the padding; missing rows of the last texels are 0.
 */
export function unpackToCodes(type: BlockedType, dtype: QuantDtype, exchange: boolean): KernelSource {
  const { zero } = layoutOf(type), keeps = keepsCodes(type, dtype), texels = QUANT_BLOCK / quantColumns(dtype);
  if (!unpacksTo(type, dtype)) throw new Error(`${type} is not rounded to ${dtype} on the GPU`);
  const codes = (index: number): string => `b.${index < 4 ? "low" : "high"}[${index % 4}]`;
  const words = Array.from(
    { length: texels },
    (_, t) => dtype === "q8" ? codes(t) : `(nibbles(${codes(2 * t)}) | (nibbles(${codes(2 * t + 1)}) << 16u))`,
  );
  const least = zero === 0 || !keeps ? "b.first.y" : `${-zero}.0 * b.first.x`;
  const shares = exchange && isShared(type);
  return {
    name: `unpack-${type}-${dtype}`,
    bindings: ["read", "storage", "storage", "uniform"],
    ...(shares ? { usesSubgroups: true } : {}),
    code: `struct Params { rows: u32, groups: u32, pitch: u32, first: u32, scalePitch: u32 }
@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> code_words: array<u32>;
@group(0) @binding(2) var<storage, read_write> scale_words: array<u32>;
@group(0) @binding(3) var<uniform> p: Params;
${HALF}${loadText(type, shares)}${dtype === "q4" ? NIBBLE_TEXT : ""}${
      keeps ? "" : dtype === "q8" ? valueText(type) + roundedToQ8(type) : roundedToQ4(type)
    }
@compute @workgroup_size(${UNPACK_GROUP}, ${UNPACK_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  for (var i = 0u; i < ${UNPACK_ROWS}u; i++) {
  let row = id.y * ${UNPACK_ROWS}u + i;
  let b = ${keeps ? "load" : "rounded"}(row, id.x);
  if ((id.x < p.groups) & (id.y * ${UNPACK_ROWS}u < p.rows)) {
  let kept = select(0u, 0xffffffffu, row < p.rows);
  let to = ((p.first + id.y) * p.pitch + id.x * ${texels}u) * 4u + i;
${words.map((word, t) => `  code_words[to + ${4 * t}u] = ${word} & kept;`).join("\n")}
  let scale = half(b.first.x) | (half(${least}) << 16u);
  scale_words[((p.first + id.y) * p.scalePitch + id.x) * 4u + i] = scale & kept;
  }
  }
}
`,
  };
}

/**
 * Rearranges the blocks of rows as the texels of a matrix of `FILE_LAYOUTS`, without rounding. Shapes: raw as above; codes
 * [rows / 4, pitch] texels of four rows, from texel row `first` on; scales [rows / 4, scalePitch] likewise. Grid as above.
 * Writes (=) all but the padding; missing rows of the last texels are 0.
 */
export function unpackToFile(type: FileDtype): KernelSource {
  const layout = fileLayout(type), { low, high } = layout, texels = low + high;
  const codes = (index: number): string => `b.${index < 4 ? "low" : "high"}[${index % 4}]`;
  const eight = [0, 1, 2, 3, 4, 5, 6, 7];
  const lower = (index: number): string => `nibbles(${codes(index)} & 0x0f0f0f0fu)`;
  const lows = low === 8
    ? eight.map(codes)
    : [0, 1, 2, 3].map((t) => `(${lower(2 * t)} | (${lower(2 * t + 1)} << 16u))`);
  const perTexel = high === 0 ? 0 : 8 / high; // words of codes whose upper bits make a word
  const highs = Array.from(
    { length: high },
    (_, t) =>
      eight.slice(t * perTexel, (t + 1) * perTexel).map((i, place) => `(upper(${codes(i)}) << ${4 * high * place}u)`)
        .join(" | "),
  );
  return {
    name: `unpack-${type}-file`,
    bindings: ["read", "storage", "storage", "uniform"],
    code: `struct Params { rows: u32, groups: u32, pitch: u32, first: u32, scalePitch: u32 }
@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> code_words: array<u32>;
@group(0) @binding(2) var<storage, read_write> scale_words: array<u32>;
@group(0) @binding(3) var<uniform> p: Params;
${loadText(type, false)}${NIBBLE_TEXT}${UPPER_TEXT[high]}${layout.scales === "six" ? SIX_BITS_TEXT : ""}
@compute @workgroup_size(${UNPACK_GROUP}, ${UNPACK_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  if ((id.x >= p.groups) | (id.y * ${UNPACK_ROWS}u >= p.rows)) { return; }
  for (var i = 0u; i < ${UNPACK_ROWS}u; i++) {
  let row = id.y * ${UNPACK_ROWS}u + i;
  let b = load(row, id.x);
  let at = block_at(row, id.x);
  let kept = select(0u, 0xffffffffu, row < p.rows);
  let to = ((p.first + id.y) * p.pitch + id.x * ${texels}u) * 4u + i;
${[...lows, ...highs].map((word, t) => `  code_words[to + ${4 * t}u] = (${word}) & kept;`).join("\n")}
  let to_scales = (p.first + id.y) * p.scalePitch;
${SCALE_WORDS[layout.scales]}
  }
}
`,
  };
}

const UPPER_TEXT = {
  0: "",
  1: `
fn upper(word: u32) -> u32 { // the fifth bits of four bytes, side by side
  let bits = (word >> 4u) & 0x01010101u;
  return (bits | (bits >> 7u) | (bits >> 14u) | (bits >> 21u)) & 15u;
}
`,
  2: `
fn upper(word: u32) -> u32 { // the fifth and sixth bits of four bytes, side by side
  let bits = (word >> 4u) & 0x03030303u;
  return (bits | (bits >> 6u) | (bits >> 12u) | (bits >> 18u)) & 255u;
}
`,
} as const;

/** Statements that write the scales of group `id.x`; what groups share is written by one of them. */
const SCALE_WORDS = {
  one: `  if (id.x % 2u == 0u) {
    var word = half_at(at);
    if (id.x + 1u < p.groups) { word |= half_at(block_at(row, id.x + 1u)) << 16u; }
    scale_words[(to_scales + id.x / 2u) * 4u + i] = word & kept;
  }`,
  pair: "  scale_words[(to_scales + id.x) * 4u + i] = (half_at(at) | (half_at(at + 1u) << 16u)) & kept;",
  six: `  if (id.x % 2u == 0u) {
    let word = at >> 1u;
    let both = six_bits(word, id.x & 7u) | (six_bits(word, (id.x & 7u) + 1u) << 16u);
    let place = to_scales + id.x / 8u * 5u;
    scale_words[(place + id.x / 2u % 4u) * 4u + i] = both & kept;
    if (id.x % 8u == 0u) { scale_words[(place + 4u) * 4u + i] = raw[word] & kept; }
  }`,
  signed: `  if (id.x % 2u == 0u) {
    let steps = at + 96u + (id.x & 7u);
    let place = to_scales + id.x / 8u * 5u;
    scale_words[(place + id.x / 2u % 4u) * 4u + i] = (half_at(steps) | (half_at(steps + 1u) << 16u)) & kept;
    if (id.x % 8u == 0u) { scale_words[(place + 4u) * 4u + i] = half_at(at + 104u) & kept; }
  }`,
} as const;

/** six_bits(word, g): s (lower 6 bits) and t (the next 6) of a group of a K block that begins at a word. */
const SIX_BITS_TEXT = `
fn six_bits(word: u32, g: u32) -> u32 {
  let shift = (g & 3u) * 8u;
  let s = raw[word + 1u] >> shift; let t = raw[word + 2u] >> shift; let u = raw[word + 3u] >> shift;
  let scale = select(s & 63u, (u & 15u) | ((s >> 2u) & 48u), g >= 4u);
  let least = select(t & 63u, ((u >> 4u) & 15u) | ((t >> 2u) & 48u), g >= 4u);
  return scale | (least << 6u);
}
`;

/** Words of two f16 each from eight f32. */
function pairs(at: (index: number) => string): string {
  return [0, 2, 4, 6].map((i) => `half(bitcast<f32>(raw[${at(i)}])) | (half(bitcast<f32>(raw[${at(i + 1)}])) << 16u)`)
    .join(", ");
}

// Integers round, since a conversion to f16 in WGSL may round either way, and widen, since it may drop subnormal f16.
const HALF = `
fn half(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let normal = (size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u;
  let subnormal = bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u; // one unit of 0.5 is 2^-24, that of such f16
  return ((bits >> 16u) & 0x8000u) | select(subnormal, normal, size >= 0x38800000u);
}
`;

const FLOATS = `
fn upper(word: u32) -> u32 { return half(bitcast<f32>(word << 16u)) | (half(bitcast<f32>(word & 0xffff0000u)) << 16u); }
`;

const NIBBLE_TEXT = `
fn nibbles(word: u32) -> u32 { // the lower four bits of each byte, side by side; the others are 0
  let pairs = (word | (word >> 4u)) & 0x00ff00ffu;
  return (pairs | (pairs >> 8u)) & 0xffffu;
}
`;

/** value(code, scale). */
function valueText(type: BlockedType): string {
  const { zero } = layoutOf(type);
  const value = zero === 0 ? "scale.x * f32(q & 255u) + scale.y" : `scale.x * f32(i32(q & 255u) - ${zero})`;
  return `
fn value(q: u32, scale: vec2f) -> f32 { return ${value}; }
`;
}

/** two(codes, scale): two values as f16. Of two bits, the scale is the four values that there are as f16. */
function twoText(type: BlockedType): string {
  if (layoutOf(type).bits !== 2) {
    return `fn two(word: u32, scale: vec2f) -> u32 { return half(value(word, scale)) | (half(value(word >> 8u, scale)) << 16u); }
`;
  }
  return `fn four_values(scale: vec2f) -> vec4u {
  // Not of 0u: compilers make x · 0 + y to y, which may be −0.
  return vec4u(half(value(p.zero, scale)), half(value(1u, scale)), half(value(2u, scale)), half(value(3u, scale)));
}
fn one(word: u32, bit: u32, values: vec4u) -> u32 {
  let odd = (word & bit) != 0u;
  return select(select(values.x, values.y, odd), select(values.z, values.w, odd), (word & (2u * bit)) != 0u);
}
fn two(word: u32, values: vec4u) -> u32 { return one(word, 1u, values) | (one(word, 256u, values) << 16u); }
`;
}

/** What `two` takes as a scale. */
function scaleOf(type: BlockedType, scale: string): string {
  return layoutOf(type).bits === 2 ? `four_values(${scale})` : scale;
}

/**
 * rounded(row, group): a block of q8. All comparisons are exact in f32: d has 11 bits, its factors at most 9, and x is compared as it is.
 */
function roundedToQ8(type: BlockedType): string {
  const words = ["low", "high"].flatMap((part) =>
    [0, 1, 2, 3].map((i) => ({ word: `b.${part}[${i}]`, scale: isSplit(type) && part === "high" ? "second" : "first" }))
  );
  // As integers: a CPU finds the larger of two integers without a test for NaN.
  const size = (i: number): string => `(bitcast<vec4u>(x${i}) & vec4u(0x7fffffffu))`;
  return `
fn four(word: u32, scale: vec2f) -> vec4f {
  return vec4f(value(word, scale), value(word >> 8u, scale), value(word >> 16u, scale), value(word >> 24u, scale));
}
fn above(size: f32) -> u32 { // the least f16 that is not below size / 127
  let near = half(size / 127.0);
  let least = near - select(0u, 1u, (near > 0u) & (127.0 * float(near - 1u) >= size));
  return least + select(0u, 1u, 127.0 * float(least) < size);
}
fn code(x: vec4f, d: f32, inverse: f32) -> u32 { // 128 + x / d, to nearest, halves upwards
  let below = floor(x * inverse + 0.499); // this or the one above; |x / d| is at most 127
  let q = bitcast<vec4u>(select(below, below + 1.0, (below + 0.5) * d <= x) + 8388736.0) & vec4u(255u); // 2^23 + 128
  return q.x | (q.y << 8u) | (q.z << 16u) | (q.w << 24u);
}
fn rounded(row: u32, group: u32) -> Block {
  let b = load(row, group);
${words.map(({ word, scale }, i) => `  let x${i} = four(${word}, b.${scale});`).join("\n")}
  let most = ${words.slice(1).reduce((sum, _, i) => `max(${sum}, ${size(i + 1)})`, size(0))};
  let d = float(above(bitcast<f32>(max(max(most.x, most.y), max(most.z, most.w)))));
  let kept = vec4u(select(0u, 0xffffffffu, d > 0.0));
  let unit = select(1.0, d, d > 0.0);
  let inverse = 1.0 / unit;
  let low = vec4u(${[0, 1, 2, 3].map((i) => `code(x${i}, unit, inverse)`).join(", ")}) & kept;
  let high = vec4u(${[4, 5, 6, 7].map((i) => `code(x${i}, unit, inverse)`).join(", ")}) & kept;
  return Block(low, high, vec2f(d, -128.0 * d), vec2f(), vec2i());
}
`;
}

/**
 * rounded(row, group): a block of q4. Values are integers X times a unit, that of the block's d: 2^e, so d = D·2^g, m and the codes are found
 * by integers below 2^27, as exactly as by f64. See `scaleQ4` in lib/spec/quant.ts.
 */
function roundedToQ4(type: BlockedType): string {
  const { zero, scales: [place] } = layoutOf(type);
  const words = Array.from(
    { length: 8 },
    (_, i) => ({ word: `b.${i < 4 ? "low" : "high"}[${i % 4}]`, part: i < 4 ? "x" : "y" }),
  );
  const of = (name: "min" | "max"): string => words.slice(1).reduce((sum, _, i) => `${name}(${sum}, x${i + 1})`, "x0");
  const codes = (from: number): string => [0, 1, 2, 3].map((i) => `code(x${from + i}, s)`).join(", ");
  return `
struct Scale { base: i32, shift: u32, offset: i32, d: i32, inverse: f32 }
fn power(exponent: i32) -> f32 { return bitcast<f32>(u32(exponent + 127) << 23u); }
fn integers(word: u32, unit: i32) -> vec4i {
  return (vec4i((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u)) - ${zero}) * unit;
}
fn code(x: vec4i, s: Scale) -> u32 { // (x - m) / d, to nearest, halves upwards
  let y = ((x - s.base) << vec4u(s.shift)) + s.offset;
  let below = floor(vec4f(y) * s.inverse + 0.499); // this or the one above
  let near = bitcast<vec4i>(below + 8388608.0) & vec4i(31);
  let q = vec4u(min(near + select(vec4i(0), vec4i(1), (2 * near + 1) * s.d <= 2 * y), vec4i(15)));
  return q.x | (q.y << 8u) | (q.z << 16u) | (q.w << 24u);
}
fn rounded(row: u32, group: u32) -> Block {
  let b = load(row, group);
  let bits = half_at(block_at(row, group) + ${place}u);
  let size = bits & 0x7fffu;
  let e = select(i32(size >> 10u) - 25, -24, size < 0x400u);
  let mantissa = i32(select((size & 0x3ffu) | 0x400u, size, size < 0x400u)) * select(1, -1, bits >= 0x8000u);
  let units = mantissa * b.steps;
${words.map(({ word, part }, i) => `  let x${i} = integers(${word}, units.${part});`).join("\n")}
  let leasts = ${of("min")};
  let mosts = ${of("max")};
  let sizes = ${of("min").replaceAll(/x\d/g, "abs($&)")};
  let least = min(min(leasts.x, leasts.y), min(leasts.z, leasts.w));
  let most = max(max(mosts.x, mosts.y), max(mosts.z, mosts.w));
  let has_zero = min(min(sizes.x, sizes.y), min(sizes.z, sizes.w)) == 0;
  // Without a zero, m is the least value, rounded down to the 11 bits of f16.
  let dropped = u32(max(0, 21 - i32(countLeadingZeros(u32(abs(least))))));
  let rest = select(0, i32((1u << dropped) - 1u), least < 0);
  let base = (((abs(least) + rest) >> dropped) << dropped) * select(1, -1, least < 0);
  // d is range / parts, rounded up to 11 bits, with a zero 7.
  let range = select(most - base, most - least, has_zero);
  let parts = select(15, 14, has_zero);
  let length = 32u - countLeadingZeros(u32(range));
  let exponent = i32(length) - select(5, 4, (range << 4u) >= (parts << length));
  let g = max(-24, exponent + e - select(10, 6, has_zero));
  let finer = u32(max(0, e - g));
  let coarser = u32(max(0, g - e));
  let d = ((((range << finer) + ((1i << coarser) - 1)) >> coarser) + parts - 1) / parts;
  // In the finer of the units 2^e and 2^g. With a zero, m is a multiple of d that is not above the least value.
  let step = d << coarser;
  let down = (-least) << finer;
  let near = i32(f32(down) / f32(max(step, 1)));
  let times = near + select(0, 1, near * step < down) - select(0, 1, (near - 1) * step >= down);
  let m = select(f32(base) * power(e), f32(-times * d) * power(g), has_zero);
  let s = Scale(select(base, 0, has_zero), finer, select(0, times * step, has_zero), step, 1.0 / f32(max(step, 1)));
  let kept = vec4u(select(0u, 0xffffffffu, d > 0));
  return Block(vec4u(${codes(0)}) & kept, vec4u(${codes(4)}) & kept, vec2f(f32(d) * power(g), m), vec2f(), vec2i());
}
`;
}
