// Kinds of tokens that are used about as often as each other at the same place in a vocabulary.

/** Scripts of many tokens in vocabularies of many languages; tokens of all others are one kind. */
const SCRIPTS = [
  "Latin",
  "Cyrillic",
  "Greek",
  "Han",
  "Hiragana",
  "Katakana",
  "Hangul",
  "Arabic",
  "Hebrew",
  "Devanagari",
  "Bengali",
  "Tamil",
  "Telugu",
  "Thai",
  "Armenian",
  "Georgian",
].map((name) => [name, new RegExp(`\\p{Script=${name}}`, "u")] as const);

const WORD_START = /^[ ▁Ġ]/, ASCII = /^[\0-\x7f]*$/;

/**
 * Kind of a token: the script of its letters, with those of ASCII apart from other Latin ones, and whether it begins a
 * word. Texts in English use hardly any token of another script, however early it comes in the vocabulary.
 *
 * @param token - Text of the token in the tokenizer's vocabulary, where a space is " ", "▁" or "Ġ".
 * @param decode - Gives the text that the token stands for; called where the token has other characters than ASCII.
 */
export function tokenKind(token: string, decode: () => string): string {
  const start = WORD_START.test(token) ? "_" : "", plain = start ? token.slice(1) : token;
  if (ASCII.test(plain)) return start + (/[A-Za-z]/.test(plain) ? "ASCII" : "none");
  const text = decode();
  return start + (SCRIPTS.find(([, letters]) => letters.test(text))?.[0] ?? "other");
}
