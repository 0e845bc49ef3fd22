// Rows of a GGUF as they are in the file, to the texels of a matrix: GGML's blocks, bf16 and f32.
// Layouts of the blocks: ggml's ggml-common.h. Values have the bits of `dequantize`, codes and scales those of
// `quantizeRows` where they are rounded anew, or else those of the file.
import { QUANT_BLOCK, quantColumns, type QuantDtype } from "./weight_access.ts";
import type { KernelSource } from "./source.ts";

/** Types whose rows are divided into groups of 32 values. */
export type BlockedType = keyof typeof BLOCKED;
/** Types that are unpacked. */
export type PackedType = BlockedType | "bf16" | "f32";

/** Invocations of a workgroup along the groups of a row, and along the rows. */
export const UNPACK_GROUP = 8;

/** How 32 values are read; indices of raw count halves of words. */
interface BlockLayout {
  /** Halves of words of a block, and values. */
  readonly halves: number;
  readonly block: 32 | 256;
  /** Bits of a code, and the code of 0; 0 where the scales have a minimum. */
  readonly bits: number;
  readonly zero: number;
  /** Whether 16 values share a scale, and not 32. */
  readonly isSplit?: boolean;
  /** Where the f16 of a block are that scale it, and below which size of them all values and products of them are finite f16. */
  readonly scales: readonly number[];
  readonly below: number;
  /**
   * Sets `low`, `high`: codes of 16 values each, four a word; `first`, `second`: d and m of each of them; `steps`: by which integers d of
   * the block is multiplied in them. The block begins at half `at`; `g` is the number of the 32 values in it.
   */
  readonly read: string | ((words: Words) => string);
}

/** Reads of a K block, of which eight lanes read the same words, or words at one of a few places. */
interface Words {
  /** Word number `index` of a block of whole words. */
  readonly word: (index: number) => string;
  /** Four words from half number `at` on, or for n = 1, 2 or 3 from `step`, twice or three times `step` halves behind it. */
  readonly four: (at: number, place?: { readonly n: string; readonly count: 2 | 4; readonly step: number }) => string;
  /** Half number `at` + n; `at` is even, n below 8. */
  readonly half: (at: number, n?: string) => string;
}

const LOW = "vec4u(0x0f0f0f0fu)", TWO = "vec4u(0x03030303u)", ONES = "vec4u(0x01010101u)";

/** Four words from a half of a word on; `isAligned`: it is the first of a word. */
const four = (at: string, isAligned = false): string => isAligned ? `four_words((${at}) >> 1u)` : `four_halves(${at})`;

/** Each lane loads what it reads. */
const wordsOfLane = (isAligned: boolean): Words => ({
  word: (index) => `raw[(at >> 1u) + ${index}u]`,
  four: (at, place) => four(place ? `at + ${at}u + ${place.n} * ${place.step}u` : `at + ${at}u`, isAligned),
  half: (at, n = "0u") => `half_at(at + ${at}u + ${n})`,
});

/** Lane i has loaded the words i, i + 8, … of the block (`shared0`, `shared1`, …); loads cost more than all else. */
const wordsOfSubgroup = (isAligned: boolean): Words => {
  const loaded = (index: number): string => `subgroupBroadcast(shared${index >> 3}, ${index & 7}u)`;
  const word = (index: number): string =>
    isAligned ? loaded(index) : `joined(${loaded(index)}, ${loaded(index + 1)}, at)`;
  const either = (n: string, bit: number, no: string, yes: string): string =>
    `select(${no}, ${yes}, (${n} & ${bit}u) != 0u)`;
  const words = (at: number): string => `vec4u(${[0, 1, 2, 3].map((i) => word((at >> 1) + i)).join(", ")})`;
  return {
    word,
    four: (at, place) => {
      if (!place) return words(at);
      const { n, count, step } = place,
        [a = "", b = "", c = "", d = ""] = [0, 1, 2, 3].map((i) => words(at + i * step));
      return count === 2 ? either(n, 1, a, b) : either(n, 2, either(n, 1, a, b), either(n, 1, c, d));
    },
    half: (at, n) => n === undefined ? `(${word(at >> 1)} & 0xffffu)` : `half_of(${words(at)}, ${n})`,
  };
};

const NIBBLES = `low = q & ${LOW}; high = (q >> vec4u(4u)) & ${LOW};`;
const FIFTHS = "low |= fifth_bits(fifths); high |= fifth_bits(fifths >> 16u);";
/** d and m of a K block with a word of them, and 12 bytes of scales and minima of 6 bits. */
const sixBits = ({ word }: Words): string =>
  `let s = ${word(1)} >> ((g & 3u) * 8u); let t = ${word(2)} >> ((g & 3u) * 8u); let u = ${word(3)} >> ((g & 3u) * 8u);
  let scale = select(s & 63u, (u & 15u) | ((s >> 2u) & 48u), g >= 4u);
  let least = select(t & 63u, ((u >> 4u) & 15u) | ((t >> 2u) & 48u), g >= 4u);
  let scales = both(${word(0)}); first = vec2f(scales.x * f32(scale), -scales.y * f32(least));`;

const BLOCKED = {
  q4_0: {
    ...{ halves: 9, block: 32, bits: 4, zero: 8, scales: [0], below: 8189 },
    read: `let q = ${four("at + 1u")}; ${NIBBLES} first.x = float(half_at(at));`,
  },
  q4_1: {
    ...{ halves: 10, block: 32, bits: 4, zero: 0, scales: [0, 1], below: 2048 },
    read: `let q = ${four("at + 2u", true)}; ${NIBBLES} first = both(raw[at >> 1u]);`,
  },
  q5_0: {
    ...{ halves: 11, block: 32, bits: 5, zero: 16, scales: [0], below: 2048 },
    read: `let q = ${four("at + 3u")}; ${NIBBLES} let fifths = half_at(at + 1u) | (half_at(at + 2u) << 16u); ${FIFTHS}
  first.x = float(half_at(at));`,
  },
  q5_1: {
    ...{ halves: 12, block: 32, bits: 5, zero: 0, scales: [0, 1], below: 1024 },
    read: `let q = ${four("at + 4u", true)}; ${NIBBLES} let fifths = raw[(at >> 1u) + 1u]; ${FIFTHS}
  first = both(raw[at >> 1u]);`,
  },
  q8_0: {
    ...{ halves: 17, block: 32, bits: 8, zero: 128, scales: [0], below: 256 },
    read: `low = ${four("at + 1u")} ^ vec4u(0x80808080u); high = ${four("at + 9u")} ^ vec4u(0x80808080u);
  first.x = float(half_at(at));`,
  },
  q4_k: {
    ...{ halves: 72, block: 256, bits: 4, zero: 0, scales: [0, 1], below: 64 },
    read: (words) => {
      const place = { n: "(g >> 1u)", count: 4, step: 16 } as const;
      return `let nibble = vec4u((g & 1u) * 4u);
  low = (${words.four(8, place)} >> nibble) & ${LOW}; high = (${words.four(16, place)} >> nibble) & ${LOW};
  ${sixBits(words)}`;
    },
  },
  q5_k: {
    ...{ halves: 88, block: 256, bits: 5, zero: 0, scales: [0, 1], below: 32 },
    read: (words) => {
      const place = { n: "(g >> 1u)", count: 4, step: 16 } as const;
      return `let nibble = vec4u((g & 1u) * 4u);
  low = ((${words.four(24, place)} >> nibble) & ${LOW}) | (((${words.four(8)} >> vec4u(g)) & ${ONES}) << vec4u(4u));
  high = ((${words.four(32, place)} >> nibble) & ${LOW}) | (((${words.four(16)} >> vec4u(g)) & ${ONES}) << vec4u(4u));
  ${sixBits(words)}`;
    },
  },
  q6_k: {
    ...{ halves: 105, block: 256, bits: 6, zero: 32, isSplit: true, scales: [104], below: 8 },
    read: ({ four, half }) => {
      const lower = { n: "(((g >> 1u) & 2u) | (g & 1u))", count: 4, step: 16 } as const;
      const upper = { n: "(g >> 2u)", count: 2, step: 16 } as const;
      return `let nibble = vec4u(((g >> 1u) & 1u) * 4u); let pair = vec4u((g & 3u) * 2u);
  low = ((${four(0, lower)} >> nibble) & ${LOW}) | (((${four(64, upper)} >> pair) & ${TWO}) << vec4u(4u));
  high = ((${four(8, lower)} >> nibble) & ${LOW}) | (((${four(72, upper)} >> pair) & ${TWO}) << vec4u(4u));
  let scales = vec2i(i32(${half(96, "g")})); steps = (scales << vec2u(24u, 16u)) >> vec2u(24u);
  let d = float(${half(104)}); first.x = d * f32(steps.x); second.x = d * f32(steps.y);`;
    },
  },
  q2_k: {
    ...{ halves: 42, block: 256, bits: 2, zero: 0, isSplit: true, scales: [40, 41], below: 512 },
    read: ({ four, half, word }) => {
      const place = { n: "(g >> 2u)", count: 2, step: 16 } as const;
      return `let pair = vec4u((g & 3u) * 2u);
  low = (${four(8, place)} >> pair) & ${TWO}; high = (${four(16, place)} >> pair) & ${TWO};
  let s = ${half(0, "g")}; let scales = both(${word(20)}) * vec2f(1.0, -1.0);
  first = scales * vec2f(vec2u(s, s >> 4u) & vec2u(15u)); second = scales * vec2f(vec2u(s >> 8u, s >> 12u) & vec2u(15u));`;
    },
  },
  q3_k: {
    ...{ halves: 55, block: 256, bits: 3, zero: 4, isSplit: true, scales: [54], below: 256 },
    read: ({ four, half }) => {
      const place = { n: "(g >> 2u)", count: 2, step: 16 } as const;
      return `let pair = vec4u((g & 3u) * 2u);
  low = ((${four(16, place)} >> pair) & ${TWO}) | (((${four(0)} >> vec4u(g)) & ${ONES}) << vec4u(2u));
  high = ((${four(24, place)} >> pair) & ${TWO}) | (((${four(8)} >> vec4u(g)) & ${ONES}) << vec4u(2u));
  let lower = ${half(48, "(g & 3u)")} >> ((g >> 2u) * 4u); let upper = ${half(52, "(g & 1u)")} >> ((g >> 1u) * 2u);
  steps = (vec2i(vec2u(lower, lower >> 8u)) & vec2i(15)) + ((vec2i(vec2u(upper, upper >> 8u)) & vec2i(3)) << vec2u(4u)) - 32;
  let d = float(${half(54)}); first.x = d * f32(steps.x); second.x = d * f32(steps.y);`;
    },
  },
} as const satisfies Readonly<Record<string, BlockLayout>>;

/** The layout of a type. */
function layoutOf(type: BlockedType): BlockLayout {
  return BLOCKED[type];
}

/** Whether rows of a type are divided into groups of 32 values. */
export function isBlocked(type: string): type is BlockedType {
  return type in BLOCKED;
}

/** The f16 that scale a block: their places in it, its halves of words, and the size that all must be below to be unpacked here. */
export function scalesOfBlock(type: BlockedType): Pick<BlockLayout, "halves" | "block" | "scales" | "below"> {
  return layoutOf(type);
}

/** Whether rows of a type are unpacked to a dtype here. */
export function unpacksTo(type: BlockedType, dtype: QuantDtype): boolean {
  return keepsCodes(type, dtype) || dtype === "q8" || layoutOf(type).zero > 0;
}

/** Whether rows of a type are those of a matrix without being rounded anew. */
export function keepsCodes(type: BlockedType, dtype: QuantDtype): boolean {
  const { bits, isSplit = false } = layoutOf(type);
  return !isSplit && bits <= 32 / quantColumns(dtype);
}

/**
 * Unpacks rows to f16, rounded to nearest even. Shapes: raw [rows, bytes of a row] without gaps; halves
 * [rows, pitch] texels of eight values, from texel row `first` on. No value is 65,520 or more.
 * Grid: x groups of 32 values / {@link UNPACK_GROUP}, y rows / {@link UNPACK_GROUP}. Writes (=) all but the padding.
 */
export function unpackToHalf(type: PackedType, exchange: boolean): KernelSource {
  const texels = (codes: string, scale: string, at: number): string =>
    [0, 1].map((t) => {
      const words = [0, 1, 2, 3].map((i) => `two(${codes}[${2 * t + (i >> 1)}]${i & 1 ? " >> 16u" : ""}, ${scale})`);
      return `  target_texels[to + ${at + t}u] = vec4u(${words.join(", ")});`;
    }).join("\n");
  const body = type === "f32"
    ? `  let at = (id.y * p.groups + id.x) * 32u;
${[0, 1, 2, 3].map((t) => `  target_texels[to + ${t}u] = vec4u(${pairs((i) => `at + ${8 * t + i}u`)});`).join("\n")}`
    : type === "bf16"
    ? `  let at = (id.y * p.groups + id.x) * 16u;
${
      [0, 1, 2, 3].map((t) =>
        `  target_texels[to + ${t}u] = vec4u(${[0, 1, 2, 3].map((i) => `upper(raw[at + ${4 * t + i}u])`).join(", ")});`
      ).join("\n")
    }`
    : `${texels("block.low", "block.first", 0)}
${texels("block.high", isSplit(type) ? "block.second" : "block.first", 2)}`;
  const shares = exchange && isShared(type);
  return {
    name: `unpack-${type}-f16`,
    bindings: ["read", "storage", "uniform"],
    ...(shares ? { usesSubgroups: true } : {}),
    code: `struct Params { rows: u32, groups: u32, pitch: u32, first: u32 }
@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_texels: array<vec4u>;
@group(0) @binding(2) var<uniform> p: Params;
${HALF}${isBlocked(type) ? loadText(type, shares) + valueText(type) : FLOATS}
@compute @workgroup_size(${UNPACK_GROUP}, ${UNPACK_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
${isBlocked(type) ? "  let block = load(id.y, id.x);\n" : ""}  if (id.x >= p.groups || id.y >= p.rows) { return; }
  let to = (p.first + id.y) * p.pitch + id.x * 4u;
${body}
}
`,
  };
}

/**
 * Unpacks rows to codes and scales: those of the file where {@link keepsCodes}, else rounded anew. Shapes: raw as
 * above; codes [rows / 4, pitch] texels of four rows, from texel row `first` on; scales [rows / 4, scalePitch] likewise.
 * Grid: x groups of 32 values / {@link UNPACK_GROUP}, y rows, up to a multiple of 4, / {@link UNPACK_GROUP}. Writes (=)
 * all but the padding; missing rows of the last texels are 0.
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
  let b = ${keeps ? "load" : "rounded"}(id.y, id.x);
  if (id.x >= p.groups || id.y >= ((p.rows + 3u) & 0xfffffffcu)) { return; }
  let kept = select(0u, 0xffffffffu, id.y < p.rows);
  let to = ((p.first + (id.y >> 2u)) * p.pitch + id.x * ${texels}u) * 4u + (id.y & 3u);
${words.map((word, t) => `  code_words[to + ${4 * t}u] = ${word} & kept;`).join("\n")}
  let scale = half(b.first.x) | (half(${least}) << 16u);
  scale_words[((p.first + (id.y >> 2u)) * p.scalePitch + id.x) * 4u + (id.y & 3u)] = scale & kept;
}
`,
  };
}

/** Whether the lanes of a subgroup read the same block. */
function isShared(type: PackedType): boolean {
  return isBlocked(type) && layoutOf(type).block === 32 * UNPACK_GROUP;
}

function isSplit(type: BlockedType): boolean {
  return layoutOf(type).isSplit ?? false;
}

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
fn nibbles(word: u32) -> u32 { // the lower four bits of each byte, side by side
  let pairs = (word | (word >> 4u)) & 0x00ff00ffu;
  return (pairs | (pairs >> 8u)) & 0xffffu;
}
`;

/** load(row, group): the codes and scales of 32 values; what lies beyond the rows is 0, or anything. */
function loadText(type: BlockedType, shares: boolean): string {
  const { halves, block, read } = layoutOf(type), isAligned = halves % 2 === 0;
  const words = shares ? wordsOfSubgroup(isAligned) : wordsOfLane(isAligned);
  const loads = Array.from(
    { length: shares ? Math.ceil((halves + 1) / 16) : 0 },
    (_, i) => `  let shared${i} = raw[(at >> 1u) + g + ${UNPACK_GROUP * i}u];\n`,
  );
  const at = block === 32
    ? `(row * p.groups + group) * ${halves}u`
    : `(row * (p.groups >> 3u) + (group >> 3u)) * ${halves}u`;
  return `
struct Block { low: vec4u, high: vec4u, first: vec2f, second: vec2f, steps: vec2i }
fn float(bits: u32) -> f32 { // of an f16
  let size = bits & 0x7fffu;
  let small = f32(size) * 0x1p-24;
  let value = select(bitcast<f32>((size << 13u) + 0x38000000u), small, size < 0x400u);
  return bitcast<f32>(bitcast<u32>(value) | ((bits & 0x8000u) << 16u));
}
fn both(word: u32) -> vec2f { return vec2f(float(word), float(word >> 16u)); }
fn half_at(at: u32) -> u32 { return (raw[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu; }
fn four_words(at: u32) -> vec4u { return vec4u(raw[at], raw[at + 1u], raw[at + 2u], raw[at + 3u]); }
fn four_halves(at: u32) -> vec4u {
  let words = four_words(at >> 1u);
  let shifted = (words >> vec4u(16u)) | (vec4u(words.yzw, raw[(at >> 1u) + 4u]) << vec4u(16u));
  return select(words, shifted, (at & 1u) == 1u);
}
fn joined(word: u32, next: u32, at: u32) -> u32 { // from the second half of a word on, if \`at\` is odd
  return select(word, (word >> 16u) | (next << 16u), (at & 1u) == 1u);
}
fn half_of(words: vec4u, index: u32) -> u32 {
  let odd = (index & 2u) != 0u;
  let word = select(select(words.x, words.y, odd), select(words.z, words.w, odd), (index & 4u) != 0u);
  return (word >> ((index & 1u) * 16u)) & 0xffffu;
}
fn fifth_bits(bits: u32) -> vec4u { // bit i of 16 is the fifth of value i; the product copies four to the lowest of four bytes
  return ((((vec4u(bits) >> vec4u(0u, 4u, 8u, 12u)) & vec4u(15u)) * vec4u(0x00204081u)) & ${ONES}) << vec4u(4u);
}
fn block_at(row: u32, group: u32) -> u32 { return ${at}; }
fn load(row: u32, group: u32) -> Block {
  let at = block_at(row, group);
  let g = group & 7u;
  var low: vec4u; var high: vec4u; var first: vec2f; var second: vec2f; var steps = vec2i(1);
${loads.join("")}  ${typeof read === "string" ? read : read(words)}
  return Block(low, high, first, second, steps);
}
`;
}

/** value(code, scale), and two(codes, scale): two of them as f16. */
function valueText(type: BlockedType): string {
  const { zero } = layoutOf(type);
  const value = zero === 0 ? "scale.x * f32(q & 255u) + scale.y" : `scale.x * f32(i32(q & 255u) - ${zero})`;
  return `
fn value(q: u32, scale: vec2f) -> f32 { return ${value}; }
fn two(word: u32, scale: vec2f) -> u32 { return half(value(word, scale)) | (half(value(word >> 8u, scale)) << 16u); }
`;
}

/**
 * rounded(row, group): a block of q8. All comparisons are exact in f32: d has 11 bits, its factors at most 9, and x is compared as it is.
 */
function roundedToQ8(type: BlockedType): string {
  const words = ["low", "high"].flatMap((part) =>
    [0, 1, 2, 3].map((i) => ({ word: `b.${part}[${i}]`, scale: isSplit(type) && part === "high" ? "second" : "first" }))
  );
  return `
fn four(word: u32, scale: vec2f) -> vec4f {
  return vec4f(value(word, scale), value(word >> 8u, scale), value(word >> 16u, scale), value(word >> 24u, scale));
}
fn above(size: f32) -> u32 { // the least f16 that is not below size / 127
  let near = half(size / 127.0);
  let least = near - select(0u, 1u, near > 0u && 127.0 * float(near - 1u) >= size);
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
  let most = ${words.slice(1).reduce((sum, _, i) => `max(${sum}, abs(x${i + 1}))`, "abs(x0)")};
  let d = float(above(max(max(most.x, most.y), max(most.z, most.w))));
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
