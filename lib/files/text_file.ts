// Reads UTF-8 text files.
import { refuse } from "../core/errors.ts";
import { noText } from "./system.ts";

/** Reads a UTF-8 file, a byte order mark left out. Throws `CompressoError("input")` if it is missing, a folder or not UTF-8. */
export async function readText(path: string): Promise<string> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (error) {
    refuse("input", `cannot read the text ${path}`, {
      rule: "it is a UTF-8 file",
      value: textProblem(error),
      fix: error instanceof TypeError && /\.(gz|zst|parquet)$/i.test(path)
        ? "unpack it to a plain text"
        : "check the path and the encoding",
      cause: error,
    });
  }
}

/** Reads a UTF-8 file with the byte order mark that it may have. Throws as Deno does, and `TypeError` if it is not UTF-8. */
export async function exactText(path: string): Promise<string> {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await Deno.readFile(path));
}

/** How files of UTF-16 begin. */
const MARKS = [{ mark: [0xff, 0xfe], encoding: "utf-16le" }, { mark: [0xfe, 0xff], encoding: "utf-16be" }] as const;

/**
 * Reads a file of UTF-8 or, as PowerShell writes it, of UTF-16 with a byte order mark; `what` and `fix` are the parts of its errors.
 *
 * @throws CompressoError("input") if it is neither, or may not be read.
 */
export async function readMarkedText(
  path: string,
  { what, fix }: { readonly what: string; readonly fix: string },
): Promise<string> {
  let encoding = "utf-8";
  try {
    const bytes = await Deno.readFile(path);
    encoding = MARKS.find(({ mark }) => mark.every((byte, at) => bytes[at] === byte))?.encoding ?? encoding;
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch (error) {
    refuse("input", what, {
      rule: "it is a file of UTF-8, or of UTF-16 with a byte order mark, that may be read",
      value: error instanceof TypeError && encoding !== "utf-8" ? "it begins as UTF-16 and is not" : textProblem(error),
      fix,
      cause: error,
    });
  }
}

/**
 * Reads a UTF-8 file; null if it does not exist. Throws `CompressoError("input")` if it cannot be read for another reason. With `mayBeCut` the file may
 * end within a character, because it is still being written or its process died.
 */
export async function textIfThere(
  path: string,
  { mayBeCut = false }: { readonly mayBeCut?: boolean } = {},
): Promise<string | null> {
  try {
    return await (mayBeCut ? Deno.readTextFile(path) : exactText(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw noText(path, textProblem(error), error);
  }
}

/** What was wrong where reading or decoding threw. */
export function textProblem(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof Deno.errors.IsADirectory) return "a folder";
  if (error instanceof TypeError) {
    return /maximum length/.test(error.message) ? "it is longer than a text may be, about 500 MB" : "it is not UTF-8";
  }
  return error instanceof Error ? error.message : String(error);
}
