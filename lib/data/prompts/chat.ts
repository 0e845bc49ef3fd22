// Tokens of a conversation, with a mask of the tokens that are learned: the assistant's turns.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { type ChatMessage, renderChat } from "../../text/chat_template.ts";
import { encodeBehind, grow, NO_CONTEXT } from "./context.ts";
import { endToken, formatExample, type FormatOptions, styleOf, withPrompt } from "./format.ts";
import { answeredTurn, turnShape } from "./turn.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

/** A conversation as token ids; both have one entry for each token. */
export interface EncodedChat {
  readonly ids: readonly number[];
  /** Whether the token is of an assistant's turn, its end token included. */
  readonly learned: readonly boolean[];
}

/** A stretch of the conversation's text. */
interface Piece {
  readonly text: string;
  readonly learned: boolean;
}

/**
 * Encodes a conversation up to the last turn of the assistant. In chat style the text is what the template makes of all
 * of it, and the turns are found by rendering its beginnings; in the other styles each user turn is an instruction.
 *
 * Each turn of the assistant is tokenized after the text that asks for it, so that this text has the same tokens as in
 * generation.
 *
 * @throws CompressoError("input") if the template refuses the messages, or the text of the first turns changes when
 * more turns follow.
 */
export function encodeChat(messages: readonly ChatMessage[], options: FormatOptions): EncodedChat {
  return styleOf(options) === "chat"
    ? encodeTemplate(messages, options)
    : encodeTurns(messages, options, { asks: false });
}

/**
 * Token ids that ask the model for the next turn of the assistant: in chat style the template's text with the opening of that turn, as
 * transformers' `apply_chat_template` gives it with `add_generation_prompt`; in the other styles each user turn is an instruction.
 *
 * @throws CompressoError("input") if the template refuses the messages.
 */
export function encodeChatPrompt(messages: readonly ChatMessage[], options: FormatOptions): readonly number[] {
  if (styleOf(options) !== "chat") return encodeTurns(messages, options, { asks: true }).ids;
  const { tokenizer, today } = options;
  return tokenizer.encode(renderChat(tokenizer, withPrompt(messages, options), { addGenerationPrompt: true, today }));
}

function encodeTemplate(messages: readonly ChatMessage[], options: FormatOptions): EncodedChat {
  const { tokenizer } = options, isOpen = turnShape(tokenizer).end === null;
  const writer = createWriter(tokenizer, []);
  for (const { text, learned } of templatePieces(messages, options)) {
    const ids = writer.add(text);
    // After its end token a template may write a line break, which the model is never asked for. Other end tokens may be in what is said.
    const last = isOpen ? -1 : ids.findLastIndex((id) => tokenizer.isSpecial(id));
    const count = last < 0 ? ids.length : last + 1;
    writer.mark(ids.map((_, index) => learned && index < count));
  }
  // What follows the last end token is not needed.
  const count = writer.learned.lastIndexOf(true) + 1;
  const ids = writer.ids.slice(0, count), learned = writer.learned.slice(0, count);
  // A template without end token leaves the end of the last turn to EOS, as for a single answer.
  const end = endToken(options);
  return isOpen && end !== null && count > 0 ? { ids: [...ids, end], learned: [...learned, true] } : { ids, learned };
}

function templatePieces(messages: readonly ChatMessage[], options: FormatOptions): Piece[] {
  const { tokenizer } = options, turns = withPrompt(messages, options);
  const pieces: Piece[] = [], last = turns.findLastIndex(({ role }) => role === "assistant");
  let text = "";
  turns.forEach(({ role, content }, index) => {
    if (role !== "assistant") return;
    const place = { messages, index: index - turns.length + messages.length };
    const asked = renderChat(tokenizer, turns.slice(0, index), { addGenerationPrompt: true });
    const answered = renderChat(tokenizer, turns.slice(0, index + 1), { addGenerationPrompt: false });
    const turn = answeredTurn({ asked, answered, content }, tokenizer);
    if (!asked.startsWith(text) || !turn || turn.prefix.length < text.length) {
      throw index === 0 ? answersNothing() : unstable(place);
    }
    if (turn.isOwn && index < last) throw unsaid(place);
    pieces.push({ text: turn.prefix.slice(text.length), learned: false });
    pieces.push({ text: turn.written, learned: true });
    text = answered;
  });
  return pieces;
}

/**
 * Instructions and answers in turn, each answer with the end token; system turns are a part of the prompt. With `asks` the turns after the
 * last answer are an instruction too.
 */
function encodeTurns(
  messages: readonly ChatMessage[],
  options: FormatOptions,
  { asks }: { readonly asks: boolean },
): EncodedChat {
  const { tokenizer } = options;
  const writer = createWriter(tokenizer, tokenizer.leading);
  const end = endToken(options);
  const gap = styleOf(options) === "alpaca" ? "\n\n" : "\n";
  let prompt = options.prompt, before = "";
  let questions: string[] = [];
  const format = (output: string): ReturnType<typeof formatExample> =>
    formatExample({ instruction: questions.join("\n\n"), input: "", output }, { ...options, prompt });
  for (const { role, content } of messages) {
    if (role === "system") prompt = prompt === null ? content : `${prompt}\n\n${content}`;
    if (role === "user") questions.push(content);
    if (role !== "assistant") continue;
    const { prefix, response } = format(content);
    writer.mark(writer.add(before + prefix).map(() => false));
    writer.mark(writer.add(response).map(() => true));
    if (end !== null) writer.end(end);
    [prompt, questions, before] = [null, [], gap];
  }
  if (asks) writer.mark(writer.add(before + format("").prefix).map(() => false));
  return writer;
}

/** Tokens that grow with the text. */
interface Writer extends EncodedChat {
  /** Appends a text; returns its ids. */
  add(text: string): number[];
  /** Says which of the ids appended last are learned. */
  mark(learned: readonly boolean[]): void;
  /** Appends an end token that is learned. */
  end(id: number): void;
}

function createWriter(tokenizer: Tokenizer, leading: readonly number[]): Writer {
  const ids = [...leading], learned = leading.map(() => false);
  let context = NO_CONTEXT;
  return {
    ids,
    learned,
    add(text): number[] {
      const added = encodeBehind(context, text, tokenizer);
      context = grow(context, { text, ids: added }, tokenizer);
      for (const id of added) ids.push(id); // more than a call takes as arguments
      return added;
    },
    mark(flags): void {
      for (const flag of flags) learned.push(flag);
    },
    end(id): void {
      ids.push(id);
      learned.push(true);
      context = { text: tokenizer.idToToken(id) ?? "", ids: [id] };
    },
  };
}

/** A message of a row's own. */
interface MessagePlace {
  readonly messages: readonly ChatMessage[];
  readonly index: number;
}

const WHAT = "cannot tell what the assistant says in a chat";

/** A template may ask for an answer without a question differently from how it writes one. */
function answersNothing(): CompressoError {
  return refusal("input", WHAT, {
    rule:
      "a conversation begins with a question, as the template writes a first answer differently from how it asks for one",
    value: "the first message is the assistant's",
    fix: "take it out",
  });
}

function unstable({ messages, index }: MessagePlace): CompressoError {
  const count = (sought: ChatMessage["role"]): number => messages.filter(({ role }) => role === sought).length;
  const fixes = [
    ...(count("system") > 0 ? ["put system turns into the first question"] : []),
    ...(count("assistant") > 1 ? ["split the conversation into single questions and answers"] : []),
  ];
  const style = 'set compresso_style in tokenizer_config.json to "alpaca" or "plain"';
  return refusal("input", WHAT, {
    rule: "the chat template writes the first turns independently of later ones",
    value: `it writes message ${
      index + 1
    } of ${messages.length}, or what is before it, differently when more messages follow`,
    fix: fixes.length === 0 ? style : `${fixes.join(", ")}, or ${style}`,
  });
}

function unsaid({ messages, index }: MessagePlace): CompressoError {
  return refusal("input", WHAT, {
    rule: "the chat template writes an answer that others follow as it is said",
    value: `it writes message ${index + 1} of ${messages.length} otherwise, such as without its thoughts`,
    fix: "let a row end with that answer, or take out of it what the template leaves out",
  });
}
