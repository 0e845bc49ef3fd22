// White space beside special tokens, which llama.cpp reads by rules of its own: what a GGUF refuses, and what is said of one.
import assert from "node:assert/strict";
import { tokenizerFromGguf } from "../../lib/io/gguf_tokenizer.ts";
import { ggufTokenizerMetadata } from "../../lib/io/gguf_tokenizer_export.ts";
import { isObject } from "../../lib/io/tokenizer_compat.ts";
import { createTokenizer, type Tokenizer } from "../../lib/io/tokenizer.ts";
import { exportModel } from "../../lib/run/export.ts";
import { refuses } from "../io/files.ts";
import { randomSource, SPEC } from "../io/models.ts";
import { type FixtureName, inFolder, tokenizerOf } from "./fixtures.ts";

/** A fixture's tokenizer whose tokens have these properties, and one more token `<mask>`. */
async function withTokens(
  name: FixtureName,
  properties: Readonly<Record<string, Record<string, boolean>>>,
): Promise<Tokenizer> {
  const { json, config, chatTemplate, vocabSize } = await tokenizerOf(name);
  const own: readonly unknown[] = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  const mask = { id: vocabSize, content: "<mask>", special: true, normalized: false };
  const added_tokens = [...own, mask].map((token) =>
    isObject(token) ? { ...token, ...properties[String(token["content"])] } : token
  );
  return createTokenizer({ ...json, added_tokens }, { config, chatTemplate });
}

Deno.test("a token that takes away white space which the chat template has beside it is refused in a GGUF", async () => {
  const rule = /no added token takes away white space that the chat template has beside it/;
  const end = await withTokens("byte_level", { "<|end|>": { rstrip: true } });
  refuses(() => ggufTokenizerMetadata(end), "input", rule, /now: "<\|end\|>" does, after it; mend: export as a Hug/);
  // The template has a line break before each turn but the first.
  const start = await withTokens("byte_level", { "<|start|>": { lstrip: true } });
  refuses(() => ggufTokenizerMetadata(start), "input", rule, /now: "<\|start\|>" does, before it/);
  // This one takes no system turn; without one it has a space after the end of an answer.
  const spaced = await withTokens("sentencepiece", { "</s>": { rstrip: true } });
  const chatTemplate = spaced.chatTemplate?.replace("eos_token }}", "eos_token + ' ' }}") ?? null;
  const { json, config } = spaced;
  refuses(() => ggufTokenizerMetadata(createTokenizer(json, { config, chatTemplate })), "input", rule, /"<\/s>" does/);
  assert.ok(ggufTokenizerMetadata(spaced).size > 0);
});

Deno.test("tokens that would take away white space but meet none in chats are no reason to refuse a GGUF", async () => {
  const both = { lstrip: true, rstrip: true };
  const met = { "<mask>": both, "<|end|>": { lstrip: true }, "<|start|>": { rstrip: true } };
  for (const name of ["byte_level", "sentencepiece"] as const) {
    const tokenizer = await withTokens(name, met);
    assert.ok(ggufTokenizerMetadata(tokenizer).size > 0, name);
  }
  const { json, config } = await withTokens("byte_level", { "<|end|>": both });
  assert.ok(ggufTokenizerMetadata(createTokenizer(json, { config })).size > 0, "without a template");
});

Deno.test("of a GGUF that begins texts after special tokens with a space, where the tokenizer does not, this is said", async () => {
  const { json, config } = await tokenizerOf("sentencepiece");
  const metaspace = (prepend_scheme: string, normalizer: unknown = null): Tokenizer => {
    const pre_tokenizer = { type: "Metaspace", replacement: "▁", prepend_scheme, split: false };
    return createTokenizer({ ...json, normalizer, pre_tokenizer }, { config });
  };
  const cases = [
    [metaspace("first"), true],
    [metaspace("always"), false],
    [metaspace("never"), false],
    [metaspace("first", json["normalizer"]), false],
    [createTokenizer(json, { config }), false],
  ] as const;
  for (const [index, [tokenizer, isSaid]] of cases.entries()) {
    const back = tokenizerFromGguf(new Map<string, unknown>(ggufTokenizerMetadata(tokenizer)));
    assert.deepEqual(back.encode("stone"), tokenizer.encode("stone"), `case ${index}`);
    const [ours, theirs] = [tokenizer, back].map((one) => one.encode("stone</s>stone").join());
    assert.equal(ours !== theirs, isSaid, `case ${index}`);
    await inFolder(async (out) => {
      const { loadableBy: [folder, file] } = await exportModel(randomSource(SPEC), out, { tokenizer, name: "x" });
      assert.ok(file && file.programs.length > 1 && folder);
      for (const program of file.programs) {
        assert.equal(/\(begins a text after a special token with a space/.test(program), isSaid, `${index} ${program}`);
      }
      assert.ok(folder.programs.every((program) => !/space/.test(program)));
    });
  }
});
