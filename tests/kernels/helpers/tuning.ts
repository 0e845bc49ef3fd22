// A decoder to tune for, and a clock that tells what a test wants.
import type { Device } from "../../../lib/gpu/device.ts";
import type { Plan } from "../../../lib/gpu/plan.ts";
import { tuningOf } from "../../../lib/gpu/tuning.ts";
import type { DecoderSpec } from "../../../lib/spec/decoder.ts";
import type { Measure } from "../../../lib/nn/products/tune.ts";
import { candidateTiles, type Product, productKey, type Tile, tileName } from "../../../lib/nn/products/variants.ts";

/** Layers of a size that is worth measuring, the second a little narrower. */
export const SPEC: DecoderSpec = {
  vocab: 1000,
  hidden: 512,
  headDim: 64,
  layers: [{ heads: 8, kvHeads: 8, ffn: 1024 }, { heads: 8, kvHeads: 8, ffn: 1000 }],
  normEps: 1e-5,
  rope: { base: 1e4, scaling: { kind: "none" } },
  tied: true,
  maxPosition: 512,
  bosId: null,
  eosIds: [],
  padId: null,
};

/** Requests with time for slow machines, as each candidate runs once. */
export const BOTH = { rows: 256, baseDtype: "f16", budgetSeconds: 600 } as const;
export const FORWARD = { ...BOTH, directions: ["forward"] } as const;

/** A clock that tells seconds by product and the place of the tile among its candidates, 0 being the default. */
export function fakeClock(
  own: Device,
  seconds: (product: Product, place: number) => number,
): Measure & { asked: string[] } {
  const asked: string[] = [];
  return Object.assign((_plan: Plan, product: Product, tile: Tile) => {
    asked.push(`${productKey(product)} ${tileName(tile)}`);
    return Promise.resolve(seconds(product, placeOf(own, product, tileName(tile))));
  }, { asked });
}

function placeOf(own: Device, product: Product, name: string | undefined): number {
  return candidateTiles(own, product).findIndex((tile) => tileName(tile) === name);
}

/** The place of each tuned tile, by key; the fake clock has seen all products. */
export function tunedPlaces(own: Device, products: readonly Product[]): number[] {
  return products.map((product) => placeOf(own, product, tuningOf(own).get(productKey(product))));
}
