// Renders chat messages to one text by a tokenizer's Jinja template.
import { refuse } from "../core/errors.ts";
import { rewriteStrips, STRIPS } from "../compat/jinja_strip.ts";
import { strftime } from "../compat/strftime.ts";
import { type ParsedTemplate, parseTemplate, render } from "./template_budget.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { tokenText } from "./tokenizer_json.ts";

/** One turn of a conversation. */
export interface ChatMessage {
  /** Who speaks. */
  readonly role: "system" | "user" | "assistant";
  /** What is said. */
  readonly content: string;
}

/** Options of {@link renderChat}. */
export interface RenderChatOptions {
  /** Whether the text ends with the opening of an assistant's turn. */
  readonly addGenerationPrompt: boolean;
  /**
   * Whether `strftime_now` of the template gives the day that it is. Default false: 26 July 2024, as Llama 3.2's template has it without a
   * clock, so that equal rows are equal tokens on any day.
   */
  readonly today?: boolean | undefined;
}

const SPECIAL = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;

const parsed = new Map<string, ParsedTemplate>();

/** The day of chats without a clock. */
const FIXED_DAY = new Date(2024, 6, 26);

/**
 * Renders a conversation with the tokenizer's chat template. The text already holds BOS where the template writes it:
 * encode it without `addSpecial`.
 *
 * @throws CompressoError("input") if there is no template, it does not parse, it refuses the messages (`raise_exception`), or takes more than its budget.
 */
export function renderChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: RenderChatOptions,
): string {
  const source = tokenizer.chatTemplate;
  if (source === null) {
    refuse("input", "cannot format a chat", {
      rule: "the tokenizer has a chat template",
      value: "none in tokenizer_config.json, chat_template.jinja or the GGUF",
      fix: 'use the style "alpaca" or "plain"',
    });
  }
  const tokens = SPECIAL.flatMap((key) => {
    const text = tokenText(tokenizer.config[key]);
    return text === null ? [] : [[key, text]];
  });
  const template = parse(source);
  try {
    return render(template, {
      ...STRIPS,
      ...Object.fromEntries(tokens),
      messages: messages.map(({ role, content }) => ({ role, content })),
      // None, as in transformers: templates ask `tools is none`, which undefined is not.
      tools: null,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt,
      strftime_now: (format: string) => strftime(options.today ? new Date() : FIXED_DAY, format),
    });
  } catch (error) {
    refuse("input", "cannot format a chat", {
      rule: "the chat template accepts the messages",
      value: `roles ${messages.map(({ role }) => role).join(", ")}; the template says: ${reason(error)}`,
      fix: "put the turns otherwise",
      cause: error,
    });
  }
}

function parse(source: string): ParsedTemplate {
  const known = parsed.get(source);
  if (known) return known;
  try {
    // Jinja reads every line end as \n.
    const template = parseTemplate(source.replaceAll(/\r\n?/g, "\n"));
    rewriteStrips(template);
    parsed.set(source, template);
    return template;
  } catch (error) {
    refuse("input", "cannot read the chat template", {
      rule: "it is a Jinja template",
      value: reason(error),
      fix: "correct it, or fetch the model's tokenizer again",
      cause: error,
    });
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
