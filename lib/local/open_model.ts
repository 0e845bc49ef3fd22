// A model as its user names it: a folder, a .gguf file, a name on the Hub, or `demo`.
import { refuse } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { pathOf } from "../files/url.ts";
import type { FileSystem } from "../files/system.ts";
import { type ModelFiles, openModel, readSpec } from "../formats/open.ts";
import { fetchedBefore, fetchFromHub } from "../hub/fetch.ts";
import { isHubName } from "../hub/name.ts";
import { viewHub } from "../hub/view.ts";
import type { DecoderSpec } from "../spec/decoder.ts";

/** The name of the model that is part of the toolkit. */
export const DEMO = "demo";

/**
 * Opens weights and tokenizer of a Hugging Face folder, a GGUF, a Hub name or `demo`. This suffices for exporting,
 * slicing and planning, without a GPU.
 *
 * @throws CompressoError("input") if they are missing, broken or unsupported.
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
  return await openModel(disk, await modelPath(model));
}

/**
 * Reads the shape of a model from a folder with a config.json, a config.json itself, a GGUF, a Hub name, or `demo`. The
 * folder need not hold weights. From the Hub only config.json or the header of the GGUF is read, and nothing is stored.
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
  const { files, path } = await lookAt(model, { use: "shape" });
  return await readSpec(files, path);
}

/** A model to inspect; its weights need not be on this machine. */
export interface ModelView {
  readonly files: FileSystem;
  /** Path within `files`. */
  readonly path: string;
  /** Bytes of a model on the Hub; null of one on the disk. */
  readonly bytes: number | null;
}

/**
 * The files of a model to inspect. From the Hub, parts are downloaded as they are read, and not stored. "shape" needs
 * no weights.
 */
export async function lookAt(
  model: string,
  { use = "model", verify }: {
    readonly use?: "model" | "shape";
    /** Whether the hash of each file of the Hub's cache is computed before it is read. Default false. */
    readonly verify?: boolean | undefined;
  } = {},
): Promise<ModelView> {
  if (isHubName(model) && await fetchedBefore(model, "model") === null) return await viewHub(model, { use, verify });
  const path = isHubName(model) ? (await fetchFromHub(model, { verify })).path : await modelPath(model);
  return { files: disk, path, bytes: null };
}

/** Local path of a model: `demo` is a folder of the toolkit; a Hub name is downloaded first. */
export async function modelPath(model: string): Promise<string> {
  if (isHubName(model)) return (await fetchFromHub(model)).path;
  return model === DEMO ? fixture("demo") : model;
}

/**
 * Path of the demo model's own rows, to train on or held out. Each row has `instruction`, `input`, `output` and
 * `choices`.
 *
 * @throws CompressoError("input") if the toolkit does not run from files of this machine.
 * @example
 * ```ts
 * import { demoData, readRows } from "compresso";
 * const { rows } = await readRows(demoData("heldout"), { limit: 3 });
 * if (rows.length !== 3) throw new Error("other rows");
 * ```
 */
export function demoData(split: "train" | "heldout"): string {
  return fixture(`demo_data/${split}.jsonl`);
}

function fixture(name: string): string {
  const url = new URL(`../../fixtures/${name}`, import.meta.url);
  if (url.protocol === "file:") return pathOf(url);
  refuse("input", "cannot open the demo", {
    rule: "its files are on this machine, in the toolkit's folder",
    value: `the toolkit runs from ${url.origin}`,
    fix: "clone the repository, or name a model of your own",
  });
}
