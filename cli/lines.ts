// Lines that a user types or a pipe brings, one at a time. Owns line editing on a terminal and what Ctrl-C and Ctrl-D mean there; refuses to interpret a line.
import process from "node:process";
import { createInterface } from "node:readline";
import { notText } from "./read_text.ts";

/** Where lines come from. */
export interface Lines {
  /** Whether somebody types them. */
  readonly isTerminal: boolean;
  /** The next line without its break; null at the end, which on a terminal is Ctrl-D, and Ctrl-C on an empty line too. */
  next(prompt: string): Promise<string | null>;
}

/** Lines of stdin. */
export function stdinLines(): Lines {
  return Deno.stdin.isTerminal() ? typedLines() : pipedLines(Deno.stdin.readable);
}

/** Lines of a stream of bytes; the last one needs no line break. Throws `CompressoError("input")` where it is not UTF-8. */
export function pipedLines(stream: ReadableStream<BufferSource>): Lines {
  const lines = split();
  return {
    isTerminal: false,
    async next(): Promise<string | null> {
      const { done, value } = await lines.next();
      return done ? null : value;
    },
  };

  async function* split(): AsyncGenerator<string, void, undefined> {
    const text = stream.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }));
    let rest = "";
    try {
      for await (const piece of text) {
        const parts = (rest + piece).split("\n");
        rest = parts.pop() ?? "";
        for (const part of parts) yield part.replace(/\r$/, "");
      }
    } catch (error) {
      throw error instanceof TypeError ? notText(error) : error;
    }
    if (rest !== "") yield rest.replace(/\r$/, "");
  }
}

/**
 * Lines that are edited on the terminal, with those before them on the arrow keys. The terminal is read only while a line is asked for: in
 * between Ctrl-C is a signal as ever, and what is typed waits.
 */
function typedLines(): Lines {
  let history: readonly string[] = [];
  return {
    isTerminal: true,
    async next(prompt): Promise<string | null> {
      for (;;) {
        const line = await typed(prompt, history);
        if (line === "interrupted") continue;
        if (line && line.text.trim() !== "") history = [line.text, ...history];
        return line && line.text;
      }
    },
  };
}

/** One line; null at Ctrl-D, or Ctrl-C on an empty line; "interrupted" where Ctrl-C threw a line away. */
async function typed(
  prompt: string,
  history: readonly string[],
): Promise<{ readonly text: string } | "interrupted" | null> {
  // Not where results go, which may be a file.
  const screen = Deno.stderr.isTerminal() ? process.stderr : process.stdout;
  const { promise, resolve } = Promise.withResolvers<{ readonly text: string } | "interrupted" | null>();
  const editor = createInterface({
    input: process.stdin,
    output: screen,
    terminal: true,
    history: [...history],
  });
  editor.once("SIGINT", () => {
    resolve(editor.line === "" ? null : "interrupted");
    editor.close();
  });
  editor.once("close", () => resolve(null));
  editor.question(prompt, (text) => {
    resolve({ text });
    editor.close();
  });
  const line = await promise;
  if (!line || line === "interrupted") screen.write("\n");
  return line;
}
