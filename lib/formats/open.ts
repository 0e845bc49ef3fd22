// Weights from a path, whatever stands there. Owns telling formats apart by content, never by extension; refuses to read any itself.
import { CompressoError } from "../core/errors.ts";
import { fileSize, looksLike, readBytes, unreadable } from "../files/bytes.ts";
import { exists } from "../files/exists.ts";
import { type GgufSource, openGguf } from "./gguf/model.ts";
import { type HfSource, noWeights, openHfFolder } from "./hf/model.ts";

/**
 * Opens a Hugging Face folder (one with config.json) or a GGUF file; `format` tells which it was.
 * Throws `CompressoError("input")` for a path that is neither, saying what it seems to be, and as the reader of the format.
 */
export async function openWeights(path: string): Promise<HfSource | GgufSource> {
  const info = await statModel(path);
  if (info.isDirectory) {
    if (await exists(`${path}/config.json`)) return await openHfFolder(path);
    throw await noWeights(path, "config.json");
  }
  const head = await readBytes(path, 0, { length: Math.min(await fileSize(path), 64) });
  if (new TextDecoder("latin1").decode(head.subarray(0, 4)) === "GGUF") return await openGguf(path);
  const guess = looksLike(head) ?? { what: "something else", fix: "give a Hugging Face folder or a GGUF file" };
  throw new CompressoError("input", {
    what: `cannot open the model ${path}`,
    rule: "it is a Hugging Face folder, or a file that starts with GGUF",
    value: guess.what,
    fix: guess.fix,
  });
}

/** What stands at a model's path. Throws `CompressoError("input")` where nothing does, or it may not be read. */
export async function statModel(path: string): Promise<Deno.FileInfo> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    const failure = unreadable(path, error), [owner = "", name] = path.split("/");
    if (!(error instanceof Deno.errors.NotFound) || !HUB_ID.test(path) || await exists(owner)) throw failure;
    throw new CompressoError("input", {
      ...failure.parts,
      fix:
        `check the spelling; a model of the Hugging Face Hub is downloaded first: hf download ${path} --local-dir ${name}`,
    }, { cause: error });
  }
}

/** Owner and name of a model on the Hub; names of files end otherwise. */
const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(?<!\.(?:gguf|json|jsonl|safetensors|txt))$/;
