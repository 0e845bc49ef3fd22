// Tokens as texts and bytes, and where they stand in a text: the labels of log-probabilities.
import type { Tokenizer } from "../text/tokenizer.ts";
import { continuationDecoder } from "../generate/text.ts";

/** What tokens look like on their own. */
export interface Labels {
  /** What a token adds to a text, or its entry in the vocabulary where that is a part of a character. */
  text(id: number): string;
  /** Bytes that a token adds to a text; a special token those of its name. */
  bytes(id: number): readonly number[];
}

interface Label {
  readonly text: string;
  readonly bytes: readonly number[];
}

/** Labels of a tokenizer's tokens; each is made once. */
export function createLabels(tokenizer: Tokenizer): Labels {
  const known = new Map<number, Label>();
  const labelOf = (id: number): Label => {
    const made = known.get(id) ?? label(tokenizer, id);
    known.set(id, made);
    return made;
  };
  return { text: (id) => labelOf(id).text, bytes: (id) => labelOf(id).bytes };
}

/** Where tokens begin in a text, counted in code points as Python does. */
export interface Tracker {
  /** Where the next token begins. */
  readonly at: number;
  /** Moves past a token. If several tokens make one character, all begin where the character does. */
  push(id: number): void;
}

/** A tracker that starts in a text after the tokens `before`; with `skipSpecial`, special tokens have no length. */
export function createTracker(
  tokenizer: Tokenizer,
  { start, before = [], skipSpecial }: {
    readonly start: number;
    readonly before?: readonly number[];
    readonly skipSpecial: boolean;
  },
): Tracker {
  const decoder = continuationDecoder(tokenizer, before, { skipSpecial });
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

function label(tokenizer: Tokenizer, id: number): Label {
  const entry = tokenizer.idToToken(id);
  if (entry === null) return whole(`<${id}>`); // a row of the embedding that the tokenizer has no token for
  // Decoders treat the start of a text differently: SentencePiece drops the space. After a copy of itself a token is decoded whole.
  const text = tokenizer.decode([id, id]).slice(tokenizer.decode([id]).length);
  if (text === "") return whole(entry);
  return text.includes("\uFFFD") ? { text: entry, bytes: entryBytes(entry) ?? utf8(text) } : whole(text);
}

function whole(text: string): Label {
  return { text, bytes: utf8(text) };
}

function utf8(text: string): number[] {
  return [...new TextEncoder().encode(text)];
}

/** The bytes that an entry stands for, as SentencePiece (`<0xE2>`) and GPT-2 (a character for each) write them; null if it is neither. */
function entryBytes(entry: string): readonly number[] | null {
  const digits = /^<0x([0-9A-Fa-f]{2})>$/.exec(entry)?.[1];
  if (digits !== undefined) return [parseInt(digits, 16)];
  const bytes = Array.from(entry, (char) => BYTES.get(char));
  return bytes.every((byte) => byte !== undefined) ? bytes : null;
}

/** GPT-2's alphabet of bytes, backwards: what can be seen in Latin-1 stands for itself, the others in order from U+0100 on. */
const BYTES: ReadonlyMap<string, number> = byteAlphabet();

function byteAlphabet(): Map<string, number> {
  const bytes = new Map<string, number>();
  const isSeen = (byte: number): boolean => byte > 0x20 && byte < 0x7f || byte > 0xa0 && byte !== 0xad;
  for (let byte = 0, other = 0x100; byte < 0x100; byte++) {
    bytes.set(String.fromCharCode(isSeen(byte) ? byte : other++), byte);
  }
  return bytes;
}
