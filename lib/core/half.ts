// f16 and bf16 to f32 and back, round to nearest even.

let halfTable: Float32Array | undefined;

/** The f32 value of each of the 65,536 f16 bit patterns: the fastest way from f16 (2× `Float16Array`). */
export function f16Table(): Float32Array {
  if (halfTable) return halfTable;
  const bits = new Uint16Array(65536).map((_, index) => index);
  halfTable = new Float32Array(new Float16Array(bits.buffer));
  return halfTable;
}

/** Widens f16 bit patterns into `out`, from `at` on. */
export function widenF16(bits: Uint16Array, out: Float32Array, at = 0): void {
  const table = f16Table();
  for (let i = 0; i < bits.length; i++) out[at + i] = table[bits[i] as number] as number;
}

/** Widens bf16 bit patterns into `out`, from `at` on: they are the upper halves of f32. */
export function widenBf16(bits: Uint16Array, out: Float32Array, at = 0): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[at + i] = (bits[i] as number) << 16;
}

/** Narrows f32 to f16 bit patterns, to nearest even. What is above 65,504 becomes infinite: see {@link F16_LIMIT}. */
export function narrowF16(values: Float32Array): Uint16Array<ArrayBuffer> {
  return new Uint16Array(new Float16Array(values).buffer);
}

/** Narrows f32 to bf16 bit patterns, to nearest even; a NaN stays a (quiet) NaN, and what is from {@link BF16_LIMIT} on becomes infinite. */
export function narrowBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = words[i] as number;
    const upper = word >>> 16;
    // Adding 0x7fff, and 1 more where the kept part is odd, carries exactly where the rest is above half, or half and odd.
    bits[i] = (word & 0x7fffffff) > 0x7f800000 ? upper | 0x40 : (word + 0x7fff + (upper & 1)) >>> 16;
  }
  return bits;
}

/** From here on f16 rounds to infinity: half way between the largest f16 and the next power of two, rounded to even. */
export const F16_LIMIT = 65520;

/** The same of bf16. */
export const BF16_LIMIT = (2 - 2 ** -8) * 2 ** 127;

/** Position of the first finite value with |value| ≥ limit, or −1. */
export function firstAtLeast(values: Float32Array, limit: number): number {
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i] as number);
    if (size >= limit && size < Infinity) return i;
  }
  return -1;
}

/** Position of the first NaN or infinity, or −1. */
export function firstNonFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) {
    // x − x is 0 for every finite x, NaN for the others.
    if ((values[i] as number) - (values[i] as number) !== 0) return i;
  }
  return -1;
}
