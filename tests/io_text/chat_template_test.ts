import assert from "node:assert/strict";
import { renderChat } from "../../lib/io/chat_template.ts";
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
