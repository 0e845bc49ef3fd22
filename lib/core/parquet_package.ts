// The package that reads parquet tables; see packages.ts. A page loads it only for such a table.
export {
  parquetMetadataAsync,
  type ParquetParsers,
  parquetReadObjects,
  parquetSchema,
  toJson,
} from "npm:hyparquet@^1.31.0";
export { parquetHeader } from "npm:hyparquet@^1.31.0/src/column.js";
export { decompressPage } from "npm:hyparquet@^1.31.0/src/datapage.js";
export { deltaBinaryUnpack } from "npm:hyparquet@^1.31.0/src/delta.js";
export { getMaxDefinitionLevel, getMaxRepetitionLevel, getTreePath } from "npm:hyparquet@^1.31.0/src/schema.js";
