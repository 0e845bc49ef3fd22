// White space, and special tokens among it, which llama.cpp reads by rules of its own: what a GGUF refuses, and what is said of one.
import assert from "node:assert/strict";
import { tokenizerFromGguf } from "../../lib/formats/gguf/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { isObject } from "../../lib/core/guards.ts";
import { createTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { assertNames, checkRefusal, refuses } from "../refuses.ts";
import { randomSource, SPEC } from "../formats/models.ts";
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
  const end = await withTokens("byte_level", { "<|end|>": { rstrip: true } });
  refuses(() => ggufTokenizerMetadata(end), "input", { value: '"<|end|>"' });
  // The template has a line break before each turn but the first.
  const start = await withTokens("byte_level", { "<|start|>": { lstrip: true } });
  refuses(() => ggufTokenizerMetadata(start), "input", { value: '"<|start|>"' });
  // This one takes no system turn; without one it has a space after the end of an answer.
  const spaced = await withTokens("sentencepiece", { "</s>": { rstrip: true } });
  const chatTemplate = spaced.chatTemplate?.replace("eos_token }}", "eos_token + ' ' }}") ?? null;
  const { json, config } = spaced;
  refuses(() => ggufTokenizerMetadata(createTokenizer(json, { config, chatTemplate })), "input", { value: '"</s>"' });
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

/** What is said of each program that reads the GGUF of an export; nothing is said of the folder. */
async function saidOfGguf(tokenizer: Tokenizer): Promise<string> {
  let said = "";
  await inFolder(async (out) => {
    const { loadableBy: [folder, file] } = await exportModel(randomSource(SPEC), out, { tokenizer, name: "x" });
    assert.ok(file && file.programs.length > 1 && folder);
    const all = new Set(
      file.programs.map((program) => / \((.*), as the folder's tokenizer does not\)$/.exec(program)?.[1]),
    );
    assert.equal(all.size, 1, "of each program the same");
    said = [...all][0] ?? "";
    assert.ok(folder.programs.every((program) => !/tokenizer|space/.test(program)));
  });
  return said;
}

/** Whether the GGUF of a tokenizer, read again, has the same tokens of a text. */
function isReadAlike(tokenizer: Tokenizer, text: string): boolean {
  const back = tokenizerFromGguf(new Map<string, unknown>(ggufTokenizerMetadata(tokenizer)));
  return back.encode(text).join() === tokenizer.encode(text).join();
}

const BEFORE_SPACES = "puts a space before a text that begins with one";
const AFTER_TOKENS = "begins a text after a special token with a space";

Deno.test("of a GGUF that puts spaces before texts where the tokenizer does not, this is said", async () => {
  const { json, config } = await tokenizerOf("sentencepiece");
  const metaspace = (scheme: Record<string, string>, normalizer: unknown = null): Tokenizer => {
    const pre_tokenizer = { type: "Metaspace", replacement: "▁", split: false, ...scheme };
    return createTokenizer({ ...json, normalizer, pre_tokenizer }, { config });
  };
  const first = { prepend_scheme: "first" };
  const cases = [
    [metaspace(first), `${AFTER_TOKENS} and ${BEFORE_SPACES}`],
    [metaspace({ prepend_scheme: "always" }), BEFORE_SPACES],
    [metaspace({}), BEFORE_SPACES],
    [metaspace({ prepend_scheme: "never" }), ""],
    [metaspace(first, json["normalizer"]), ""],
    [createTokenizer(json, { config }), ""],
  ] as const;
  for (const [index, [tokenizer, expected]] of cases.entries()) {
    assert.ok(isReadAlike(tokenizer, "stone"), `case ${index}`);
    const said = await saidOfGguf(tokenizer);
    assert.equal(said, expected, `case ${index}`);
    for (const [text, what] of [["stone</s>stone", AFTER_TOKENS], [" stone", BEFORE_SPACES]] as const) {
      assert.equal(isReadAlike(tokenizer, text), !said.includes(what), `case ${index} ${text}`);
    }
  }
});

Deno.test("a split at spaces that the normalizer has written as ▁, as Gemma has it, is none in a GGUF", async () => {
  const { json, config } = await tokenizerOf("sentencepiece");
  const normalizer = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const pattern = { String: " " };
  const pre_tokenizer = { type: "Split", pattern, behavior: "MergedWithPrevious", invert: false };
  const tokenizer = createTokenizer({ ...json, normalizer, pre_tokenizer }, { config });
  const metadata = ggufTokenizerMetadata(tokenizer);
  assert.equal(metadata.get("tokenizer.ggml.add_space_prefix"), false);
  for (const text of ["stone", " stone", "The river  carries\n a stone. ", "</s> x"]) {
    assert.ok(isReadAlike(tokenizer, text), JSON.stringify(text));
  }
  const dots = { ...pre_tokenizer, pattern: { String: "." } };
  const other = createTokenizer({ ...json, normalizer, pre_tokenizer: dots }, { config });
  refuses(() => ggufTokenizerMetadata(other), "input", { value: ['"normalizer"', '"type"'] });
});

Deno.test("Metaspace that splits at spaces within tokens is refused in a GGUF, which holds no such splits", async () => {
  const { json, config } = await tokenizerOf("sentencepiece"), { model } = json;
  assert.ok(isObject(model) && isObject(model["vocab"]) && Array.isArray(model["merges"]));
  const rule = { value: '"▁▁"' };
  const made = (split: object, tokens: unknown = model): Tokenizer => {
    const pre_tokenizer = { type: "Metaspace", replacement: "▁", prepend_scheme: "always", ...split };
    return createTokenizer({ ...json, normalizer: null, pre_tokenizer, model: tokens }, { config });
  };
  const written = (tokenizer: Tokenizer) => (): unknown => ggufTokenizerMetadata(tokenizer);
  refuses(written(made({ split: true })), "input", { value: '"▁▁"' });
  refuses(written(made({})), "input", { value: '"▁▁"' });
  assert.ok(isReadAlike(made({ split: false }), "a  b"));
  // Without such tokens a split changes nothing.
  const isKept = (token: string): boolean => !token.includes("▁", 1);
  const vocab = Object.fromEntries(Object.entries(model["vocab"]).filter(([token]) => isKept(token)));
  const merges = model["merges"].filter((pair: unknown) => Array.isArray(pair) && isKept(pair.join("")));
  const fewer = made({ split: true }, { ...model, vocab, merges });
  for (const text of ["a  b", "stone  stone</s>a"]) assert.ok(isReadAlike(fewer, text), text);
  await inFolder(async (out) => {
    const tokenizer = made({}), source = randomSource({ ...SPEC, vocab: tokenizer.vocabSize });
    const { hf, gguf, skipped } = await exportModel(source, out, { tokenizer, name: "x" });
    assert.deepEqual([hf, gguf, skipped.map(({ format }) => format)], [`${out}/model`, null, ["gguf"]]);
    checkRefusal(skipped[0]?.error, "input", rule);
  });
});

Deno.test("of added tokens that a tokenizer seeks in normalized text a GGUF is refused or says so", async () => {
  const end = await withTokens("sentencepiece", { "</s>": { normalized: true } });
  refuses(() => ggufTokenizerMetadata(end), "input", { value: '"</s>"' });
  // No chat holds this one.
  const other = await withTokens("sentencepiece", { "<mask>": { normalized: true } });
  assertNames(await saidOfGguf(other), ['"<mask>"', "▁"]);
  assert.ok(isReadAlike(other, "ab") && !isReadAlike(other, "a<mask>b"));
  const bare = createTokenizer(end.json, { config: end.config });
  assertNames(await saidOfGguf(bare), '"</s>"');
  const both = await withTokens("sentencepiece", { "</s>": { normalized: true }, "<mask>": { normalized: true } });
  const untold = createTokenizer(both.json, { config: both.config });
  assertNames(await saidOfGguf(untold), ['"</s>"', 1]);
});

Deno.test("added tokens that the normalizer leaves as they are are no reason to refuse a GGUF or to say something", async () => {
  const properties = { "<mask>": { normalized: true }, "</s>": { normalized: true } };
  const { json, config, chatTemplate } = await withTokens("sentencepiece", properties);
  const normalizer = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const tokenizer = createTokenizer({ ...json, normalizer }, { config, chatTemplate });
  assert.equal(await saidOfGguf(tokenizer), "");
  for (const text of ["a<mask>b", " a <mask> b</s>"]) assert.ok(isReadAlike(tokenizer, text), text);
  // These are found where the text has the other of space and mark.
  const added: readonly unknown[] = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  for (const [content, text] of [["<▁>", "a< >b"], ["< >", "a<▁>b"]] as const) {
    const marks = { id: tokenizer.vocabSize, content, special: false, normalized: true };
    const marked = createTokenizer({ ...json, normalizer, added_tokens: [...added, marks] }, { config, chatTemplate });
    assert.equal(await saidOfGguf(marked), `looks for "${content}" before spaces are written as ▁`);
    assert.ok(!isReadAlike(marked, text), content);
  }
});
