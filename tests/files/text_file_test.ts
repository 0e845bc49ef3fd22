import assert from "node:assert/strict";
import { textProblem } from "../../lib/files/text_file.ts";

Deno.test("a text that is too long for one is told from one that is not UTF-8", () => {
  assert.match(textProblem(new TypeError("buffer exceeds maximum length")), /longer than a text may be/);
  assert.throws(
    () => new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.of(0xff)),
    (error) => textProblem(error) === "it is not UTF-8",
  );
});
