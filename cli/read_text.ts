// A text that the user names: a file or stdin. Owns the wording of what is wrong with it; refuses to interpret it.
import { CompressoError } from "../lib/errors.ts";

/** Reads a UTF-8 file. Throws `CompressoError("input")` where it is missing, a folder or not UTF-8. */
export async function readText(path: string): Promise<string> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (error) {
    throw new CompressoError("input", {
      what: `cannot read the text ${path}`,
      rule: "it is a UTF-8 file",
      value: valueOf(error),
      mend: "check the path and the encoding",
    }, { cause: error });
  }
}

/** Reads all of stdin. Throws `CompressoError("input")` where it is not UTF-8. */
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
  return new CompressoError("input", {
    what: "cannot read the text from stdin",
    rule: "it is UTF-8",
    value: valueOf(cause),
    mend: "check the encoding",
  }, { cause });
}

function valueOf(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof Deno.errors.IsADirectory) return "a folder";
  if (error instanceof TypeError) return "it is not UTF-8";
  return error instanceof Error ? error.message : String(error);
}
