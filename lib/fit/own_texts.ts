// Texts that the model writes where no rows are given.
import { type SelfDataFileOptions, writeTextFile } from "../generate/self_data_file.ts";
import { writtenRoom } from "../generate/self_data.ts";
import type { Model } from "../model/model.ts";

/** Their file in the folder of a fit. */
export const OWN_TEXTS = "texts.jsonl";
/** As many texts as a one-shot method measures sequences, and tokens of a text at most. */
const TEXTS = 128, TOKENS = 128;

/** Lets the model write the rows of a fit to a file, or the rest of them after a stop. Throws as `writeTextFile` does. */
export async function writeOwnTexts(
  model: Model,
  options: Pick<SelfDataFileOptions, "path" | "identity" | "signal" | "onProgress">,
): Promise<void> {
  const tokens = Math.min(TOKENS, writtenRoom(model.spec, model.tokenizer));
  await writeTextFile(model, { ...options, count: TEXTS, tokens, resume: true });
}
