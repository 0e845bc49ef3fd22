// The interface of all weight readers, and the input of all writers.
import type { QuantRows } from "./quant.ts";
import type { DecoderSpec } from "./decoder.ts";
import type { Provenance } from "./provenance.ts";

/** A range of rows of a matrix, [start, start + count). */
export interface RowRange {
  /** First row. */
  readonly start: number;
  /** Number of rows. */
  readonly count: number;
}

/** Options of {@link WeightSource.readBlocks}. */
export interface BlockOptions {
  /** Largest number of bits of a code. */
  readonly bits: 4 | 8;
  /** Default: all rows. */
  readonly rows?: RowRange;
}

/**
 * Weights of one model by canonical name (see `tensorShapes`), dequantised to f32 on reading.
 * Rows of q and k are always in Hugging Face's order (rotate-half RoPE), for every file format.
 *
 * @example
 * ```ts
 * import { openModelFiles, projectionName, tensorShapes } from "compresso/model";
 *
 * const { source } = await openModelFiles("demo");
 * const name = projectionName(0, "down"), [rows = 0, columns = 0] = tensorShapes(source.spec).get(name) ?? [];
 * const weights = await source.read(name); // [hidden, ffn] of the first layer, row by row
 * const last = await source.read(name, { start: rows - 1, count: 1 });
 * if (weights.length !== rows * columns || last[0] !== weights[(rows - 1) * columns]) throw new Error(name);
 * ```
 */
export interface WeightSource {
  /** Shape of the model. */
  readonly spec: DecoderSpec;
  /** Origin and licence according to its files; derived models keep them. Absent if unknown. */
  readonly provenance?: Provenance;
  /**
   * Reads a whole tensor or a range of its rows, row-major.
   *
   * @throws CompressoError("input") if the file is broken.
   */
  read(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>>;
  /**
   * Reads rows as the file's own blocks of 32 columns, with codes of at most `bits` bits, so that they are not
   * quantised twice. Null if the tensor has no such blocks in the file. Absent for sources that never have blocks.
   * Throws like `read`.
   *
   * @internal
   */
  readBlocks?(name: string, options: BlockOptions): Promise<QuantRows | null>;
  /**
   * Reads rows as the bytes of the file, in the type that `storedDtype` names, so that an export in that type can copy
   * them. Null if the bytes do not form whole rows, or if the values were changed. Absent for sources that never read
   * stored bytes, such as a source that changes another source's values. May read into the beginning of `into` if it is
   * large enough, to save memory. Throws like `read`.
   */
  readStored?(
    name: string,
    rows?: RowRange,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Dtype in which the file stores the tensor, in lower case: "f32", "f16", "bf16", "q4_1", … */
  storedDtype(name: string): string;
}
