// The prompt layout that goes with a tokenizer, in three styles.
import { type ErrorParts, refuse } from "../../core/errors.ts";
import { shown } from "../../core/check_options.ts";
import { type ChatMessage, renderChat } from "../../text/chat_template.ts";
import type { InstructRow } from "../row.ts";
import { answeredTurn, turnShape } from "./turn.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

export { turnShape } from "./turn.ts";

/** Layout of prompts: the tokenizer's chat template, headings as in Alpaca, or bare lines. */
export type PromptStyle = "chat" | "alpaca" | "plain";

/** What decides on the layout of a prompt. */
export interface FormatOptions {
  /** Its config and chat template decide on the style. */
  readonly tokenizer: Tokenizer;
  /** Text put before the instruction, such as the collaborative prompt; null for none. */
  readonly prompt: string | null;
  /** "auto" (default) takes the tokenizer's own style, see {@link promptStyle}. */
  readonly style?: "auto" | PromptStyle | undefined;
  /** Whether a template that prints the date prints the day that it is, see `renderChat`. Default false. */
  readonly today?: boolean | undefined;
}

/** Refuses what is not a text to put before instructions: true and false would be written as words. Throws `CompressoError("usage")`. */
export function checkPromptText(
  prompt: unknown,
  { what = "cannot use this prompt", fix = "give a text, or null for none" }: Partial<
    Pick<ErrorParts, "what" | "fix">
  > = {},
): void {
  const isText = typeof prompt === "string";
  if (prompt === null || (isText && prompt.trim() !== "")) return;
  const rule = "it is a text with something in it, or null", value = isText ? "an empty text" : shown(prompt);
  refuse("usage", what, { rule, value, fix });
}

/** The style of a tokenizer: `compresso_style` of its config, else "chat" where it has a template, else "alpaca". */
export function promptStyle(tokenizer: Tokenizer): PromptStyle {
  const own = tokenizer.config["compresso_style"];
  if (own === undefined) return tokenizer.chatTemplate === null ? "alpaca" : "chat";
  if (own === "chat" || own === "alpaca" || own === "plain") return own;
  refuse("input", "cannot format prompts", {
    rule: 'compresso_style in tokenizer_config.json is "chat", "alpaca" or "plain"',
    value: JSON.stringify(own),
    fix: "correct it, or remove the key",
  });
}

/**
 * The style of a tokenizer that was made to chat: it has a template, or its config names a style. Null for others:
 * Alpaca's headings would only let a base model guess.
 */
export function chatStyle(tokenizer: Tokenizer): PromptStyle | null {
  const isMade = tokenizer.chatTemplate !== null || tokenizer.config["compresso_style"] !== undefined;
  return isMade ? promptStyle(tokenizer) : null;
}

/** The style that the options ask for. */
export function styleOf({ style = "auto", tokenizer }: FormatOptions): PromptStyle {
  return style === "auto" ? promptStyle(tokenizer) : style;
}

/** The text that the model is given and the text that it is to answer. */
export function formatExample(
  row: Pick<InstructRow, "instruction" | "input" | "output">,
  options: FormatOptions,
): { prefix: string; response: string } {
  const { prompt } = options, { instruction, input } = row;
  switch (styleOf(options)) {
    case "chat": {
      const user = input === "" ? instruction : `${instruction}\n\n${input}`;
      return formatChat(user, row.output, options);
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
 * The token that ends a response: what the chat template puts after an assistant's turn where that is a special token,
 * else EOS; null without both.
 */
export function endToken(options: FormatOptions): number | null {
  const { tokenizer } = options;
  return (styleOf(options) === "chat" ? turnShape(tokenizer).end : null) ?? tokenizer.eosId;
}

/**
 * Messages with the prompt before them: as the system turn or before its text, or, where the template refuses a system
 * turn or does not keep it, before the text of the user's first message; left out where the user says nothing.
 */
export function withPrompt(
  messages: readonly ChatMessage[],
  { tokenizer, prompt }: Pick<FormatOptions, "tokenizer" | "prompt">,
): readonly ChatMessage[] {
  const [first, ...others] = messages;
  if (prompt === null || first === undefined) return messages;
  const before = ({ role, content }: ChatMessage): ChatMessage => ({ role, content: `${prompt}\n\n${content}` });
  const isKept = acceptsSystem(tokenizer);
  if (isKept && first.role === "system") return [before(first), ...others];
  if (isKept) return [{ role: "system", content: prompt }, ...messages];
  // Before an answer it would be learned as one.
  const asked = messages.findIndex(({ role }) => role === "user");
  return messages.map((message, index) => index === asked ? before(message) : message);
}

const systems = new WeakMap<Tokenizer, boolean>();

/** An instruction in the tokenizer's chat template: it has the tokens of the conversation of one question and its answer. */
function formatChat(user: string, output: string, options: FormatOptions): { prefix: string; response: string } {
  const { tokenizer, today } = options, turns = withPrompt([{ role: "user", content: user }], options);
  const { lead, tail, closing } = turnShape(tokenizer);
  const asked = renderChat(tokenizer, turns, { addGenerationPrompt: true, today });
  const whole = { prefix: asked, response: lead + output + tail };
  if (output === "") return whole;
  const messages: readonly ChatMessage[] = [...turns, { role: "assistant", content: output }];
  const answered = renderChat(tokenizer, messages, { addGenerationPrompt: false, today });
  const turn = answeredTurn({ asked, answered, content: output }, tokenizer);
  if (!turn?.written.endsWith(closing)) return whole;
  return { prefix: turn.prefix, response: turn.written.slice(0, turn.written.length - closing.length) + tail };
}

/** Whether a layout has a place for a system turn; some templates have none. */
export function keepsSystem(options: FormatOptions): boolean {
  return styleOf(options) !== "chat" || acceptsSystem(options.tokenizer);
}

/**
 * Whether the chat template takes a system turn: some raise an exception, some leave it out without a word, and some,
 * such as Mistral's, write it only before a question that ends the chat, so that it is gone once an answer follows.
 */
function acceptsSystem(tokenizer: Tokenizer): boolean {
  const known = systems.get(tokenizer);
  if (known !== undefined) return known;
  const content = "Be brief.";
  const asked: readonly ChatMessage[] = [{ role: "system", content }, { role: "user", content: "question" }];
  const answered: readonly ChatMessage[] = [...asked, { role: "assistant", content: "answer" }];
  let accepted = false;
  try {
    accepted = renderChat(tokenizer, asked, { addGenerationPrompt: true }).includes(content) &&
      renderChat(tokenizer, answered, { addGenerationPrompt: false }).includes(content);
  } catch {
    // A template that cannot render even a lone question is refused where the row itself is rendered.
  }
  systems.set(tokenizer, accepted);
  return accepted;
}
