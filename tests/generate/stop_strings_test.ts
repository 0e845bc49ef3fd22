// Stop strings: what is let through does not depend on where pieces are cut, and nothing of a stop string leaks.
import assert from "node:assert/strict";
import { randomU32 } from "../../lib/core/random.ts";
import type { FinishReason } from "../../lib/generate/generate.ts";
import { streamText } from "../../lib/generate/text.ts";
import { createStopFilter } from "../../lib/generate/stop_strings.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { tokenizerOf } from "../text/fixtures.ts";

/** Pieces let through, those of the end included, and whether a stop string was met. */
function filtered(pieces: readonly string[], stops: readonly string[]): { given: string[]; stopped: boolean } {
  const filter = createStopFilter(stops), given = pieces.map((piece) => filter.push(piece));
  return { given: [...given, filter.end()], stopped: filter.stopped };
}

/** The definition, character by character: the first stop string that is complete, the longest of those. */
function cut(text: string, stops: readonly string[]): string {
  for (let end = 1; end <= text.length; end++) {
    const lengths = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map((stop) => stop.length);
    if (lengths.length > 0) return text.slice(0, end - Math.max(...lengths));
  }
  return text;
}

Deno.test("text passes at once where no stop string can begin, and is held back where one can", () => {
  assert.deepEqual(filtered(["one ", "two\n", "three", "\n\n", "four"], ["\n\n"]), {
    given: ["one ", "two", "\nthree", "", "", ""],
    stopped: true,
  });
  assert.deepEqual(filtered(["a\n", "b\n"], ["\n\n"]), { given: ["a", "\nb", "\n"], stopped: false });
  assert.deepEqual(filtered(["a", "b"], []), { given: ["a", "b", ""], stopped: false });
});

Deno.test("a stop string that begins again within itself is found", () => {
  assert.deepEqual(filtered(["aa", "ab"], ["aab"]), { given: ["", "a", ""], stopped: true });
  assert.deepEqual(filtered(["xab", "aba", "c"], ["abac"]), { given: ["x", "ab", "", ""], stopped: true });
});

Deno.test("the stop string that is complete first counts, the longest of those that end together", () => {
  assert.deepEqual(filtered(["abcde"], ["abcde", "c"]), { given: ["ab", ""], stopped: true });
  assert.deepEqual(filtered(["abcde"], ["c", "bc"]), { given: ["a", ""], stopped: true });
});

Deno.test("whatever the pieces, the same text passes", () => {
  for (let round = 0; round < 400; round++) {
    const random = (count: number, ...words: number[]): number => randomU32(9, round, ...words) % count;
    const word = (length: number, key: number): string =>
      Array.from({ length }, (_, index) => "ab"[random(2, key, index)]).join("");
    const text = word(24, 1),
      stops = Array.from({ length: 1 + random(3, 2) }, (_, i) => word(1 + random(6, 3, i), 10 + i));
    const pieces: string[] = [];
    for (let at = 0; at < text.length;) {
      const length = 1 + random(5, 4, at);
      pieces.push(text.slice(at, at + length));
      at += length;
    }
    const { given, stopped } = filtered(pieces, stops), expected = cut(text, stops);
    assert.equal(given.join(""), expected, `${JSON.stringify(pieces)} with ${JSON.stringify(stops)}`);
    assert.equal(stopped, expected !== text);
  }
});

Deno.test("an empty stop string is refused, and so is what is no list of texts", () => {
  refuses(() => createStopFilter(["x", ""]), "usage", { option: "stop", value: '""' });
  const refused: readonly (readonly [unknown, Refusal])[] = [
    [".", { value: '"."' }],
    ["", { value: '""' }],
    [[5], { value: 1 }],
    [null, { value: "null" }],
  ];
  for (const [stop, said] of refused) refuses(() => createStopFilter(JSON.parse(JSON.stringify(stop))), "usage", said);
});

Deno.test("a special token that is a stop string ends the text as one does, others have no text", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const [start, end] = [tokenizer.tokenToId("<|start|>") ?? -1, tokenizer.tokenToId("<|end|>") ?? -1];
  const river = tokenizer.encode("The river\n"), stone = tokenizer.encode("a stone");
  const read = async (stop: readonly string[]): Promise<readonly [string, FinishReason, number, boolean]> => {
    let text = "", count = 0, isEnded = false;
    const pieces = streamText(tokens(), { tokenizer, stop, onToken: () => void count++ });
    for (let next = await pieces.next();; next = await pieces.next()) {
      if (next.done) return [text, next.value, count, isEnded];
      text += next.value;
    }

    async function* tokens(): AsyncGenerator<number, FinishReason, undefined> {
      try {
        yield* [...river, start, ...stone, end, ...stone];
        return await Promise.resolve("length");
      } finally {
        isEnded = true;
      }
    }
  };
  const all = river.length + 2 * stone.length + 2;
  assert.deepEqual(await read([]), ["The river\na stonea stone", "length", all, true]);
  assert.deepEqual(await read(["<|pad|>", "<|END|>"]), ["The river\na stonea stone", "length", all, true]);
  const upToEnd = river.length + 1 + stone.length;
  assert.deepEqual(await read(["<|end|>"]), ["The river\na stone", "stop", upToEnd, true]);
  // What was held back, as it might become another stop string, is text.
  assert.deepEqual(await read(["\n\n", "<|end|>", "<|start|>"]), ["The river\n", "stop", river.length, true]);
  assert.deepEqual(await read(["river", "<|start|>"]), ["The ", "stop", river.length - 1, true]);
});
