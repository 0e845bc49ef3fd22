// A model as its user names it: a folder, a .gguf file, or `demo`. Owns finding weights, tokenizer and the demo's data; refuses the GPU.
import { fileURLToPath } from "node:url";
import { CompressoError } from "../core/errors.ts";
import { NO_TOKENIZER, tokenizerFromGguf } from "./gguf/tokenizer.ts";
import { openWeights } from "./open.ts";
import type { WeightSource } from "../spec/source.ts";
import { loadHfTokenizer, type Tokenizer } from "../text/tokenizer.ts";

/** What belongs to a model on disk. */
export interface ModelFiles {
  /** Its weights, read as they are asked for. */
  readonly source: WeightSource;
  /** Null where the folder has none; only text needs one. */
  readonly tokenizer: Tokenizer | null;
}

/** The name of the model that the toolkit brings along. */
export const DEMO = "demo";

/**
 * Opens weights and tokenizer of a Hugging Face folder, a GGUF or `demo`: all that exporting, slicing and planning take, without a GPU.
 *
 * @throws CompressoError("input") where they are missing, broken or unsupported.
 * @example
 * ```ts
 * import { exportModel } from "compresso";
 * import { openModelFiles } from "compresso/model";
 * const { source, tokenizer } = await openModelFiles("demo"), out = await Deno.makeTempDir();
 * const { gguf } = await exportModel(source, out, { formats: ["gguf"], tokenizer, name: "demo" });
 * if (!gguf) throw new Error("no GGUF");
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export async function openModelFiles(model: string): Promise<ModelFiles> {
  const path = modelPath(model);
  const source = await openWeights(path);
  const metadata = "metadata" in source ? source.metadata : null;
  if (!(metadata instanceof Map)) return { source, tokenizer: await loadHfTokenizer(path) };
  const kind = metadata.get("tokenizer.ggml.model") ?? NO_TOKENIZER;
  return { source, tokenizer: kind === NO_TOKENIZER ? null : tokenizerFromGguf(metadata) };
}

/** Path of a model: `demo` stands for the folder that the toolkit brings along. */
export function modelPath(model: string): string {
  return model === DEMO ? fixture("demo") : model;
}

/** The demo's own data, rows of instruction, input, output and choices: to train on, or held out. */
export function demoData(split: "train" | "heldout"): string {
  return fixture(`demo_data/${split}.jsonl`);
}

function fixture(name: string): string {
  const url = new URL(`../../fixtures/${name}`, import.meta.url);
  if (url.protocol === "file:") return fileURLToPath(url);
  throw new CompressoError("input", {
    what: "cannot open the demo",
    rule: "its files lie beside the toolkit on this machine",
    value: `the toolkit runs from ${url.origin}`,
    fix: "clone the repository, or name a model of your own",
  });
}
