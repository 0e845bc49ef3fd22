// Finds patterns of a tokenizer that backtrack without end: JavaScript's engine takes exponential time where Rust's takes linear.
import type { LibraryTokenizer } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";

/** Characters that are tried besides those of the patterns. */
const USUAL = "aA0 \n.'";
/** Characters of the patterns that are tried at most. */
const MOST_TRIED = 64;
/** Length of the longest text that is tried: a pattern that doubles its steps with each character takes some 0.1 s for it. */
const MOST_LENGTH = 26;
/** Milliseconds for such a text. Patterns of published models take some microseconds. */
const MOST_TIME = 50;

/**
 * Encodes short texts of one character each, of increasing length, where the tokenizer has a pattern with a repeated group: others cannot take
 * exponential time. Published models have none or few of them.
 *
 * @throws Error that names the character.
 */
export function checkPatterns(library: LibraryTokenizer, json: Json): void {
  const patterns = patternsOf([json["normalizer"], json["pre_tokenizer"]]).filter((pattern) => REPEATED.test(pattern));
  if (patterns.length === 0) return;
  const tried = new Set([...new Set(patterns.join(""))].slice(0, MOST_TRIED).concat([...USUAL]));
  for (const character of tried) {
    for (let length = 4; length <= MOST_LENGTH; length++) {
      // Anything may hold the machine up once.
      const isSlow = [0, 1, 2].every(() => {
        const start = performance.now();
        library.encode(character.repeat(length));
        return performance.now() - start > MOST_TIME;
      });
      if (isSlow) {
        throw new Error(`a pattern takes over ${MOST_TIME} ms for ${length} times ${JSON.stringify(character)}`);
      }
    }
  }
}

/** A group that may repeat. */
const REPEATED = /\)[*+{]/;

/** All regular expressions of nodes. */
function patternsOf(value: unknown): string[] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, part]) =>
    key === "Regex" && typeof part === "string" ? [part] : patternsOf(part)
  );
}
