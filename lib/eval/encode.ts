// Questions as token ids, split into context and continuation as lm-evaluation-harness does.
import { refuse } from "../core/errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Sequence } from "./score.ts";
import { chatStyle, endToken, formatExample } from "../data/prompts/format.ts";
import { encodePrefix } from "../data/prompts/encode.ts";
import { trimEnd } from "../compat/python_text.ts";
import type { LoadedTask, Question } from "./task_data.ts";

/** A question ready to be scored. */
export interface EncodedQuestion {
  /** One for each choice. Where the answer is generated: one, what is read before it, and no choice. */
  readonly sequences: readonly Sequence[];
  /** Whether a context was cut from the left to fit the model. */
  readonly isTruncated: boolean;
}

/** Options of {@link encodeQuestion}. */
export interface EncodeQuestionOptions {
  readonly tokenizer: Tokenizer;
  /** Tokens that the model reads at most; the last token of a continuation is not read. */
  readonly context: number;
  /** Whether a question that does not fit is an error. Default false: its context loses tokens on the left. */
  readonly refuseLong?: boolean | undefined;
}

/**
 * Encodes a question as the harness's `_encode_pair` does: spaces at the end of a context go to the continuation, context and continuation are
 * encoded together, and what follows the context's own tokens is the continuation. The tokenizer adds what it adds to any text, such as BOS,
 * unless the text begins with it. An empty context is BOS, or EOS where there is none.
 *
 * @throws CompressoError("input") if a continuation has no tokens or more than the model's context, and for a question that does not fit where
 * that is refused.
 */
export function encodeQuestion(
  { name, path, generate }: Pick<LoadedTask, "name" | "path" | "generate">,
  question: Question,
  { tokenizer, context: most, refuseLong = false }: EncodeQuestionOptions,
): EncodedQuestion {
  const { label, subset } = question;
  const fail = (rule: string, value: string, fix = "fix or remove the question"): never => {
    refuse("input", `cannot score the task ${name} from ${path}`, {
      rule,
      value: `${label}${subset === "" ? "" : ` (${subset})`} has ${value}`,
      fix,
    });
  };
  const known = new Map<string, readonly number[]>();
  let isTruncated = false;
  if (generate) {
    const [context = ""] = question.contexts, { maxTokens } = generate, room = most - maxTokens;
    const fix = "lower maxTokens, or take a model with a longer context";
    if (room < 1) fail(`an answer has fewer than the ${most} tokens of the model's context`, `${maxTokens}`, fix);
    const ids = generate.chat ? encodeAsked(tokenizer, context, question.chat) : encodeContext(tokenizer, context);
    if (ids.length === 0) fail("a context has tokens", "none", "give the question a context");
    if (ids.length > room && refuseLong) {
      const rule = `a context leaves room for ${maxTokens} tokens in the model's ${most}`;
      fail(rule, `${ids.length} tokens`, "allow that contexts are cut from the left, or use fewer examples");
    }
    const over = Math.max(0, ids.length - room);
    return { sequences: [{ prefix: ids.slice(over), choice: [] }], isTruncated: over > 0 };
  }
  const sequences = question.contexts.map((context, index): Sequence => {
    const continuation = question.continuations[index] ?? "";
    const [before, after] = context === ""
      ? aloneEncoded(tokenizer, continuation)
      : pairEncoded(tokenizer, { context, continuation, known });
    const choice = index + 1;
    if (before.length === 0) {
      const fix = "give the question a context, or take a tokenizer with a BOS or EOS token";
      fail("a context has tokens", `none before choice ${choice}`, fix);
    }
    if (after.length === 0) fail("a continuation has tokens", `none for choice ${choice}`);
    if (after.length > most) {
      fail(
        `a continuation has at most the ${most} tokens of the model's context`,
        `${after.length} for choice ${choice}`,
      );
    }
    const over = before.length + after.length - (most + 1);
    if (over <= 0) return { prefix: before, choice: after };
    if (refuseLong) {
      fail(
        `context and continuation fit the model's ${most} tokens`,
        `${before.length + after.length} for choice ${choice}`,
        "allow that contexts are cut from the left, or use fewer examples",
      );
    }
    isTruncated = true;
    // A continuation as long as the context leaves one token in front of it: there always is one.
    return { prefix: before.slice(over), choice: after };
  });
  return { sequences, isTruncated };
}

/** Tokens that tokenizers put around a text or before it, at most. */
const ADDED = 4;

/**
 * Whether a question might be refused as too long. A token is at least a byte of text, but where texts are normalized to longer ones: a question
 * that is short enough so need not be encoded to know that it fits.
 */
export function mayBeLong(
  { generate }: Pick<LoadedTask, "generate">,
  { contexts, continuations }: Question,
  { context: most, refuseLong = false }: Omit<EncodeQuestionOptions, "tokenizer">,
): boolean {
  const encoder = new TextEncoder();
  if (generate) {
    const room = most - generate.maxTokens;
    return room < 1 || refuseLong && (generate.chat ?? false) ||
      refuseLong && contexts.some((context) => encoder.encode(context).length + ADDED > room);
  }
  return contexts.some((context, index) => {
    const continuation = continuations[index] ?? "";
    return encoder.encode(refuseLong ? context + continuation : continuation).length + ADDED > most;
  });
}

type Pair = readonly [context: readonly number[], continuation: readonly number[]];

function aloneEncoded(tokenizer: Tokenizer, continuation: string): Pair {
  const start = tokenizer.bosId ?? tokenizer.eosId, ids = tokenizer.encode(continuation);
  if (start === null) return [[], ids];
  return ids[0] === start ? [[start], ids.slice(1)] : [[start], ids];
}

function pairEncoded(
  tokenizer: Tokenizer,
  { context, continuation, known }: {
    readonly context: string;
    readonly continuation: string;
    /** Encoded contexts: choices share theirs. */
    readonly known: Map<string, readonly number[]>;
  },
): Pair {
  const kept = trimEnd(context);
  let before = known.get(kept);
  if (!before) known.set(kept, before = encodeWhole(tokenizer, kept));
  const whole = encodeWhole(tokenizer, context + continuation);
  return [before, whole.slice(before.length)];
}

/** What the model answers in chat: the turn of the user in the model's layout; the text alone for a model without one. */
function encodeAsked(tokenizer: Tokenizer, text: string, chat: Question["chat"]): readonly number[] {
  const style = chatStyle(tokenizer);
  if (style === null) return encodeContext(tokenizer, text);
  const format = { tokenizer, prompt: null, style }, { asked, begun } = chat ?? { asked: text, begun: "" };
  return encodePrefix(formatExample({ instruction: asked, input: "", output: "" }, format).prefix + begun, format);
}

/** Tokens that end an answer in chat, in addition to the model's own end tokens. */
export function answerEnds(
  tokenizer: Tokenizer,
  { generate }: Pick<LoadedTask, "generate">,
): readonly number[] {
  const style = generate?.chat ? chatStyle(tokenizer) : null;
  const end = style === null ? null : endToken({ tokenizer, prompt: null, style });
  return end === null ? [] : [end];
}

/** What the model continues: a text with what the tokenizer puts before it; BOS or EOS alone where it is empty. */
function encodeContext(tokenizer: Tokenizer, text: string): readonly number[] {
  if (text === "") return aloneEncoded(tokenizer, "")[0];
  const ids = encodeWhole(tokenizer, text);
  return isBegun(tokenizer, text) ? ids : ids.slice(0, ids.length - tokenizer.trailing.length);
}

/** A text with what the tokenizer adds to it, such as BOS, unless it begins with that. */
function encodeWhole(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { addSpecial: !isBegun(tokenizer, text) });
}

/** Whether a text begins with the text of BOS, or of EOS where there is none. */
function isBegun(tokenizer: Tokenizer, text: string): boolean {
  const start = tokenizer.bosId ?? tokenizer.eosId, startText = start === null ? null : tokenizer.idToToken(start);
  return startText !== null && text.startsWith(startText);
}
