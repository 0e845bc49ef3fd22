// The npm packages of lib/, with versions in the specifiers. Without an import map, as where mod.ts is imported by URL, a bare name such as "zod"
// cannot be resolved, so lib/ takes its packages from here. Versions are those of deno.json, which a test compares.
export { Environment, Interpreter, Template } from "npm:@huggingface/jinja@^0.5.0";
export { ByteFallbackDecoder, Tokenizer as LibraryTokenizer } from "npm:@huggingface/tokenizers@^0.2.0";
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
export * as z from "./zod.ts";
// @ts-types="npm:@types/d3-scale@^4.0.9"
export { scaleLinear } from "npm:d3-scale@^4.0.2";
// @ts-types="npm:@types/d3-shape@^3.2.0"
export { line as pathLine } from "npm:d3-shape@^3.2.0";
// @ts-types="npm:@types/d3-time-format@^4.0.3"
export { timeFormat } from "npm:d3-time-format@^4.1.0";
