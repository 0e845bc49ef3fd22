// The process that reads mutants of one format: says on stdout which mutant it begins, and what was wrong with it.
import { CompressoError } from "../../lib/core/errors.ts";
import { BROKEN_FORMATS } from "./broken_formats.ts";
import { FORMATS, mutantOf } from "./mutants.ts";
import { Draw } from "./mutate.ts";

/** What the process writes, a JSON value a line. */
export type Said =
  | { readonly kind: "begin"; readonly number: number }
  | { readonly kind: "end"; readonly accepted: number; readonly refused: number }
  | { readonly kind: "wrong"; readonly number: number; readonly what: string };

/** Characters that a message has at most. */
const MOST_MESSAGE = 2048;

/** Begins each line: the runtime's unpacker of brotli writes lines of its own to stdout, "leaking memory block of length …". */
export const MARK = "fuzz ";

function say(said: Said): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`\n${MARK}${JSON.stringify(said)}\n`));
}

/** What is wrong with an error that a reader ended with; null for nothing. */
function wrongWith(error: unknown): string | null {
  if (!(error instanceof CompressoError)) return error instanceof Error ? error.stack ?? error.message : String(error);
  return error.message.length > MOST_MESSAGE ? `a message of ${error.message.length} characters` : null;
}

if (import.meta.main) {
  const [name, seed = 1, from = 0, count = 1] = Deno.args.map((word, index) => index === 0 ? word : Number(word));
  const format = [...FORMATS, ...BROKEN_FORMATS].find((one) => one.name === name), cases = await format?.cases();
  if (!format || !cases) throw new Error(`there is no format ${name}`);
  let number = Number(from), accepted = 0, refused = 0;
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    say({ kind: "wrong", number, what: `an unhandled rejection: ${event.reason?.stack ?? event.reason}` });
  });
  for (const { files } of cases) {
    await format.read(files, new Draw(Number(seed), 2 ** 31)).catch((error) => {
      console.error(`undamaged ${[...files.keys()].join(", ")}`, error);
      Deno.exit(1);
    });
  }
  for (const end = number + Number(count); number < end; number++) {
    say({ kind: "begin", number });
    const { files, draw } = mutantOf(cases, { seed: Number(seed), number });
    try {
      await format.read(files, draw);
      accepted++;
    } catch (error) {
      refused++;
      const what = wrongWith(error);
      if (what !== null) say({ kind: "wrong", number, what });
    }
  }
  await new Promise((resolve) => setTimeout(resolve, 20)); // what was begun and fails with nobody waiting shows now
  say({ kind: "end", accepted, refused });
}
