// Lines that a user types or a pipe brings, one at a time, with line editing on a terminal.
import process from "node:process";
import { createInterface, type Key as ReadlineKey } from "node:readline";
import { Writable } from "node:stream";
import { notText } from "./read_text.ts";

/** Where lines come from. */
export interface Lines {
  /** Whether somebody types them. */
  readonly isTerminal: boolean;
  /** The next line without its break; null at the end, which on a terminal is Ctrl-D, and Ctrl-C on an empty line too. */
  next(prompt: string): Promise<string | null>;
  /** Forgets what was typed ahead, as a terminal does at Ctrl-C. The lines of a pipe are all kept. */
  drop(): void;
}

/** Lines of stdin. */
export function stdinLines(): Lines {
  return Deno.stdin.isTerminal() ? typedLines() : pipedLines(Deno.stdin.readable);
}

/** Lines of a stream of bytes; the last one needs no line break. Throws `CompressoError("input")` if it is not UTF-8. */
function pipedLines(stream: ReadableStream<BufferSource>): Lines {
  const lines = split();
  return {
    isTerminal: false,
    async next(): Promise<string | null> {
      const { done, value } = await lines.next();
      return done ? null : value;
    },
    drop: () => {},
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

/** A key as readline tells of it: what it writes, if it does, and what it is. */
interface Key {
  readonly text: string | undefined;
  readonly key: ReadlineKey;
}

/**
 * Lines that are edited on the terminal; the arrow keys bring earlier lines back. The terminal is read only while a
 * line is asked for: at other times Ctrl-C is a signal as usual, and typed text waits. If one read brings several lines
 * (a paste), the later ones wait as keys, so that each line gets its prompt and is edited as if it were typed then.
 */
function typedLines(): Lines {
  const ahead: Key[] = [];
  let history: readonly string[] = [];
  return {
    isTerminal: true,
    async next(prompt): Promise<string | null> {
      for (;;) {
        const line = await typed(prompt, { history, ahead });
        if (line === "interrupted") continue;
        if (line && line.text.trim() !== "") history = [line.text, ...history];
        return line && line.text;
      }
    },
    drop: () => void ahead.splice(0),
  };
}

/** A screen that nobody sees. */
function unseen(): Writable {
  return new Writable({ write: (_text, _encoding, done) => done() });
}

/** One line; null at Ctrl-D, or Ctrl-C on an empty line; "interrupted" where Ctrl-C threw a line away. Takes keys of `ahead` first, and adds to them. */
async function typed(
  prompt: string,
  { history, ahead }: { readonly history: readonly string[]; readonly ahead: Key[] },
): Promise<{ readonly text: string } | "interrupted" | null> {
  // Not where results go, which may be a file.
  const screen = Deno.stderr.isTerminal() ? process.stderr : Deno.stdout.isTerminal() ? process.stdout : unseen();
  const { promise, resolve } = Promise.withResolvers<{ readonly text: string } | "interrupted" | null>();
  let isOpen = true, before: string | undefined;
  // All keys of one read arrive in one turn. The closing key ends the editor, so later keys are kept for the next line.
  // This listener is added before the editor's, so that it does not keep the closing key.
  const keep = (text: string | undefined, key: ReadlineKey): void => {
    // The second byte of CR LF does not start another line.
    if (!isOpen && (before !== "return" || key.name !== "enter")) ahead.push({ text, key });
    before = key.name;
  };
  process.stdin.on("keypress", keep);
  const editor = createInterface({
    input: process.stdin,
    output: screen,
    terminal: true,
    history: [...history],
  });
  editor.once("close", () => {
    isOpen = false;
    resolve(null);
  });
  editor.once("SIGINT", () => {
    resolve(editor.line === "" ? null : "interrupted");
    editor.close();
  });
  editor.question(prompt, (text) => {
    resolve({ text });
    editor.close();
  });
  for (let next: Key | undefined; isOpen && (next = ahead.shift());) editor.write(next.text, next.key);
  const line = await promise;
  process.stdin.off("keypress", keep);
  if (!line || line === "interrupted") screen.write("\n");
  return line;
}
