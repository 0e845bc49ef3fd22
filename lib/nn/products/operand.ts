// Activations as operands of products: copied to scratch textures if products read textures.
import { PACK_TILE, productPack } from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type Plan, u32 } from "../../gpu/plan.ts";
import { COLUMN_ALIGN, paddedRows, strideOf } from "../padding.ts";
import type { MatrixPlacement } from "./matrix.ts";

/** A row-major f32 matrix inside a buffer; offset and stride in f32. */
export interface BufferView {
  readonly buffer: DeviceBuffer;
  readonly offset?: number;
  readonly stride: number;
  /** A texture that holds the same matrix from its upper left, 4 values per texel. */
  readonly texture?: DeviceTexture | null;
}

/** An activation [rows, stride] that products can read. */
export interface Operand extends BufferView {
  readonly rows: number;
  readonly texture: DeviceTexture | null;
}

/** Extra texels at the end of a scratch row; see `createMatrix`. */
const TEXTURE_PAD = 4;
const DEFAULT_SLOT = "operand";
/** Values of an aligned view up to which a kernel writes its texture. */
const MOST_PACKED = 1 << 15;

/**
 * Scratch textures and buffers by slot. The next use of a slot overwrites its contents. Dispose the pool after the
 * plans that use it.
 */
export class OperandPool implements Disposable {
  readonly device: Device;
  readonly placement: MatrixPlacement;
  readonly #textures = new Map<string, { width: number; height: number; texture: DeviceTexture }[]>();
  readonly #buffers = new Map<string, DeviceBuffer[]>();

  constructor(device: Device, placement: MatrixPlacement = device.facts.isCpu ? "texture" : "buffer") {
    this.device = device;
    this.placement = placement;
  }

  /** The texture of the slot, with room for at least rows × columns f32. */
  texture(slot: string, rows: number, columns: number): DeviceTexture {
    const list = entryOf(this.#textures, slot);
    const width = Math.ceil(columns / 4) + TEXTURE_PAD, height = paddedRows(rows);
    let entry = list.find((known) => known.width >= width && known.height >= height);
    if (!entry) {
      entry = { width, height, texture: this.device.createTexture(`operands: ${slot}`, width, height, "rgba32float") };
      list.push(entry);
    }
    return entry.texture;
  }

  /** The buffer of the slot, with room for at least `floats` f32. */
  buffer(slot: string, floats: number): DeviceBuffer {
    const list = entryOf(this.#buffers, slot);
    let buffer = list.find((known) => known.bytes >= 4 * floats);
    if (!buffer) list.push(buffer = this.device.createBuffer(`operands: ${slot}`, 4 * floats));
    return buffer;
  }

  [Symbol.dispose](): void {
    for (const { texture } of [...this.#textures.values()].flat()) texture[Symbol.dispose]();
    for (const buffer of [...this.#buffers.values()].flat()) buffer[Symbol.dispose]();
    this.#textures.clear();
    this.#buffers.clear();
  }
}

/**
 * Makes an activation readable by products from this point of the plan. If products read textures this records a copy:
 * the operand is the content of the buffer at this step, and is valid until the next operand of the same slot.
 */
export function operand(
  plan: Plan,
  pool: OperandPool,
  buffer: DeviceBuffer,
  options: {
    readonly rows: number;
    readonly stride: number;
    readonly slot?: string;
    /** First column and number of columns, multiples of 4; only if products read textures. Default: all. */
    readonly columns?: readonly [first: number, count: number];
  },
): Operand {
  const { rows, stride, slot = DEFAULT_SLOT, columns: [first, count] = [0, stride] } = options;
  if (pool.placement === "buffer") {
    if (count !== stride) throw new Error("operand: a part of the columns needs the texture placement");
    return { buffer, stride, rows, texture: null };
  }
  const texture = pool.texture(slot, rows, count);
  fillTexture(plan, texture, { view: { buffer, offset: first, stride }, rows, columns: count, width: count });
  return { buffer, stride: count, rows, texture };
}

/** The view, with a texture of it for several products if these read textures. */
export function textured(plan: Plan, pool: OperandPool, options: Parameters<typeof viewTexture>[2]): BufferView {
  if (pool.placement === "buffer") return options.view;
  return { ...options.view, texture: viewTexture(plan, pool, options) };
}

/** Returns a texture of any view, and records how it is filled: not at all, by a copy, or by a packed copy. */
export function viewTexture(plan: Plan, pool: OperandPool, options: {
  readonly view: BufferView;
  readonly rows: number;
  readonly columns: number;
  readonly slot: string;
}): DeviceTexture {
  const { view, rows, columns, slot } = options;
  if (view.texture) return view.texture;
  const { buffer, offset = 0, stride } = view;
  const isPadded = offset % 4 === 0 && stride % COLUMN_ALIGN === 0 && 4 * (offset + rows * stride) <= buffer.bytes;
  const width = isPadded ? stride : strideOf(columns);
  const texture = pool.texture(slot, rows, width);
  fillTexture(plan, texture, { view, rows, columns: isPadded ? stride : columns, width });
  return texture;
}

/**
 * Records that a view [rows, columns] is written to the upper left of a texture, with zeros from `columns` to `width`,
 * a multiple of 4. A large view whose rows are aligned is copied. A small one is written by a kernel: a copy would end
 * the compute pass, which takes longer than the copy.
 */
export function fillTexture(plan: Plan, texture: DeviceTexture, options: {
  readonly view: BufferView;
  readonly rows: number;
  readonly columns: number;
  readonly width: number;
}): void {
  const { view: { buffer, offset = 0, stride }, rows, columns, width } = options, texels = width / 4;
  if (rows * width > MOST_PACKED && columns === width && offset % 4 === 0 && stride % COLUMN_ALIGN === 0) {
    plan.copyToTexture(buffer, texture, { bytesPerRow: 4 * stride, rows, byteOffset: 4 * offset, texels });
    return;
  }
  plan.dispatch(compileKernel(plan.device, productPack), [
    buffer,
    texture,
    { params: [columns, offset, stride, texels, rows].map(u32) },
  ], {
    groups: [Math.ceil(texels / PACK_TILE.texels), Math.ceil(rows / PACK_TILE.rows)],
    cost: rows * width,
  });
}

function entryOf<T>(map: Map<string, T[]>, key: string): T[] {
  let list = map.get(key);
  if (!list) map.set(key, list = []);
  return list;
}
