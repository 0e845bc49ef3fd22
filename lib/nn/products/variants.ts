// Tiles of the product kernels: candidates, defaults, and the choice for a device.
import { Sha256 } from "../../core/digest.ts";
import {
  isFileDtype,
  productBuffer,
  productTexture,
  productTiled,
  TEXTURE_LANES,
  tiledBytes,
} from "../../../kernels/mod.ts";
import type { Device } from "../../gpu/device.ts";
import { adapterIdentity, type TuningIdentity, tuningOf } from "../../gpu/tuning.ts";
import type { MatrixDtype } from "./matrix.ts";

/** Rows and columns of the result that one invocation computes. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

/**
 * Products with frozen matrices (linear) and of views (matmul), from textures or buffers. Each has a kernel generator.
 */
export type ProductFamily = "linear-texture" | "linear-buffer" | "matmul-texture" | "matmul-buffer";

/** One product C[m, n] of depth k. */
export interface Product {
  readonly family: ProductFamily;
  /** Storage of the operands: a direction, or a letter for each of A, B and C. */
  readonly layout: string;
  readonly dtype: MatrixDtype;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Tiles for up to `upTo` rows, the default first. */
interface Choice {
  readonly upTo: number;
  readonly tiles: readonly Tile[];
}

/**
 * All tiles of a family sum over k in the same order, so the choice never changes a value. The texture defaults were
 * measured on lavapipe (scripts/bench/products.ts); the buffer defaults follow common practice on GPUs.
 */
const CHOICES: Readonly<Record<ProductFamily, readonly Choice[]>> = {
  "linear-texture": [
    { upTo: 1, tiles: tiles("1x8 1x16") },
    { upTo: 4, tiles: tiles("4x8 4x16") },
    { upTo: 8, tiles: tiles("8x8 8x16") },
    { upTo: 16, tiles: tiles("16x8 8x8 16x16") },
    { upTo: Infinity, tiles: tiles("16x8 8x8 24x8 32x8 16x16") },
  ],
  "linear-buffer": [
    { upTo: 16, tiles: tiles("1x4 1x8") },
    { upTo: 32, tiles: tiles("4x4 2x4 2x8 1x4") },
    { upTo: Infinity, tiles: tiles("4x4 2x4 8x4 4x8 8x8") },
  ],
  "matmul-texture": [{ upTo: Infinity, tiles: tiles("8x16 8x8 4x8 16x8") }],
  "matmul-buffer": [{ upTo: Infinity, tiles: tiles("4x4 2x4 4x2 8x4 8x8") }],
};

/** Tiles for more than `above` rows. */
interface LargeChoice {
  readonly above: number;
  readonly tiles: readonly Tile[];
}

const LARGE: LargeChoice = { above: 64, tiles: tiles("32x8 16x8 8x8 24x8 16x16") };
/** Of fewer rows, such as those of a chunk of the output head, a last tile of 26 rows may compute many for nothing. */
const LARGE_CODES: LargeChoice = { above: 192, tiles: tiles("26x8 16x8 8x8 24x8 32x8 16x16") };
/**
 * If lanes share A, more rows a tile cost few loads of it, and a column of B is unpacked once for all. But a loop of more
 * than some 20 KB of code runs at half its speed in some versions of the code, and in some processes: of the tiles that
 * were as fast in each of many processes, these were the best.
 */
const SHARED_MANY: Readonly<Record<string, LargeChoice>> = {
  "forward f32": LARGE,
  "backward f32": LARGE,
  "backward f16": LARGE,
  "forward q8": LARGE_CODES,
  "forward q4": LARGE_CODES,
  "backward q4": LARGE,
};
/** The same of blocks of a file. */
const SHARED_FILE: Readonly<Record<string, LargeChoice>> = { forward: LARGE_CODES, backward: LARGE };

/**
 * Sizes up to this have separate keys. Larger ones use the nearest power of √2, so that layers of uneven widths share a
 * key.
 */
const EXACT_UP_TO = 16;
/** Longer sides share a key: a shard of a large vocabulary has as many rows as the adapter allows. */
const MOST = 2 ** 13;

/** The tile that the device uses for a product: the tuned tile, or the default. */
export function productTile(device: Device, product: Product): Tile {
  const all = tilesOf(device, product), name = tuningOf(device).get(productKey(product));
  const tile = name === undefined ? undefined : all.find((known) => tileName(known) === name);
  return tile ?? defaultTile(device, product);
}

/**
 * Whether lanes share an A stored [m][k] in the texture kernels of this device with this tile. The values are the same;
 * with few rows sharing gains little.
 */
export function sharesA(device: Device, { rows }: Tile): boolean {
  return exchangesLanes(device) && rows >= 4;
}

/** Tiles that a device can use for a product, the default first. */
export function candidateTiles(device: Device, product: Product): readonly Tile[] {
  const all = tilesOf(device, product);
  if (product.family !== "linear-buffer") return all;
  return all.filter((tile) => tiledBytes(tile) <= device.limits.maxComputeWorkgroupStorageSize);
}

/** Key of a product in a tuning table. */
export function productKey({ family, layout, dtype, m, n, k }: Product): string {
  return `${family} ${layout} ${dtype} ${[m, n, k].map(bucket).join(" x ")}`;
}

/** Name of a tile in a tuning table. */
export function tileName({ rows, columns }: Tile): string {
  return `${rows}x${columns}`;
}

/** Identity of a tuning table: this device and these kernels. */
export function tuningIdentity(device: Device): TuningIdentity {
  return { adapter: adapterIdentity(device), kernels: kernelDigest(exchangesLanes(device)) };
}

/** Representative size to measure for a side of this length; longer sides have the same key. */
export function measuredSide(size: number): number {
  return Math.min(size, MOST);
}

function tilesOf(device: Device, { family, layout, dtype, m }: Product): readonly Tile[] {
  const large = isFileDtype(dtype) ? SHARED_FILE[layout] : SHARED_MANY[`${layout} ${dtype}`];
  const shared = family === "linear-texture" && exchangesLanes(device) ? large : undefined;
  if (shared && m > shared.above) return shared.tiles;
  const choice = CHOICES[family].find(({ upTo }) => m <= upTo);
  if (!choice) throw new Error(`no tile of ${family} for ${m} rows`);
  return choice.tiles;
}

function defaultTile(device: Device, product: Product): Tile {
  const [tile] = tilesOf(device, product);
  if (!tile) throw new Error(`no tile of ${product.family}`);
  return tile;
}

function bucket(size: number): number {
  return size <= EXACT_UP_TO ? size : Math.round(2 ** (Math.round(2 * Math.log2(Math.min(size, MOST))) / 2));
}

/** Whether the lanes of a workgroup of {@link TEXTURE_LANES} are a subgroup, and may exchange values. */
export function exchangesLanes({ subgroups }: Device): boolean {
  return subgroups?.size === TEXTURE_LANES;
}

const digests = new Map<boolean, string>();

/** Digest of one kernel of each kind, because other kernels have other speeds. */
function kernelDigest(broadcast: boolean): string {
  const known = digests.get(broadcast);
  if (known !== undefined) return known;
  const hash = new Sha256(),
    thin = { transposeA: true, dtype: "f32", rows: 8, vectors: 2, tail: true } as const;
  for (const transposeB of [true, false]) {
    for (const dtype of ["f32", "f16", "q8", "q4", "q8_0", "q4_0", "q5_1", "q5_k", "q6_k"] as const) {
      hash.update(productTexture({ transposeA: false, transposeB, dtype, rows: 8, vectors: 2, broadcast }).code);
      hash.update(productTiled({ transposeB, dtype, rows: 4, columns: 4 }).code);
    }
    hash.update(productTexture({ ...thin, transposeB }).code);
  }
  hash.update(productBuffer({ rows: 4, columns: 4 }).code);
  const digest = hash.hex().slice(0, 16);
  digests.set(broadcast, digest);
  return digest;
}

function tiles(names: string): Tile[] {
  return names.split(" ").map((name) => {
    const [rows = 0, columns = 0] = name.split("x").map(Number);
    return { rows, columns };
  });
}
