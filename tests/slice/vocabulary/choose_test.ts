// Which tokens are cut, and in what order.
import assert from "node:assert/strict";
import { expectedUses } from "../../../lib/slice/vocabulary/expected_uses.ts";
import { tokenKind } from "../../../lib/slice/vocabulary/token_kind.ts";
import { tokenPieces } from "../../../lib/slice/vocabulary/pieces.ts";
import { removalOrder } from "../../../lib/slice/vocabulary/removal.ts";
import { chooseVocabulary, countTokens } from "../../../lib/slice/vocabulary/choose.ts";
import { createTokenizer, type Tokenizer } from "../../../lib/text/tokenizer.ts";
import { refuses } from "../../refuses.ts";
import { tokenizerOf } from "../../text/fixtures.ts";
import { randomSource, SPEC } from "../../formats/models.ts";

/** A tokenizer of letters a to d and the merges ab, cd, abc, abcd; ids are places in the list. */
function letters(extra: Readonly<Record<string, unknown>> = {}): Tokenizer {
  const tokens = ["a", "b", "c", "d", "ab", "cd", "abc", "abcd"];
  const merges = [["a", "b"], ["c", "d"], ["ab", "c"], ["ab", "cd"]];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  return createTokenizer({ model: { type: "BPE", vocab, merges, ...extra } }, {});
}

/** Expected values are worked out by hand. */
Deno.test("a BPE token is made of the two tokens of its last merge, and needs them", () => {
  const { ids, isFixed, parts, needs } = tokenPieces(letters());
  assert.deepEqual([...ids], [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual([...isFixed], [1, 1, 1, 1, 0, 0, 0, 0]);
  // "abcd" is merged from ab and cd, as c d goes before ab c.
  assert.deepEqual(parts.slice(4), [[0, 1], [2, 3], [4, 2], [4, 5]]);
  assert.deepEqual(needs, parts);
});

Deno.test("a vocabulary may have more tokens than a call has arguments", () => {
  const size = 131_072, added = Array.from({ length: size }, (_, id) => [`${id} `, 10 + id]);
  const vocab = {
    ...Object.fromEntries(Array.from("0123456789", (digit, id) => [digit, id])),
    ...Object.fromEntries(added),
  };
  const { ids, isFixed } = tokenPieces(createTokenizer({ model: { type: "BPE", vocab, merges: [] } }, {}));
  assert.deepEqual([ids.length, isFixed.length], [size + 10, size + 10]);
});

Deno.test("tokens that cost least go first, and what a cut token falls into counts its uses", () => {
  const pieces = tokenPieces(letters());
  // Uses of ab 1, cd 2, abc 5, abcd 3.
  const { order, extra } = removalOrder(pieces, [0, 0, 0, 0, 1, 2, 5, 3]);
  // abcd (3) goes first and leaves 3 to ab and cd; then abc 5 and cd 5, of which the later is taken; ab then has 1 + 3 + 5.
  assert.deepEqual([...order], [7, 6, 5, 4]);
  assert.deepEqual([...extra], [3, 8, 13, 22]);
});

Deno.test("a token that no merge reaches needs none", () => {
  const { parts, needs } = tokenPieces(letters({ merges: [["a", "b"]], ignore_merges: true }));
  assert.deepEqual([parts[7], needs[7]], [[4, 2, 3], []]);
});

Deno.test("a Unigram token is made of the best other pieces, and needs none", () => {
  const vocab = [["<unk>", 0], ["a", -3], ["b", -3], ["ab", -1], ["abb", -2], ["c", -9]];
  const tokenizer = createTokenizer({ model: { type: "Unigram", unk_id: 0, vocab } }, {});
  const { isFixed, parts, needs } = tokenPieces(tokenizer);
  assert.deepEqual([...isFixed], [1, 1, 1, 0, 0, 1], "the unknown token, and characters that nothing replaces");
  assert.deepEqual([parts[3], parts[4], needs[4]], [[1, 2], [3, 2], []]);
  // The uses of abb reach a and b even where ab has gone before.
  const { order, extra } = removalOrder(tokenPieces(tokenizer), [0, 0, 0, 1, 4, 0]);
  assert.deepEqual([[...order], [...extra]], [[3, 4], [1, 9]]);
});

Deno.test("characters fall back to bytes, which stay", async () => {
  const tokenizer = await tokenizerOf("sentencepiece"), { isFixed, parts, needs } = tokenPieces(tokenizer);
  const id = (token: string): number => tokenizer.tokenToId(token) ?? -1;
  for (let byte = 0; byte < 256; byte++) {
    assert.equal(isFixed[id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)], 1);
  }
  assert.deepEqual([parts[id("é")], needs[id("é")]], [[id("<0xC3>"), id("<0xA9>")], []]);
  for (const token of ["<unk>", "<s>", "</s>"]) assert.equal(isFixed[id(token)], 1, token);
});

Deno.test("a character that the texts use stays, though a byte alone would take its place", async () => {
  const tokenizer = await tokenizerOf("sentencepiece"), pieces = tokenPieces(tokenizer);
  const id = (token: string): number => tokenizer.tokenToId(token) ?? -1;
  assert.deepEqual(pieces.parts[id("1")], [id("<0x31>")]);
  assert.deepEqual([pieces.isByte[id("<0x31>")], pieces.isByte[id("1")]], [1, 0]);
  const uses = new Float64Array(pieces.size);
  uses[id("1")] = 50;
  const { order, extra } = removalOrder(pieces, uses);
  assert.equal(order.at(-1), id("1"), "it is the last to go");
  assert.equal(extra.at(-1), 0, "its byte is one token too");
});

Deno.test("reserved special tokens go, unless the template names them, and other added tokens are read as text", () => {
  const added = ["<|end|>", "<|reserved_1|>", "<|reserved_2|>", "abca"].map((content, place) => ({
    id: 8 + place,
    content,
    special: content.startsWith("<"),
  }));
  const { json } = letters();
  const tokenizer = createTokenizer({ ...json, added_tokens: added }, { chatTemplate: "{{ '<|reserved_2|>' }}" });
  const { isFixed, parts } = tokenPieces(tokenizer);
  assert.deepEqual([...isFixed.slice(8)], [1, 1, 1, 0], "of <|reserved_1|> no character is a token");
  assert.deepEqual(parts[11], [6, 0]);
});

Deno.test("tokens that a sample lacks are judged by those around them", () => {
  const counts = Float64Array.from(
    { length: 4000 },
    (_, id) => id < 2000 ? (id % 2 === 0 ? 6 : 2) : id % 16 === 0 ? 1 : 0,
  );
  const uses = expectedUses(counts, Int32Array.from(counts.keys()));
  assert.ok((uses[2001] ?? 0) > (uses[3999] ?? 0) && (uses[3999] ?? 0) > 0, "0 beside frequent tokens is more");
  assert.ok((uses[0] ?? 0) < 6 && (uses[1] ?? 0) > 2, "drawn to the mean");
  const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);
  // Expectations of all tokens together are about what was counted.
  assert.ok(Math.abs(sum(uses) / sum(counts) - 1) < 0.02, `${sum(uses)} of ${sum(counts)}`);
});

Deno.test("a token that a sample lacks is judged by those of its script, not by its neighbours of others", () => {
  const counts = Float64Array.from({ length: 4000 }, (_, id) => id % 4 === 0 ? 8 : 0);
  const uses = expectedUses(counts, Int32Array.from(counts.keys()), (id) => id % 2 === 0 ? "Latin" : "Han");
  assert.equal(uses[2001], 0, "no token of this script is used");
  assert.ok((uses[2002] ?? 0) > 0.5 && (uses[2002] ?? 0) < (uses[2000] ?? 0));
});

Deno.test("kinds of tokens are the script of their letters and whether they begin a word", () => {
  const kind = (token: string, text = token): string => tokenKind(token, () => text);
  assert.deepEqual(["Ġthe", "▁the", " the", "the", "12", "Ġ", "\n"].map((token) => kind(token)), [
    ...["_ASCII", "_ASCII", "_ASCII", "ASCII", "none", "_none", "none"],
  ]);
  assert.deepEqual(["▁été", "мир", "世界", "▁ก", "😀"].map((token) => kind(token)), [
    ...["_Latin", "Cyrillic", "Han", "_Thai", "other"],
  ]);
  // Byte-level tokens are written as other characters; a part of a character is of no script.
  assert.deepEqual([kind("ÐºÐ°", "ка"), kind("Ð", "\ufffd")], ["Cyrillic", "other"]);
});

Deno.test("sizes are numbers, shares, or what the texts need, and each vocabulary holds the smaller ones", async () => {
  const tokenizer = await tokenizerOf("byte_level"), source = randomSource({ ...SPEC, vocab: tokenizer.vocabSize });
  const counts = countTokens({ tokenizer }, ["the stone and the river", "a stone of the house"]);
  const choice = chooseVocabulary({ source, tokenizer }, counts);
  const { tokens, least } = choice, full = choice.kept(tokens), half = choice.kept(choice.sizeOf(0.7));
  assert.equal(full.length, tokens);
  assert.equal(half.length, Math.round(0.7 * tokens));
  assert.deepEqual([...choice.kept(least)].filter((id) => !half.includes(id)), [], "nested");
  assert.ok(choice.growth(tokens) === 0 && choice.growth(least) > choice.growth(choice.sizeOf(undefined)));
  assert.ok(choice.growth(choice.sizeOf(undefined)) <= 0.01);
  for (const size of [least - 1, tokens + 1, 1.5, 0.001]) {
    refuses(() => choice.sizeOf(size), "usage", { option: "vocab.size" });
  }
});
