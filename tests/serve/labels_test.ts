// Tokens as texts and bytes: what log-probabilities of a chat say of tokens that are a part of a character.
import assert from "node:assert/strict";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { chatBody } from "../../lib/serve/chat.ts";
import { createLabels } from "../../lib/serve/labels.ts";
import { tokenizerOf } from "../text/fixtures.ts";

/** Token and bytes of each entry in an answer. */
function entriesOf(tokenizer: Tokenizer, ids: readonly number[]): { token: string; bytes: number[] }[] {
  const tokens = ids.map((id) => ({ id, offset: 0, logprob: -1, top: [{ id, logprob: -1 }] }));
  const body = chatBody(
    { id: "x", created: 1, model: "m" },
    [{ index: 0, text: "", tokens, finish: "stop" }],
    { labels: createLabels(tokenizer), top: 1, usage: { promptTokens: 1, completionTokens: 1 } },
  );
  return JSON.parse(JSON.stringify(body)).choices[0].logprobs.content;
}

function utf8(text: string): number[] {
  return [...new TextEncoder().encode(text)];
}

for (const [name, lead, special] of [["byte_level", "", "<|end|>"], ["sentencepiece", " ", "</s>"]] as const) {
  Deno.test(`the bytes of an answer's tokens in ${name} make up its text`, async () => {
    const tokenizer = await tokenizerOf(name);
    for (const text of ["🌱", "The river — naïve, 今日 🌱\n\tx\u00ad\u00a0 \uFFFD", "\u0000\u007f", "é🌱é"]) {
      const ids = tokenizer.encode(text), entries = entriesOf(tokenizer, ids);
      assert.deepEqual(entries.flatMap(({ bytes }) => bytes), utf8(lead + text));
      assert.equal(entries.length, ids.length);
    }
    const parts = entriesOf(tokenizer, tokenizer.encode("🌱"));
    assert.ok(parts.length > 1 && parts.some(({ token, bytes }) => utf8(token).length !== bytes.length), "in parts");
    const [end] = entriesOf(tokenizer, [tokenizer.tokenToId(special) ?? -1]);
    assert.deepEqual(end, { ...end, token: special, bytes: utf8(special) });
  });
}
