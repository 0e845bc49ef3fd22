// Tokens that only the files beside tokenizer.json name. The values are those of transformers 5.24, but for ids that two tokens claim.
import assert from "node:assert/strict";
import { withAddedTokens } from "../../lib/text/added_tokens.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { TOKEN_TYPE } from "../../lib/formats/gguf/tokenizer_parts.ts";
import { exportHf } from "../disk.ts";
import { loadHfTokenizer } from "../disk.ts";
import { type Tokenizer } from "../../lib/text/tokenizer.ts";
import { isObject, type Json } from "../../lib/core/guards.ts";
import { rejects } from "../refuses.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { inFolder, tokenizerOf } from "./fixtures.ts";

const NAME = "<|done|>";
const PLAIN = { single_word: false, lstrip: false, rstrip: false };
const DONE = { id: 480, content: NAME, ...PLAIN, normalized: false, special: true };

interface Files {
  readonly config?: Json;
  readonly map?: Json;
  readonly added?: Json;
  /** Whether the vocabulary of tokenizer.json holds the token, which `added_tokens` there does not. */
  readonly inVocab?: boolean;
}

/** tokenizer.json of the byte-level fixture, with the token in its vocabulary perhaps. */
async function contentOf({ inVocab = false }: Files): Promise<Json> {
  const { json } = await tokenizerOf("byte_level"), { model } = json;
  assert(isObject(model) && isObject(model["vocab"]));
  return inVocab ? { ...json, model: { ...model, vocab: { ...model["vocab"], [NAME]: 480 } } } : json;
}

/** The byte-level fixture in a folder with these files beside it. */
async function loaded(files: Files): Promise<Tokenizer> {
  const { config = {}, map, added } = files, json = await contentOf(files);
  const texts = { tokenizer: json, tokenizer_config: config, special_tokens_map: map, added_tokens: added };
  const found: (Tokenizer | null)[] = [];
  await inFolder(async (folder) => {
    for (const [name, value] of Object.entries(texts)) {
      if (value !== undefined) await Deno.writeTextFile(`${folder}/${name}.json`, JSON.stringify(value));
    }
    found.push(await loadHfTokenizer(folder));
  });
  const [tokenizer] = found;
  assert(tokenizer);
  return tokenizer;
}

/** What `added_tokens` has beyond the fixture's three. */
function beyond({ json }: Tokenizer): unknown[] {
  assert(Array.isArray(json["added_tokens"]));
  return json["added_tokens"].slice(3);
}

const decoder = (id: string, token: Json): Json => ({ added_tokens_decoder: { [id]: token } });

const WAYS: readonly (readonly [way: string, files: Files])[] = [
  ["added_tokens_decoder", { config: { ...decoder("480", DONE), eos_token: NAME } }],
  ["added_tokens.json", { config: { eos_token: NAME }, added: { [NAME]: 480 } }],
  ["the name of a token of the vocabulary", { config: { eos_token: NAME }, inVocab: true }],
];

for (const [way, files] of WAYS) {
  Deno.test(`a token that tokenizer.json does not list is one by ${way}, read and exported`, async () => {
    const tokenizer = await loaded(files);
    assert.deepEqual([tokenizer.encode(`Yes.${NAME}`).at(-1), tokenizer.eosId, tokenizer.vocabSize], [480, 480, 481]);
    assert.ok(tokenizer.isSpecial(480));
    assert.equal(tokenizer.decode([480]), NAME);
    assert.deepEqual(beyond(tokenizer), [DONE]);
    const gguf = ggufTokenizerMetadata(tokenizer), tokens = gguf.get("tokenizer.ggml.tokens");
    assert.equal(Array.isArray(tokens) && tokens[480], NAME);
    assert.equal(gguf.get("tokenizer.ggml.eos_token_id"), 480);
    const types = gguf.get("tokenizer.ggml.token_type");
    assert.equal(types instanceof Int32Array && types[480], TOKEN_TYPE.control);
    await inFolder(async (folder) => {
      await exportHf(randomSource(SPEC), `${folder}/model`, { dtype: "f32", tokenizer });
      const written = JSON.parse(await Deno.readTextFile(`${folder}/model/tokenizer.json`));
      assert.deepEqual(written.added_tokens, tokenizer.json["added_tokens"]);
      assert.deepEqual((await loadHfTokenizer(`${folder}/model`))?.encode(NAME), [480]);
    });
  });
}

Deno.test("an added token is special where it is named so, and found in the normalized text where nothing is said", async () => {
  const end = { eos_token: "<|end|>" }, plain = { ...DONE, special: false, normalized: true };
  const flags = { lstrip: true, normalized: true, rstrip: false, single_word: false };
  const cases: readonly (readonly [files: Files, token: Json])[] = [
    [{ config: { ...decoder("480", { ...DONE, special: false }), eos_token: NAME } }, DONE],
    [{ config: decoder("480", { content: NAME }) }, plain],
    [{ config: { ...decoder("480", { content: NAME, normalized: true }), eos_token: NAME } }, {
      ...plain,
      special: true,
    }],
    [{ config: end, added: { [NAME]: 480 } }, plain],
    [{ config: { ...end, additional_special_tokens: [NAME] }, added: { [NAME]: 480 } }, DONE],
    [{ config: { eos_token: { content: NAME, ...flags } }, inVocab: true }, { ...DONE, ...flags }],
    [{ map: { eos_token: { content: NAME, ...flags } }, inVocab: true }, { ...DONE, ...flags }],
    [{ map: { ...end, additional_special_tokens: [NAME] }, inVocab: true }, DONE],
    [{ config: { ...end, additional_special_tokens: [NAME] }, inVocab: true }, DONE],
    [{ config: { ...end, extra_special_tokens: [NAME] }, inVocab: true }, DONE],
    [{ config: { ...end, extra_special_tokens: { image_token: NAME } }, inVocab: true }, DONE],
    [{ config: { ...end, image_token: NAME }, inVocab: true }, DONE],
    [{ config: { ...end, cls_token: NAME }, inVocab: true }, DONE],
    // The vocabulary says the id.
    [{ config: decoder("481", DONE), inVocab: true }, DONE],
  ];
  for (const [files, token] of cases) assert.deepEqual(beyond(await loaded(files)), [token], JSON.stringify(files));
});

Deno.test("nothing is added of what tokenizer.json lists, what no file is read for, and what has no id", async () => {
  const own = { "2": { content: "<|end|>", lstrip: true, special: false } };
  const files: readonly Files[] = [
    { config: { added_tokens_decoder: own, eos_token: "<|end|>", pad_token: "<|pad|>" } },
    { config: { added_tokens_decoder: {} }, added: { [NAME]: 480 }, map: { eos_token: NAME } },
    { config: { additional_special_tokens: ["<|start|>"] }, map: { additional_special_tokens: [NAME] }, inVocab: true },
    { config: { pad_token: "[PAD]", add_bos_token: true } },
  ];
  for (const each of files) assert.deepEqual(beyond(await loaded(each)), [], JSON.stringify(each));
  const { json, config } = await tokenizerOf("sentencepiece");
  assert.equal(withAddedTokens(json, { config, map: null, added: null }), json);
});

Deno.test("a Unigram model's list of tokens says their ids", () => {
  const model = { type: "Unigram", unk_id: 0, vocab: [["<unk>", 0], ["a", -1], ["</s>", 0]] };
  const json = withAddedTokens({ model }, { config: { eos_token: "</s>" }, map: null, added: null });
  assert.deepEqual(json["added_tokens"], [{ ...DONE, id: 2, content: "</s>" }]);
});

Deno.test("an added token with an id that another one has is refused where it is named, and so is what is no token", async () => {
  const taken = { value: [2, '"<|end|>"'], names: '"<|done|>"' };
  await rejects(loaded({ config: { ...decoder("2", DONE), eos_token: NAME } }), "input", taken);
  await rejects(loaded({ config: { eos_token: NAME }, added: { [NAME]: 2 } }), "input", taken);
  for (const config of [{}, { pad_token: NAME }]) {
    assert.deepEqual(beyond(await loaded({ config: { ...decoder("2", DONE), ...config } })), []);
    assert.deepEqual(beyond(await loaded({ config, added: { [NAME]: 2 } })), []);
  }
  const config = { extra_special_tokens: ["<|more|>"] };
  const twice = loaded({ config, added: { [NAME]: 480, "<|more|>": 480 } });
  await rejects(twice, "input", { value: [480, '"<|done|>"'], names: '"<|more|>"' });
  await rejects(loaded({ config: decoder("x", DONE) }), "input", { value: '"x"' });
  await rejects(loaded({ config: decoder("480", { special: true }) }), "input", { value: '"480"' });
  await rejects(loaded({ added: { [NAME]: "480" } }), "input", { value: NAME });
});
