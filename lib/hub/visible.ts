// Texts of the Hub for messages.
import { oneLine } from "../core/text.ts";

/** Tokens that were sent: a server may repeat them in any text. */
const sentTokens = new Set<string>();

/** Notes a token that is sent, so that no message has it. */
export function hideToken(token: string): void {
  sentTokens.add(token);
}

/** A text of the Hub for a message, without tokens that were sent. Control characters and marks that change the direction of writing are spaces. */
export function visible(given: string): string {
  let text = given;
  for (const token of sentTokens) {
    for (const form of [token, encodeURIComponent(token), JSON.stringify(token).slice(1, -1)]) {
      text = text.replaceAll(form, "the token");
    }
  }
  return oneLine(text);
}
