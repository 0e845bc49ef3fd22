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
 * Tries the levers alone, then the vocabulary and the width with types, and these together. Without a size of the file
 * there are no types: it tries the model as it is, the vocabulary, the width, and both. Along the width, and along the
 * vocabulary, it stops where a larger cut loses more.
 */
export async function searchChoices(
  levers: readonly Lever[],
  attempt: Attempt,
  { hasSize }: { readonly hasSize: boolean },
): Promise<void> {
  const types = hasSize && levers.includes("types"), rest: FitChoice = { ...NOTHING, types };
  const vocabulary = levers.includes("vocabulary"), width = levers.includes("width");
  if (types || !hasSize) await attempt(rest);
  if (hasSize && vocabulary) await attempt({ ...NOTHING, vocabulary: "to size" });
  if (hasSize && width) await attempt({ ...NOTHING, width: "to size" });
  if (hasSize && !types) return;
  const words = vocabulary ? await bestVocabulary(rest, attempt) : null;
  const share = width ? await bestWidth(rest, attempt) : null;
  if (!vocabulary || share === null) return;
  // With fewer tokens less of the width may have to go.
  const less = WIDTHS[WIDTHS.indexOf(share) - 1];
  for (const both of less === undefined ? [share] : [less, share]) {
    await attempt({ ...rest, width: both, vocabulary: words ?? "needed" });
  }
}

/** The vocabulary that loses least with the rest of the choice: as many tokens as the texts need, or half of these, and so on. */
async function bestVocabulary(rest: FitChoice, attempt: Attempt): Promise<number | null> {
  let best = await attempt({ ...rest, vocabulary: "needed" });
  const first = best?.choice.vocabulary;
  if (typeof first !== "number") return null;
  for (let halving = 1; halving <= HALVINGS && best; halving++) {
    const next = await attempt({ ...rest, vocabulary: Math.floor(first / 2 ** halving) });
    if (!next || next.lost >= best.lost) break;
    best = next;
  }
  return typeof best?.choice.vocabulary === "number" ? best.choice.vocabulary : null;
}

/** The share of the width that loses least with the rest of the choice; null if none can be made. */
async function bestWidth(rest: FitChoice, attempt: Attempt): Promise<number | null> {
  let best: Tried | null = null, share: number | null = null;
  for (const width of WIDTHS) {
    const next = await attempt({ ...rest, width });
    if (best && next && next.lost >= best.lost) break;
    if (!next) continue;
    [best, share] = [next, width];
  }
  return share;
}
