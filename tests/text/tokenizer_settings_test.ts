// What a folder's tokenizer_config.json says to transformers, whose classes must not read tokenizer.json otherwise.
import assert from "node:assert/strict";
import { exportHf } from "../disk.ts";
import { tokenizerSettings } from "../../lib/formats/hf/export.ts";
import { tokenizerFromGguf } from "../../lib/formats/gguf/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { createTokenizer, surroundingTokens, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { inFolder, tokenizerOf, withConfig } from "./fixtures.ts";

const INPUTS = ["input_ids", "attention_mask"];

/** The SentencePiece-like tokenizer with these tokens around a text. */
async function around(tokens: { bos: string | null; eos: string | null }, config = {}): Promise<Tokenizer> {
  const { json, config: own } = await tokenizerOf("sentencepiece");
  return createTokenizer({ ...json, post_processor: surroundingTokens(json, tokens) }, {
    config: { ...own, ...config },
  });
}

Deno.test("a folder's tokenizer is of the class that takes tokenizer.json as it is, and gives what a decoder takes", async () => {
  const bytes = await tokenizerOf("byte_level"), { chat_template: _template, ...own } = bytes.config;
  const gpt2 = withConfig(bytes, { tokenizer_class: "GPT2Tokenizer", add_prefix_space: false }, null);
  await inFolder(async (folder) => {
    await exportHf(randomSource(SPEC), `${folder}/model`, { dtype: "f32", tokenizer: gpt2 });
    const written = JSON.parse(await Deno.readTextFile(`${folder}/model/tokenizer_config.json`));
    const added = { tokenizer_class: "PreTrainedTokenizerFast", add_prefix_space: false, model_input_names: INPUTS };
    assert.deepEqual(written, { ...own, ...added });
  });
  const named = withConfig(bytes, { model_input_names: ["input_ids"] }, null);
  assert.deepEqual(tokenizerSettings(named)["model_input_names"], ["input_ids"]);
  const fromGguf = tokenizerFromGguf(new Map<string, unknown>(ggufTokenizerMetadata(bytes)));
  assert.deepEqual(fromGguf.config["model_input_names"], INPUTS);
});

Deno.test("add_bos_token and add_eos_token are written as the tokens around a text are, or not at all", async () => {
  const said = (tokenizer: Tokenizer): unknown[] => {
    const { add_bos_token, add_eos_token } = tokenizerSettings(tokenizer);
    return [add_bos_token, add_eos_token];
  };
  const [none, bos, both] = [{ bos: null, eos: null }, { bos: "<s>", eos: null }, { bos: "<s>", eos: "</s>" }];
  // The source says the contrary, which counts for nothing here: transformers 5 would put the tokens there by it.
  assert.deepEqual(said(await around(none, { add_bos_token: true, add_eos_token: true })), [false, false]);
  assert.deepEqual(said(await around(bos, { add_bos_token: false })), [true, false]);
  assert.deepEqual(said(await around(both, { add_eos_token: false })), [true, true]);
  assert.deepEqual(said(await around(both)), [undefined, undefined]);
  const other = { bos: "</s>", eos: "</s>" };
  assert.deepEqual(said(await around(other, { add_bos_token: true, add_eos_token: true })), [undefined, undefined]);
});

Deno.test("a list of extra special tokens is written under the name that transformers 4 reads too, and a table as it is", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const written = (config: object): unknown => {
    const { extra_special_tokens, additional_special_tokens } = tokenizerSettings(
      withConfig(tokenizer, { ...config }, null),
    );
    return [extra_special_tokens, additional_special_tokens];
  };
  const [start, end, pad] = ["<|start|>", "<|end|>", "<|pad|>"];
  assert.deepEqual(written({ extra_special_tokens: [start, end] }), [undefined, [start, end]]);
  const both = {
    extra_special_tokens: [start, { content: pad, lstrip: true }],
    additional_special_tokens: [end, start],
  };
  assert.deepEqual(written(both), [undefined, [end, start, pad]]);
  assert.deepEqual(written({ extra_special_tokens: [] }), [undefined, undefined]);
  assert.deepEqual(written({ extra_special_tokens: [], additional_special_tokens: [end] }), [undefined, [end]]);
  for (const table of [{ image_token: start }, undefined]) {
    assert.deepEqual(written({ extra_special_tokens: table, additional_special_tokens: [end] }), [table, [end]]);
  }
  await inFolder(async (folder) => {
    const listed = withConfig(tokenizer, { extra_special_tokens: [start] }, null);
    await exportHf(randomSource(SPEC), `${folder}/model`, { dtype: "f32", tokenizer: listed });
    const config = JSON.parse(await Deno.readTextFile(`${folder}/model/tokenizer_config.json`));
    assert.deepEqual([config.extra_special_tokens, config.additional_special_tokens], [undefined, [start]]);
  });
});
