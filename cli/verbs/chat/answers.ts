// Answers of one or two models on stdout as they come, side by side on a terminal.
import type { FinishReason } from "../../../lib/generate/generate.ts";
import { tokensPerSecond, type TokenTimes } from "../../../lib/generate/timed_tokens.ts";
import { columnWidth, createColumns } from "../../terminal/columns.ts";
import { print, writeModelText, writeResult } from "../../terminal/output.ts";
import { isScreen, terminalColumns } from "../../terminal/style.ts";

/** A model that answers. */
export interface Voice<T> {
  /** As the user named the model. */
  readonly name: string;
  /** Pieces of the answer; returns the facts on it. */
  readonly pieces: AsyncGenerator<string, T, undefined>;
}

/** What is shown of an answer besides its text. */
export interface Spoken {
  readonly tokens: readonly number[];
  readonly reason: FinishReason;
  readonly times: TokenTimes;
}

/** A column narrower than this is hard to read. */
const LEAST_WIDTH = 24;

/**
 * Lets each voice answer and shows the text. One voice is shown as it is. Several voices are shown in columns if stdout
 * is a wide enough terminal, otherwise one after the other, each with its name and speed.
 *
 * In columns they take turns, so that the rows stay level. Only the time in which a voice works counts for its speed.
 * After the signal nothing more is shown.
 */
export async function speak<T extends Spoken>(
  voices: readonly Voice<T>[],
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<readonly T[]> {
  const [first, ...others] = voices;
  if (!first) return [];
  const width = others.length > 0 ? terminalWidth() : 0;
  try {
    if (columnWidth(width, voices.length) >= LEAST_WIDTH) return await sideBySide(voices, { width, signal });
    const results: T[] = [];
    for (const [index, voice] of voices.entries()) {
      if (others.length > 0) print(`${index > 0 ? "\n" : ""}${voice.name}:`);
      const result = await through(voice, (piece) => signal?.aborted ? undefined : writeModelText(piece));
      print();
      if (others.length > 0) print(`(${speedLine(result)})`);
      results.push(result);
    }
    return results;
  } finally {
    // After an error the others are abandoned.
    for (const { pieces } of voices) await pieces[Symbol.asyncDispose]();
  }
}

/** Collects all answers without showing them; returns the texts with the facts. */
export async function listen<T>(voices: readonly Voice<T>[]): Promise<readonly (T & { readonly text: string })[]> {
  const heard: (T & { readonly text: string })[] = [];
  for (const voice of voices) {
    let text = "";
    const result = await through(voice, (piece) => text += piece);
    heard.push({ ...result, text });
  }
  return heard;
}

/** Why an answer ended, as `--json` says it, and its speed. */
export function spokenValues({ tokens, reason, times }: Spoken): Readonly<Record<string, unknown>> {
  return {
    tokens,
    finish: reason,
    seconds: times.promptSeconds + times.tokenSeconds,
    tokensPerSecond: tokensPerSecond(times),
  };
}

/** "57 tokens, 31.2 tokens/s". */
function speedLine({ tokens, times }: Spoken): string {
  const speed = tokensPerSecond(times);
  const count = `${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}`;
  return speed === null ? count : `${count}, ${speed.toFixed(1)} tokens/s`;
}

async function sideBySide<T extends Spoken>(
  voices: readonly Voice<T>[],
  { width, signal }: { readonly width: number; readonly signal: AbortSignal | undefined },
): Promise<readonly T[]> {
  const columns = createColumns(voices.length, { width, write: writeResult });
  const results = new Map<Voice<T>, T>(), at = (index: number): Voice<T> => voices[index] ?? unheard();
  voices.forEach(({ name }, index) => columns.push(index, `${name}\n\n`));
  // The terminal has written ^C where the cursor was.
  signal?.addEventListener("abort", () => columns.push(0, ""), { once: true });
  let turn = 0;
  while (results.size < voices.length) {
    // The one with the fewest rows; of equal ones the one whose turn it is.
    const waiting = voices.map((_, offset) => (turn + offset) % voices.length).filter((index) =>
      !results.has(at(index))
    );
    const index = waiting.reduce((least, other) => columns.rows(other) < columns.rows(least) ? other : least);
    turn = index + 1;
    const { done, value } = await at(index).pieces.next();
    if (!done) {
      if (!signal?.aborted) columns.push(index, value);
    } else {
      results.set(at(index), value);
      columns.pause(index);
    }
  }
  const spoken = voices.map((voice) => results.get(voice) ?? unheard());
  // Both below the longer one.
  const end = Math.max(...voices.map((_, index) => columns.rows(index)));
  spoken.forEach((result, index) => {
    const gap = "\n".repeat(end - columns.rows(index) + 2);
    columns.push(index, `${gap}(${speedLine(result)})`);
  });
  columns.end();
  return spoken;
}

async function through<T>({ pieces }: Voice<T>, write: (piece: string) => void): Promise<T> {
  for (;;) {
    const { done, value } = await pieces.next();
    if (done) return value;
    write(value);
  }
}

function terminalWidth(): number {
  return isScreen(Deno.stdout) ? terminalColumns() : 0;
}

function unheard(): never {
  throw new Error("no answer to wait for");
}
