// The npm packages of lib/, with versions in the specifiers. Without an import map, as where mod.ts is imported by URL, a bare name such as "zod"
// cannot be resolved, so lib/ takes its packages from here. Versions are those of deno.json, which a test compares.
export { Environment, Interpreter, Template } from "npm:@huggingface/jinja@^0.5.0";
export { ByteFallbackDecoder, Tokenizer as LibraryTokenizer } from "npm:@huggingface/tokenizers@^0.2.0";
export * as z from "./zod.ts";
