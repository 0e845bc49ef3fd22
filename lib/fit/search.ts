// The order in which choices are tried, and where the search stops.
import { livingLayers } from "../units/rules.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { FitChoice, LayerCut, Lever } from "./choice.ts";

/** A choice as it was made, and what it loses. */
export interface Tried {
  readonly choice: FitChoice;
  readonly lost: number;
}

/** Makes a choice. "over": it misses the budget, and a larger cut may meet it; null: it cannot be made at all. */
export type Attempt = (choice: FitChoice) => Promise<Tried | "over" | null>;

/** Shares of the layers' weights that are tried, in this order, until more loses more. */
const WIDTHS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5];
/** Times that the vocabulary is halved at most. */
const HALVINGS = 3;

const NOTHING: FitChoice = { cut: null, vocabulary: null, types: false };

/** Shares of the layers' weights that are tried by whole layers, in whole percents: none cuts as many layers as another. */
export function depthsOf(spec: Pick<DecoderSpec, "layers">): readonly number[] {
  const layers = livingLayers(spec), counts = WIDTHS.map((share) => Math.max(1, Math.floor(share * layers + 1e-9)));
  return layers < 2 ? [] : [...new Set(counts)].map((count) => Math.floor(100 * count / layers) / 100);
}

/**
 * Tries the levers alone, then the vocabulary, the width and the depth with types, and the vocabulary together with the
 * better one of width and depth. Without a size of the file there are no types: it tries the model as it is, the
 * vocabulary, width and depth, and both. Along each of them it stops where a larger cut loses more.
 */
export async function searchChoices(
  levers: readonly Lever[],
  attempt: Attempt,
  { hasSize, vocab, depths }: {
    readonly hasSize: boolean;
    /** Tokens of the model. */
    readonly vocab: number;
    /** Shares that whole layers are cut by, see {@link depthsOf}; empty where they cannot be cut. */
    readonly depths: readonly number[];
  },
): Promise<void> {
  const types = hasSize && levers.includes("types"), rest: FitChoice = { ...NOTHING, types };
  const vocabulary = levers.includes("vocabulary");
  const cuts = ([["width", WIDTHS], ["depth", depths]] as const).filter(([lever, shares]) =>
    levers.includes(lever) && shares.length > 0
  );
  if (types || !hasSize) await attempt(rest);
  if (hasSize && vocabulary) await attempt({ ...NOTHING, vocabulary: "to size" });
  if (hasSize) { for (const [lever] of cuts) await attempt({ ...NOTHING, cut: { lever, share: "to size" } }); }
  if (hasSize && !types) return;
  const words = vocabulary ? await bestVocabulary(rest, { vocab, attempt }) : null;
  let best: BestCut | null = null;
  for (const [lever, shares] of cuts) {
    const found = await bestCut(rest, { lever, shares, attempt });
    if (found && !(best && best.lost <= found.lost)) best = found;
  }
  if (!vocabulary || !best) return;
  for (const cut of best.joined) await attempt({ ...rest, cut, vocabulary: words ?? "needed" });
}

/**
 * The vocabulary that loses least with the rest of the choice: as many tokens as the texts need, or half of these, and
 * so on; half of all and so on where the needed ones miss the budget.
 */
async function bestVocabulary(
  rest: FitChoice,
  { vocab, attempt }: { readonly vocab: number; readonly attempt: Attempt },
): Promise<number | null> {
  let best: Tried | null = null, most = vocab;
  for (let halving = 0; halving <= HALVINGS; halving++) {
    const vocabulary = halving === 0 ? "needed" : Math.floor(most / 2 ** halving);
    const next = await attempt({ ...rest, vocabulary });
    if (next === null) break;
    if (next === "over") continue;
    if (best && next.lost >= best.lost) break;
    best = next;
    if (vocabulary === "needed") most = Number(next.choice.vocabulary);
  }
  return typeof best?.choice.vocabulary === "number" ? best.choice.vocabulary : null;
}

/** The cut of a lever that loses least. */
interface BestCut extends Pick<Tried, "lost"> {
  /** Cuts to try with fewer tokens: less of the layers may have to go then. */
  readonly joined: readonly LayerCut[];
}

/** The share of a lever that loses least with the rest of the choice; null if none can be made. */
async function bestCut(
  rest: FitChoice,
  { lever, shares, attempt }: {
    readonly lever: LayerCut["lever"];
    readonly shares: readonly number[];
    readonly attempt: Attempt;
  },
): Promise<BestCut | null> {
  let best: BestCut | null = null;
  for (const [at, share] of shares.entries()) {
    const next = await attempt({ ...rest, cut: { lever, share } });
    if (next === null) break;
    if (next === "over") continue;
    if (best && next.lost >= best.lost) break;
    best = { lost: next.lost, joined: shares.slice(Math.max(0, at - 1), at + 1).map((own) => ({ lever, share: own })) };
  }
  return best;
}
