// Tokens and labels of a row, with the collaborative prompt, cut where the row is too long.
import type { ChatMessage } from "../../text/chat_template.ts";
import { checkedRow, type InstructRow, type Row } from "../row.ts";
import { encodeChat, encodeChatPrompt } from "./chat.ts";
import { encodeBehind } from "./context.ts";
import { endToken, formatExample, type FormatOptions, keepsSystem, styleOf, turnShape } from "./format.ts";

export { endToken, formatExample, type FormatOptions, type PromptStyle, promptStyle } from "./format.ts";

/**
 * The text before each instruction during pruning, and at inference if chosen there. It tells the model to take part in
 * its own pruning (the collaborative prompting of Compresso, arXiv 2310.05015, in our words).
 */
export const COLLABORATIVE_PROMPT: string =
  "You are a language model that is being made smaller by pruning: attention heads and feed-forward units that matter " +
  "little are switched off one after another until only the most useful ones are left. " +
  "Cooperate with this pruning: keep what you know in the parts that remain and let them make up for those that are " +
  "gone. Answer the following instruction as well as you did at full size.";

/** Label of a token that does not count in the loss. */
export const IGNORED_LABEL: number = -100;

/** Options of {@link encodeExample}. */
export interface EncodeOptions extends FormatOptions {
  /** Longest example, in tokens; at least 2. */
  readonly seq: number;
  /** Whether all tokens of instructions and conversations are labels, the prompt's too. Default: those of the answers. */
  readonly allTokens?: boolean | undefined;
}

/**
 * Tokens of one example with their labels: the token itself where it counts in the loss, else −100. Both have one entry
 * for each token, not shifted (the loss compares the output at t with the label at t + 1).
 */
export interface Example {
  /** Token ids, [length]. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** Token ids or −100, [length]. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Position of each token in its row, [length], where rows are packed that do not see each other. Default: one row. */
  readonly positions?: Uint32Array<ArrayBuffer>;
}

/** What became of a row. */
export interface EncodedRow extends Example {
  /** Whether the row was cut. */
  readonly truncated: boolean;
  /** Labels that enter the loss; the first token's never does. 0 means that the row teaches nothing. */
  readonly labelTokens: number;
}

/**
 * Token ids of a prefix, as they are fed to the model to generate a response: with BOS where the tokenizer or the
 * template adds it.
 */
export function encodePrefix(prefix: string, options: FormatOptions): number[] {
  return [...leadingOf(options), ...options.tokenizer.encode(prefix)];
}

/**
 * Token ids of a response after its prefix, without an end token.
 *
 * The prefix is always tokenized alone, as it is when the model generates, so that training and generation see the same
 * tokens. The response is what remains of both tokenized together where that begins with the prefix's tokens
 * (SentencePiece puts no space before it then), else it is tokenized alone.
 */
export function encodeResponse(prefix: string, response: string, { tokenizer }: FormatOptions): number[] {
  return encodeBehind({ text: prefix, ids: tokenizer.encode(prefix) }, response, tokenizer);
}

/**
 * Tokens and labels of a row. Instructions: only the response and its end token are labels. Conversations: the
 * assistant's turns, each with its end token. Texts: all tokens are; a text is not cut (see `windows`). With `allTokens`
 * all tokens of each row are.
 * An instruction longer than `seq` loses the beginning of its input; where that is not enough, the end of the response.
 * A conversation loses its end.
 *
 * @throws CompressoError("input") for a row whose fields do not fit its kind, and for a conversation that the chat
 * template refuses or whose first turns it writes differently when more turns follow.
 */
export function encodeExample(given: Row, options: EncodeOptions): EncodedRow {
  const { tokenizer, seq, allTokens = false } = options, row = checkedRow(given);
  if (row.kind === "text") {
    const ids = tokenizer.encode(row.text, { addSpecial: true }), tail = hasEnded(row) ? 0 : tokenizer.trailing.length;
    const tokens = Uint32Array.from(ids.slice(0, ids.length - tail));
    return { tokens, labels: Int32Array.from(tokens), truncated: false, labelTokens: Math.max(0, tokens.length - 1) };
  }
  if (row.kind === "chat") {
    const { ids, learned } = encodeChat(row.messages, options);
    const tokens = Uint32Array.from(ids.slice(0, seq));
    const labels = Int32Array.from(tokens, (id, index) => allTokens || learned[index] ? id : IGNORED_LABEL);
    return { tokens, labels, truncated: ids.length > seq, labelTokens: countLabels(labels) };
  }
  let parts = encodeParts(row, options);
  const truncated = parts.prefix.length + parts.response.length > seq;
  if (truncated) parts = shortenInput(row, parts, options);
  const ids = [...parts.prefix, ...parts.response].slice(0, seq);
  const tokens = Uint32Array.from(ids);
  const labelsFrom = allTokens ? 0 : parts.prefix.length;
  const labels = Int32Array.from(ids, (id, index) => index < labelsFrom ? IGNORED_LABEL : id);
  return { tokens, labels, truncated, labelTokens: countLabels(labels) };
}

/** Whether a text or answer has come to its end, and was not cut off, as those may be that a model has written (`"ended": false`). */
export function hasEnded({ extra }: Pick<Row, "extra">): boolean {
  return extra["ended"] !== false;
}

/** Whether rows of a kind end with an end token: EOS after packed texts, else the tokenizer's trailing tokens. */
export function haveEnds(
  kind: Row["kind"],
  { isPacked, ...options }: FormatOptions & { readonly isPacked: boolean },
): boolean {
  const { eosId, trailing } = options.tokenizer;
  return kind === "text" ? (isPacked && eosId !== null) || trailing.length > 0 : endToken(options) !== null;
}

/**
 * Tokens that the prompt takes of each instruction or conversation: its text and the layout around it. If it replaces
 * the template's own system turn, only the extra tokens count, but never fewer than the text's. 0 without a prompt.
 */
export function promptCost(options: FormatOptions): number {
  const length = (prompt: string | null): number => {
    const { prefix } = formatExample({ instruction: "Go on.", input: "", output: "" }, { ...options, prompt });
    return encodePrefix(prefix, options).length;
  };
  if (options.prompt === null) return 0;
  return Math.max(length(options.prompt) - length(null), options.tokenizer.encode(options.prompt).length);
}

/**
 * Mean number of tokens that the prompt takes of these rows, to one decimal: {@link promptCost}, or for a conversation
 * that begins with a system turn, the growth of this turn. Texts get no prompt and do not count.
 */
export function promptCostOf(rows: readonly Row[], options: FormatOptions): number {
  const count = rows.filter(({ kind }) => kind !== "text").length;
  if (options.prompt === null || count === 0) return 0;
  const grown = keepsSystem(options) ? rows.filter(beginsWithSystem).length : 0;
  const whole = (grown < count ? promptCost(options) * (count - grown) : 0) +
    (grown > 0 ? systemGrowth(options) * grown : 0);
  return Math.round(10 * whole / count) / 10;
}

function beginsWithSystem(row: Row): boolean {
  // A row that is left out as broken may have anything there.
  return row.kind === "chat" && Array.isArray(row.messages) && row.messages[0]?.role === "system";
}

/** Tokens by which a system turn grows with the prompt before its text. */
function systemGrowth(options: FormatOptions): number {
  const turns: readonly ChatMessage[] = [
    { role: "system", content: "Be kind." },
    { role: "user", content: "Go on." },
  ];
  const length = (prompt: string | null): number => encodeChatPrompt(turns, { ...options, prompt }).length;
  return length(options.prompt) - length(null);
}

/** Labels that enter the loss: all but −100 and the first. */
export function countLabels(labels: ArrayLike<number>): number {
  let count = 0;
  for (let index = 1; index < labels.length; index++) if (labels[index] !== IGNORED_LABEL) count++;
  return count;
}

interface Parts {
  readonly prefix: readonly number[];
  readonly response: readonly number[];
}

function encodeParts(row: InstructRow, options: FormatOptions): Parts {
  const { prefix, response } = formatExample(row, options);
  const end = endToken(options), { tokenizer } = options;
  const ids = tokenizer.encode(prefix);
  if (hasEnded(row)) {
    const answer = encodeBehind({ text: prefix, ids }, response, tokenizer);
    return { prefix: [...leadingOf(options), ...ids], response: [...answer, ...(end === null ? [] : [end])] };
  }
  // An answer that was cut off has no end to learn, nor what a template puts after it.
  const tail = styleOf(options) === "chat" ? turnShape(tokenizer).tail.length : 0;
  const cut = response.slice(0, response.length - tail);
  return { prefix: [...leadingOf(options), ...ids], response: encodeBehind({ text: prefix, ids }, cut, tokenizer) };
}

/** Drops tokens from the left of the input until the row fits, or all of the input if it must. */
function shortenInput(row: InstructRow, whole: Parts, options: EncodeOptions): Parts {
  const { tokenizer, seq } = options;
  const input = tokenizer.encode(row.input);
  let parts = whole;
  let dropped = 0;
  for (let excess = lengthOf(parts) - seq; excess > 0 && dropped < input.length; excess = lengthOf(parts) - seq) {
    dropped = Math.min(input.length, dropped + excess);
    // The cut may fall into a character, whose rest decodes to U+FFFD.
    const rest = tokenizer.decode(input.slice(dropped)).replace(/^\uFFFD+/, "");
    parts = encodeParts({ ...row, input: rest.trimStart() }, options);
  }
  return parts;
}

/** What is before a prefix; a chat template writes BOS itself. */
function leadingOf(options: FormatOptions): readonly number[] {
  return styleOf(options) === "chat" ? [] : options.tokenizer.leading;
}

function lengthOf(parts: Parts): number {
  return parts.prefix.length + parts.response.length;
}
