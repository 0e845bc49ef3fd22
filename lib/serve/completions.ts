// The answers of `POST /v1/completions`, whole and in pieces.
import type { Piece, TokenEntry, Usage } from "./job.ts";
import type { Labels } from "./labels.ts";

/** What all answers of a request have in common. */
export interface AnswerHead {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

/** OpenAI's shape of the tokens that were read and written. */
export function usageBody({ promptTokens, completionTokens }: Usage): Readonly<Record<string, number>> {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** A piece as an event of a stream. */
export function completionChunk(
  head: AnswerHead,
  piece: Piece,
  { labels, top }: { readonly labels: Labels; readonly top: number | null },
): Record<string, unknown> {
  return { ...head, object: "text_completion", choices: [choice(piece, { labels, top })] };
}

/** All pieces as one answer. */
export function completionBody(
  head: AnswerHead,
  pieces: readonly Piece[],
  { labels, top, usage }: { readonly labels: Labels; readonly top: number | null; readonly usage: Usage },
): Record<string, unknown> {
  const choices = mergePieces(pieces).map((piece) => choice(piece, { labels, top }));
  return { ...head, object: "text_completion", choices, usage: usageBody(usage) };
}

/** The pieces of each prompt as one. */
export function mergePieces(pieces: readonly Piece[]): Piece[] {
  const merged: Piece[] = [];
  for (const { index, text, tokens, finish } of pieces) {
    const before = merged[index] ?? { index, text: "", tokens: [], finish: null };
    merged[index] = {
      index,
      text: before.text + text,
      tokens: [...before.tokens, ...tokens],
      finish: finish ?? before.finish,
    };
  }
  return merged;
}

function choice(
  { index, text, tokens, finish }: Piece,
  { labels, top }: { readonly labels: Labels; readonly top: number | null },
): Record<string, unknown> {
  const logprobs = top === null ? null : {
    tokens: tokens.map(({ id }) => labels.text(id)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: top === 0 ? null : tokens.map((entry) => entry.logprob === null ? null : likely(entry, labels)),
    text_offset: tokens.map(({ offset }) => offset),
  };
  return { text, index, logprobs, finish_reason: finish };
}

/** The likely tokens by label, and the token itself if it is not among them. */
function likely({ id, logprob, top }: TokenEntry, labels: Labels): Readonly<Record<string, number>> {
  const found: Record<string, number> = Object.create(null);
  // Of two tokens with one label the likelier is kept: it says what the text's own stands against.
  for (const { id, logprob } of top) found[labels.text(id)] ??= logprob;
  if (logprob !== null) found[labels.text(id)] ??= logprob;
  return found;
}
