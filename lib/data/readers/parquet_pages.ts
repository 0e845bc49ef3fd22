// Checks a parquet table's chunks and page headers before hyparquet reads them: it trusts sizes, and a missing one makes it read one byte for ever.
import { parquetHeader, type parquetMetadataAsync, type parquetSchema } from "../../core/packages.ts";

type Metadata = Awaited<ReturnType<typeof parquetMetadataAsync>>;
type Schema = ReturnType<typeof parquetSchema>;
type Chunk = Metadata["row_groups"][number]["columns"][number];

/** A file whose bytes are read by range. */
export interface RangedFile {
  readonly byteLength: number;
  slice(start: number, end?: number): Promise<ArrayBuffer>;
}

/**
 * Checks that each chunk is one of a leaf of the schema, once in its group: hyparquet starts to read columns before it finds that another one is
 * missing, and leaves their errors unhandled.
 *
 * @throws Error that names the chunk.
 */
export function checkChunks({ row_groups: groups }: Metadata, schema: Schema): void {
  const leaves = new Set<string>();
  const visit = ({ path, children }: Schema): void => {
    if (children.length === 0) leaves.add(path.join("."));
    children.forEach(visit);
  };
  visit(schema);
  for (const { columns } of groups) {
    const seen = new Set<string>();
    for (const { meta_data } of columns) {
      const path = meta_data?.path_in_schema.join(".") ?? "without metadata";
      if (!leaves.has(path)) throw new Error(`the schema has no column ${path}`);
      if (seen.has(path)) throw new Error(`column ${path} comes twice in a row group`);
      seen.add(path);
    }
  }
}

/**
 * Checks the page headers of chunks, as far as hyparquet reads them. Takes time and memory in proportion to the chunks' bytes.
 *
 * @throws Error that names the chunk.
 */
export async function checkPages(file: RangedFile, chunks: readonly Chunk[]): Promise<void> {
  for (const { meta_data: meta } of chunks) {
    if (!meta) continue;
    const start = Number(meta.dictionary_page_offset || meta.data_page_offset);
    const end = start + Number(meta.total_compressed_size), column = meta.path_in_schema.join(".");
    if (!isSize(start) || !(end >= start && end <= file.byteLength)) {
      throw new Error(`column ${column} lies from byte ${start} to ${end} of ${file.byteLength}`);
    }
    const reader = { view: new DataView(await file.slice(start, end)), offset: 0 };
    const total = Number(meta.num_values);
    for (let values = 0; reader.offset < reader.view.byteLength - 1;) {
      // A writer may leave bytes behind the last page of a flat column.
      if (values >= total && meta.path_in_schema.length === 1) break;
      values += valuesOfPage(reader, column);
      if (values > total) throw new Error(`the pages of column ${column} hold more than its ${total} values`);
    }
  }
}

/** Checks the page at the reader, moves behind it, and returns how many values it adds to the column. */
function valuesOfPage(reader: { readonly view: DataView; offset: number }, column: string): number {
  const { type, ...page } = parquetHeader(reader), left = reader.view.byteLength - reader.offset;
  const check = (value: unknown, name: string, most = MOST): number => {
    if (isSize(value) && value <= most) return value;
    throw new Error(`a page of column ${column} has ${String(value)} for ${name}`);
  };
  reader.offset += check(page.compressed_page_size, "its compressed size", left);
  check(page.uncompressed_page_size, "its size");
  switch (type) {
    case "DATA_PAGE":
      return check(page.data_page_header?.num_values, "its number of values");
    case "DATA_PAGE_V2": {
      const header = page.data_page_header_v2;
      const values = check(header?.num_values, "its number of values");
      check(header?.num_rows, "its number of rows", values);
      check(header?.num_nulls, "its number of nulls", values);
      const repetition = check(header?.repetition_levels_byte_length, "the size of its levels", left);
      check(header?.definition_levels_byte_length, "the size of its levels", left - repetition);
      return values;
    }
    case "DICTIONARY_PAGE":
      // A value takes a bit or more.
      check(page.dictionary_page_header?.num_values, "its number of values", 8 * page.uncompressed_page_size);
      return 0;
    default:
      return 0; // hyparquet says that it does not know it
  }
}

/** Of a 32-bit count. */
const MOST = 2 ** 31 - 1;

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}
