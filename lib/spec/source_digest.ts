// Digest of the weights of a model.
import { Sha256 } from "../core/digest.ts";
import { tensorShapes } from "./decoder.ts";
import type { WeightSource } from "./source.ts";

/** Number of rows of each matrix that {@link sourceDigest} reads. */
const DIGEST_ROWS = 2;

/** Digest of the weights of a model: its shape and the first rows of every tensor. */
export async function sourceDigest(source: WeightSource): Promise<string> {
  const hash = new Sha256().update(JSON.stringify(source.spec));
  for (const [name, [rows = 0, columns]] of tensorShapes(source.spec)) {
    const part = columns === undefined ? undefined : { start: 0, count: Math.min(DIGEST_ROWS, rows) };
    hash.update(name).update(new Uint8Array((await source.read(name, part)).buffer));
  }
  return hash.hex().slice(0, 16);
}
