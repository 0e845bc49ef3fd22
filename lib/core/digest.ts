// SHA-256 (FIPS 180-4), incremental and synchronous: Web Crypto's digest is neither.

/** Bytes that can be hashed; a text is hashed as UTF-8. */
export type Hashable = string | Uint8Array | Uint32Array | Int32Array | Float32Array;

/** The first 16 hexadecimal digits of the SHA-256 of the parts, one after another. */
export function digestOf(parts: Iterable<Hashable>): string {
  const hash = new Sha256();
  for (const part of parts) hash.update(part);
  return hash.hex().slice(0, 16);
}

/** The source `sha256-…` of a content security policy that allows this script or style alone. */
export function sourceHash(text: string): string {
  const bytes = new Sha256().update(text).hex().match(/../g)?.map((pair) => parseInt(pair, 16)) ?? [];
  return `sha256-${btoa(String.fromCharCode(...bytes))}`;
}

const BLOCK = 64;

/** A SHA-256 that takes its input in parts. */
export class Sha256 {
  readonly #state = INITIAL.slice();
  readonly #block = new Uint8Array(BLOCK);
  readonly #view = new DataView(this.#block.buffer);
  readonly #schedule = new Uint32Array(64);
  #filled = 0;
  #length = 0;

  /** Adds bytes; returns this hash. */
  update(part: Hashable): this {
    const bytes = typeof part === "string"
      ? new TextEncoder().encode(part)
      : new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    this.#length += bytes.length;
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(BLOCK - this.#filled, bytes.length - at);
      this.#block.set(bytes.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled < BLOCK) break;
      this.#compress();
      this.#filled = 0;
    }
    return this;
  }

  /** The digest as 64 hexadecimal digits. Nothing can be added after that. */
  hex(): string {
    const bits = BigInt(this.#length) * 8n;
    const padding = new Uint8Array((this.#filled < 56 ? 56 : 120) - this.#filled);
    padding[0] = 0x80;
    this.update(padding);
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, bits);
    this.update(length);
    return Array.from(this.#state, (word) => word.toString(16).padStart(8, "0")).join("");
  }

  #compress(): void {
    const w = this.#schedule;
    for (let t = 0; t < 16; t++) w[t] = this.#view.getUint32(4 * t);
    for (let t = 16; t < 64; t++) {
      const x = w[t - 15] ?? 0, y = w[t - 2] ?? 0;
      const s0 = rotate(x, 7) ^ rotate(x, 18) ^ x >>> 3, s1 = rotate(y, 17) ^ rotate(y, 19) ^ y >>> 10;
      w[t] = (w[t - 16] ?? 0) + s0 + (w[t - 7] ?? 0) + s1;
    }
    let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = this.#state;
    for (let t = 0; t < 64; t++) {
      const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25), choice = e & f ^ ~e & g;
      const first = h + sum1 + choice + (ROUND[t] ?? 0) + (w[t] ?? 0) | 0;
      const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22), majority = a & b ^ a & c ^ b & c;
      [h, g, f, e] = [g, f, e, d + first | 0];
      [d, c, b, a] = [c, b, a, first + sum0 + majority | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, index) => this.#state[index] = (this.#state[index] ?? 0) + word);
  }
}

function rotate(word: number, bits: number): number {
  return word >>> bits | word << 32 - bits;
}

/** The first `count` prime numbers. */
function primes(count: number): number[] {
  const found: number[] = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime !== 0)) found.push(n);
  return found;
}

/** The first 32 bits of the fraction of an `n`-th root: exact, as integers, for Math.cbrt may round otherwise. */
function rootBits(value: number, n: 2 | 3): number {
  const target = BigInt(value) << BigInt(32 * n);
  let low = 0n, high = 1n << 40n;
  while (high - low > 1n) {
    const middle = (low + high) / 2n;
    if (middle ** BigInt(n) <= target) low = middle;
    else high = middle;
  }
  return Number(low & 0xffffffffn);
}

const INITIAL = Uint32Array.from(primes(8), (prime) => rootBits(prime, 2));
const ROUND = Uint32Array.from(primes(64), (prime) => rootBits(prime, 3));
