// Conversations as tokens: what is learned of them in each style, and what a template must hold to.
import assert from "node:assert/strict";
import { type ChatMessage, renderChat } from "../../lib/text/chat_template.ts";
import { type ChatRow, type InstructRow, parseRows } from "../../lib/data/rows.ts";
import { tokenizerFromGguf } from "../../lib/formats/gguf/tokenizer.ts";
import { openWeights } from "../disk.ts";
import {
  COLLABORATIVE_PROMPT,
  encodeExample,
  type EncodeOptions,
  encodePrefix,
  endToken,
  formatExample,
  IGNORED_LABEL,
} from "../../lib/data/prompts/encode.ts";
import { encodeChatPrompt } from "../../lib/data/prompts/chat.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";
import { refuses } from "../refuses.ts";
import { sharedFile } from "../formats/files.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";

const SEQ = 4000;

function chat(...contents: readonly string[]): ChatRow {
  const messages = contents.map((content, index): ChatMessage => ({
    role: index % 2 === 0 ? "user" : "assistant",
    content,
  }));
  return { kind: "chat", messages, extra: {} };
}

/** An instruction that is the question "Where?". */
function instructed(output: string): InstructRow {
  return { kind: "instruct", instruction: "Where?", input: "", output, choices: null, extra: {} };
}

const OUTPUTS = ["in the river", "A", " \n x", "Paris.\n", "\n Paris. ", "日本"];

/** A template that writes answers in this way. */
function answering(answer: string): string {
  return "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}" +
    `{% else %}{{ ${answer} }}{% endif %}{% endfor %}`;
}

/** What templates write for an answer, the first as Llama 2's does, and what is learned of it. */
const ANSWERS: readonly (readonly [answer: string, learned: (output: string) => string])[] = [
  ["' ' + m['content'].strip() + ' ' + eos_token", (output) => ` ${output.trim()} END`],
  ["' ' + m['content'] + ' \\n' + eos_token + '\\n'", (output) => ` ${output} \nEND`],
  ["' ' + m['content'].lstrip() + eos_token", (output) => ` ${output.trimStart()}END`],
  ["' ' + (m['content'] | trim) + '\\n'", (output) => ` ${output.trim()}\nEND`],
];

const LONG = chat("Where is the stone?", "in the river", "And now? 👍", "12 stones,\nor 3", "Go on.", "日本");

/** Stretches of tokens that are learned, as text, and those that are not. */
function stretches(row: ChatRow, options: EncodeOptions): { learned: string[]; others: string[] } {
  const { tokens, labels } = encodeExample(row, options);
  const found: { learned: boolean; ids: number[] }[] = [];
  tokens.forEach((id, index) => {
    const learned = labels[index] !== IGNORED_LABEL;
    if (learned) assert.equal(labels[index], id);
    const last = found.at(-1);
    if (last?.learned === learned) last.ids.push(id);
    else found.push({ learned, ids: [id] });
  });
  const text = (learned: boolean): string[] =>
    found.filter((stretch) => stretch.learned === learned).map(({ ids }) => options.tokenizer.decode(ids));
  return { learned: text(true), others: text(false) };
}

Deno.test("in a chat template all that the assistant says is learned, with its end token, and nothing else", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const { learned, others } = stretches(LONG, { tokenizer, prompt: null, seq: SEQ });
  assert.deepEqual(learned, ["in the river<|end|>", "12 stones,\nor 3<|end|>", "日本<|end|>"]);
  assert.deepEqual(others, [
    "<|start|>user\nWhere is the stone?<|end|>\n<|start|>assistant\n",
    "\n<|start|>user\nAnd now? 👍<|end|>\n<|start|>assistant\n",
    "\n<|start|>user\nGo on.<|end|>\n<|start|>assistant\n",
  ]);
});

Deno.test("the tokens that ask for an answer are those that stand before it in training, in every style", async () => {
  for (const name of ["byte_level", "sentencepiece"] as const) {
    for (const style of ["chat", "alpaca", "plain"] as const) {
      for (const prompt of [null, "Be brief."]) {
        const options = { tokenizer: await tokenizerOf(name), prompt, style };
        const { tokens, labels } = encodeExample(LONG, { ...options, seq: SEQ });
        for (const answer of [1, 3, 5]) {
          const asked = encodeChatPrompt(LONG.messages.slice(0, answer), options);
          assert.deepEqual(asked, [...tokens.slice(0, asked.length)], `${name} ${style} ${prompt} ${answer}`);
          assert.equal(labels[asked.length - 1], IGNORED_LABEL);
          assert.notEqual(labels[asked.length], IGNORED_LABEL);
        }
      }
    }
  }
});

for (const name of ["byte_level", "sentencepiece"] as const) {
  Deno.test(`a ${name} conversation has the tokens of the whole rendered text`, async () => {
    const tokenizer = await tokenizerOf(name);
    const { tokens } = encodeExample(LONG, { tokenizer, prompt: null, seq: SEQ });
    const text = renderChat(tokenizer, LONG.messages, { addGenerationPrompt: false });
    // What stands behind the last end token is left out.
    assert.deepEqual([...tokens], tokenizer.encode(text.trimEnd()));
  });

  Deno.test(`in a ${name} conversation each answer follows the tokens that ask for it in generation`, async () => {
    const tokenizer = await tokenizerOf(name);
    const { tokens, labels } = encodeExample(LONG, { tokenizer, prompt: null, seq: SEQ });
    for (const answer of [1, 3, 5]) {
      const asked = renderChat(tokenizer, LONG.messages.slice(0, answer), { addGenerationPrompt: true });
      const prefix = encodePrefix(asked, { tokenizer, prompt: null });
      assert.deepEqual([...tokens.slice(0, prefix.length)], prefix);
      assert.equal(labels[prefix.length - 1], IGNORED_LABEL);
      assert.notEqual(labels[prefix.length], IGNORED_LABEL);
    }
  });

  for (const style of ["chat", "alpaca", "plain"] as const) {
    Deno.test(`one question and answer in ${style} style are the ${name} tokens of an instruction`, async () => {
      const tokenizer = await tokenizerOf(name);
      for (const output of OUTPUTS) {
        for (const prompt of [null, COLLABORATIVE_PROMPT]) {
          const options = { tokenizer, prompt, style, seq: SEQ };
          assert.deepEqual(encodeExample(chat("Where?", output), options), encodeExample(instructed(output), options));
        }
      }
    });
  }

  Deno.test(`white space that a template writes or trims around an answer is that of the ${name} instruction too`, async () => {
    for (const [answer, learned] of ANSWERS) {
      const tokenizer = withConfig(await tokenizerOf(name), {}, answering(answer));
      const options = { tokenizer, prompt: null, seq: SEQ }, end = tokenizer.idToToken(tokenizer.eosId ?? -1) ?? "";
      for (const output of OUTPUTS) {
        const row = instructed(output), example = encodeExample(row, options);
        assert.deepEqual(
          example,
          encodeExample(chat("Where?", output), options),
          `${answer} ${JSON.stringify(output)}`,
        );
        assert.equal(formatExample(row, options).response, learned(output).replace("END", ""));
        const text = tokenizer.decode([...example.tokens]), expected = ` [/INST]${learned(output).replace("END", end)}`;
        assert.equal(text.slice(-expected.length), expected);
      }
    }
  });
}

Deno.test("what templates write around an answer beside white space is that of the instruction too, and all that is said is learned", async () => {
  const [said, headed] = ["{{ m['role'] + '\n' + m['content'] + '<|end|>\n' }}", "{% for m in messages %}"];
  const templates = [
    // Headings in the messages, and no prompt for an answer.
    `${headed}{{ '<|start|>' }}${said}{% endfor %}`,
    `${headed}{{ ('USER: ' if m['role'] == 'user' else ' ASSISTANT: ') + m['content'] }}{% endfor %}`,
    // The second has no such token: it ends an answer with other text.
    `${headed}${said}{% endfor %}{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}`,
    answering("' ' + (m['content'] | trim) + '\n'"),
  ];
  for (const name of ["byte_level", "sentencepiece"] as const) {
    const plain = await tokenizerOf(name), special = plain.idToToken(plain.eosId ?? -1) ?? "";
    assert.ok(special !== "");
    for (const template of templates) {
      const tokenizer = withConfig(plain, {}, template), options = { tokenizer, prompt: null, seq: SEQ };
      for (const output of ["in Rome", `Put it in ${special}old${special} and go`]) {
        const row = chat("Where?", output), example = encodeExample(row, options), at = `${name} ${template} ${output}`;
        assert.deepEqual(encodeExample(instructed(output), options), example, at);
        // EOS ends what no special token of the template does.
        const text = renderChat(tokenizer, row.messages, { addGenerationPrompt: false });
        const isClosed = template.includes("<|end|>") && tokenizer.encode("<|end|>").length === 1;
        const whole = isClosed ? tokenizer.encode(text.trimEnd()) : [...tokenizer.encode(text), tokenizer.eosId];
        assert.deepEqual([...example.tokens], whole, at);
      }
    }
  }
});

Deno.test("the prompt stands in the system turn, before its text, or where there can be none, before the question", async () => {
  const tokenizer = await tokenizerOf("byte_level"), prompt = "Be small.";
  const first = (row: ChatRow, of: Tokenizer): string =>
    stretches(row, { tokenizer: of, prompt, seq: SEQ }).others[0] ?? "";
  const row = chat("Count.", "1");
  const question = "<|start|>user\nCount.<|end|>\n<|start|>assistant\n";
  assert.equal(first(row, tokenizer), `<|start|>system\nBe small.<|end|>\n${question}`);
  const system: ChatRow = { ...row, messages: [{ role: "system", content: "Be kind." }, ...row.messages] };
  assert.equal(first(system, tokenizer), `<|start|>system\nBe small.\n\nBe kind.<|end|>\n${question}`);
  assert.match(first(row, await tokenizerOf("sentencepiece")), /\[INST\] Be small\.\n\nCount\. \[\/INST\]/);
  // This template leaves system turns out without a word.
  const silent = withConfig(
    tokenizer,
    {},
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}",
  );
  assert.equal(first(row, silent), "<|start|>user\nBe small.\n\nCount.<|end|><|start|>assistant\n");
  // Not into a system turn that is left out.
  assert.equal(first(system, silent), "<|start|>user\nBe small.\n\nCount.<|end|><|start|>assistant\n");
  // An answer that comes first is learned: the prompt must not be.
  const opened: ChatRow = { ...row, messages: [{ role: "assistant", content: "Hello." }, ...row.messages] };
  const { learned, others } = stretches(opened, { tokenizer: silent, prompt, seq: SEQ });
  assert.ok(!learned.join().includes(prompt), learned.join());
  assert.ok(others.join().includes("user\nBe small.\n\nCount."), others.join());
  const alone: ChatRow = { ...row, messages: [{ role: "assistant", content: "Hello." }] };
  assert.ok(!JSON.stringify(stretches(alone, { tokenizer: silent, prompt, seq: SEQ })).includes(prompt));
});

/** Abridged from Mistral-7B-Instruct-v0.3: the system text stands only in a question that ends the chat. */
const LAST_ONLY = "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}" +
  "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}" +
  "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}" +
  "{%- if loop.last and system_message is defined %}{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}" +
  "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}" +
  "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}";

Deno.test("a template that keeps the system text only in a last question gets the prompt before the first", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, LAST_ONLY), prompt = "Be small.";
  const options = { tokenizer, prompt, seq: SEQ };
  const { learned, others } = stretches(chat("Count.", "1", "Go on.", "2"), options);
  assert.deepEqual(learned, [" 1<|end|>", " 2<|end|>"]);
  assert.deepEqual(others, ["[INST] Be small.\n\nCount.[/INST]", "[INST] Go on.[/INST]"]);
  // An instruction has the text that the template itself makes of a system turn.
  const turns: readonly ChatMessage[] = [{ role: "system", content: prompt }, { role: "user", content: "Count." }];
  const { prefix, response } = formatExample({ instruction: "Count.", input: "", output: "1" }, options);
  assert.deepEqual([prefix, response], [renderChat(tokenizer, turns, { addGenerationPrompt: true }), " 1"]);
  // A system turn of the row's own is lost with the answer.
  const own: ChatRow = { ...chat(), messages: [...turns, { role: "assistant", content: "1" }] };
  const message = { names: "compresso_style" };
  refuses(() => encodeExample(own, options), "input", message);
  const plain = withConfig(tokenizer, { compresso_style: "plain" }, LAST_ONLY);
  assert.deepEqual(stretches(own, { ...options, tokenizer: plain }).learned, ["1<|end|>"]);
});

Deno.test("a template that raises where an answer follows a system turn gets the prompt before the question", async () => {
  const raising = "{% for m in messages %}{% if m['role'] == 'assistant' and messages[0]['role'] == 'system' %}" +
    "{{ raise_exception('no') }}{% endif %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, raising);
  const { others } = stretches(chat("Count.", "1"), { tokenizer, prompt: "Be small.", seq: SEQ });
  assert.deepEqual(others, ["<|start|>user\nBe small.\n\nCount.<|end|><|start|>assistant\n"]);
});

Deno.test("without a template a conversation is instructions and answers in turn, each with the end token", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, null);
  const messages: readonly ChatMessage[] = [
    { role: "system", content: "Be kind." },
    { role: "user", content: "Count." },
    { role: "assistant", content: "1" },
    { role: "user", content: "Go on." },
    { role: "user", content: "Please." },
    { role: "assistant", content: "2" },
    { role: "user", content: "This is not answered." },
  ];
  const row: ChatRow = { kind: "chat", messages, extra: {} };
  const alpaca = stretches(row, { tokenizer, prompt: "Be small.", style: "alpaca", seq: SEQ });
  assert.deepEqual(alpaca.learned, ["1<|end|>", "2<|end|>"]);
  assert.deepEqual(alpaca.others, [
    "Be small.\n\nBe kind.\n\n### Instruction:\nCount.\n\n### Response:\n",
    "\n\n### Instruction:\nGo on.\n\nPlease.\n\n### Response:\n",
  ]);
  const plain = stretches(row, { tokenizer, prompt: null, style: "plain", seq: SEQ });
  assert.deepEqual(plain, { learned: alpaca.learned, others: ["Be kind.\nCount.\n", "\nGo on.\n\nPlease.\n"] });
});

Deno.test("a template without end token leaves it to EOS at the end of the conversation", async () => {
  const bare = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" +
    "{% if add_generation_prompt %}assistant: {% endif %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, bare);
  const { learned } = stretches(chat("Count.", "1", "Go on.", "2"), { tokenizer, prompt: null, seq: SEQ });
  assert.deepEqual(learned, ["1\n", "2\n<|end|>"]);
});

Deno.test("a long conversation loses its end, and one whose answers are cut off teaches nothing", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const whole = encodeExample(LONG, { tokenizer, prompt: null, seq: SEQ });
  assert.equal(whole.truncated, false);
  const cut = encodeExample(LONG, { tokenizer, prompt: null, seq: 40 });
  assert.deepEqual([cut.truncated, cut.tokens.length], [true, 40]);
  assert.deepEqual([...cut.tokens], [...whole.tokens.slice(0, 40)]);
  assert.deepEqual([...cut.labels], [...whole.labels.slice(0, 40)]);
  const { report } = encodeRows([LONG, chat("Where is the stone? ".repeat(9), "here")], {
    tokenizer,
    prompt: null,
    seq: 40,
    packing: false,
  });
  assert.deepEqual([report.examples, report.truncated, report.skipped, report.packed], [1, 1, 1, false]);
  assert.deepEqual(report.lines.skipped, [2]);
  // Too many tokens for the arguments of a call.
  const endless = chat("Where is the stone? ".repeat(40_000), "here");
  const { examples } = encodeRows([LONG, endless], { tokenizer, prompt: null, seq: 40, packing: false });
  assert.equal(examples.length, 1);
});

Deno.test("a template that writes earlier turns otherwise is refused with the number of the row", async () => {
  // As templates do that drop the thoughts of all turns but the last.
  const dropping = "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' }}" +
    "{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}{% else %}{{ 'gone' }}{% endif %}{{ '<|end|>' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, dropping);
  const lines = [chat("Count.", "1"), chat("Count.", "1", "Go on.", "2")].map(({ messages }) =>
    JSON.stringify({ messages })
  );
  const { rows } = parseRows(["", ...lines].join("\n"), "x");
  const options = { tokenizer, prompt: null, seq: SEQ };
  assert.equal(encodeRows(rows.slice(0, 1), options).examples.length, 1);
  const message = { value: "message 4", names: "row 3" };
  refuses(() => encodeRows(rows, options), "input", message);
  const turned: ChatRow = { kind: "chat", messages: [...LONG.messages].reverse(), number: 7, extra: {} };
  // Asked to go on with nothing, this one writes a system turn of its own.
  const opening =
    "{% if not messages or messages[0]['role'] != 'assistant' %}{{ '<|start|>system\n<|end|>' }}{% endif %}" + dropping;
  refuses(() => encodeRows([turned], { ...options, tokenizer: withConfig(tokenizer, {}, opening) }), "input", {
    names: "row 7",
  });
  refuses(
    () => encodeRows([turned], { ...options, tokenizer: withConfig(tokenizer, {}, "{{ raise_exception('no') }}") }),
    "input",
    { names: "row 7" },
  );
});

Deno.test("rows that the template refuses are left out and counted by number where that is asked for", async () => {
  const tokenizer = withConfig(
    await tokenizerOf("byte_level"),
    {},
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}" +
      "{{ '<|start|>' + m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}",
  );
  const good = chat("Where?", "here"), turned: ChatRow = { ...good, messages: good.messages.toReversed() };
  const rows = [good, turned, good, { ...turned, number: 9 }];
  for (const packing of [true, false]) {
    const options = { tokenizer, prompt: null, seq: 60, packing };
    refuses(() => encodeRows(rows, options), "input", { names: "row 2" });
    const { examples, report } = encodeRows(rows, { ...options, skipBroken: true });
    assert.deepEqual(examples, encodeRows([good, good], options).examples);
    assert.deepEqual([report.rows, report.broken, report.lines.broken], [4, 2, [2, 9]]);
    assert.deepEqual([report.skipped, report.truncated], [0, 0]);
    const none = (): unknown => encodeRows([turned, turned], { ...options, skipBroken: true });
    refuses(none, "input", { names: "row 1" });
    const long = chat("Where? ".repeat(100), "here");
    const tooLong = (): unknown =>
      encodeRows([turned, long], { ...options, seq: 20, packing: false, skipBroken: true });
    refuses(tooLong, "input", { value: 20 });
  }
});

const SMOLLM2 = sharedFile("models/SmolLM2-135M-Instruct.Q4_1.gguf");

Deno.test("SmolLM2's own template: answers and end tokens are learned, with and without the prompt", {
  ignore: SMOLLM2 === null,
}, async () => {
  const source = await openWeights(SMOLLM2 ?? "");
  assert("metadata" in source && source.metadata instanceof Map);
  const tokenizer = tokenizerFromGguf(source.metadata);
  const expected = ["in the river<|im_end|>", "12 stones,\nor 3<|im_end|>", "日本<|im_end|>"];
  for (const prompt of [null, COLLABORATIVE_PROMPT]) {
    const options = { tokenizer, prompt, seq: SEQ };
    const { learned, others } = stretches(LONG, options);
    assert.deepEqual(learned, expected);
    assert.equal(
      others[0],
      formatExample({ instruction: "Where is the stone?", input: "", output: "" }, options).prefix,
    );
    assert.equal(encodeExample(LONG, options).tokens.at(-1), endToken(options));
  }
});
