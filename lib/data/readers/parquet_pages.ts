// Checks a parquet table's chunks and page headers before hyparquet reads them: it trusts sizes, and a missing one makes it read one byte for ever.
import {
  decompressPage,
  getMaxDefinitionLevel,
  getMaxRepetitionLevel,
  getTreePath,
  parquetHeader,
  type parquetMetadataAsync,
  type parquetSchema,
} from "../../core/parquet_package.ts";
import type { Codecs } from "./bytes.ts";
import { checkCount, checkLevels, checkValues } from "./parquet_values.ts";

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

/** What checking pages needs to know of their table. */
export interface TableFacts {
  readonly schema: Schema;
  readonly codecs: Codecs | null;
  /** Bytes that pages may still unpack to; checking takes from it. */
  readonly budget: { bytes: number };
}

/** Bytes that the pages of a file of so many bytes may unpack to: gzip packs up to a thousand times. */
export function unpackedBudget(fileBytes: number): number {
  return 2 ** 28 + 1024 * fileBytes;
}

/**
 * Checks the pages of chunks, as far as hyparquet reads them: their headers, and that they make no more values and bytes than their bytes may stand for.
 * Takes time and memory in proportion to the chunks' bytes, unpacked.
 *
 * @throws Error that names the chunk.
 */
export async function checkPages(file: RangedFile, chunks: readonly Chunk[], table: TableFacts): Promise<void> {
  for (const { meta_data: meta } of chunks) {
    if (!meta) continue;
    const start = Number(meta.dictionary_page_offset || meta.data_page_offset);
    const end = start + Number(meta.total_compressed_size), column = meta.path_in_schema.join(".");
    if (!isSize(start) || !(end >= start && end <= file.byteLength)) {
      throw new Error(`column ${column} lies from byte ${start} to ${end} of ${file.byteLength}`);
    }
    const reader = { view: new DataView(await file.slice(start, end)), offset: 0 };
    const total = Number(meta.num_values), path = getTreePath(table.schema, meta.path_in_schema);
    for (let values = 0, bytes = 0; reader.offset < reader.view.byteLength - 1;) {
      // A writer may leave bytes after the last page of a flat column.
      if (values >= total && meta.path_in_schema.length === 1) break;
      try {
        const page = pageAt(reader);
        table.budget.bytes -= page.header.uncompressed_page_size;
        if (table.budget.bytes < 0) throw new Error("it unpacks to more than its file may stand for");
        checkPage(page, { meta, path, codecs: table.codecs });
        values += page.values;
        bytes += page.header.uncompressed_page_size;
      } catch (error) {
        throw new Error(`a page of column ${column}: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (values > total) throw new Error(`the pages of column ${column} hold more than its ${total} values`);
      // All pages of a nested column are read at once.
      if (path.length > 2) checkCount(values / NESTED, bytes);
    }
  }
}

/** Values that a nested column may have for each that a page may have. */
const NESTED = 16;

type Header = ReturnType<typeof parquetHeader>;

/** A page in its chunk. */
interface Page {
  readonly header: Header;
  /** Its bytes, packed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Values that it adds to the column. */
  readonly values: number;
}

/** Checks the header of the page at the reader, and moves past the page. */
function pageAt(reader: { readonly view: DataView<ArrayBuffer>; offset: number }): Page {
  const header = parquetHeader(reader), { type } = header, left = reader.view.byteLength - reader.offset;
  const check = (value: unknown, name: string, most = MOST): number => {
    if (isSize(value) && value <= most) return value;
    throw new Error(`${String(value)} for ${name}`);
  };
  const { view, offset } = reader, size = check(header.compressed_page_size, "its compressed size", left);
  const bytes = new Uint8Array(view.buffer, view.byteOffset + offset, size);
  reader.offset += size;
  check(header.uncompressed_page_size, "its size");
  switch (type) {
    case "DATA_PAGE":
      return { header, bytes, values: check(header.data_page_header?.num_values, "its number of values") };
    case "DATA_PAGE_V2": {
      const page = header.data_page_header_v2;
      const values = check(page?.num_values, "its number of values");
      check(page?.num_rows, "its number of rows", values);
      check(page?.num_nulls, "its number of nulls", values);
      const most = Math.min(size, header.uncompressed_page_size);
      const repetition = check(page?.repetition_levels_byte_length, "the size of its levels", most);
      check(page?.definition_levels_byte_length, "the size of its levels", most - repetition);
      return { header, bytes, values };
    }
    case "DICTIONARY_PAGE":
      // A value takes a bit or more.
      check(header.dictionary_page_header?.num_values, "its number of values", 8 * header.uncompressed_page_size);
      return { header, bytes, values: 0 };
    default:
      return { header, bytes, values: 0 }; // hyparquet says that it does not know it
  }
}

/** Checks what a page of values decodes to. */
function checkPage(
  { header, bytes, values }: Page,
  { meta, path, codecs }: {
    readonly meta: NonNullable<Chunk["meta_data"]>;
    readonly path: ReturnType<typeof getTreePath>;
    readonly codecs: Codecs | null;
  },
): void {
  const { data_page_header: v1, data_page_header_v2: v2, uncompressed_page_size: size } = header;
  checkCount(values, size);
  const repetition = { most: getMaxRepetitionLevel(path), count: values };
  const definition = { most: getMaxDefinitionLevel(path), count: values };
  const { type } = meta, typeLength = path.at(-1)?.element.type_length;
  const unpack = (part: Uint8Array, length: number): { readonly view: DataView; offset: number } => {
    const page = decompressPage(part, length, meta.codec, codecs?.pages ?? {});
    return { view: new DataView(page.buffer, page.byteOffset, page.byteLength), offset: 0 };
  };
  if (header.type === "DATA_PAGE" && v1) {
    const { encoding } = v1;
    if (encoding === "PLAIN" && repetition.most + definition.most === 0) return;
    const reader = unpack(bytes, size);
    checkLevels(reader, repetition);
    const count = checkLevels(reader, definition);
    checkValues(reader, { type, encoding, typeLength, count }, { isV2: false });
  }
  if (header.type === "DATA_PAGE_V2" && v2) {
    const { encoding, repetition_levels_byte_length: first, definition_levels_byte_length: second } = v2;
    const levels = { view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), offset: 0 };
    checkLevels(levels, { ...repetition, length: first });
    levels.offset = first;
    checkLevels(levels, { ...definition, length: second });
    const part = bytes.subarray(first + second), length = size - first - second;
    if (encoding === "PLAIN" || length === 0) return;
    const reader = v2.is_compressed !== false
      ? unpack(part, length)
      : { view: new DataView(part.buffer, part.byteOffset, part.byteLength), offset: 0 };
    checkValues(reader, { type, encoding, typeLength, count: values - v2.num_nulls }, { isV2: true });
  }
}

/** Of a 32-bit count. */
const MOST = 2 ** 31 - 1;

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}
