// Random numbers without state: the value is a hash of (seed, words…). The hash is that of kernels/shared/random.wgsl (PCG output function chained over the
// words; Jarzynski & Olano 2020), so both give the same bits.
import { refuse } from "./errors.ts";

/** 32 random bits for a seed and further words (stream, counter, …), each taken modulo 2^32. */
export function randomU32(seed: number, ...words: readonly number[]): number {
  let hash = pcg(seed >>> 0);
  for (const word of words) hash = pcg((word ^ hash) >>> 0);
  return hash;
}

/** Uniform number in (0, 1) with 24 bits, never 0 or 1. */
export function uniform(seed: number, ...words: readonly number[]): number {
  return ((randomU32(seed, ...words) >>> 8) + 0.5) / 16777216;
}

/** Standard normal number (Box–Muller of the uniforms with last word 0 and 1). */
export function normal(seed: number, ...words: readonly number[]): number {
  const radius = Math.sqrt(-2 * Math.log(uniform(seed, ...words, 0)));
  return radius * Math.cos(2 * Math.PI * uniform(seed, ...words, 1));
}

/**
 * Random order of 0 … length − 1 (Fisher–Yates, drawing from the stream's counters length − 1 … 1).
 * An index below n is drawn as floor(u·n / 2^32): its bias of n / 2^32 does not matter for orders of rows.
 */
export function shuffle(length: number, seed: number, stream: number): Uint32Array<ArrayBuffer> {
  const order = Uint32Array.from({ length }, (_, index) => index);
  for (let last = length - 1; last > 0; last--) {
    const other = Math.floor((randomU32(seed, stream, last) / 4294967296) * (last + 1));
    const [a, b] = [order[last] ?? 0, order[other] ?? 0];
    order[last] = b;
    order[other] = a;
  }
  return order;
}

/** Largest seed. */
export const MAX_SEED = 2 ** 32 - 1;

/** Returns the seed, or throws `CompressoError("usage")` where it is not an integer in [0, 2^32). */
export function checkSeed(seed: number): number {
  if (Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED) return seed;
  refuse("usage", "cannot use this seed", {
    rule: `a seed is an integer from 0 to ${MAX_SEED}`,
    value: seed,
    fix: "try 1",
  });
}

function pcg(value: number): number {
  const state = (Math.imul(value, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}
