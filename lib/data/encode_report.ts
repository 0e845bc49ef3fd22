// Report on the rows of a data set: how many were used, cut and left out, and where.
import type { RowPlace } from "./row.ts";

/** What became of the rows of a data set. */
export interface EncodeReport {
  /** Rows given. */
  readonly rows: number;
  /** Rows of the data that a run keeps from training, to compare the masked and the sliced model on them; not among `rows`. */
  readonly heldOut: number;
  /** Examples made; a long text gives several. */
  readonly examples: number;
  /** Rows that were cut to fit. */
  readonly truncated: number;
  /** Packed rows whose labels are partly in a later sequence than their beginning, and are learned without it. */
  readonly divided: number;
  /** Rows left out because no label of theirs enters the loss. */
  readonly skipped: number;
  /** Rows that were left out in reading because they are empty; not among `rows`. */
  readonly empty: number;
  /** Broken rows that were left out: rows that cannot be read (not among `rows`), and rows that cannot be encoded. */
  readonly broken: number;
  /** Tokens of all examples, padding left out. */
  readonly tokens: number;
  /** Labels that enter the loss. */
  readonly labelTokens: number;
  /** Tokens of padding that fill all examples to `seq`. */
  readonly padding: number;
  /** Whether rows were joined. */
  readonly packed: boolean;
  /** Tokens left out: by packing (see `pack`) or, without packing, the ends of texts that do not fill a sequence. */
  readonly leftOver: number;
  /** Tokens that the prompt adds to each row, or their mean, see `promptCostOf`; 0 for texts, which get none. */
  readonly promptTokens: number;
  /** The same of the calibration rows, where there are any. */
  readonly calibration?: EncodeReport;
  /** The first few rows of each kind by number: the line in JSON lines, else the place in the array or table. */
  readonly lines: Readonly<Record<"truncated" | "divided" | "skipped" | "empty" | "broken", readonly number[]>>;
  /** Where the file is a JSON array, the lines on which these rows begin, by their numbers. */
  readonly fileLines?: Readonly<Record<string, number>>;
}

/** Rows that a report names, and a message. */
const NAMED = 5;

type Kind = keyof EncodeReport["lines"];

/** The first few rows of each kind as a report has them. */
export function firstPlaces(
  { truncated, divided, skipped, empty, broken }: Readonly<Record<Kind, readonly RowPlace[]>>,
): Pick<EncodeReport, "lines" | "fileLines"> {
  const byLine = new Map<number, number>();
  const first = (places: readonly RowPlace[]): readonly number[] =>
    places.slice(0, NAMED).map(({ row, line }) => {
      if (line !== undefined) byLine.set(row, line);
      return row;
    });
  const lines = {
    truncated: first(truncated),
    divided: first(divided),
    skipped: first(skipped),
    empty: first(empty),
    broken: first(broken),
  };
  return { lines, ...(byLine.size > 0 ? { fileLines: Object.fromEntries(byLine) } : {}) };
}

/** Places of the rows of a kind that a report names. */
export function placesOf({ lines, fileLines = {} }: EncodeReport, kind: Kind): readonly RowPlace[] {
  return lines[kind].map((row) => {
    const line = fileLines[row];
    return { row, ...(line === undefined ? {} : { line }) };
  });
}

/** The first few places of so many rows: "(row 1, 5, …)", or with lines "(row 1, line 3; 5, line 9; …)". */
export function placesNamed(places: readonly RowPlace[], count: number = places.length): string {
  const first = places.slice(0, NAMED), isByLine = first.some(({ line }) => line !== undefined);
  const names = first.map(({ row, line }) => line === undefined ? `${row}` : `${row}, line ${line}`);
  return `(row ${[...names, ...(count > first.length ? ["…"] : [])].join(isByLine ? "; " : ", ")})`;
}

/** A report with more rows that were left out as broken. */
export function withBroken(report: EncodeReport, broken: readonly RowPlace[]): EncodeReport {
  const all = [...placesOf(report, "broken"), ...broken].sort((a, b) => a.row - b.row);
  const own = (kind: Kind): readonly RowPlace[] => placesOf(report, kind);
  const others = {
    truncated: own("truncated"),
    divided: own("divided"),
    skipped: own("skipped"),
    empty: own("empty"),
  };
  return { ...report, broken: report.broken + broken.length, ...firstPlaces({ ...others, broken: all }) };
}
