// What became of the rows of a data set. Owns the counts; refuses to encode.

/** What became of the rows of a data set. */
export interface EncodeReport {
  /** Rows given. */
  readonly rows: number;
  /** Rows that a run keeps from training, to compare the masked and the sliced model on them; not among `rows`. */
  readonly heldOut: number;
  /** Examples made; a long text gives several. */
  readonly examples: number;
  /** Rows that were cut to fit. */
  readonly truncated: number;
  /** Rows, joined, some labels of which lie in a later sequence than their beginning, and are learned without seeing it. */
  readonly divided: number;
  /** Rows left out because no label of theirs enters the loss. */
  readonly skipped: number;
  /** Rows that were left out in reading because they are empty; not among `rows`. */
  readonly empty: number;
  /** Rows that were left out because they are broken: in reading, which are not among `rows`, and those that cannot be encoded. */
  readonly broken: number;
  /** Tokens of all examples, padding left out. */
  readonly tokens: number;
  /** Labels that enter the loss. */
  readonly labelTokens: number;
  /** Tokens of padding that fill all examples to `seq`. */
  readonly padding: number;
  /** Whether rows were joined. */
  readonly packed: boolean;
  /** Tokens that packing left out, see `pack`, or without it tails of texts that fill no sequence. */
  readonly leftOver: number;
  /** Tokens that the prompt adds to each row, or their mean, see `promptCostOf`; 0 for texts, which get none. */
  readonly promptTokens: number;
  /** The same of the calibration rows, where there are any. */
  readonly calibration?: EncodeReport;
  /** The first few rows of each kind by number: the line in JSON lines, else the place in the array or table. */
  readonly lines: Readonly<Record<"truncated" | "divided" | "skipped" | "empty" | "broken", readonly number[]>>;
}

/** Row numbers that a report names. */
export const NAMED = 5;

/** A report with more rows that were left out as broken. */
export function withBroken(report: EncodeReport, broken: readonly number[]): EncodeReport {
  const first = [...report.lines.broken, ...broken].sort((a, b) => a - b).slice(0, NAMED);
  return { ...report, broken: report.broken + broken.length, lines: { ...report.lines, broken: first } };
}
