// Perplexity for `compresso eval --text`: the text, its windows, and what has to be the same for resuming.
import { type EvaluationFile, WINDOWS } from "../../../lib/eval/evaluation_file.ts";
import { namesJson } from "../../../lib/data/readers/split.ts";
import { disk } from "../../../lib/files/disk.ts";
import { openWeights } from "../../../lib/formats/open.ts";
import { modelPath } from "../../../lib/local/open_model.ts";
import {
  checkLength,
  checkPerplexity,
  encodeText,
  leadingIds,
  perplexity,
  type WindowLoss,
} from "../../../lib/eval/perplexity.ts";
import { digestOf } from "../../../lib/core/digest.ts";
import { keptWork } from "./kept.ts";
import { checkEach } from "./models.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork, type Measurement, type WindowMeasurement } from "./work.ts";
import { note } from "../../terminal/output.ts";
import { readText } from "../../terminal/read_text.ts";
import { type Loaded, tokenizerOf } from "../../with_model.ts";

/** Tokens of a window, where no model's context is shorter. */
export const DEFAULT_WINDOW = 512;
/** A token rarely stands for more characters, so a text with more of them for each token of a window is long enough without being encoded. */
const MOST_CHARS = 256;

/** Reads the text. */
export async function chooseText(
  paths: readonly string[],
  textPath: string,
  options: EvalSettings,
): Promise<EvalWork> {
  const text = await readText(textPath);
  if (namesJson(textPath)) note(`compresso: ${textPath} is measured as one plain text, keys and escapes included`);
  const { window, stride = null, limitChars = null, maxWindows = null } = options;
  const sizes = await windowSizes(paths, options), longest = Math.max(...sizes);
  if (Math.min(text.length, limitChars ?? Infinity) < MOST_CHARS * longest) {
    await checkEach(paths, options, ({ tokenizer }) => {
      const own = { tokenizer: tokenizerOf({ tokenizer }) }, { length } = encodeText(own, text, options.limitChars);
      checkLength(length, { window: longest, stride: options.stride, leading: leadingIds(own) });
    });
  }
  const identity = { text: digestOf([text]), window: window?.join(",") ?? null, stride, limitChars, maxWindows };
  return await keptWork(paths, options, {
    kind: WINDOWS,
    identity,
    measure: (path, loaded, file) => measure(path, loaded, { text, sizes, options, file }),
  });
}

/** The sizes that are measured; by default one for all models, as perplexities over different windows cannot be compared. */
export async function windowSizes(
  paths: readonly string[],
  { window }: Pick<EvalSettings, "window">,
): Promise<readonly number[]> {
  if (window) return window;
  const contexts: number[] = [];
  for (const path of paths) contexts.push((await openWeights(disk, await modelPath(path))).spec.maxPosition);
  return [Math.min(DEFAULT_WINDOW, ...contexts)];
}

async function measure(
  path: string,
  { model, adapters, ranks, signal, progress, tune }: Loaded,
  { text, sizes, options, file }: {
    readonly text: string;
    readonly sizes: readonly number[];
    readonly options: EvalSettings;
    readonly file: EvaluationFile<WindowLoss, WindowLoss> | null;
  },
): Promise<Measurement> {
  const { stride, limitChars, maxWindows } = options;
  const shape = {
    stride,
    maxWindows,
    leading: leadingIds(model),
  };
  // All windows are checked before the first is measured, so that a refusal wastes no work.
  for (const window of sizes) checkPerplexity(model, text, { window, ...shape });
  const tokens = encodeText(model, text, limitChars);
  for (const window of sizes) checkLength(tokens.length, { window, stride, leading: shape.leading });
  const read = sizes.reduce((sum, window) => {
    const all = tokens.length * (stride === undefined ? 1 : window / stride);
    return sum + Math.min(all, window * (maxWindows ?? Infinity));
  }, 0);
  await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens: read });
  const windows: WindowMeasurement[] = [];
  for (const window of sizes) {
    const result = await perplexity(model, tokens, {
      window,
      adapters,
      ranks,
      signal,
      ...shape,
      ...(file
        ? { known: file.known(path, window), onWindow: (place, loss) => file.add(path, window, { place, ...loss }) }
        : {}),
      onProgress: (done, all) =>
        progress.phase(sizes.length === 1 ? "measuring" : `measuring windows of ${window}`, done / all),
    });
    windows.push({ ...result, window, stride: stride ?? null });
  }
  return { kind: "text", windows };
}
