// A text from stdin.
import { type CompressoError, refusal } from "../../lib/core/errors.ts";
import { textProblem } from "../../lib/files/text_file.ts";

export { readText } from "../../lib/files/text_file.ts";

/** Reads all of stdin. Throws `CompressoError("input")` if it is not UTF-8. */
export async function readTextInput(): Promise<string> {
  const bytes = new Uint8Array(await new Response(Deno.stdin.readable).arrayBuffer());
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw notText(error);
  }
}

/** The error of input that is not UTF-8. */
export function notText(cause: unknown): CompressoError {
  return refusal("input", "cannot read the text from stdin", {
    rule: "the text is UTF-8",
    value: textProblem(cause),
    fix: "check the encoding",
    cause,
  });
}
