import assert from "node:assert/strict";
import type { InstructRow } from "../../lib/data/rows.ts";
import {
  COLLABORATIVE_PROMPT,
  encodeExample,
  encodePrefix,
  encodeResponse,
  endToken,
  formatExample,
  IGNORED_LABEL,
  promptCost,
  promptStyle,
} from "../../lib/data/prompts/encode.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { refuses } from "../refuses.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";

function instruct(instruction: string, input: string, output: string): InstructRow {
  return { kind: "instruct", instruction, input, output, choices: null, extra: {} };
}

const ROW = instruct("Where is the stone?", "The river carries the stone. 👍", "in the river");

/** The byte-level tokenizer as the demo model has it: no chat template, plain style. */
async function plainTokenizer(): Promise<Tokenizer> {
  return withConfig(await tokenizerOf("byte_level"), { compresso_style: "plain" }, null);
}

Deno.test("the collaborative prompt has two to four sentences that ask to cooperate in pruning", () => {
  const sentences = COLLABORATIVE_PROMPT.split(/(?<=[.!?]) /);
  assert(sentences.length >= 2 && sentences.length <= 4);
  assert.match(COLLABORATIVE_PROMPT, /[Cc]ooperate/);
  assert.match(COLLABORATIVE_PROMPT, /pruning/);
});

Deno.test("formatExample() lays out the plain style in lines", async () => {
  const tokenizer = await plainTokenizer();
  const format = (row: InstructRow, prompt: string | null): string => formatExample(row, { tokenizer, prompt }).prefix;
  assert.equal(format(ROW, "Be small."), "Be small.\nWhere is the stone?\nThe river carries the stone. 👍\n");
  assert.equal(format(instruct("Count.", "", "1"), null), "Count.\n");
  assert.equal(formatExample(ROW, { tokenizer, prompt: null }).response, "in the river");
});

Deno.test("formatExample() lays out the Alpaca style with headings", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const format = (row: InstructRow, prompt: string | null): string =>
    formatExample(row, { tokenizer, prompt, style: "alpaca" }).prefix;
  assert.equal(
    format(ROW, "Be small."),
    "Be small.\n\n### Instruction:\nWhere is the stone?\n\n### Input:\nThe river carries the stone. 👍\n\n### Response:\n",
  );
  assert.equal(format(instruct("Count.", "", "1"), null), "### Instruction:\nCount.\n\n### Response:\n");
});

Deno.test("formatExample() gives the prompt as the system turn of a chat", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const format = (row: InstructRow, prompt: string | null): string => formatExample(row, { tokenizer, prompt }).prefix;
  assert.equal(
    format(ROW, "Be small."),
    "<|start|>system\nBe small.<|end|>\n<|start|>user\nWhere is the stone?\n\nThe river carries the stone. 👍<|end|>\n<|start|>assistant\n",
  );
  assert.equal(format(instruct("Count.", "", "1"), null), "<|start|>user\nCount.<|end|>\n<|start|>assistant\n");
});

Deno.test("promptCost() counts what a prompt takes, its text at least where a template has a system turn of its own", async () => {
  const tokenizer = await tokenizerOf("byte_level"), turn = "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n";
  const own =
    "{% if messages[0].role != 'system' %}<|start|>system\nI am long and say so at length.<|end|>\n{% endif %}";
  const chatty = withConfig(tokenizer, {}, `${own}{% for m in messages %}${turn}{% endfor %}`);
  const cost = (one: Tokenizer, prompt: string | null): number => promptCost({ tokenizer: one, prompt });
  const brief = tokenizer.encode("Be brief.").length;
  assert.equal(cost(tokenizer, null), 0);
  assert.ok(cost(tokenizer, "Be brief.") > brief, "with its turn");
  assert.equal(cost(chatty, "Be brief."), brief);
  assert.ok(cost(chatty, COLLABORATIVE_PROMPT) >= tokenizer.encode(COLLABORATIVE_PROMPT).length);
});

Deno.test("a chat template that refuses a system turn gets the prompt before the instruction, and its space before the answer", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const { prefix, response } = formatExample(instruct("Count.", "", "1"), { tokenizer, prompt: "Be small." });
  assert.equal(prefix, "<s>[INST] Be small.\n\nCount. [/INST]");
  assert.equal(response, " 1");
});

Deno.test("promptStyle() follows the config, then the chat template", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  assert.equal(promptStyle(tokenizer), "chat");
  assert.equal(promptStyle(withConfig(tokenizer, {}, null)), "alpaca");
  assert.equal(promptStyle(await plainTokenizer()), "plain");
  const odd = withConfig(tokenizer, { compresso_style: "haiku" }, null);
  refuses(() => promptStyle(odd), "input", { value: '"haiku"', names: "compresso_style" });
});

Deno.test("BOS comes once: from the template in a chat, else from the tokenizer", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  for (const style of ["chat", "alpaca"] as const) {
    const options = { tokenizer, prompt: null, style };
    const ids = encodePrefix(formatExample(ROW, options).prefix, options);
    assert.deepEqual(ids.flatMap((id, index) => id === 1 ? [index] : []), [0], style);
  }
});

Deno.test("the end token is what the template puts after an answer, else EOS", async () => {
  const bytes = await tokenizerOf("byte_level");
  const other = withConfig(bytes, { eos_token: "<|pad|>" }, bytes.chatTemplate);
  assert.equal(endToken({ tokenizer: other, prompt: null }), 2);
  assert.equal(endToken({ tokenizer: other, prompt: null, style: "alpaca" }), 0);
  const bare = withConfig(bytes, { eos_token: null }, "{{ messages[0]['content'] }}{{ messages[1]['content'] }}");
  assert.equal(endToken({ tokenizer: bare, prompt: null }), null);
});

for (const name of ["byte_level", "sentencepiece"] as const) {
  for (const style of ["chat", "alpaca", "plain"] as const) {
    Deno.test(`labels of a ${name} example in ${style} style are the response and the end token, nothing else`, async () => {
      const tokenizer = await tokenizerOf(name);
      for (const output of ["in the river", "A", "", " \n x", "日本", "<|end|>", "12 stones,\nor 3"]) {
        const options = { tokenizer, prompt: COLLABORATIVE_PROMPT, style, seq: 2000 };
        const row = { ...ROW, output };
        const { tokens, labels, truncated, labelTokens } = encodeExample(row, options);
        const prefix = encodePrefix(formatExample(row, options).prefix, options);
        assert.deepEqual([...tokens.slice(0, prefix.length)], prefix);
        assert(labels.slice(0, prefix.length).every((label) => label === IGNORED_LABEL));
        const learned = labels.slice(prefix.length);
        assert.deepEqual([...learned], [...tokens.slice(prefix.length)]);
        assert.equal(learned.at(-1), endToken(options));
        // The whole decodes to prefix and response, so nothing was lost or added at their border.
        const { prefix: before, response } = formatExample(row, options);
        const bos = tokens[0] === tokenizer.bosId ? 1 : 0;
        const whole = tokenizer.decode([...tokens.slice(bos, -1)]);
        assert.equal(whole, before.replace(/^<s>/, "") + response);
        // The SentencePiece template trims what the assistant says.
        assert(response.endsWith(name === "sentencepiece" && style === "chat" ? output.trim() : output));
        assert.equal(truncated, false);
        assert.equal(labelTokens, learned.length);
        const all = encodeExample(row, { ...options, allTokens: true });
        assert.deepEqual([[...all.tokens], [...all.labels]], [[...tokens], [...tokens]]);
        assert.equal(all.labelTokens, tokens.length - 1);
      }
    });
  }
}

Deno.test("a SentencePiece response gets no space of its own behind the prefix", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const options = { tokenizer, prompt: null, style: "alpaca" } as const;
  const { prefix } = formatExample(ROW, options);
  assert.equal(tokenizer.idToToken(tokenizer.encode("stone")[0] ?? -1)?.startsWith("▁"), true);
  const pieces = encodeResponse(prefix, "stone", options).map(tokenizer.idToToken);
  assert.equal(pieces.join(""), "stone");
});

Deno.test("a response that would merge with the prefix is tokenized alone", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const options = { tokenizer, prompt: null, style: "alpaca" } as const;
  assert.deepEqual(
    tokenizer.encode("stone").length < tokenizer.encode("st").length + tokenizer.encode("one").length,
    true,
  );
  assert.deepEqual(encodeResponse("st", "one", options), tokenizer.encode("one"));
});

Deno.test("a long row loses the beginning of its input and keeps instruction and response", async () => {
  const tokenizer = await plainTokenizer();
  const input = Array.from({ length: 60 }, (_, index) => `The stone ${index} 👍.`).join(" ");
  const row = instruct("Where is it?", input, "in the river");
  for (const seq of [400, 101, 100, 99, 98, 97, 40]) {
    const options = { tokenizer, prompt: "Be small.", seq };
    const { tokens, labels, truncated, labelTokens } = encodeExample(row, options);
    const whole = encodeExample(row, { ...options, seq: 10000 });
    assert.equal(truncated, true);
    assert(tokens.length <= seq, `${tokens.length} > ${seq}`);
    // Only what belongs to one character (4 bytes) or a merge at the cut may be missing.
    assert(tokens.length > seq - 8, `${tokens.length} of ${seq}`);
    assert.equal(labelTokens, whole.labelTokens);
    const text = tokenizer.decode([...tokens]);
    assert(text.startsWith("Be small.\nWhere is it?\n"), text);
    assert(text.endsWith(" 👍.\nin the river<|end|>"), text);
    assert(!text.includes("\uFFFD"), text);
    assert.equal(tokenizer.decode([...labels].filter((label) => label !== IGNORED_LABEL)), "in the river<|end|>");
  }
});

Deno.test("where the input is not enough to cut, the end of the row goes", async () => {
  const tokenizer = await plainTokenizer();
  const row = instruct("Where is it?", "the garden", "in the river ".repeat(20));
  const options = { tokenizer, prompt: null, seq: 30 };
  const prefix = tokenizer.encode("Where is it?\n").length;
  const { tokens, truncated, labelTokens } = encodeExample(row, options);
  assert.deepEqual([tokens.length, truncated, labelTokens], [30, true, 30 - prefix]);
  assert.equal(tokenizer.decode([...tokens]).startsWith("Where is it?\nin the river in"), true);
  assert.equal(encodeExample(row, { ...options, seq: prefix }).labelTokens, 0);
});

Deno.test("all tokens of a text are labels and the first is not counted", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const { tokens, labels, labelTokens } = encodeExample({ kind: "text", text: "the river", extra: {} }, {
    tokenizer,
    prompt: COLLABORATIVE_PROMPT,
    seq: 2,
  });
  assert.deepEqual([...tokens], [1, ...tokenizer.encode("the river")]);
  assert.deepEqual([...labels], [...tokens]);
  assert.equal(labelTokens, tokens.length - 1);
});
