// The vocabulary of a run: chooses its tokens by the rows, cuts the model to them, and measures both in bits per byte.
import { heldOutOf } from "./data.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { CompressoError } from "../core/errors.ts";
import { digestOf } from "../core/digest.ts";
import { encodeRow } from "../data/encode_rows.ts";
import { IGNORED_LABEL } from "../data/prompts/encode.ts";
import { placeOf } from "../data/row.ts";
import type { Row } from "../data/rows.ts";
import type { Adapters, LabelAgreement, Model } from "../model/model.ts";
import type { DenseSide } from "../nn/agreement.ts";
import type { Agreement } from "../eval/agreement.ts";
import { chooseVocabulary } from "../slice/vocabulary/choose.ts";
import { cutModel } from "../slice/vocabulary/cut_model.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { leadingIds } from "../eval/perplexity.ts";
import { labelBytes } from "../eval/text_bytes.ts";
import { type Evaluation, MOST_CHARS, MOST_WINDOWS, WINDOW } from "./evaluation.ts";
import { vocabularySize } from "./vocabulary_size.ts";
import { agreementIn, type Measured, measureQuality, qualityData, type TaskLoader } from "./quality.ts";

/** What became of a vocabulary, as run.json holds it. */
export interface VocabularySummary {
  /** Rows of the embedding before and after. */
  readonly before: number;
  /** Tokens that are kept. */
  readonly after: number;
  /** Tokens of the texts that the choice was made by. */
  readonly counted: number;
  /** Share of these tokens that are kept. */
  readonly coverage: number;
  /** Share by which such texts are expected to grow in tokens. */
  readonly growth: number;
  /** On held-out rows; null without them. */
  readonly heldout: BitsPerByte | null;
  /** On the text that was to be measured; null without one. */
  readonly text: BitsPerByte | null;
}

/** Bits per byte of the model as it was given and of the result, on the same text. */
export interface BitsPerByte {
  /** Of the model as it was given. */
  readonly before: number;
  /** Of the result. */
  readonly after: number;
  /** Bytes of the text in UTF-8. */
  readonly bytes: number;
  /**
   * How a model whose vocabulary alone was cut agrees with the model as it was given: on rows at every label, on a text in
   * the second half of each window. Null after other runs, which have it in `heldoutLoss` and `evaluation`, and in files of older
   * versions.
   */
  readonly agreement: Agreement | null;
}

/** How the result is measured. */
export interface SummaryOptions {
  /** Whether the result is compared with the model that it was cut from. Default: false. */
  readonly compares?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** A model whose vocabulary is cut, with what the run says of it. */
export interface CutForRun extends Disposable {
  /** On the same device; it shares the layers of the model that it was cut from. */
  readonly model: Model;
  /** The model that it was cut from. */
  readonly dense: Model;
  /** Digest of the kept ids, by which a resumed run is compared. */
  readonly digest: string;
  /** Ids that are kept, ascending. */
  readonly kept: Int32Array;
  /** Scores of the model that it was cut from on the tasks that are measured. */
  readonly tasks: Measured["tasks"];
  /** Measures the result, with masks and LoRA; null if masks and LoRA do not give the result. */
  readonly summary: (adapters: Adapters | null, options: SummaryOptions) => Promise<VocabularySummary>;
}

/**
 * Chooses and cuts the vocabulary of a run. The choice depends on the rows and options alone, so that a resumed run
 * makes it again.
 *
 * @throws CompressoError("usage") for a size that the vocabulary cannot have, and a target that it cannot reach alone.
 * @throws CompressoError("input") for a model without tokenizer, or one of a kind that cannot be cut.
 */
export async function cutForRun(
  dense: Model,
  {
    options,
    evaluation,
    rows: given,
    valRows,
    loadTasks,
    sequences,
    signal = new AbortController().signal,
    onMeasured,
  }: {
    readonly options: ResolvedOptions;
    /** What is measured in addition to held-out rows. */
    readonly evaluation: Evaluation | undefined;
    /** Rows that tell which tokens are needed. Default: those of the run that are not held out. */
    readonly rows: readonly Row[] | undefined;
    /** Held-out rows that were given. Default: those of the end of the run's rows. */
    readonly valRows: readonly Row[] | undefined;
    /** Reads the data of tasks; null refuses tasks. */
    readonly loadTasks: TaskLoader | null;
    /** Held-out rows that are measured. */
    readonly sequences: number;
    readonly signal?: AbortSignal | undefined;
    /** Called with the share of the uncut model's measures that is done, from 0 to 1. */
    readonly onMeasured?: ((share: number) => void) | undefined;
  },
): Promise<CutForRun> {
  const { tokenizer, source } = dense, { rows, seq, prompt } = options;
  if (!tokenizer) throw noTokenizer("cannot cut the vocabulary");
  const training = valRows ? rows : rows.slice(0, rows.length - heldOutOf(rows.length, options.val));
  const choice = chooseVocabulary(dense, countRows(given ?? training, { tokenizer }));
  const size = vocabularySize({ source, tokenizer }, choice, options), kept = choice.kept(size);
  using stack = new DisposableStack();
  const model = stack.use(await cutModel(dense, kept, { signal }));
  const heldOut = (valRows ?? rows.slice(training.length)).slice(0, sequences);
  const pairs = heldOutPairs(heldOut, { dense, cut: model, seq, prompt });
  const window = Math.min(WINDOW, source.spec.maxPosition);
  const windows = evaluation?.text === undefined ? null : windowPairs(evaluation.text, { dense, cut: model, window });
  const texts = pairs.length + (windows?.dense.length ?? 0), rest = evaluation?.tasks?.length ? 0.5 : 1;
  let done = 0;
  const onRow = (): void => onMeasured?.(rest * ++done / texts);
  onMeasured?.(0);
  const before = await bitsOf(dense, pairs.map(([own]) => own), { seq, signal, onRow });
  const textBefore = windows ? await bitsOf(dense, windows.dense, { seq: window, signal, onRow }) : 0;
  const { text: _text, ...others } = evaluation ?? {};
  const data = await qualityData(dense, { heldout: [], heldoutLabels: [] }, {
    seq,
    evaluation: others,
    loadTasks,
    signal,
  });
  const { tasks } = await measureQuality(dense, data, {
    adapters: {},
    signal,
    onProgress: (share) => onMeasured?.(rest + (1 - rest) * share),
  });
  await dense.release();
  const owned = stack.move();
  return {
    model,
    dense,
    kept,
    digest: digestOf([kept]),
    tasks,
    async summary(adapters, { compares = false, signal }): Promise<VocabularySummary> {
      const rows = adapters ? pairs : [], bytes = rows.reduce((sum, [own]) => sum + own.bytes, 0);
      const side = compares ? { weights: dense.weights, ids: kept } : null,
        own = { adapters: adapters ?? {}, side, signal };
      const ofRows = await measured(model, rows.map(([, small]) => small), { seq, ...own });
      // As `fidelity` compares a text.
      const skipped = Math.floor(window / 2) + 1 - Math.max(1, leadingIds(model).length);
      const ofText = adapters && windows ? await measured(model, windows.cut, { seq: window, skipped, ...own }) : null;
      await model.release();
      return {
        before: source.spec.vocab,
        after: size,
        counted: choice.counted,
        coverage: choice.coverage(size),
        growth: choice.growth(size),
        heldout: bytes > 0
          ? { before: before / bytes, after: ofRows.bits / bytes, bytes, agreement: ofRows.agreement }
          : null,
        text: windows && ofText
          ? {
            before: textBefore / windows.bytes,
            after: ofText.bits / windows.bytes,
            bytes: windows.bytes,
            agreement: ofText.agreement,
          }
          : null,
      };
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Counts the tokens of rows as the model reads them, without the collaborative prompt. */
function countRows(rows: readonly Row[], { tokenizer }: { readonly tokenizer: Tokenizer }): Float64Array {
  const counts = new Float64Array(tokenizer.vocabSize);
  for (const [index, row] of rows.entries()) {
    const encoded = encodedOrNull(row, index, { tokenizer, prompt: null, seq: Infinity });
    for (const id of encoded?.tokens ?? []) counts[id] = (counts[id] ?? 0) + 1;
  }
  return counts;
}

/** The tokens of a row; null if it cannot be encoded, which the run itself refuses or counts. */
function encodedOrNull(
  row: Row,
  index: number,
  options: { readonly tokenizer: Tokenizer; readonly prompt: string | null; readonly seq: number },
): ReturnType<typeof encodeRow> | null {
  try {
    return encodeRow(row, placeOf(row, index), options);
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return null;
    throw error;
  }
}

/** A held-out row as a model reads it. */
interface HeldOut {
  readonly tokens: Uint32Array;
  readonly labels: Int32Array;
  /** Bytes of what the labels say. */
  readonly bytes: number;
}

/**
 * Held-out rows as both models read them, with the same text for both. A text is truncated to a sequence of the cut
 * model; other rows are used only if they fit whole.
 */
function heldOutPairs(
  rows: readonly Row[],
  { dense, cut, seq, prompt }: {
    readonly dense: Pick<Model, "tokenizer">;
    readonly cut: Pick<Model, "tokenizer">;
    readonly seq: number;
    readonly prompt: string | null;
  },
): readonly (readonly [dense: HeldOut, cut: HeldOut])[] {
  const { tokenizer: before } = dense, { tokenizer: after } = cut;
  if (!before || !after) return [];
  return rows.flatMap((row, index) => {
    const shown = row.kind === "text" ? { ...row, text: beginning(row.text, { tokenizer: after, seq }) } : row;
    const [own, small] = [before, after].map((tokenizer) => {
      const found = encodedOrNull(shown, index, { tokenizer, prompt, seq });
      if (!found || found.truncated || found.labelTokens === 0 || found.tokens.length > seq) return null;
      return { ...found, bytes: labelBytes(tokenizer, [...found.tokens], [...found.labels]) };
    });
    return own && small && own.bytes > 0 ? [[own, small] as const] : [];
  });
}

/** Windows of a text as both models read them: the same text for both, each window alone. */
function windowPairs(
  text: string,
  { dense, cut, window }: {
    readonly dense: Pick<Model, "tokenizer">;
    readonly cut: Pick<Model, "tokenizer">;
    readonly window: number;
  },
): { readonly dense: readonly HeldOut[]; readonly cut: readonly HeldOut[]; readonly bytes: number } | null {
  if (!dense.tokenizer || !cut.tokenizer) return null;
  const leading = leadingIds(cut), own = window - leading.length, seq = own * MOST_WINDOWS;
  const used = beginning(text.slice(0, MOST_CHARS), { tokenizer: cut.tokenizer, seq });
  const windowsOf = (tokenizer: Tokenizer): HeldOut[] => {
    const ids = tokenizer.encode(used), windows: HeldOut[] = [], before = leadingIds({ tokenizer });
    for (let first = 0; first < ids.length; first += own) {
      const tokens = Uint32Array.from([...before, ...ids.slice(first, first + own)]);
      const labels = Int32Array.from(tokens).fill(IGNORED_LABEL, 0, before.length);
      windows.push({ tokens, labels, bytes: 0 });
    }
    return windows;
  };
  const bytes = new TextEncoder().encode(used).length;
  return bytes === 0 ? null : { dense: windowsOf(dense.tokenizer), cut: windowsOf(cut.tokenizer), bytes };
}

/** The beginning of a text that fits into a sequence. */
function beginning(text: string, { tokenizer, seq }: { readonly tokenizer: Tokenizer; readonly seq: number }): string {
  const ids = tokenizer.encode(text, { addSpecial: true });
  if (ids.length <= seq) return text;
  // The last character may be incomplete.
  return tokenizer.decode(ids.slice(0, seq - 1), { skipSpecial: true }).replace(/\uFFFD+$/, "");
}

/** Bits that a model needs for the labels of all rows. */
async function bitsOf(model: Model, rows: readonly HeldOut[], options: RowOptions): Promise<number> {
  return (await measured(model, rows, options)).bits;
}

/** How rows are measured. */
interface RowOptions {
  readonly seq: number;
  readonly adapters?: Adapters | undefined;
  /** The dense model, if the rows are compared with it. Its layers give the states that these of the model give. */
  readonly side?: DenseSide | null;
  /** Labels of each row that are not compared. Default: 0. */
  readonly skipped?: number;
  readonly signal?: AbortSignal | undefined;
  /** Called after each row. */
  readonly onRow?: () => void;
}

/** Bits that a model needs for the labels of all rows, and how it agrees with the dense one; each row runs alone. */
async function measured(
  model: Model,
  rows: readonly HeldOut[],
  { seq, adapters = {}, side = null, skipped = 0, signal, onRow }: RowOptions,
): Promise<{ readonly bits: number; readonly agreement: Agreement | null }> {
  const parts: LabelAgreement[] = [];
  let nats = 0;
  for (const row of rows) {
    const tokens = new Uint32Array(seq), labels = new Int32Array(seq).fill(IGNORED_LABEL);
    tokens.set(row.tokens);
    labels.set(row.labels);
    const how = { batch: 1, adapters, signal };
    if (side) {
      const { losses, states } = await model.lossesAndStates(tokens, labels, how);
      for (const loss of losses) nats += loss;
      parts.push(await model.agreement(tokens, labels, { ...how, dense: side, states }));
    } else {
      for (const loss of await model.tokenLosses(tokens, labels, how)) nats += loss;
    }
    onRow?.();
  }
  return { bits: nats / Math.LN2, agreement: agreementIn(parts, skipped) };
}
