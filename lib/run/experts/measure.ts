// How a model uses its experts on rows of data, read as a run that cuts experts reads them.
import type { Row } from "../../data/rows.ts";
import type { Device } from "../../gpu/device.ts";
import type { BaseDtype } from "../../nn/weights.ts";
import { checkContext } from "../../data/encode_rows.ts";
import { checkExperts, type ExpertUse, measureExperts } from "../../slice/expert_use.ts";
import { type Group, grouped } from "../../slice/by_layers.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import { noTokenizer } from "../../text/no_tokenizer.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { sequencesToMeasure } from "../calibration.ts";
import { encodeRun } from "../data.ts";
import type { ResolvedOptions } from "../options/options.ts";
import { OPTION_TABLE } from "../options/table.ts";

/** Tokens of a pass that measures the use of experts. */
export const PASS_ROWS = 512;

/** Where and how a model runs to be measured. */
export interface Measuring {
  readonly device: Device;
  /** Tokens per sequence. */
  readonly seq: number;
  readonly baseDtype: BaseDtype;
  readonly signal?: AbortSignal | undefined;
  /** Called with the share that is done, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Sequences of token ids in the groups in which experts are scored. */
export function scoredGroups(
  sequences: readonly (readonly number[])[],
  { spec, seq }: { readonly spec: Pick<DecoderSpec, "maxPosition">; readonly seq: number },
): Group[] {
  const window = Math.min(seq, spec.maxPosition);
  // A pass has no more sequences than there are: padding costs as much as tokens do.
  const pieces = sequences.reduce((sum, { length }) => sum + Math.ceil(length / window), 0);
  return grouped(sequences, { window, rows: Math.min(Math.max(seq, PASS_ROWS), pieces * window) });
}

/**
 * How a model uses its experts on rows. The sequences are those on which `prune` scores experts by the same rows, with
 * its other options at their defaults.
 *
 * @throws CompressoError("usage") for a model without experts, and sequences longer than its context.
 * @throws CompressoError("input") for a model without tokenizer, and for rows that cannot be encoded.
 */
export async function measureOnRows(
  { source, tokenizer }: { readonly source: WeightSource; readonly tokenizer: Tokenizer | null },
  rows: readonly Row[],
  how: Measuring,
): Promise<ExpertUse> {
  const { spec } = source, { packing, batch, seed } = OPTION_TABLE;
  checkExperts(source, "cannot measure the use of experts");
  if (!tokenizer) throw noTokenizer("cannot measure the use of experts on text");
  checkContext(how.seq, spec);
  const encoding: Pick<ResolvedOptions, "rows" | "prompt" | "packing" | "batch" | "seq" | "seed"> = {
    rows,
    prompt: null,
    packing: packing.default,
    batch: batch.default,
    seq: how.seq,
    seed: seed.default,
  };
  const data = encodeRun({ tokenizer, spec }, encoding);
  const { seq, ...run } = how, shape = { window: seq, rows: Math.max(seq, PASS_ROWS) };
  return await measureExperts(source, { ...run, ...shape, tokens: sequencesToMeasure(data, encoding) });
}
