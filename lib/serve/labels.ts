// Tokens as texts of their own, and where they stand in a text. Owns the labels of log-probabilities; refuses to choose tokens.
import { createStreamDecoder, type Tokenizer } from "../io/tokenizer.ts";

/** Gives each token a text: what it adds to a text, or its entry in the vocabulary where that is a part of a character. */
export type Labels = (id: number) => string;

/** Labels of a tokenizer's tokens; each is made once. */
export function createLabels(tokenizer: Tokenizer): Labels {
  const known = new Map<number, string>();
  return (id) => {
    const made = known.get(id) ?? label(tokenizer, id);
    known.set(id, made);
    return made;
  };
}

/** Where tokens begin in a text, counted in code points as Python does. */
export interface Tracker {
  /** Where the next token begins. */
  readonly at: number;
  /** Moves behind a token. Tokens that together make a character all begin where it does. */
  push(id: number): void;
}

/** A tracker that starts somewhere in a text; with `skipSpecial`, special tokens have no length. */
export function createTracker(
  tokenizer: Tokenizer,
  { start, skipSpecial }: { readonly start: number; readonly skipSpecial: boolean },
): Tracker {
  const decoder = createStreamDecoder(tokenizer, { skipSpecial });
  let at = start;
  return {
    get at(): number {
      return at;
    },
    push(id): void {
      at += codePoints(decoder.push(id));
    },
  };
}

/** Characters of a text as Python counts them. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

function label(tokenizer: Tokenizer, id: number): string {
  const entry = tokenizer.idToToken(id);
  if (entry === null) return `<${id}>`; // a row of the embedding that the tokenizer has no token for
  // Decoders treat the start of a text otherwise: SentencePiece leaves out its space. Behind itself a token is whole.
  const text = tokenizer.decode([id, id]).slice(tokenizer.decode([id]).length);
  return text === "" || text.includes("\uFFFD") ? entry : text;
}
