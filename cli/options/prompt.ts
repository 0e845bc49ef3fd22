// The collaborative prompt as options choose it: the built-in one, the user's own, or none.
import { refuse } from "../../lib/core/errors.ts";
import { COLLABORATIVE_PROMPT } from "../../lib/data/prompts/encode.ts";
import { note } from "../terminal/output.ts";
import { readText } from "../terminal/read_text.ts";

/** Value of `--prompt FILE` and `--no-prompt`: a path, false, or true for the built-in text. */
export type PromptSetting = string | boolean;

/** The text of a setting, null for none. Throws `CompressoError("input")` for a file that is missing or empty. */
export async function promptText(setting: PromptSetting): Promise<string | null> {
  if (setting === false) return null;
  if (setting === true) return COLLABORATIVE_PROMPT;
  const text = (await readText(setting)).replace(/^\uFEFF/, "").trim();
  if (text !== "") return text;
  refuse("input", `cannot use the prompt of ${setting}`, {
    rule: "the file contains the prompt",
    value: "it is empty",
    fix: "write the prompt into it, or leave the option out",
  });
}

/** The prompt at inference: none by default, even if the model was trained with one. */
export async function promptAtInference(
  { withPrompt, prompt = withPrompt ?? false }: {
    readonly withPrompt?: true | undefined;
    readonly prompt?: PromptSetting | undefined;
  },
): Promise<string | null> {
  if (withPrompt && prompt === false) {
    refuse("usage", "cannot use these options together", {
      rule: "either --with-prompt or --no-prompt",
      value: "both were given",
    });
  }
  return await promptText(prompt);
}

/** Says on stderr how many tokens the prompt takes. */
export function promptNote(tokens: number, before: string): void {
  note(`compresso: the prompt takes ${tokens} tokens before ${before}`);
}
