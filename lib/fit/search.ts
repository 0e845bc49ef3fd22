// The order in which choices are tried, and where the search stops.
import type { FitChoice, Lever } from "./choice.ts";

/** A choice as it was made, and what it loses. */
export interface Tried {
  readonly choice: FitChoice;
  readonly lost: number;
}

/** Makes a choice; null if it cannot be made at the size. */
export type Attempt = (choice: FitChoice) => Promise<Tried | null>;

/** Shares of the layers' weights that are tried, in this order, until more loses more. */
const WIDTHS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5];
/** Times that the vocabulary is halved at most. */
const HALVINGS = 3;

const NOTHING: FitChoice = { width: null, vocabulary: null, types: false };

/**
 * Tries the levers alone, then the vocabulary and the width with types, and these together. Along the width, and along the
 * vocabulary, it stops where a larger cut loses more.
 */
export async function searchChoices(levers: readonly Lever[], attempt: Attempt): Promise<void> {
  const types = levers.includes("types"), vocabulary = levers.includes("vocabulary"), width = levers.includes("width");
  if (types) await attempt({ ...NOTHING, types });
  if (vocabulary) await attempt({ ...NOTHING, vocabulary: "to size" });
  if (width) await attempt({ ...NOTHING, width: "to size" });
  if (!types) return;
  const words = vocabulary ? await bestVocabulary(attempt) : null, share = width ? await bestWidth(attempt) : null;
  if (!vocabulary || share === null) return;
  // With fewer tokens less of the width may have to go.
  const less = WIDTHS[WIDTHS.indexOf(share) - 1];
  for (const both of less === undefined ? [share] : [less, share]) {
    await attempt({ width: both, vocabulary: words ?? "needed", types });
  }
}

/** The vocabulary that loses least with types: as many tokens as the texts need, or half of these, and so on. */
async function bestVocabulary(attempt: Attempt): Promise<number | null> {
  let best = await attempt({ ...NOTHING, vocabulary: "needed", types: true });
  const first = best?.choice.vocabulary;
  if (typeof first !== "number") return null;
  for (let halving = 1; halving <= HALVINGS && best; halving++) {
    const next = await attempt({ ...NOTHING, vocabulary: Math.floor(first / 2 ** halving), types: true });
    if (!next || next.lost >= best.lost) break;
    best = next;
  }
  return typeof best?.choice.vocabulary === "number" ? best.choice.vocabulary : null;
}

/** The share of the width that loses least with types; null if none can be made. */
async function bestWidth(attempt: Attempt): Promise<number | null> {
  let best: Tried | null = null, share: number | null = null;
  for (const width of WIDTHS) {
    const next = await attempt({ ...NOTHING, width, types: true });
    if (best && next && next.lost >= best.lost) break;
    if (!next) continue;
    [best, share] = [next, width];
  }
  return share;
}
