// Rows joined to full sequences, token by token, and texts cut to windows.
import assert from "node:assert/strict";
import type { Row } from "../../lib/data/rows.ts";
import { countLabels, encodeExample, type Example, IGNORED_LABEL } from "../../lib/data/prompts/encode.ts";
import { createTokenizer, surroundingTokens, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";
import { pack, type Packed, packedText, windows } from "../../lib/data/packing.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";

const TEXTS = ["the river carries the stone", "x", "a garden near the river", "12 stones, or 3"] as const;

function example(number: number, length: number): Example {
  const tokens = Uint32Array.from({ length }, (_, index) => 10 * number + index + 1);
  const labels = Int32Array.from(tokens, (token, index) => index === length - 1 ? token : IGNORED_LABEL);
  return { tokens, labels };
}

function packTexts(texts: readonly string[], { tokenizer, seq }: { tokenizer: Tokenizer; seq: number }): Packed {
  return pack(texts.flatMap((text) => packedText(text, tokenizer) ?? []), seq);
}

/** All texts in a row, each between BOS, where there is one, and EOS. */
function joined(tokenizer: Tokenizer): number[] {
  return TEXTS.flatMap((text) => [...tokenizer.leading, ...tokenizer.encode(text), tokenizer.eosId ?? -1]);
}

for (const name of ["byte_level", "sentencepiece"] as const) {
  Deno.test(`pack() with ${name} cuts all tokens with EOS behind each text to full sequences`, async () => {
    const tokenizer = await tokenizerOf(name);
    const whole = joined(tokenizer);
    for (const seq of [3, 7, whole.length - 1, whole.length]) {
      const { examples, leftOver } = packTexts(TEXTS, { tokenizer, seq });
      assert(examples.every(({ tokens }) => tokens.length === seq));
      assert.equal(examples.length, Math.floor(whole.length / seq));
      assert.deepEqual(examples.flatMap(({ tokens }) => [...tokens]), whole.slice(0, examples.length * seq));
      assert.equal(leftOver, whole.length % seq);
      for (const { tokens, labels } of examples) {
        const learned = [...tokens].map((id) => id === tokenizer.bosId ? IGNORED_LABEL : id);
        assert.deepEqual([...labels], learned);
      }
    }
  });
}

Deno.test("pack() makes one short sequence of texts that fill none", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const whole = joined(tokenizer);
  const { examples, leftOver } = packTexts(TEXTS, { tokenizer, seq: whole.length + 1 });
  assert.deepEqual(examples.map(({ tokens }) => [...tokens]), [whole]);
  assert.equal(leftOver, 0);
  assert.deepEqual(packTexts([], { tokenizer, seq: 4 }), { examples: [], leftOver: 0, divided: [] });
  assert.equal(packedText("", tokenizer), null);
});

Deno.test("packedText() puts EOS once behind a text whose tokenizer adds it, and none where there is none", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const post_processor = surroundingTokens(tokenizer.json, { bos: "<s>", eos: "</s>" });
  const doubled = createTokenizer({ ...tokenizer.json, post_processor }, { config: tokenizer.config });
  assert.deepEqual(doubled.trailing, [tokenizer.eosId]);
  const tokens = (of: Tokenizer): number[][] =>
    packTexts(TEXTS, { tokenizer: of, seq: 9 }).examples.map((packed) => [...packed.tokens]);
  assert.deepEqual(tokens(doubled), tokens(tokenizer));
  const bare = withConfig(await tokenizerOf("byte_level"), { eos_token: null }, null);
  const [first] = packTexts(["x", "y"], { tokenizer: bare, seq: 2 }).examples;
  assert.deepEqual([...first?.tokens ?? []], [...bare.encode("x"), ...bare.encode("y")]);
});

Deno.test("behind a text that was cut off no end is learned, and joined to others it is parted from them", async () => {
  const tokenizer = await tokenizerOf("byte_level"), eos = "<|end|>";
  const post_processor = surroundingTokens(tokenizer.json, { bos: null, eos });
  const own = createTokenizer({ ...tokenizer.json, post_processor }, {
    config: { ...tokenizer.config, eos_token: eos },
  });
  const end = own.eosId ?? NaN, [one = "", two = ""] = TEXTS, [first, second] = [own.encode(one), own.encode(two)];
  assert.deepEqual([own.leading, own.trailing], [[], [end]]);
  const encoded = (extra: Row["extra"], packing: boolean): (readonly number[])[] => {
    const rows = [one, two].map((text, index): Row => ({ kind: "text", text, extra: index === 0 ? extra : {} }));
    const { examples } = encodeRows(rows, { tokenizer: own, prompt: null, seq: 200, packing });
    return examples.flatMap(({ tokens, labels }) => [[...tokens], [...labels]]);
  };
  for (const extra of [{}, { ended: true }]) {
    const ids = [...first, end, ...second, end];
    assert.deepEqual(encoded(extra, true), [ids, ids]);
  }
  assert.deepEqual(encoded({ ended: false }, true), [
    [...first, end, ...second, end],
    [...first, IGNORED_LABEL, ...second, end],
  ]);
  assert.deepEqual(encoded({ ended: false }, false), [first, first, [...second, end], [...second, end]]);
});

Deno.test("tokens of a text that fill no window are counted as left out without packing too", async () => {
  const tokenizer = await tokenizerOf("byte_level"), tokens = tokenizer.encode(TEXTS[0] ?? "").length;
  const row: Row = { kind: "text", text: TEXTS[0] ?? "", extra: {} }, seq = tokens - 1;
  const { report } = encodeRows([row], { tokenizer, prompt: null, seq, packing: false });
  assert.deepEqual([report.examples, report.tokens, report.leftOver], [1, seq, 1]);
});

Deno.test("encodeRows() packs texts unless told not to, and counts texts without tokens as left out", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const rows = ["", ...TEXTS].map((text, index): Row => ({ kind: "text", text, number: index + 4, extra: {} }));
  const whole = joined(tokenizer);
  const { examples, report } = encodeRows(rows, { tokenizer, prompt: null, seq: 5 });
  assert.deepEqual(examples, packTexts(TEXTS, { tokenizer, seq: 5 }).examples);
  assert.deepEqual([report.packed, report.padding, report.leftOver], [true, 0, whole.length % 5]);
  assert.deepEqual([report.rows, report.skipped, report.lines.skipped], [5, 1, [4]]);
  assert.equal(report.tokens + report.leftOver, whole.length);
  const apart = encodeRows(rows, { tokenizer, prompt: null, seq: 5, packing: false });
  assert.equal(apart.report.packed, false);
  assert(apart.report.padding > 0);
});

Deno.test("encodeRows() joins whole instructions and conversations, and leaves out what teaches nothing", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const long = "the river carries the stone ".repeat(9);
  const instruct = (instruction: string, output: string): Row => (
    { kind: "instruct", instruction, input: "", output, choices: null, extra: {} }
  );
  const messages = ["Where?", "here", "And then?", "there"].map((content, index) =>
    ({ role: index % 2 === 0 ? "user" : "assistant", content }) as const
  );
  const rows: Row[] = [
    instruct("Where?", "here"),
    { kind: "chat", messages, extra: {} },
    { kind: "chat", messages: messages.slice(0, 1), number: 8, extra: {} },
    instruct("Tell.", long),
  ];
  for (const prompt of [null, "Be small."]) {
    const whole = rows.map((row) => encodeExample(row, { tokenizer, prompt, seq: 1000 })).filter((row) =>
      row.labelTokens > 0
    );
    const tokens = whole.flatMap((row) => [...row.tokens]), labels = whole.flatMap((row) => [...row.labels]);
    const seq = 23;
    const chunks = Array.from({ length: Math.floor(tokens.length / seq) }, (_, index) => ({
      tokens: tokens.slice(index * seq, (index + 1) * seq),
      labels: labels.slice(index * seq, (index + 1) * seq),
    }));
    const expected = chunks.filter((chunk) => chunk.labels.slice(1).some((label) => label !== IGNORED_LABEL));
    const { examples, report } = encodeRows(rows, { tokenizer, prompt, seq });
    const arrays = examples.map((example) => ({ tokens: [...example.tokens], labels: [...example.labels] }));
    assert.deepEqual(arrays, expected);
    assert(expected.length > 2 && tokens.length % seq > 0);
    assert.deepEqual([report.packed, report.padding, report.truncated], [true, 0, 0]);
    // Rows that teach something, by where they begin and where their last label stands.
    let end = 0;
    const divided = rows.flatMap((row, index) => {
      const { tokens, labels } = encodeExample(row, { tokenizer, prompt, seq: 1000 }), start = end;
      const last = labels.findLastIndex((label) => label !== IGNORED_LABEL);
      if (last < 0) return [];
      end += tokens.length;
      const first = Math.floor(start / seq),
        sequences = [...labels].flatMap((label, at) => {
          const place = start + at;
          return label !== IGNORED_LABEL && place % seq > 0 ? [Math.floor(place / seq)] : [];
        });
      // What fills no sequence at the end is left out.
      const isLearned = (sequence: number): boolean => sequence < chunks.length;
      return sequences.some((sequence) => sequence > first && isLearned(sequence)) ? [row.number ?? index + 1] : [];
    });
    assert.ok(divided.length > 0, `${divided}`);
    assert.deepEqual([report.divided, report.lines.divided], [divided.length, divided]);
    assert.deepEqual([report.skipped, report.lines.skipped, report.leftOver], [
      1,
      [8],
      tokens.length - seq * expected.length,
    ]);
  }
});

Deno.test("pack() leaves out sequences without a label; the first label of a sequence asks for nothing", () => {
  const { examples, leftOver } = pack([example(1, 8), example(2, 5)], 4);
  // 1: labels at 7; 2: at 12, the first of its sequence.
  assert.deepEqual(examples.map(({ tokens }) => [...tokens]), [[15, 16, 17, 18]]);
  assert.equal(leftOver, 9);
  assert(examples.every(({ labels }) => countLabels(labels) > 0));
  assert.deepEqual(pack([example(1, 4), example(1, 4)], 9).examples.map(({ tokens }) => tokens.length), [8]);
});

Deno.test("pack() names examples with labels in a later sequence than their beginning", () => {
  const parts = [4, 4, 4, 1, 6].map((length, index) => example(index, length));
  // The second ends at the second token of a sequence, the last at the first, which asks for nothing.
  assert.deepEqual(pack(parts, 6).divided, [1]);
  // What the last lacks a whole sequence for is left out, and so learned nowhere.
  assert.deepEqual(pack(parts, 5).divided, [1, 2]);
  assert.deepEqual(pack([example(0, 20), ...parts], 4).divided, [0]);
});

Deno.test("windows() cuts a text and drops a tail of one token", () => {
  const lengths = (length: number): number[] => windows(example(0, length), 4).map(({ tokens }) => tokens.length);
  assert.deepEqual(lengths(0), []);
  assert.deepEqual(lengths(1), []);
  assert.deepEqual(lengths(4), [4]);
  assert.deepEqual(lengths(5), [4]);
  assert.deepEqual(lengths(6), [4, 2]);
  const [, second] = windows(example(0, 6), 4);
  assert.deepEqual([...second?.tokens ?? []], [5, 6]);
  assert.deepEqual([...second?.labels ?? []], [IGNORED_LABEL, 6]);
});
