// Broken tokenizers: each ends in a named error, on loading or in its use, and in bounded time.
import assert from "node:assert/strict";
import { memoryFiles } from "../../lib/files/memory.ts";
import { createTokenizer, loadHfTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import type { Json } from "../../lib/core/guards.ts";
import { refuses, rejects } from "../refuses.ts";

const VOCAB = { a: 0, b: 1, x: 2, "<unk>": 3 };

function tokenizer(json: Json, model: Json = {}): Tokenizer {
  const whole = { type: "BPE", vocab: VOCAB, merges: [], unk_token: "<unk>", ...model };
  return createTokenizer({ added_tokens: [], ...json, model: whole }, {});
}

Deno.test("a vocabulary that is a text is refused on loading", () => {
  refuses(() => tokenizer({}, { vocab: "ar" }), "input", { value: ["model.vocab", '"ar"'] });
});

Deno.test("an affix that is no text is refused on loading", () => {
  for (const key of ["end_of_word_suffix", "continuing_subword_prefix", "unk_token"]) {
    refuses(() => tokenizer({}, { [key]: { toString: 1 } }), "input", { value: `model.${key}` });
  }
});

Deno.test("a normalizer that makes an endless text ends in a named error", () => {
  const grow = { type: "Replace", pattern: { String: "a" }, content: "a".repeat(117) };
  const made = tokenizer({ normalizer: { type: "Sequence", normalizers: Array(8).fill(grow) } });
  refuses(() => made.encode("a"), "input", { names: "tokenizer.json" });
});

Deno.test("a pattern that takes exponential time is refused on loading", () => {
  const splitting = (Regex: string): Tokenizer =>
    tokenizer({ pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false } });
  const start = performance.now();
  for (const pattern of ["(?:a|a)*b|x", "(?:a|a|a|a)+b", "(a*)*b", "(?:a?){20}(?:a+)+b", "(?: | )+x"]) {
    refuses(() => splitting(pattern), "input", { value: 50 });
  }
  assert(performance.now() - start < 30_000);
  // As published models have them.
  for (const pattern of ["(?=(\\d{3})+(?!\\d))", "\\p{N}{1,3}(?:,\\p{N}{3})*|\\s+(?!\\S)|\\s+", "(?:[a-z]|[A-Z])+"]) {
    assert.equal(splitting(pattern).encode("ab").length, 2, pattern);
  }
});

Deno.test("an added token that is no text, whose length would fill the memory, is refused", () => {
  const content = { length: 1e9 }, added = [{ id: 4, content, special: true, normalized: false }];
  refuses(() => tokenizer({ added_tokens: added }), "input", { value: '"length"' });
  const unigram = { type: "Unigram", vocab: [["a", -1], [content, -2]], unk_id: 0 };
  refuses(() => tokenizer({}, unigram), "input", { value: ["model.vocab", "[1]", '"length"'] });
});

Deno.test("pieces of a length that never come to the end of a text are refused", () => {
  for (const length of [0, -1, 0.5, "1", null]) {
    const step = { type: "FixedLength", length };
    for (const pre_tokenizer of [step, { type: "Sequence", pretokenizers: [step] }]) {
      refuses(() => tokenizer({ pre_tokenizer }), "input", { value: ["pre_tokenizer.length", 0] });
    }
  }
  assert.deepEqual(tokenizer({ pre_tokenizer: { type: "FixedLength", length: 1 } }).encode("ab"), [0, 1]);
});

Deno.test("a merge of tokens that the vocabulary lacks, or into one, is refused as the file is loaded", async () => {
  const load = (model: Json): Promise<Tokenizer | null> => {
    const text = JSON.stringify({
      added_tokens: [],
      model: { type: "BPE", vocab: VOCAB, unk_token: "<unk>", ...model },
    });
    return loadHfTokenizer(memoryFiles([["m/tokenizer.json", new TextEncoder().encode(text)]]), "m");
  };
  const vocab = { ...VOCAB, ab: 4, "##x": 5, ax: 6 };
  for (const [pair, missing] of [[["a", "q"], "q"], [["q", "a"], "q"], [["x", "a"], "xa"]] as const) {
    for (const merges of [[["a", "b"], pair], ["a b", pair.join(" ")]]) {
      await rejects(load({ vocab, merges }), "input", { value: ["model.merges[1]", `"${missing}"`] });
    }
  }
  assert.equal((await load({ vocab, merges: ["a b"] }))?.encode("ab").length, 1);
  assert.ok(await load({ vocab, merges: [["a", "##x"]], continuing_subword_prefix: "##" }));
});
