// The answers of `POST /v1/chat/completions`, whole and in pieces.
import { type AnswerHead, mergePieces, usageBody } from "./completions.ts";
import type { Piece, TokenEntry, Usage } from "./job.ts";
import type { Labels } from "./labels.ts";

interface ShapeOptions {
  readonly labels: Labels;
  readonly top: number | null;
}

/** The events that a stream begins with, one for each of its answers. */
export function chatOpenings(head: AnswerHead, answers: number): readonly Record<string, unknown>[] {
  const delta = { role: "assistant", content: "" };
  return Array.from({ length: answers }, (_, index) => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index, delta, logprobs: null, finish_reason: null }],
  }));
}

/** A piece as an event of a stream. */
export function chatChunk(
  head: AnswerHead,
  { index, text, tokens, finish }: Piece,
  { labels, top }: ShapeOptions,
): Record<string, unknown> {
  const logprobs = logprobsBody(tokens, { labels, top });
  const choice = { index, delta: text === "" ? {} : { content: text }, logprobs, finish_reason: finish };
  return { ...head, object: "chat.completion.chunk", choices: [choice] };
}

/** All pieces as one answer. */
export function chatBody(
  head: AnswerHead,
  pieces: readonly Piece[],
  { labels, top, usage }: ShapeOptions & { readonly usage: Usage },
): Record<string, unknown> {
  const choices = mergePieces(pieces).map(({ index, text, tokens, finish }) => ({
    index,
    message: { role: "assistant", content: text, refusal: null },
    logprobs: logprobsBody(tokens, { labels, top }),
    finish_reason: finish,
  }));
  return { ...head, object: "chat.completion", choices, usage: usageBody(usage) };
}

function logprobsBody(tokens: readonly TokenEntry[], { labels, top }: ShapeOptions): Record<string, unknown> | null {
  if (top === null) return null;
  const entry = (id: number, logprob: number | null): Record<string, unknown> => {
    return { token: labels.text(id), logprob, bytes: labels.bytes(id) };
  };
  const content = tokens.map(({ id, logprob, top: best }) => ({
    ...entry(id, logprob),
    top_logprobs: best.map((other) => entry(other.id, other.logprob)),
  }));
  return { content, refusal: null };
}
