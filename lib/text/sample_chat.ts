// A short conversation in a tokenizer's chat template, which shows what the template writes around turns.
import { type ChatMessage, renderChat } from "./chat_template.ts";
import type { Tokenizer } from "./tokenizer.ts";

const TURNS: readonly ChatMessage[] = [
  { role: "user", content: "Hello" },
  { role: "assistant", content: "Hi." },
  { role: "user", content: "Bye" },
];
/** Conversations that show the fixed text of a template. The first that the template accepts is used. */
const CHATS: readonly (readonly ChatMessage[])[] = [[{ role: "system", content: "Be brief." }, ...TURNS], TURNS];

/** A conversation in the tokenizer's template; empty if it takes none. */
export function sampleChat(tokenizer: Tokenizer): string {
  for (const messages of tokenizer.chatTemplate === null ? [] : CHATS) {
    try {
      return renderChat(tokenizer, messages, { addGenerationPrompt: true });
    } catch {
      // Some templates refuse system turns; try the next conversation.
    }
  }
  return "";
}
