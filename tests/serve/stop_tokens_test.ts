// Special tokens as stop strings over HTTP: the answer ends where the model writes one.
import assert from "node:assert/strict";
import { eventsOf, NAME, serveTalker } from "./helpers/server.ts";

const COMPLETIONS = "/v1/completions";

Deno.test("a special token that is a stop string ends an answer, which has nothing of it, whole or streamed", async () => {
  await using served = await serveTalker("byte_level");
  const fields = { model: NAME, prompt: "The river", max_tokens: 120, temperature: 1, logprobs: 0 };
  const ask = async (more: Readonly<Record<string, unknown>>): Promise<Response> =>
    await served.post(COMPLETIONS, { ...fields, ...more });
  let seed = 0, written: readonly string[] = [], kept = -1;
  // Of some 480 tokens three are special: within a few answers one of them comes, and not as the first token of all.
  while (kept < 1) {
    assert.ok(++seed <= 40, "the model wrote no special token");
    const { choices: [{ logprobs }] } = await (await ask({ seed })).json();
    written = logprobs.tokens;
    kept = written.findIndex((token) => /^<\|\w+\|>$/.test(token));
  }
  const stop = written[kept];

  const { choices: [{ text, finish_reason, logprobs }], usage } = await (await ask({ seed, stop })).json();
  assert.equal(finish_reason, "stop");
  assert.deepEqual(logprobs.tokens, written.slice(0, kept));
  assert.equal(usage.completion_tokens, kept);
  const pieces: string[] = [];
  for await (const event of eventsOf(await ask({ seed, stop: ["no such text", stop], stream: true }))) {
    if (event !== "[DONE]") pieces.push(JSON.parse(event).choices[0].text);
  }
  assert.equal(pieces.join(""), text);
});
