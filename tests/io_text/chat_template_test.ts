import assert from "node:assert/strict";
import { renderChat } from "../../lib/io/chat_template.ts";
import { encodeExample } from "../../lib/io/prompts.ts";
import { encodeChat, encodeChatPrompt } from "../../lib/io/prompts_chat.ts";
import { failure, golden, tokenizerOf, withConfig } from "./fixtures.ts";

for (const name of ["byte_level", "sentencepiece"] as const) {
  Deno.test(`renderChat() of the ${name} tokenizer gives the text that transformers gives`, async () => {
    const tokenizer = await tokenizerOf(name);
    const { chats } = await golden(name);
    assert.equal(chats.length, 3);
    for (const { messages, addGenerationPrompt, text } of chats) {
      assert.equal(renderChat(tokenizer, messages, { addGenerationPrompt }), text);
    }
  });
}

Deno.test("renderChat() says that there is no template, that it does not parse, or why it refuses", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const turn = { role: "user", content: "x" } as const;
  const options = { addGenerationPrompt: true };
  const bare = withConfig(tokenizer, {}, null);
  assert.throws(() => renderChat(bare, [turn], options), failure("input", /has a chat template/));
  const broken = withConfig(tokenizer, {}, "{% for %}");
  assert.throws(() => renderChat(broken, [turn], options), failure("input", /it is a Jinja template/));
  assert.throws(
    () => renderChat(tokenizer, [{ role: "system", content: "s" }, turn], options),
    failure("input", /roles system, user; the template says: Roles must alternate/),
  );
});

Deno.test("a chat template sees tools and documents as none, not as undefined", async () => {
  const template = "{% for name in [tools, documents] %}" +
    "{{ 'none' if name is none else 'some' }} {{ 'defined' if name is defined else 'not' }};{% endfor %}" +
    "{% if not tools is none %}tools{% endif %}";
  const tokenizer = withConfig(await tokenizerOf("sentencepiece"), {}, template);
  const text = renderChat(tokenizer, [{ role: "user", content: "x" }], { addGenerationPrompt: true });
  assert.equal(text, "none defined;none defined;");
});

Deno.test("a template that prints the date makes equal rows equal tokens on any day, and tells a chat the day that it is", async () => {
  const template = "{{ strftime_now('%d %b %Y, %-d.%-m.%y %A %%') if strftime_now is defined }}" +
    "{% for m in messages %}|{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}|assistant: {% endif %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, template);
  const row = { kind: "instruct", instruction: "x", input: "", output: "y", choices: null, extra: {} } as const;
  const turns = [{ role: "user", content: "x" }, { role: "assistant", content: "y" }] as const;
  const options = { tokenizer, prompt: null };
  const seen = (): unknown => [encodeExample(row, { ...options, seq: 200 }).tokens, encodeChat(turns, options).ids];
  const chat = (): string => tokenizer.decode(encodeChatPrompt([turns[0]], { ...options, today: true }));
  const [rows, asked] = [seen(), chat()];
  assert.equal(
    renderChat(tokenizer, [turns[0]], { addGenerationPrompt: true }),
    "26 Jul 2024, 26.7.24 Friday %|user: x|assistant: ",
  );
  const Real = globalThis.Date;
  const later = class extends Real {
    constructor() {
      super(Real.now() + 86_400_000 * 40);
    }
  };
  Reflect.set(globalThis, "Date", later);
  try {
    assert.deepEqual(seen(), rows);
    assert.notEqual(chat(), asked);
  } finally {
    globalThis.Date = Real;
  }
});
