// From a row to tokens and labels. Owns the collaborative prompt, the three prompt styles and the truncation of long
// rows; refuses to batch.
import { CompressoError } from "../errors.ts";
import { type ChatMessage, renderChat } from "./chat_template.ts";
import type { InstructRow, Row } from "./datasets.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Told to the model before the instruction while it is pruned and afterwards, so that it takes part in its own pruning
 * (the collaborative prompting of Compresso, arXiv 2310.05015, in our words).
 */
export const COLLABORATIVE_PROMPT: string =
  "You are a language model that is being made smaller by pruning: attention heads and feed-forward units that matter " +
  "little are switched off one after another until only the most useful ones are left. " +
  "Cooperate with this pruning: keep what you know in the parts that remain and let them make up for those that are " +
  "gone. Answer the following instruction as well as you did at full size.";

/** Layout of prompts: the tokenizer's chat template, headings as in Alpaca, or bare lines. */
export type PromptStyle = "chat" | "alpaca" | "plain";

/** Label of a token that does not count in the loss. */
export const IGNORED_LABEL: number = -100;

/** Options of {@link formatExample}. */
export interface FormatOptions {
  /** Its config and chat template decide on the style. */
  readonly tokenizer: Tokenizer;
  /** Text put before the instruction, for example {@link COLLABORATIVE_PROMPT}; null for none. */
  readonly prompt: string | null;
  /** "auto" (default) takes the tokenizer's own style, see {@link promptStyle}. */
  readonly style?: "auto" | PromptStyle;
}

/** Options of {@link encodeExample}. */
export interface EncodeOptions extends FormatOptions {
  /** Longest example, in tokens; at least 2. */
  readonly seq: number;
}

/**
 * Tokens of one example with their labels: the token itself where it counts in the loss, else −100. Both have one entry
 * for each token,
 * not shifted (the loss compares the output at t with the label at t + 1).
 */
export interface Example {
  /** Token ids, [length]. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** Token ids or −100, [length]. */
  readonly labels: Int32Array<ArrayBuffer>;
}

/** What became of a row. */
export interface EncodedRow extends Example {
  /** Whether the row was cut. */
  readonly truncated: boolean;
  /** Labels that enter the loss; the first token's never does. 0 means that the row teaches nothing. */
  readonly labelTokens: number;
}

/** The style of a tokenizer: `compresso_style` of its config, else "chat" where it has a template, else "alpaca". */
export function promptStyle(tokenizer: Tokenizer): PromptStyle {
  const own = tokenizer.config["compresso_style"];
  if (own === undefined) return tokenizer.chatTemplate === null ? "alpaca" : "chat";
  if (own === "chat" || own === "alpaca" || own === "plain") return own;
  throw new CompressoError("input", {
    what: "cannot format prompts",
    rule: 'compresso_style in tokenizer_config.json is "chat", "alpaca" or "plain"',
    value: JSON.stringify(own),
  });
}

/** The text that the model is given and the text that it is to answer. */
export function formatExample(
  row: Pick<InstructRow, "instruction" | "input" | "output">,
  options: FormatOptions,
): { prefix: string; response: string } {
  const { tokenizer, prompt } = options;
  const { instruction, input } = row;
  switch (styleOf(options)) {
    case "chat": {
      const user = input === "" ? instruction : `${instruction}\n\n${input}`;
      return { prefix: chatPrefix(tokenizer, prompt, user), response: turnShape(tokenizer).lead + row.output };
    }
    case "alpaca": {
      const parts = [`### Instruction:\n${instruction}`, ...(input === "" ? [] : [`### Input:\n${input}`])];
      const prefix = [...(prompt === null ? [] : [prompt]), ...parts, "### Response:\n"].join("\n\n");
      return { prefix, response: row.output };
    }
    case "plain": {
      const lines = [...(prompt === null ? [] : [prompt]), instruction, ...(input === "" ? [] : [input])];
      return { prefix: lines.map((line) => `${line}\n`).join(""), response: row.output };
    }
  }
}

/**
 * Token ids of a prefix, as they are fed to the model to generate a response: with BOS where the tokenizer or the
 * template adds it.
 */
export function encodePrefix(prefix: string, options: FormatOptions): number[] {
  // A chat template writes BOS itself.
  const leading = styleOf(options) === "chat" ? [] : options.tokenizer.leading;
  return [...leading, ...options.tokenizer.encode(prefix)];
}

/**
 * The token that ends a response: what the chat template puts after an assistant's turn where that is a special token,
 * else EOS; null without both.
 */
export function endToken(options: FormatOptions): number | null {
  const { tokenizer } = options;
  return (styleOf(options) === "chat" ? turnShape(tokenizer).end : null) ?? tokenizer.eosId;
}

/**
 * Token ids of a response behind its prefix, without an end token.
 *
 * The prefix is always tokenized alone, as it is when the model generates, so that training and generation see the same
 * tokens. The response is what remains
 * of both tokenized together where that begins with the prefix's tokens (SentencePiece puts no space before it then),
 * else it is tokenized alone.
 */
export function encodeResponse(prefix: string, response: string, options: FormatOptions): number[] {
  const { tokenizer } = options;
  const alone = tokenizer.encode(prefix);
  const together = tokenizer.encode(prefix + response);
  const begins = alone.every((id, index) => together[index] === id);
  return begins ? together.slice(alone.length) : tokenizer.encode(response);
}

/**
 * Tokens and labels of a row. Instructions: only the response and its end token are labels. Texts: all tokens are; a
 * text is not cut (see `windows`).
 * An instruction longer than `seq` loses the beginning of its input; where that is not enough, the end of the response.
 */
export function encodeExample(row: Row, options: EncodeOptions): EncodedRow {
  const { tokenizer, seq } = options;
  if (row.kind === "text") {
    const tokens = Uint32Array.from(tokenizer.encode(row.text, { addSpecial: true }));
    return { tokens, labels: Int32Array.from(tokens), truncated: false, labelTokens: Math.max(0, tokens.length - 1) };
  }
  let parts = encodeParts(row, options);
  const truncated = parts.prefix.length + parts.response.length > seq;
  if (truncated) parts = shortenInput(row, parts, options);
  const ids = [...parts.prefix, ...parts.response].slice(0, seq);
  const tokens = Uint32Array.from(ids);
  const labels = Int32Array.from(ids, (id, index) => index < parts.prefix.length ? IGNORED_LABEL : id);
  return { tokens, labels, truncated, labelTokens: countLabels(labels) };
}

/** Labels that enter the loss: all but −100 and the first. */
export function countLabels(labels: Int32Array): number {
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
  const end = endToken(options);
  return {
    prefix: encodePrefix(prefix, options),
    response: [...encodeResponse(prefix, response, options), ...(end === null ? [] : [end])],
  };
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

function lengthOf(parts: Parts): number {
  return parts.prefix.length + parts.response.length;
}

function styleOf(options: FormatOptions): PromptStyle {
  const { style = "auto" } = options;
  return style === "auto" ? promptStyle(options.tokenizer) : style;
}

function chatPrefix(tokenizer: Tokenizer, prompt: string | null, user: string): string {
  const turn: ChatMessage = { role: "user", content: user };
  const options = { addGenerationPrompt: true };
  if (prompt === null) return renderChat(tokenizer, [turn], options);
  try {
    return renderChat(tokenizer, [{ role: "system", content: prompt }, turn], options);
  } catch {
    // Some templates refuse a system turn: the prompt then stands before the instruction.
    return renderChat(tokenizer, [{ role: "user", content: `${prompt}\n\n${user}` }], options);
  }
}

/** What a chat template writes around an assistant's answer. */
interface TurnShape {
  /** White space between the generation prompt and the answer, as in "[/INST] answer". */
  readonly lead: string;
  /** The special token behind the answer. */
  readonly end: number | null;
}

const shapes = new WeakMap<Tokenizer, TurnShape>();

function turnShape(tokenizer: Tokenizer): TurnShape {
  const known = shapes.get(tokenizer);
  if (known) return known;
  const [question, answer] = ["question", "answer"];
  const turn: ChatMessage = { role: "user", content: question };
  const opening = renderChat(tokenizer, [turn], { addGenerationPrompt: true });
  const text = renderChat(tokenizer, [turn, { role: "assistant", content: answer }], { addGenerationPrompt: false });
  const start = text.lastIndexOf(answer);
  const lead = text.startsWith(opening) ? text.slice(opening.length, Math.max(start, opening.length)) : "";
  const [first] = tokenizer.encode(text.slice(start + answer.length).trimStart());
  const shape = {
    lead: lead.trim() === "" ? lead : "",
    end: first !== undefined && tokenizer.isSpecial(first) ? first : null,
  };
  shapes.set(tokenizer, shape);
  return shape;
}
