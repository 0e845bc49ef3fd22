// `compresso generate MODEL`: continues a prompt on stdout.
import type { CommandUnknownOpts } from "../packages.ts";
import { type CompressoError, refusal } from "../../lib/core/errors.ts";
import { encodePrefix, endToken, formatExample, promptCost } from "../../lib/data/prompts/encode.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { generate, type GenerateOptions } from "../../lib/generate/generate.ts";
import { streamText } from "../../lib/generate/text.ts";
import type { Adapters, Model } from "../../lib/model/model.ts";
import { timeTokens } from "../../lib/generate/timed_tokens.ts";
import { listen, speak, type Spoken, spokenValues, type Voice } from "./chat/answers.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { note, printJson } from "../terminal/output.ts";
import { promptNote, promptText } from "../options/prompt.ts";
import { readText, readTextInput } from "../terminal/read_text.ts";
import { ADAPTER_FLAG, addFlags, type FlagTable, type FlagValues, MODEL_FLAGS, required } from "../options/flags.ts";
import { COMPARE_FLAG, SAMPLING_FLAGS, samplingOf } from "../options/sampling.ts";
import { type Loaded, tokenizerOf, withModel } from "../with_model.ts";

const FLAGS = {
  prompt: {
    type: "value",
    placeholder: "text",
    help: "the text to continue, or - for stdin, without a line break at its end",
  },
  text: {
    type: "value",
    placeholder: "file",
    help: "read the text to continue from a UTF-8 file, without a line break at its end",
  },
  maxTokens: { type: "count", least: 1, initially: 100, help: "most tokens to generate" },
  ...SAMPLING_FLAGS,
  raw: { type: "switch", help: "continue the prompt as it is (the default)" },
  chat: { type: "switch", help: "answer the prompt as an instruction, in the model's chat template or prompt style" },
  withPrompt: {
    type: "switch",
    help: "with --chat: put the collaborative prompt before the instruction (default: no prompt)",
  },
  promptFile: {
    type: "value",
    placeholder: "file",
    help: "with --chat: a file with your own prompt, in place of the collaborative one",
  },
  compare: COMPARE_FLAG,
  adapter: ADAPTER_FLAG,
  ...MODEL_FLAGS,
  json: { type: "switch", help: "at the end, print one JSON object with tokens and text" },
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function generateVerb(): CommandUnknownOpts {
  const command = verb("generate", {
    description: "Continue a prompt, or answer an instruction.",
    examples: [
      'generate path/to/model --prompt "The sea is" --max-tokens 40 --temperature 0',
      'generate path/to/model --chat --prompt "Name three rivers." --temperature 0.8 --top-p 0.9',
      'generate path/to/model --compare path/to/pruned --prompt "The sea is"',
    ],
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, FLAGS).action(async (path: string, options: Flags) => {
    const { raw, chat, withPrompt = false, promptFile = withPrompt } = options;
    if (raw && chat) throw excluded("either --raw or --chat", "both were given");
    if (promptFile !== false && !chat) {
      throw excluded("--with-prompt and --prompt-file go with --chat", "--chat is missing", "add --chat");
    }
    samplingOf(options);
    const prompt = await readPrompt(options), before = await promptText(promptFile);
    await withModel(path, options, (loaded) => run(path, loaded, { ...options, prompt, before }));
  });
}

interface Settings extends Omit<Flags, "prompt"> {
  readonly prompt: string;
  /** Text before the instruction. */
  readonly before: string | null;
}

async function run(path: string, loaded: Loaded, settings: Settings): Promise<void> {
  const { model, other, adapters, signal, progress, tune } = loaded, { maxTokens, compare = "", json } = settings;
  const { stop, ...sampling } = samplingOf(settings);
  const options: GenerateOptions = { maxTokens, ...sampling, signal, readsAhead: other === null };
  const speakers = [
    { ...prepare(model, settings), name: path, model, adapters },
    ...(other ? [{ ...prepare(other, settings), name: compare, model: other, adapters: {} }] : []),
  ];
  const rows = Math.max(...speakers.map(({ prompt }) => prompt.length));
  await tune({ rows, directions: ["forward"], tokens: rows + maxTokens });
  progress[Symbol.dispose](); // the answer may share its terminal
  const voices = speakers.map((speaker) => voiceOf(speaker, { ...options, stop }));
  const noteSilence = (heard: readonly Spoken[]): void => {
    for (const { name, tokenizer } of speakers.filter((_, index) => heard[index]?.tokens.length === 0)) {
      const fix = settings.chat || tokenizer.chatTemplate === null
        ? ""
        : "; it is a chat model: --chat asks it the text";
      note(`compresso: ${name} ended at its first token${fix}`);
    }
  };
  if (!json) return noteSilence(await speak(voices));
  const heard = await listen(voices);
  noteSilence(heard);
  const values = heard.map((answer, index) => {
    const { prompt = [], name } = speakers[index] ?? {};
    return { model: name, prompt, text: answer.text, ...spokenValues(answer) };
  });
  printJson(other ? { models: values } : values[0]);
}

interface Speaker {
  readonly name: string;
  readonly model: Model;
  readonly adapters: Adapters;
  readonly tokenizer: Tokenizer;
  /** Token ids. */
  readonly prompt: readonly number[];
  /** Tokens of the text that is continued; none for an instruction. */
  readonly before: readonly number[];
  /** Tokens that end the answer besides the model's own. */
  readonly endTokens: readonly number[];
}

function voiceOf(
  { name, model, adapters, tokenizer, prompt, before, endTokens }: Speaker,
  { stop, ...options }: GenerateOptions & { readonly stop: readonly string[] },
): Voice<Spoken> {
  const { tokens, times } = timeTokens(generate(model, prompt, { ...options, adapters, endTokens }));
  return { name, pieces: pieces() };

  async function* pieces(): AsyncGenerator<string, Spoken, undefined> {
    const seen: number[] = [];
    const reason = yield* streamText(tokens, { tokenizer, stop, before, onToken: (id) => void seen.push(id) });
    return { tokens: seen, reason, times };
  }
}

function prepare(
  model: Model,
  { prompt, chat, before }: Settings,
): Pick<Speaker, "tokenizer" | "prompt" | "before" | "endTokens"> {
  const tokenizer = tokenizerOf(model);
  if (!chat) {
    const ids = tokenizer.encode(prompt);
    return { tokenizer, prompt: [...tokenizer.leading, ...ids], before: ids, endTokens: [] };
  }
  const options = { tokenizer, prompt: before, today: true };
  if (before !== null) promptNote(promptCost(options), "the instruction");
  const { prefix } = formatExample({ instruction: prompt, input: "", output: "" }, options);
  const end = endToken(options);
  return { tokenizer, prompt: encodePrefix(prefix, options), before: [], endTokens: end === null ? [] : [end] };
}

async function readPrompt({ prompt, text }: Pick<Flags, "prompt" | "text">): Promise<string> {
  if (text !== undefined) {
    if (prompt !== undefined) throw excluded("either --prompt or --text", "both were given");
    return withoutBreak(await readText(text));
  }
  // An empty prompt is the BOS token alone.
  const given = prompt === "" ? prompt : required(prompt, "--prompt", { or: "--text" });
  return given === "-" ? withoutBreak(await readTextInput()) : given;
}

/** Editors and `echo` end a text with a line break that is not part of it. */
function withoutBreak(text: string): string {
  return text.replace(/\r?\n$/, "");
}

function excluded(rule: string, value: string, fix = "leave one of them out"): CompressoError {
  return refusal("usage", "cannot use these options together", { rule, value, fix });
}
