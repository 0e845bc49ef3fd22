// Rows of a parquet table, one row group after another.
import {
  parquetMetadataAsync,
  type ParquetParsers,
  parquetReadObjects,
  parquetSchema,
  toJson,
} from "../../core/parquet_package.ts";
import { CompressoError } from "../../core/errors.ts";
import { type ByteSource, readBytes } from "../../files/system.ts";
import { checkChunks, checkPages, type TableFacts, unpackedBudget } from "./parquet_pages.ts";
import { type Codecs, dataError, messageOf, noCodecs } from "./bytes.ts";
import { NOT_UTF8 } from "../row.ts";

/** Compressions of pages that hyparquet unpacks by itself. */
const BUILT_IN: readonly string[] = ["UNCOMPRESSED", "SNAPPY"];
const CODECS: readonly string[] = [...BUILT_IN, "GZIP", "ZSTD", "BROTLI"];

/**
 * The rows of a table as JSON values, {@link NOT_UTF8} in place of texts that are none, one row group in memory at a time. `wanted` tells before each read how
 * many rows are still wanted; 0 ends the reading.
 *
 * @throws CompressoError("input") for a broken table and for a page compression that is not known.
 */
export async function* parquetRows(
  source: ByteSource,
  { wanted, codecs }: { readonly wanted: () => number; readonly codecs: Codecs | null },
): AsyncGenerator<{ readonly number: number; readonly value: unknown }, void, undefined> {
  const path = source.name, buffer = { byteLength: source.size, slice: sliceOf(source) };
  const metadata = await guarded(path, () => parquetMetadataAsync(buffer, METADATA));
  const codecsUsed = metadata.row_groups.flatMap(({ columns }) =>
    columns.map((column) => column.meta_data?.codec ?? "")
  );
  const unknown = codecsUsed.find((codec) => codec !== "" && !CODECS.includes(codec));
  if (unknown !== undefined) {
    throw dataError(path, `pages are compressed with one of ${CODECS.join(", ")}`, {
      value: unknown,
      fix: "write the table with zstd or snappy",
    });
  }
  const packed = codecs ? undefined : codecsUsed.find((codec) => codec !== "" && !BUILT_IN.includes(codec));
  if (packed !== undefined) throw noCodecs(path, packed);
  const schema = await guarded(path, () => parquetSchema(metadata)), columns = readableOf(schema);
  const check = (work: () => unknown): Promise<unknown> => guarded(path, work);
  await check(() => checkChunks(metadata, schema));
  const table: TableFacts = { schema, codecs, budget: { bytes: unpackedBudget(source.size) } };
  let groupStart = 0;
  for (const { num_rows, columns: chunks } of metadata.row_groups) {
    if (wanted() <= 0) break;
    // A flat column has a value for each row, a nested one no less: rows that are not there would fill the memory.
    const short = chunks.find(({ meta_data }) => meta_data && meta_data.num_values < num_rows)?.meta_data;
    if (short) throw notWhole(path, `${num_rows} rows, but a column holds ${short.num_values}`);
    await check(() =>
      checkPages(buffer, chunks.filter((chunk) => columns.includes(chunk.meta_data?.path_in_schema[0] ?? "")), table)
    );
    const groupEnd = groupStart + Number(num_rows);
    for (let rowStart = groupStart; rowStart < groupEnd && wanted() > 0;) {
      const rowEnd = Math.min(groupEnd, rowStart + Math.min(Math.max(wanted(), LEAST_ROWS), READ_ROWS));
      const range = { rowStart, rowEnd };
      const rows = await guarded(path, async () => {
        const read = await parquetReadObjects({
          file: buffer,
          metadata,
          compressors: codecs?.pages ?? {},
          parsers: PARSERS,
          columns,
          ...range,
        });
        return read.map(toJson);
      });
      for (const [index, value] of rows.entries()) yield { number: rowStart + index + 1, value };
      rowStart = rowEnd;
    }
    groupStart = groupEnd;
  }
}

/** Columns of geometry are no texts, and looking for them goes round for ever where a group has fewer than no columns. */
const METADATA = { geoparquet: false } as const;

/** Rows that are read at once, at least: each read decodes its columns again, and rows may be left out. */
const LEAST_ROWS = 1024;
/** Rows that are read at once, at most. */
const READ_ROWS = 2 ** 20;

const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** hyparquet would replace what is not UTF-8 by other characters; a column of bytes may be there, and is not text. */
function decoded(bytes: Uint8Array): string | typeof NOT_UTF8 {
  try {
    return DECODER.decode(bytes);
  } catch {
    return NOT_UTF8;
  }
}

/** A time as text; null for a time outside the calendar, as some programs write infinity. */
function time(milliseconds: number): string | null {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** Parsers that never fail: other columns than the texts must not stop the reading. */
const PARSERS: Partial<ParquetParsers> = {
  stringFromBytes: (bytes: Uint8Array | undefined): unknown => bytes && decoded(bytes),
  jsonFromBytes(bytes: Uint8Array | undefined): unknown {
    const text = bytes && decoded(bytes);
    if (typeof text !== "string") return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  },
  timestampFromMilliseconds: (value: bigint) => time(Number(value)),
  timestampFromMicroseconds: (value: bigint) => time(Number(value / 1000n)),
  timestampFromNanoseconds: (value: bigint) => time(Number(value / 1_000_000n)),
  dateFromDays: (days: number) => time(86_400_000 * days),
  geometryFromBytes: () => null,
  geographyFromBytes: () => null,
};

/** Forms of values that hyparquet refuses. */
const UNREAD: readonly (string | undefined)[] = ["INTERVAL", "BSON"];

/** Names of the columns that can be read: a table may have unreadable columns in addition to its texts. */
function readableOf({ children }: ReturnType<typeof parquetSchema>): string[] {
  const isRead = ({ element, children }: ReturnType<typeof parquetSchema>): boolean =>
    !UNREAD.includes(element.converted_type) && children.every(isRead);
  return children.filter(isRead).map(({ element }) => element.name);
}

function sliceOf(source: ByteSource): (start: number, end?: number) => Promise<ArrayBuffer> {
  return async (start, end = source.size) => (await readBytes(source, start, Math.max(0, end - start))).buffer;
}

async function guarded<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    throw notWhole(path, messageOf(error));
  }
}

function notWhole(path: string, value: string): ReturnType<typeof dataError> {
  return dataError(path, "it is a whole parquet file", { value, fix: "fetch or write the file again" });
}
