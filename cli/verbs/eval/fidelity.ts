// Fidelity to the dense model for `compresso eval --against`: the text, and the windows in the tokens of each model.
import { namesJson } from "../../../lib/data/readers/split.ts";
import { fidelity, type FidelityReference, type FidelityResult, readReference } from "../../../lib/eval/fidelity.ts";
import { digestOf } from "../../../lib/core/digest.ts";
import type { Tokenizer } from "../../../lib/text/tokenizer.ts";
import { checkEach } from "./models.ts";
import { windowSizes } from "./text.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork, type Measurement } from "./work.ts";
import { note } from "../../terminal/output.ts";
import { readText } from "../../terminal/read_text.ts";
import { type Loaded, tokenizerOf } from "../../with_model.ts";

/** Reads the text and the models' vocabularies. The dense model reads the text in each of these vocabularies. */
export async function chooseFidelity(
  paths: readonly string[],
  textPath: string,
  options: EvalSettings & { readonly against: string },
): Promise<EvalWork> {
  const text = await readText(textPath), { against, limitChars, maxWindows } = options;
  if (namesJson(textPath)) note(`compresso: ${textPath} is measured as one plain text, keys and escapes included`);
  const sizes = await windowSizes([...paths, against], options);
  const vocabularies = new Map<
    string,
    { readonly tokenizer: Tokenizer; readonly vocab: number; readonly key: string }
  >();
  await checkEach([...new Set([against, ...paths])], options, (files, path) => {
    const tokenizer = tokenizerOf(files), { vocab } = files.source.spec;
    if (paths.includes(path)) vocabularies.set(path, { tokenizer, vocab, key: keyOf(tokenizer, vocab) });
  });
  const references = new Map<string, FidelityReference[]>();
  return {
    interrupt: {},
    async readDense({ model, ranks, signal, progress, tune }: Loaded): Promise<void> {
      await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens: text.length / 4 });
      for (const { tokenizer, vocab, key } of vocabularies.values()) {
        if (references.has(key)) continue;
        const own: FidelityReference[] = [];
        references.set(key, own);
        for (const window of sizes) {
          const shape = { window, tokenizer, vocab, limitChars, maxWindows, ranks, signal };
          const onProgress = (done: number, all: number): void => progress.phase("reading the dense model", done / all);
          own.push(await readReference(model, text, { ...shape, onProgress }));
        }
      }
    },
    async measure(path, { model, adapters, ranks, signal, progress, tune }): Promise<Measurement> {
      const own = references.get(vocabularies.get(path)?.key ?? "") ?? [], windows: FidelityResult[] = [];
      await tune({
        rows: BATCH_TOKENS,
        directions: ["forward"],
        tokens: own.reduce((sum, reference) => sum + reference.window * reference.windows, 0),
      });
      for (const reference of own) {
        const onProgress = (done: number, all: number): void => progress.phase("comparing", done / all);
        windows.push(await fidelity(model, reference, { adapters, ranks, signal, onProgress }));
      }
      return { kind: "fidelity", against, windows };
    },
    [Symbol.dispose]: () => {},
  };
}

/** What tells vocabularies apart. */
function keyOf(tokenizer: Tokenizer, vocab: number): string {
  const tokens = Array.from({ length: vocab }, (_, id) => tokenizer.idToToken(id));
  return digestOf([JSON.stringify([tokenizer.leading, tokens])]);
}
