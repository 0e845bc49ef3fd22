// Perplexity for `compresso eval --text`. Owns the text and its windows; refuses other work.
import { perplexity } from "../lib/run/perplexity.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork, plainWork, type WindowMeasurement } from "./eval_work.ts";
import { readText } from "./read_text.ts";

/** Tokens of a window, where the model's context is not shorter. */
export const DEFAULT_WINDOW = 512;
/** About what a tokenizer makes of English; only to tell whether the run will be long. */
const CHARS_PER_TOKEN = 4;

/** Reads the text. */
export async function chooseText(path: string, options: EvalSettings): Promise<EvalWork> {
  const text = await readText(path);
  const { stride, limitChars, maxWindows } = options;
  return plainWork(async (_, { model, adapters, signal, progress, tune }) => {
    const sizes = options.window ?? [Math.min(DEFAULT_WINDOW, model.spec.maxPosition)];
    const chars = Math.min(text.length, limitChars ?? Infinity);
    const tokens = sizes.reduce((sum, window) => {
      const read = chars / CHARS_PER_TOKEN * (stride === undefined ? 1 : window / stride);
      return sum + Math.min(read, window * (maxWindows ?? Infinity));
    }, 0);
    await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens });
    const windows: WindowMeasurement[] = [];
    for (const window of sizes) {
      const result = await perplexity(model, text, {
        window,
        adapters,
        signal,
        ...(stride === undefined ? {} : { stride }),
        ...(limitChars === undefined ? {} : { limitChars }),
        ...(maxWindows === undefined ? {} : { maxWindows }),
        onProgress: (done, all) =>
          progress.phase(sizes.length === 1 ? "measuring" : `measuring windows of ${window}`, done / all),
      });
      windows.push({ ...result, window, stride: stride ?? null });
    }
    return { kind: "text", windows };
  });
}
