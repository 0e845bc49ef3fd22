// Conversations: turns in the model's layout, what is kept after a stop, what is dropped where the context is full, and what is refused.
import assert from "node:assert/strict";
import type { ChatMessage } from "../../lib/text/chat_template.ts";
import { encodeChatPrompt } from "../../lib/data/prompts/chat.ts";
import { endToken } from "../../lib/data/prompts/encode.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { type Chat, type ChatAnswer, type ChatOptions, createChat } from "../../lib/generate/chat.ts";
import { generate } from "../../lib/generate/generate.ts";
import { streamText } from "../../lib/generate/text.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { refuses, rejects } from "../refuses.ts";
import { randomSource } from "../slice/helpers.ts";
import { SPEC } from "../formats/models.ts";
import { type FixtureName, tokenizerOf, withConfig } from "../text/fixtures.ts";
import { openDemo } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

/** A small model with random weights that speaks the fixture's tokens; its end token never comes unless it is likely. */
async function openTalker(
  name: FixtureName | Tokenizer | null,
  { device, maxPosition = 400 }: { readonly device: Device; readonly maxPosition?: number },
): Promise<Model> {
  const tokenizer = typeof name === "string" ? await tokenizerOf(name) : name;
  const vocab = tokenizer?.vocabSize ?? 100;
  const spec = { ...SPEC, vocab, maxPosition, bosId: null, eosIds: [] };
  return await loadModelFrom(randomSource(spec), { device, tokenizer, baseDtype: "f32" });
}

async function ask(chat: Chat, question: string): Promise<ChatAnswer> {
  const pieces = chat.ask(question);
  let text = "";
  for (let next = await pieces.next();; next = await pieces.next()) {
    if (next.done) {
      assert.equal(next.value.text, text);
      return next.value;
    }
    text += next.value;
  }
}

/** The answer to a conversation that is read at once. */
async function answerTo(
  model: Model,
  messages: readonly ChatMessage[],
  { system = null, maxTokens, ...options }: ChatOptions,
): Promise<{ text: string; tokens: number[] }> {
  const { tokenizer } = model;
  assert.ok(tokenizer);
  const format = { tokenizer, prompt: system }, end = endToken(format), tokens: number[] = [];
  const prompt = encodeChatPrompt(messages, format);
  const source = generate(model, prompt, { ...options, maxTokens, endTokens: end === null ? [] : [end] });
  const pieces = await Array.fromAsync(streamText(source, { tokenizer, onToken: (id) => void tokens.push(id) }));
  return { text: pieces.join(""), tokens };
}

for (const name of ["byte_level", "sentencepiece"] as const) {
  Deno.test(`each turn of a chat in ${name} is answered as the whole conversation read at once`, async () => {
    const device = await sharedDevice();
    using model = await openTalker(name, { device });
    for (const options of [{ maxTokens: 6, system: "Be brief." }, { maxTokens: 6, temperature: 1, topK: 9, seed: 4 }]) {
      using chat = createChat(model, options);
      let expected: readonly ChatMessage[] = [];
      for (const content of ["Where is the stone?", "And now? 👍", "Go on."]) {
        expected = [...expected, { role: "user", content }];
        const reference = await answerTo(model, expected, options), answer = await ask(chat, content);
        assert.equal(answer.text, reference.text);
        assert.deepEqual(answer.tokens, reference.tokens);
        assert.equal(answer.reason, "length");
        assert.equal(answer.dropped, 0);
        expected = [...expected, {
          role: "assistant",
          content: answer.text.replace(name === "sentencepiece" ? /^ / : "", ""),
        }];
        assert.deepEqual(chat.messages, expected);
      }
      chat.reset();
      assert.deepEqual(chat.messages, []);
      assert.deepEqual((await ask(chat, "Where is the stone?")).text, expected[1]?.content);
    }
  });
}

Deno.test("the demo answers in its own style, and a stop string ends an answer", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const question =
    "Answer the question.\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Nina saw five stars. Where is Tom?";
  using chat = createChat(model, { maxTokens: 12 });
  const answer = await ask(chat, question);
  assert.deepEqual([answer.text, answer.reason], ["in Rome", "end"]);
  assert.equal(answer.times.count, answer.tokens.length);
  const again = await ask(chat, question);
  // All that the model has read: of the first answer's last token and its end token that is not sure.
  assert.equal(again.reusedTokens, answer.promptTokens + answer.tokens.length - 1);
  using stopped = createChat(model, { maxTokens: 12, stop: ["Ro"] });
  const cut = await ask(stopped, question);
  assert.deepEqual([cut.text, cut.reason], ["in ", "stop"]);
});

Deno.test("where the context is full the oldest turns go, and a question that alone fills it is refused", async () => {
  const device = await sharedDevice();
  using model = await openTalker("byte_level", { device, maxPosition: 120 });
  using chat = createChat(model, { maxTokens: 40 });
  let dropped = 0;
  for (let turn = 0; turn < 8; turn++) {
    const before = chat.messages.length, answer = await ask(chat, `Question ${turn}: the stone?`);
    assert.ok(answer.promptTokens + 30 <= 120, "a quarter stays free");
    assert.equal(chat.messages.length, before + 2 - answer.dropped);
    assert.equal(chat.messages[0]?.role, "user");
    dropped += answer.dropped;
  }
  assert.ok(dropped > 0 && dropped % 2 === 0, `${dropped} dropped`);
  const held = chat.messages, long = "the winter garden ".repeat(80);
  await rejects(ask(chat, long), "input", { names: 120 });
  assert.equal(chat.messages, held);
  // Without room for the answer: what there is of it is said.
  using cut = createChat(await openShort(model), { maxTokens: 40 });
  const { text, reason } = await ask(cut, "the winter garden near a river of stones");
  assert.equal(reason, "context");
  assert.ok(text.length > 0);

  async function openShort({ tokenizer }: Model): Promise<Model> {
    assert.ok(tokenizer);
    const messages = [{ role: "user" as const, content: "the winter garden near a river of stones" }];
    const { length } = encodeChatPrompt(messages, { tokenizer, prompt: null });
    return await openTalker(tokenizer, { device, maxPosition: length + 3 });
  }
});

Deno.test("an answer that is stopped stays as far as it came", async () => {
  const device = await sharedDevice();
  using model = await openTalker("byte_level", { device });
  using chat = createChat(model, { maxTokens: 100 });
  for (const how of ["abort", "break"] as const) {
    const abort = new AbortController(), before = chat.messages.length;
    let text = "";
    const read = async (): Promise<void> => {
      for await (const piece of chat.ask("Where?", { signal: abort.signal })) {
        text += piece;
        if (text.length < 5) continue;
        if (how === "break") break;
        abort.abort(new Error("enough"));
      }
    };
    if (how === "abort") await assert.rejects(read(), /enough/);
    else await read();
    assert.deepEqual(chat.messages.slice(before), [{ role: "user", content: "Where?" }, {
      role: "assistant",
      content: text,
    }]);
  }
  assert.ok((await ask(chat, "And?")).text.length > 0);
});

Deno.test("a chat that begins anew under an answer forgets that one too, and a second answer beside it is refused", async () => {
  const device = await sharedDevice();
  using model = await openTalker("byte_level", { device });
  using chat = createChat(model, { maxTokens: 100 });
  const answer = chat.ask("Where?");
  assert.equal((await answer.next()).done, false);
  await rejects(chat.ask("And?").next(), "usage", { names: "return()" });
  assert.equal((await answer.next()).done, false);
  chat.reset();
  for await (const _ of answer) break;
  assert.deepEqual(chat.messages, []);
  await ask(chat, "And?");
  assert.deepEqual(chat.messages.map(({ content }) => content)[0], "And?");
  assert.equal(chat.messages.length, 2);
});

Deno.test("a model without tokenizer, or without template and style, is refused unless a style is chosen", async () => {
  const device = await sharedDevice();
  using mute = await openTalker(null, { device });
  refuses(() => createChat(mute, { maxTokens: 4 }), "input", { names: "tokenizer.json" });
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, null);
  using base = await openTalker(tokenizer, { device });
  refuses(() => createChat(base, { maxTokens: 4 }), "input", { names: ["tokenizer_config.json", "compresso_style"] });
  using chat = createChat(base, { maxTokens: 4, style: "plain" });
  assert.equal((await ask(chat, "Where?")).tokens.length, 4);
  refuses(() => createChat(base, { maxTokens: 4, style: "plain", stop: [""] }), "usage", {
    option: "stop",
    value: '""',
  });
});
