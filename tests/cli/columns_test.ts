// Columns on a terminal that the test plays: what stands on the screen in the end, however the texts came.
import assert from "node:assert/strict";
import { stringWidth } from "../../cli/packages.ts";
import { columnWidth, createColumns } from "../../cli/terminal/columns.ts";
import { randomU32 } from "../../lib/core/random.ts";

/** Rows of a screen after what was written: knows \r, \n, cursor up and clear to the end. Fails where a written row is too long. */
function screen(written: string, width: number): { rows: string[]; highest: number } {
  let rows = [""], at = 0, column = 0, highest = 0;
  const [start = "", ...moves] = written.split("\x1b[");
  put(start);
  for (const move of moves) {
    const up = Number(/^(\d+)A/.exec(move)?.[1] ?? 0);
    at -= up;
    highest = Math.max(highest, up);
    if (move.startsWith("J")) rows = [...rows.slice(0, at), (rows[at] ?? "").slice(0, column)];
    else assert.ok(up > 0, `unknown: ${move.slice(0, 10)}`);
    assert.ok(at >= 0, "the cursor stays below the first row");
    put(move.replace(/^\d*[AJ]/, ""));
  }
  return { rows: Array.from(rows, (row) => row ?? ""), highest };

  function put(text: string): void {
    for (const char of text) {
      if (char === "\r") column = 0;
      else if (char === "\n") [at, column] = [at + 1, 0];
      else {
        const row = (rows[at] ?? "").slice(0, column) + char;
        assert.ok(stringWidth(row) < width, row);
        rows[at] = row;
        column = row.length;
      }
    }
  }
}

function draw(pushes: readonly (readonly [number, string])[], width: number): { rows: string[]; highest: number } {
  let written = "";
  const columns = createColumns(2, { width, write: (text) => written += text });
  for (const [column, text] of pushes) columns.push(column, text);
  columns.end();
  return screen(written, width);
}

Deno.test("columns are broken at words, and at any place where a word is too long", () => {
  const { rows } = draw([[0, "one two three four"], [1, "abcdefghijklmnopq r"]], 24);
  assert.equal(columnWidth(24, 2), 10);
  assert.deepEqual(rows, ["one two    │ abcdefghij", "three four │ klmnopq r"]);
});

Deno.test("line breaks, tabs, wide characters and marks keep the columns straight, and nothing moves the cursor", () => {
  const { rows } = draw([[0, "a\n\nb\tc\x1b[2J\r\u202e\u2066"], [1, "日本語のテキスト\ne\u0301x👍"]], 24);
  assert.deepEqual(rows, ["a          │ 日本語のテ", "           │ キスト", "b  c[2J    │ e\u0301x👍"]);
});

Deno.test("whatever the pieces and the order, the screen ends the same", () => {
  const texts = [
    "the winter garden near a river of stones\nand a bridge ",
    "12 letters and an unbreakablelongword, then more ",
  ];
  const whole = draw(texts.map((text, column) => [column, text] as const), 30).rows;
  for (let round = 0; round < 50; round++) {
    const left = [...texts], pushes: [number, string][] = [];
    for (let step = 0; left.some((text) => text !== ""); step++) {
      const column = randomU32(3, round, step, 0) % 2, length = 1 + randomU32(3, round, step, 1) % 7;
      pushes.push([column, (left[column] ?? "").slice(0, length)]);
      left[column] = (left[column] ?? "").slice(length);
    }
    assert.deepEqual(draw(pushes, 30).rows, whole);
  }
});

Deno.test("rows that both columns have left, or one has and the other waits for, are not touched again", () => {
  let written = "";
  const columns = createColumns(2, { width: 30, write: (text) => written += text });
  columns.push(0, "short");
  columns.pause(0);
  for (let row = 0; row < 40; row++) columns.push(1, `row ${row}\n`);
  columns.push(0, `${"\n".repeat(42)}end`);
  columns.push(1, "\n\nend");
  columns.end();
  const { rows, highest } = screen(written, 30);
  assert.ok(highest <= 3, `${highest} rows up`);
  assert.equal(rows[0], "short         │ row 0");
  assert.equal(rows[39], "              │ row 39");
  assert.equal(rows[42], "end           │ end");
});
