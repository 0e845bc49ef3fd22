// What reader and writer of a tokenizer share.

/** Values of `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** llama.cpp's value of `tokenizer.ggml.model` for a model without a tokenizer. */
export const NO_TOKENIZER = "no_vocab";

/**
 * How prompts are laid out, see `promptStyle`: our key in tokenizer_config.json, and in a GGUF after "tokenizer.".
 * Other programs ignore it.
 */
export const STYLE_KEY = "compresso_style";

/**
 * The BPE merges that a scored vocabulary implies: every cut of a token into two tokens, best score first
 * (as transformers converts SentencePiece BPE models).
 */
export function mergesByScore(tokens: readonly string[], scores: ArrayLike<number>): [string, string][] {
  const ids = new Map(tokens.map((token, index) => [token, index]));
  const found: { pair: [string, string]; score: number; leftLength: number; order: number }[] = [];
  tokens.forEach((token, index) => {
    const score = scores[index] ?? 0;
    const characters = Array.from(token);
    const local: { pair: [string, string]; left: number; right: number; leftLength: number }[] = [];
    for (let cut = 1; cut < characters.length; cut++) {
      const pair: [string, string] = [characters.slice(0, cut).join(""), characters.slice(cut).join("")];
      const [left, right] = [ids.get(pair[0]), ids.get(pair[1])];
      if (left !== undefined && right !== undefined) local.push({ pair, left, right, leftLength: cut });
    }
    local.sort((a, b) => a.left - b.left || a.right - b.right);
    for (const { pair, leftLength } of local) found.push({ pair, score, leftLength, order: found.length });
  });
  // Within a score longer left parts come first.
  found.sort((a, b) => b.score - a.score || b.leftLength - a.leftLength || a.order - b.order);
  return found.map(({ pair }) => pair);
}
