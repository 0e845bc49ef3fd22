// `compresso generate MODEL`: a prompt continued on stdout. Owns raw and chat prompts and the stream; refuses to choose tokens.
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { CompressoError } from "../lib/errors.ts";
import { encodePrefix, endToken, formatExample } from "../lib/io/prompts.ts";
import { createStreamDecoder, type Tokenizer } from "../lib/io/tokenizer.ts";
import { generate } from "../lib/run/generate.ts";
import { verb } from "./command.ts";
import { print, printJson, writeResult } from "./output.ts";
import { promptText } from "./prompt.ts";
import { NO_TUNING_OPTION, TUNING_OPTION } from "./tuning.ts";
import { byteCount, oneOf, realNumber, required, wholeNumber } from "./values.ts";
import { ADAPTER_OPTION, BASE_DTYPE_HELP, BASE_DTYPES, type Loaded, tokenizerOf, withModel } from "./with_model.ts";

/** Declares the verb. */
export function generateVerb(): CommandUnknownOpts {
  return verb("generate", {
    description: "Continue a prompt.",
    examples: [
      'generate path/to/model --prompt "The sea is" --max-tokens 40 --temperature 0',
      'generate path/to/model --chat --prompt "Name three rivers."',
    ],
  })
    .argument("<model>", "a Hugging Face folder, a .gguf file, or demo")
    .option("--prompt <text>", "the text to continue (required)")
    .option("--max-tokens <count>", "tokens to generate at most", wholeNumber("--max-tokens", { least: 1 }), 100)
    .option(
      "--temperature <number>",
      "0 always takes the likeliest token; 1 draws from the model's own distribution",
      realNumber("--temperature", { least: 0 }),
      0,
    )
    .option("--seed <number>", "seed of the draws", wholeNumber("--seed"), 1)
    .option("--raw", "continue the prompt as it is (this is the default)")
    .option("--chat", "take the prompt as an instruction, in the model's chat template or prompt style")
    .option("--with-prompt", "with --chat: put the collaborative prompt before the instruction (default: none)")
    .option("--prompt-file <file>", "with --chat: put your own text before the instruction, in place of that prompt")
    .option(...ADAPTER_OPTION)
    .option("--base-dtype <type>", BASE_DTYPE_HELP + " (default: f16)", oneOf("--base-dtype", BASE_DTYPES))
    .option("--memory-limit <bytes>", "GPU memory to use at most, such as 6G", byteCount("--memory-limit"))
    .option(...TUNING_OPTION)
    .option(...NO_TUNING_OPTION)
    .option("--json", "print one JSON object with tokens and text, at the end")
    .action(async (path, options) => {
      const { raw, chat, withPrompt = false, promptFile = withPrompt } = options;
      if (raw && chat) throw excluded("either --raw or --chat", "both were given");
      if (promptFile !== false && !chat) {
        throw excluded("--with-prompt and --prompt-file go with --chat", "--chat is missing");
      }
      const prompt = required(options.prompt, "--prompt");
      const before = await promptText(promptFile);
      await withModel(path, options, (loaded) => run(loaded, { ...options, prompt, before }));
    });
}

interface Settings {
  readonly prompt: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly chat?: true | undefined;
  /** Text before the instruction. */
  readonly before: string | null;
  readonly json?: true | undefined;
}

async function run({ model, adapters, signal, progress, tune }: Loaded, settings: Settings): Promise<void> {
  const { maxTokens, temperature, seed, json } = settings;
  const tokenizer = tokenizerOf(model);
  const { prompt, end } = encodePrompt(tokenizer, settings);
  const decoder = createStreamDecoder(tokenizer, { skipSpecial: true });
  const tokens: number[] = [];
  let text = "";
  const emit = (piece: string): void => {
    text += piece;
    if (!json) writeResult(piece);
  };
  await tune({ rows: prompt.length, directions: ["forward"], tokens: prompt.length + maxTokens });
  progress[Symbol.dispose](); // the answer may share the terminal with the line of progress
  for await (const token of generate(model, prompt, { maxTokens, temperature, seed, adapters, signal })) {
    if (token === end) break;
    tokens.push(token);
    emit(decoder.push(token));
  }
  emit(decoder.end());
  if (json) printJson({ prompt, tokens, text });
  else print();
}

/** Token ids of the prompt, and the token that ends an answer in a chat. */
function encodePrompt(
  tokenizer: Tokenizer,
  { prompt, chat, before }: Settings,
): { readonly prompt: readonly number[]; readonly end: number | null } {
  if (!chat) return { prompt: [...tokenizer.leading, ...tokenizer.encode(prompt)], end: null };
  const options = { tokenizer, prompt: before };
  const { prefix } = formatExample({ instruction: prompt, input: "", output: "" }, options);
  return { prompt: encodePrefix(prefix, options), end: endToken(options) };
}

function excluded(rule: string, value: string): CompressoError {
  return new CompressoError("usage", { what: "cannot use these options together", rule, value });
}
