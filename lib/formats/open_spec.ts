// The shape of a model without its weights: from a config.json alone, or the header of a GGUF. Owns telling the two apart; refuses to read tensors.
import { CompressoError } from "../core/errors.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { looksLike, readBytes } from "../files/bytes.ts";
import { exists } from "../files/exists.ts";
import { openGguf } from "./gguf/model.ts";
import { noWeights, readHfConfig } from "./hf/model.ts";
import { statModel } from "./open.ts";
import { modelPath } from "./open_model.ts";

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
  const path = modelPath(model);
  const info = await statModel(path);
  if (info.isDirectory) {
    const config = `${path}/config.json`;
    if (await exists(config)) return (await readHfConfig(config)).spec;
    throw await noWeights(path, "config.json");
  }
  const head = await readBytes(path, 0, { length: Math.min(info.size, 64) }),
    text = new TextDecoder("latin1").decode(head);
  if (text.startsWith("GGUF")) return (await openGguf(path)).spec;
  const guess = looksLike(head);
  if (!guess && text.trimStart().startsWith("{")) return (await readHfConfig(path)).spec;
  throw new CompressoError("input", {
    what: `cannot tell the shape of the model ${path}`,
    rule: "it is a folder with config.json, such a file, or a file that starts with GGUF",
    value: guess?.what ?? "something else",
    fix: guess?.fix ?? "give a config.json, a folder that holds one, or a GGUF",
  });
}
