// An assistant's turn in the text of a chat template: what is written around an answer, and where it begins.
import { type ChatMessage, renderChat } from "../../text/chat_template.ts";
import { trim, trimEnd, trimStart } from "../../compat/python_text.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

/** What a chat template writes around an assistant's answer. */
export interface TurnShape {
  /** What is between the generation prompt and the answer: a space, as in "[/INST] answer", or a heading that the template has no prompt for. */
  readonly lead: string;
  /** The end of the generation prompt that an answered turn does not have, such as `<think>` in DeepSeek-R1-Distill and QwQ; mostly empty. */
  readonly opened: string;
  /** White space between the answer and its end token, as in "answer </s>". Without an end token, all text after it. */
  readonly tail: string;
  /** The special token after the answer. */
  readonly end: number | null;
  /** What follows the answer to a question. */
  readonly closing: string;
}

/** An answer where the model is to learn it. */
export interface AnsweredTurn {
  /** The text before the answer. */
  readonly prefix: string;
  /** What is learned: the answer with all that the template writes around it. */
  readonly written: string;
  /** Whether `written` is the answer as said, not as the template writes it: the template's text cannot continue it. */
  readonly isOwn: boolean;
}

const shapes = new WeakMap<Tokenizer, TurnShape>();

const ASKED = "question", SAID = "answer";
const QUESTION: ChatMessage = { role: "user", content: ASKED };

/** What the tokenizer's chat template writes around an answer. */
export function turnShape(tokenizer: Tokenizer): TurnShape {
  const known = shapes.get(tokenizer);
  if (known) return known;
  const opening = renderChat(tokenizer, [QUESTION], { addGenerationPrompt: true });
  const text = renderChat(tokenizer, [QUESTION, { role: "assistant", content: SAID }], { addGenerationPrompt: false });
  const start = Math.max(0, text.lastIndexOf(SAID)),
    before = text.slice(0, start),
    closing = text.slice(start + SAID.length);
  const shared = text.startsWith(opening) ? opening.length : sharedLength(opening, before);
  // Texts that part before the question has ended say nothing of the answer.
  const isTold = shared >= opening.lastIndexOf(ASKED) + ASKED.length;
  const rest = closing.trimStart(), [first] = tokenizer.encode(rest);
  const end = first !== undefined && tokenizer.isSpecial(first) ? first : null;
  const shape: TurnShape = {
    lead: isTold ? before.slice(shared) : "",
    opened: isTold ? opening.slice(shared) : "",
    tail: end === null ? closing : closing.slice(0, closing.length - rest.length),
    end,
    closing,
  };
  shapes.set(tokenizer, shape);
  return shape;
}

/**
 * Where an answer is learned, from the text that asks for it and the text once it is there; null if these begin
 * differently.
 *
 * At inference the model continues after the whole generation prompt. Some generation prompts open the thoughts, while
 * the answered text does not. Then an answer with thoughts is learned after the opening, as the model is to write it.
 * An answer without thoughts is learned before the opening, as transformers writes it: after the opening it would be
 * learned as a thought. Many templates leave thoughts out of answers; then the answer is learned as it was said. An
 * answer that differs only by white space is learned as the template has it.
 */
export function answeredTurn(
  { asked, answered, content }: { readonly asked: string; readonly answered: string; readonly content: string },
  tokenizer: Tokenizer,
): AnsweredTurn | null {
  const { lead, opened, closing } = turnShape(tokenizer);
  const bare = asked.endsWith(opened) ? asked.slice(0, asked.length - opened.length) : asked;
  if (!answered.startsWith(bare)) return null;
  const isWhole = holds(answered, content, bare.length);
  if (isWhole && answered.startsWith(asked)) {
    return { prefix: asked, written: answered.slice(asked.length), isOwn: false };
  }
  const thought = opened === "" ? null : withoutOpening(content, opened);
  if (thought !== null) return { prefix: asked, written: thought + closing, isOwn: true };
  if (isWhole) return { prefix: bare, written: answered.slice(bare.length), isOwn: false };
  return { prefix: asked, written: (trim(lead) === "" ? lead : "") + content + closing, isOwn: true };
}

/** Length of the text that both begin with; a tag such as `</think>` is no beginning of another. */
function sharedLength(one: string, other: string): number {
  let length = 0;
  while (length < Math.min(one.length, other.length) && one[length] === other[length]) length++;
  if (length === other.length) return length;
  return length - (/[<[][^<>[\]]*$/.exec(one.slice(0, length))?.[0].length ?? 0);
}

/** White space of JavaScript and of Python, which has some controls too. */
const SPACE = /[\s\p{Cc}]+/gu;

/** Whether a text holds all that is said, except for white space, and not before `from` alone. */
function holds(text: string, said: string, from: number): boolean {
  const reaches = (whole: string, part: string, start: number): boolean => {
    const at = whole.lastIndexOf(part);
    return at >= 0 && at + part.length > start;
  };
  if (reaches(text, said, from)) return true;
  const packed = (part: string): string => part.replaceAll(SPACE, "");
  return reaches(packed(text), packed(said), packed(text.slice(0, from)).length);
}

/** An answer without the opening of its thoughts; null if it does not begin with that. */
function withoutOpening(content: string, opened: string): string | null {
  const mark = trim(opened), said = trimStart(content);
  if (!said.startsWith(mark)) return null;
  const rest = said.slice(mark.length), space = opened.slice(trimEnd(opened).length);
  return rest.startsWith(space) ? rest.slice(space.length) : rest;
}
