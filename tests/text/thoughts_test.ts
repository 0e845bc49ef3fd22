// Templates that open the thoughts in the generation prompt, or leave them out of answers: where an answer is learned then.
import assert from "node:assert/strict";
import type { ChatMessage } from "../../lib/text/chat_template.ts";
import type { ChatRow, InstructRow, Row } from "../../lib/data/rows.ts";
import {
  encodeExample,
  type EncodeOptions,
  encodePrefix,
  formatExample,
  IGNORED_LABEL,
} from "../../lib/data/prompts/encode.ts";
import { encodeChatPrompt } from "../../lib/data/prompts/chat.ts";
import { turnShape } from "../../lib/data/prompts/turn.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { tokenizerOf, withConfig } from "./fixtures.ts";

const LAST = "message['content'].split('</think>')[-1]";

/** Abridged from DeepSeek-R1-Distill, with the special tokens of the test's tokenizer; what is left of `answer` stands in an answered turn. */
function opening(answer: string, opened = "<think>\\n"): string {
  return "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}" +
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{ns.system_prompt}}{%- for message in messages %}" +
    "{%- if message['role'] == 'user' %}{{'<|start|>user\\n' + message['content'] + '<|end|>'}}{%- endif %}" +
    `{%- if message['role'] == 'assistant' and message['content'] is not none %}{{'<|start|>assistant\\n' + ${answer} + '<|end|>'}}{%- endif %}` +
    `{%- endfor -%}{% if add_generation_prompt %}{{'<|start|>assistant\\n${opened}'}}{% endif %}`;
}

/** As DeepSeek-R1-Distill, as QwQ, which drops the line breaks too, and as DeepSeek-R1-Distill of the first days, which opened nothing. */
const [R1, QWQ, EARLY] = [opening(LAST), opening(`${LAST}.lstrip('\\n')`), opening(LAST, "")];

/** Abridged from GLM-4.7: an answer without thoughts closes what is not opened. */
const GLM = opening("('' if '</think>' in message['content'] else '</think>') + message['content']", "<think>");

/** Abridged from Qwen3: the last answer gets an empty thought where it has none. */
const QWEN3 = "{%- for message in messages %}{%- if message.role == 'user' %}" +
  "{{- '<|start|>user\\n' + message.content + '<|end|>\\n' }}{%- else %}{%- set reasoning = '' %}{%- set content = message.content %}" +
  "{%- if '</think>' in content %}{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}" +
  "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}" +
  "{%- if loop.last %}{{- '<|start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}" +
  "{%- else %}{{- '<|start|>assistant\\n' + content }}{%- endif %}{{- '<|end|>\\n' }}{%- endif %}{%- endfor %}" +
  "{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{%- endif %}";

function instruct(output: string): InstructRow {
  return { kind: "instruct", instruction: "Q", input: "", output, choices: null, extra: {} };
}

function chat(...contents: readonly string[]): ChatRow {
  const messages = contents.map((content, index): ChatMessage => ({
    role: index % 2 === 0 ? "user" : "assistant",
    content,
  }));
  return { kind: "chat", messages, extra: {} };
}

async function optionsOf(template: string): Promise<EncodeOptions & { readonly tokenizer: Tokenizer }> {
  return { tokenizer: withConfig(await tokenizerOf("byte_level"), {}, template), prompt: null, seq: 4000 };
}

/** The row as text, with what is learned in brackets. */
function marked(row: Row, options: EncodeOptions): string {
  const { tokens, labels } = encodeExample(row, options);
  const parts: { readonly isLearned: boolean; readonly ids: number[] }[] = [];
  tokens.forEach((id, index) => {
    const isLearned = labels[index] !== IGNORED_LABEL, last = parts.at(-1);
    if (last?.isLearned === isLearned) last.ids.push(id);
    else parts.push({ isLearned, ids: [id] });
  });
  return parts.map(({ isLearned, ids }) => {
    const text = options.tokenizer.decode(ids);
    return isLearned ? `⟦${text}⟧` : text;
  }).join("");
}

const ASKED = "<|start|>user\nQ<|end|><|start|>assistant\n";

/** What is learned of an answer. */
async function learned(template: string, said: string, expected: string): Promise<void> {
  const options = await optionsOf(template);
  assert.equal(marked(instruct(said), options), expected, said);
  assert.equal(marked(chat("Q", said), options), expected, said);
  for (const prompt of ["Be brief.", "Be\nkind."]) {
    const prompted = { ...options, prompt };
    assert.deepEqual(encodeExample(instruct(said), prompted), encodeExample(chat("Q", said), prompted));
  }
}

Deno.test("an answer without thoughts is not learned as a thought: it stands before the opening, as transformers writes it", async () => {
  for (const template of [R1, QWQ]) {
    for (const said of ["Red.", "Red.\n", "<b>Red</b>", " A < B"]) {
      await learned(template, said, `${ASKED}⟦${said}<|end|>⟧`);
    }
  }
  // Of white space the template decides.
  await learned(QWQ, "\n\nRed.", `${ASKED}⟦Red.<|end|>⟧`);
  await learned(opening("message['content'].strip()"), "Red.\x1c\x85\n", `${ASKED}⟦Red.<|end|>⟧`);
  await learned(GLM, "Red.", `${ASKED}⟦</think>Red.<|end|>⟧`);
});

Deno.test("an answer with thoughts is learned whole behind the opening, which it has once, as the model is asked for it", async () => {
  for (const template of [R1, QWQ]) {
    for (const end of ["", "\n", " \n"]) {
      const thought = `Hm.\n</think>\n\nRed.${end}`, expected = `${ASKED}<think>\n⟦${thought}<|end|>⟧`;
      for (const said of [`<think>\n${thought}`, `<think>${thought}`, `\n<think>\n${thought}`, thought]) {
        await learned(template, said, expected);
      }
    }
    await learned(template, "<think>\n\n</think>\n\nRed.", `${ASKED}<think>\n⟦\n</think>\n\nRed.<|end|>⟧`);
    await learned(template, "<think>\nHm", `${ASKED}<think>\n⟦Hm<|end|>⟧`);
    await learned(template, "<think>Hm", `${ASKED}<think>\n⟦Hm<|end|>⟧`);
  }
  await learned(GLM, "<think>Hm.</think>Red.", `${ASKED}<think>⟦Hm.</think>Red.<|end|>⟧`);
});

Deno.test("thoughts that a template leaves out without having opened them are learned as they stand", async () => {
  for (const end of ["", "\n"]) {
    const said = `<think>\nHm.\n</think>\n\nRed.${end}`;
    await learned(EARLY, said, `${ASKED}⟦${said}<|end|>⟧`);
  }
});

Deno.test("thoughts that a template writes itself are learned as it writes them, once", async () => {
  const asked = ASKED.replace("<|end|>", "<|end|>\n"), whole = `${asked}⟦<think>\nHm.\n</think>\n\nRed.<|end|>⟧`;
  for (const said of ["<think>\nHm.\n</think>\n\nRed.", "<think>Hm.</think>Red.", "<think>\nHm.\n</think>\n\nRed."]) {
    await learned(QWEN3, said, whole);
  }
  await learned(QWEN3, "Red.", `${asked}⟦<think>\n\n</think>\n\nRed.<|end|>⟧`);
});

Deno.test("what asks a model to answer has the whole opening, and its answer to a row with thoughts goes on behind it", async () => {
  for (const [template, lead, opened] of [[R1, "", "<think>\n"], [GLM, "</think>", "<think>"]] as const) {
    const options = await optionsOf(template), { tokenizer } = options;
    assert.deepEqual([turnShape(tokenizer).lead, turnShape(tokenizer).opened], [lead, opened]);
    const asked = encodeChatPrompt([{ role: "user", content: "Q" }], options);
    assert.equal(tokenizer.decode([...asked]), ASKED + opened);
    assert.deepEqual(encodePrefix(formatExample(instruct(""), options).prefix, options), asked);
    const { tokens, labels } = encodeExample(instruct(`${opened}Hm.</think>Red.`), options);
    assert.deepEqual([...tokens.slice(0, asked.length)], asked);
    assert.deepEqual([labels[asked.length - 1] === IGNORED_LABEL, labels[asked.length] === IGNORED_LABEL], [
      true,
      false,
    ]);
  }
});

Deno.test("of a conversation the last answer may have thoughts; one that others follow is refused with them", async () => {
  const thought = "<think>\nHm.\n</think>\n\nRed.";
  for (const template of [R1, QWQ]) {
    const options = await optionsOf(template), two = "<|start|>user\nQ2<|end|><|start|>assistant\n";
    assert.equal(marked(chat("Q", "Blue.", "Q2", "Red."), options), `${ASKED}⟦Blue.<|end|>⟧${two}⟦Red.<|end|>⟧`);
    assert.equal(
      marked(chat("Q", "Blue.", "Q2", thought, "Q3"), options),
      `${ASKED}⟦Blue.<|end|>⟧${two}<think>\n⟦Hm.\n</think>\n\nRed.<|end|>⟧`,
    );
  }
  for (const template of [R1, QWQ, EARLY]) {
    const message = { value: ["message 2", 4] };
    for (const prompt of [null, "Be brief."]) {
      const options = { ...await optionsOf(template), prompt };
      refuses(() => marked(chat("Q", thought, "Q2", "Blue."), options), "input", message);
    }
  }
});

Deno.test("where a template writes a question otherwise once it is answered, a row is told what helps it", async () => {
  const changing =
    "{% for m in messages %}{{ '<|start|>' + (m['content'] if loop.last else 'gone') + '<|end|>' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}";
  const options = await optionsOf(changing);
  const refuse = (row: ChatRow, message: Refusal): void => refuses(() => marked(row, options), "input", message);
  refuse(
    chat("Q", "Red."),
    { value: "message 2" },
  );
  refuse(
    chat("Q", "Red.", "Q2", "A"),
    { value: ["message 2", 4] },
  );
  const { messages } = chat("Q", "Red.");
  const system: ChatRow = { ...chat(), messages: [{ role: "system", content: "Be kind." }, ...messages] };
  refuse(system, { value: "message 3" });
  // The prompt is no message of the row.
  refuses(() => marked(chat("Q", "Red."), { ...options, prompt: "Be brief." }), "input", { value: "message 2" });
});
