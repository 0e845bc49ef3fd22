// How GGML's blocks hold 32 values, and WGSL that reads them. Source: ggml's ggml-common.h.

/** Types whose rows are divided into groups of 32 values. */
export type BlockedType = keyof typeof BLOCKED;

/** Invocations of a workgroup along the groups of a row, which are those of a K block, and along the rows. */
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

/** Reads of a K block. Eight lanes read the same words of it, or words at one of a few places. */
interface Words {
  /** Word number `index` of a block of whole words. */
  readonly word: (index: number) => string;
  /** Four words from half number `at` + n · `step` on; n is below `count`, and 0 without `place`. */
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
export function layoutOf(type: BlockedType): BlockLayout {
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

/** Whether the lanes of a subgroup read the same block. */
export function isShared(type: string): boolean {
  return isBlocked(type) && layoutOf(type).block === 32 * UNPACK_GROUP;
}

export function isSplit(type: BlockedType): boolean {
  return layoutOf(type).isSplit ?? false;
}

/** load(row, group): the codes and scales of 32 values; what lies beyond the rows is 0, or anything. */
export function loadText(type: BlockedType, shares: boolean): string {
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
