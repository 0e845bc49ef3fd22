// The rows of a run as batches to train on, and sequences that are held out. Owns the split and the hash of the examples; refuses files.
import { createHash } from "node:crypto";
import { CompressoError } from "../errors.ts";
import { type Batches, createBatches, type EncodeReport, encodeRows } from "./batches.ts";
import type { Model } from "./model.ts";
import type { PruneOptions, ResolvedOptions } from "./options.ts";

/** Rows as a run uses them. */
export interface RunData {
  /** What became of the rows that are trained on. */
  readonly report: EncodeReport;
  /** Sequences for comparing the masked with the sliced model. */
  readonly heldout: readonly (readonly number[])[];
  /** Hash of all examples. */
  readonly digest: string;
  readonly makeBatches: (seed: number) => Batches;
}

/** Encodes the rows of a run. Throws `CompressoError("input")` for a model without tokenizer. */
export function encodeRun(
  { tokenizer }: Model,
  { rows, prompt, packing, batch, seq }: ResolvedOptions,
  { reading }: Pick<PruneOptions, "reading"> = {},
): RunData {
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: "cannot train on text",
      rule: "the model has a tokenizer",
      value: "there is none beside the weights",
      mend: "put tokenizer.json into the model's folder",
    });
  }
  const encoding = { tokenizer, prompt, packing, seq };
  const [training, heldoutRows] = splitRows(rows);
  const { examples, report } = encodeRows(training, { ...encoding, ...(reading ? { reading } : {}) });
  const padId = tokenizer.padId ?? tokenizer.eosId ?? 0;
  return {
    report,
    heldout: encodeRows(heldoutRows, encoding).examples.map(({ tokens }) => [...tokens]),
    digest: digestOf(examples.flatMap(({ tokens, labels }) => [tokens, labels])),
    makeBatches: (seed) => createBatches(examples, { batch, seq, seed, padId }),
  };
}

/** A short hash. */
export function digestOf(parts: Iterable<string | Uint8Array | Uint32Array | Int32Array>): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex").slice(0, 16);
}

/** Rows to train on, and up to 8 that are held out. */
function splitRows<T>(rows: readonly T[]): [training: readonly T[], heldout: readonly T[]] {
  const count = Math.min(8, Math.floor(rows.length / 10));
  return count === 0 ? [rows, rows.slice(-1)] : [rows.slice(0, -count), rows.slice(-count)];
}
