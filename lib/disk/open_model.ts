// A model as its user names it: a folder, a .gguf file, or `demo`.
import { CompressoError } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { pathOf } from "../files/url.ts";
import { type ModelFiles, openModel, readSpec } from "../formats/open.ts";
import type { DecoderSpec } from "../spec/decoder.ts";

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
  return await openModel(disk, modelPath(model));
}

/**
 * Reads what a model is from a folder with a config.json, a config.json itself, a GGUF, or `demo`. The folder need not hold weights.
 *
 * @throws CompressoError("input") for anything else, and for a model that a {@link DecoderSpec} does not describe.
 * @example
 * ```ts
 * import { openSpec } from "compresso/model";
 * const { layers } = await openSpec("demo");
 * if (layers.length !== 5) throw new Error("not the demo");
 * ```
 */
export async function openSpec(model: string): Promise<DecoderSpec> {
  return await readSpec(disk, modelPath(model));
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
  if (url.protocol === "file:") return pathOf(url);
  throw new CompressoError("input", {
    what: "cannot open the demo",
    rule: "its files are beside the toolkit on this machine",
    value: `the toolkit runs from ${url.origin}`,
    fix: "clone the repository, or name a model of your own",
  });
}
