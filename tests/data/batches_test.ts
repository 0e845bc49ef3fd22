import assert from "node:assert/strict";
import { dataLine, readingNote } from "../../cli/verbs/prune/data_line.ts";
import { parseRows, type Row } from "../../lib/data/rows.ts";
import { COLLABORATIVE_PROMPT, countLabels, type Example, IGNORED_LABEL } from "../../lib/data/prompts/encode.ts";
import { type Batch, createBatches } from "../../lib/data/batches.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";
import { encodeChoices } from "../../lib/eval/choice_rows.ts";
import { withBroken } from "../../lib/data/encode_report.ts";
import { assertNames, checkRefusal, type Refusal, refuses } from "../refuses.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";

/** Example n has the tokens 10n + 1, 10n + 2, … and only its last is a label. */
function example(number: number, length: number): Example {
  const tokens = Uint32Array.from({ length }, (_, index) => 10 * number + index + 1);
  const labels = Int32Array.from(tokens, (token, index) => index === length - 1 ? token : IGNORED_LABEL);
  return { tokens, labels };
}

const FIVE: readonly Example[] = [3, 2, 4, 3, 2].map((length, number) => example(number, length));
const OPTIONS = { batch: 2, seq: 4, seed: 7, padId: 99 } as const;

/** Shuffles of seed 7; an order that changes would break resumed runs. */
const PINNED = [[2, 4, 3, 0, 1], [3, 2, 0, 4, 1], [0, 3, 4, 2, 1]];

/** Numbers of the examples in a batch. */
function numbers(batch: Batch, seq: number = OPTIONS.seq): number[] {
  return [...batch.tokens].filter((_, index) => index % seq === 0).map((token) => (token - 1) / 10);
}

Deno.test("a batch holds its examples right-padded, with −100 where nothing is learned", () => {
  const batch = createBatches(FIVE, OPTIONS).next();
  const [first = -1, second = -1] = numbers(batch);
  for (const [row, number] of [first, second].entries()) {
    const { tokens, labels } = FIVE[number] ?? example(0, 0);
    const pad = OPTIONS.seq - tokens.length;
    const at = row * OPTIONS.seq;
    assert.deepEqual([...batch.tokens.slice(at, at + OPTIONS.seq)], [...tokens, ...Array(pad).fill(99)]);
    assert.deepEqual([...batch.labels.slice(at, at + OPTIONS.seq)], [...labels, ...Array(pad).fill(IGNORED_LABEL)]);
  }
  assert.equal(batch.realTokens, (FIVE[first]?.tokens.length ?? 0) + (FIVE[second]?.tokens.length ?? 0));
  assert.equal(batch.labelTokens, 2);
});

Deno.test("each epoch shows every example once, in another order", () => {
  const batches = createBatches(FIVE, OPTIONS);
  const seen = Array.from({ length: 10 }, () => numbers(batches.next())).flat();
  const epochs = [0, 1, 2, 3].map((epoch) => seen.slice(5 * epoch, 5 * epoch + 5));
  for (const epoch of epochs) assert.deepEqual([...epoch].sort(), [0, 1, 2, 3, 4]);
  assert(new Set(epochs.map(String)).size > 1);
  assert.deepEqual(batches.cursor, { epoch: 3, index: 5 });
});

Deno.test("seek() gives the same batches as an uninterrupted run, from any place", () => {
  const whole = createBatches(FIVE, OPTIONS);
  const cursors = [], all: Batch[] = [];
  for (let step = 0; step < 12; step++) {
    cursors.push(whole.cursor);
    all.push(whole.next());
  }
  for (const [step, cursor] of cursors.entries()) {
    const resumed = createBatches(FIVE, OPTIONS);
    resumed.seek(JSON.parse(JSON.stringify(cursor)));
    for (const expected of all.slice(step)) assert.deepEqual(resumed.next(), expected);
    assert.deepEqual(resumed.cursor, whole.cursor);
  }
});

Deno.test("another seed gives another order, the same seed the same", () => {
  const many = Array.from({ length: 50 }, (_, number) => example(number, 2));
  const order = (seed: number): number[] => numbers(createBatches(many, { ...OPTIONS, batch: 50, seed }).next());
  assert.deepEqual(order(1), order(1));
  assert.notDeepEqual(order(1), order(2));
});

Deno.test("a batch larger than the data goes through them several times", () => {
  const batches = createBatches(FIVE.slice(0, 3), { ...OPTIONS, batch: 7 });
  const seen = numbers(batches.next());
  assert.deepEqual(seen.slice(0, 3).sort(), [0, 1, 2]);
  assert.deepEqual(seen.slice(3, 6).sort(), [0, 1, 2]);
  assert.deepEqual(batches.cursor, { epoch: 2, index: 1 });
  const one = createBatches(FIVE.slice(0, 1), { ...OPTIONS, batch: 3, seq: 5 });
  assert.deepEqual(numbers(one.next(), 5), [0, 0, 0]);
});

Deno.test("createBatches() refuses sizes, seeds, cursors and examples that cannot be", () => {
  const make = (change: Partial<typeof OPTIONS> | Record<string, number>): () => unknown => () =>
    createBatches(FIVE, { ...OPTIONS, ...change });
  refuses(make({ batch: 0 }), "usage", { value: 0, names: 1 });
  refuses(make({ seq: 3 }), "usage", { value: [4, 3] });
  refuses(make({ seed: -1 }), "usage", { value: -1 });
  refuses(() => createBatches([], OPTIONS), "usage", { value: 0 });
  const batches = createBatches(FIVE, OPTIONS);
  refuses(() => batches.seek({ epoch: 0, index: 6 }), "mismatch", { value: 0, names: 5 });
  refuses(() => batches.seek({ epoch: -1, index: 0 }), "mismatch", { value: -1 });
});

Deno.test("the order of the first epochs is this one, on every machine", () => {
  const batches = createBatches(FIVE, { ...OPTIONS, batch: 5 });
  const orders = [0, 1, 2].map(() => numbers(batches.next()));
  assert.deepEqual(orders, PINNED);
});

Deno.test("encodeRows() counts rows, cuts and rows that teach nothing, and names the first of them", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), { compresso_style: "plain" }, null);
  const instruct = (instruction: string, input: string, output: string): Row => ({
    kind: "instruct",
    instruction,
    input,
    output,
    choices: null,
    extra: {},
  });
  const long = "the river carries the stone ".repeat(9);
  const rows = [
    instruct("Where?", "", "here"),
    { ...instruct("Where?", long, "here"), number: 12 },
    instruct(long, "", "here"),
  ];
  const options = { tokenizer, prompt: null, seq: 24, packing: false };
  const { examples, report } = encodeRows(rows, options);
  assert.equal(examples.length, 2);
  const tokens = examples.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const labelTokens = examples.reduce((sum, { labels }) => sum + countLabels(labels), 0);
  assert.deepEqual(report, {
    rows: 3,
    heldOut: 0,
    examples: 2,
    truncated: 1,
    divided: 0,
    skipped: 1,
    empty: 0,
    broken: 0,
    tokens,
    labelTokens,
    padding: 48 - tokens,
    packed: false,
    leftOver: 0,
    promptTokens: 0,
    lines: { truncated: [12], divided: [], skipped: [3], empty: [], broken: [] },
  });
  refuses(() => encodeRows(rows.slice(2), options), "input", { value: [1, 24] });
});

Deno.test("a prompt that leaves no room for a response is named, if its rows fit without it", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), { compresso_style: "plain" }, null);
  const row = (instruction: string): Row => (
    { kind: "instruct", instruction, input: "", output: "here", choices: null, extra: {} }
  );
  const prompt = "the river carries the stone ".repeat(9);
  const fix = (instruction: string, text: string | null): string => {
    try {
      encodeRows([row(instruction)], { tokenizer, prompt: text, seq: 24, packing: false });
    } catch (error) {
      return checkRefusal(error, "input", { value: [1, 24] }).parts.fix ?? "";
    }
    assert.fail("it has a response within 24 tokens");
  };
  assertNames(fix("Where?", prompt), ["seq", "prompt: null"]);
  for (const text of [prompt, null]) {
    assert.ok(!fix(prompt, text).includes("prompt: null"), "without a prompt the row is as long");
  }
});

Deno.test("encodeRows() reports what reading left out, at most the first five of each", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const lines = Array.from({ length: 9 }, (_, index) => JSON.stringify({ text: index % 2 === 0 ? "" : "stone" }));
  const { rows, report: reading } = parseRows([...lines, "{", "{}"].join("\n"), "x", { skipBroken: true });
  const { report } = encodeRows(rows, { tokenizer, prompt: null, seq: 4, packing: false, reading });
  assert.deepEqual([report.rows, report.empty, report.broken], [4, 5, 2]);
  assert.deepEqual(report.lines, { truncated: [], divided: [], skipped: [], empty: [1, 3, 5, 7, 9], broken: [10, 11] });
  const more = { ...reading, skipped: Array.from({ length: 7 }, (_, index) => ({ row: index + 1, reason: "" })) };
  const { report: short } = encodeRows(rows, { tokenizer, prompt: null, seq: 4, packing: false, reading: more });
  assert.deepEqual([short.empty, short.lines.empty], [7, [1, 2, 3, 4, 5]]);
});

Deno.test("rows of a JSON array are named with the lines on which they begin, in reports and errors", async () => {
  const tokenizer = await tokenizerOf("byte_level"), options = { tokenizer, prompt: null, seq: 24, packing: false };
  const asked = { instruction: "a", output: "b" }, long = { ...asked, output: "the river ".repeat(30) };
  const text = `[\n${
    [asked, long, {}, { ...asked, output: "" }, asked].map((row) => JSON.stringify(row)).join(",\n")
  }]`;
  const { rows, report: reading } = parseRows(text, "x", { skipBroken: true });
  const { report } = encodeRows(rows, { ...options, reading });
  assert.deepEqual(report.lines, { truncated: [2], divided: [], skipped: [], empty: [4], broken: [3] });
  assert.deepEqual(report.fileLines, { 2: 3, 3: 4, 4: 5 });
  const more = withBroken(report, [{ row: 5, line: 6 }]);
  assert.deepEqual([more.lines.broken, more.fileLines?.[5], more.fileLines?.[2]], [[3, 5], 6, 3]);
  const line = dataLine(withBroken(more, Array(4).fill({ row: 9 })), options);
  assertNames(line, ["24 tokens (row 2, line 3)", "(row 4, line 5)", "(row 3, line 4; 5, line 6; 9; 9; 9; …)"]);
  assert.equal(readingNote(reading), "1 empty (row 4, line 5), 1 broken (row 3, line 4)");
  refuses(() => encodeRows(rows, { ...options, vocab: 1 }), "input", { names: ["row 1", "line 2"] });
  refuses(() => encodeChoices(parseRows(JSON.stringify([asked]), "x").rows, { tokenizer }), "input", {
    names: ["row 1", "line 1"],
  });
});

Deno.test("the report tells what the prompt costs: the tokens by which each row is longer", async () => {
  const chat = await tokenizerOf("byte_level"), sentencepiece = await tokenizerOf("sentencepiece");
  const { rows } = parseRows(
    '{"instruction":"Where is it?","output":"here"}\n{"instruction":"Why?","output":"x"}',
    "x",
  );
  for (const style of ["chat", "alpaca", "plain"] as const) {
    for (const tokenizer of [chat, sentencepiece]) {
      const encode = (prompt: string | null): ReturnType<typeof encodeRows> =>
        encodeRows(rows, { tokenizer, prompt, style, seq: 2000, packing: false });
      const bare = encode(null), prompted = encode("Be small.\nKeep what matters.");
      const cost = prompted.report.promptTokens;
      assert(cost > 5, String(cost));
      assert.equal(prompted.report.tokens - bare.report.tokens, 2 * cost, style);
      assert.equal(prompted.report.labelTokens, bare.report.labelTokens);
      assert.equal(bare.report.promptTokens, 0);
    }
  }
  // A conversation's own system turn grows by less than one of the prompt's own takes.
  const turns = [{ role: "user", content: "Where is it?" }, { role: "assistant", content: "here" }];
  const own = [{ role: "system", content: "Be kind." }, ...turns];
  const deaf = withConfig(
    chat,
    {},
    (chat.chatTemplate ?? "").replace("%}", "%}{% if message.role != 'system' %}")
      .replace("{% endfor", "{% endif %}{% endfor"),
  );
  for (const lists of [[own, own], [own, turns, own], [turns]]) {
    const lines = lists.map((messages) => JSON.stringify({ messages })).join("\n"), { rows } = parseRows(lines, "x");
    for (const tokenizer of [chat, deaf]) {
      for (const style of ["chat", "alpaca", "plain"] as const) {
        const encode = (prompt: string | null): ReturnType<typeof encodeRows>["report"] =>
          encodeRows(rows, { tokenizer, prompt, style, seq: 2000, packing: false }).report;
        const bare = encode(null), { tokens, promptTokens } = encode("Be small.\nKeep what matters.");
        assert.equal(promptTokens, Math.round(10 * (tokens - bare.tokens) / lists.length) / 10, `${style} ${lines}`);
      }
    }
  }
  // One that the template refuses decides nothing.
  const both = parseRows([own, turns].map((messages) => JSON.stringify({ messages })).join("\n"), "x").rows;
  const kept = (prompt: string | null): ReturnType<typeof encodeRows>["report"] =>
    encodeRows(both, { tokenizer: sentencepiece, prompt, seq: 2000, packing: false, skipBroken: true }).report;
  assert.equal(kept("Be small.").promptTokens, kept("Be small.").tokens - kept(null).tokens);
  const texts = parseRows('{"text":"the river carries the stone"}', "x").rows;
  const report = (prompt: string | null): unknown => encodeRows(texts, { tokenizer: chat, prompt, seq: 8 });
  assert.deepEqual(report(COLLABORATIVE_PROMPT), report(null));
  refuses(() => encodeRows(rows, { tokenizer: chat, prompt: "Be small.", seq: 8, packing: false }), "input", {
    value: 8,
  });
});

Deno.test("encodeRows() says of no rows, and of texts of one token, what they lack", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const refused = (rows: readonly Row[], message: Refusal): void =>
    refuses(() => encodeRows(rows, { tokenizer, prompt: null, seq: 8, packing: false }), "input", message);
  refused([], { value: [0, 8] });
  refused(
    [{ kind: "text", text: "x", extra: {} }],
    { value: [1, 8] },
  );
});

Deno.test("encodeRows() cuts texts to windows that hold every token but single tails", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const texts = ["the river carries the stone near a garden", "x"];
  const rows = texts.map((text): Row => ({ kind: "text", text, extra: {} }));
  const whole = tokenizer.encode(texts[0] ?? "");
  const seq = whole.length - 2;
  const { examples, report } = encodeRows(rows, { tokenizer, prompt: COLLABORATIVE_PROMPT, seq, packing: false });
  assert.deepEqual(examples.flatMap(({ tokens }) => [...tokens]), whole);
  const { rows: count, skipped, tokens, labelTokens, padding, packed, promptTokens, lines } = report;
  assert.deepEqual([count, report.examples, skipped, lines.skipped], [2, 2, 1, [2]]);
  assert.deepEqual([tokens, labelTokens, padding], [whole.length, whole.length - 2, 2 * seq - whole.length]);
  assert.deepEqual([packed, promptTokens], [false, 0]);
});
