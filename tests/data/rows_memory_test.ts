// Files with more rows than V8's heap has room for.
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { heapLimit } from "../../lib/files/platform.ts";
import { heapBudget, heapBytes } from "../../lib/data/readers/memory.ts";
import { inFolder } from "../text/fixtures.ts";

/** Reads a file in a process whose heap has so many megabytes. */
async function read(
  path: string,
  { heap, limit }: { readonly heap: number; readonly limit?: number },
): Promise<string> {
  const module = new URL("../../lib/local/rows.ts", import.meta.url).href;
  const options = JSON.stringify({ skipBroken: true, ...(limit === undefined ? {} : { limit }) });
  const code = `import { readRows } from ${JSON.stringify(module)};
    const { rows } = await readRows(${
    JSON.stringify(path)
  }, ${options}).catch(({ code, message }) => ({ rows: [code, message] }));
    console.log(typeof rows[0] === "string" ? rows.join(": ") : rows.length + " rows");`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", `--v8-flags=--max-old-space-size=${heap},--max-semi-space-size=1`, code],
    env: { NO_COLOR: "1" },
  }).output();
  const said = new TextDecoder().decode(stdout).trim();
  return said === "" ? new TextDecoder().decode(stderr) : said;
}

Deno.test("more rows than the heap has room for are refused with the place, before V8 ends the process", async () => {
  await inFolder(async (folder) => {
    const file = async (name: string, lines: readonly string[]): Promise<string> => {
      await Deno.writeFile(`${folder}/${name}`, gzipSync(lines.join("\n")));
      return `${folder}/${name}`;
    };
    const long = (index: number): string => String.fromCharCode(97 + index % 26).repeat(400_000) + index;
    const texts = Array.from({ length: 180 }, (_, index) => JSON.stringify({ text: long(index) }));
    const path = await file("texts.jsonl.gz", texts), heap = 64;
    const message = /^input: .*texts.* 0\.\d+ GB .*line (\d+), .* 0\.07 GB; .*\blimit\b/;
    const said = await read(path, { heap }), line = Number(message.exec(said)?.[1]);
    // 0.6 of a heap of 67 million bytes or a little more, by 400,000 each.
    assert.ok(line >= 95 && line <= 120, said);
    assert.equal(await read(path, { heap, limit: 90 }), "90 rows");
    const rows = texts.map((text) => JSON.parse(text).text);
    const values = await file("array.json.gz", [JSON.stringify(rows.map((output) => ({ instruction: "a", output })))]);
    assert.match(await read(values, { heap }), /^input: .* 0\.\d+ GB .*row \d+, line 1, .* 0\.07 GB/);
  });
});

Deno.test("what is left out takes room too", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/blank.jsonl.gz`;
    await Deno.writeFile(path, gzipSync(`{"text":"a"}\n${"\n".repeat(400_000)}`));
    assert.match(await read(path, { heap: 32 }), /^input: .* 0\.\d+ GB .*line \d+, .* 0\.\d+ GB/);
  });
});

Deno.test("a text takes a byte for each character of Latin-1 alone, and rows what they hold", () => {
  const [head, slot, list] = [16, 8, 24];
  assert.equal(heapBytes("é".repeat(1000)), head + 1000);
  assert.equal(heapBytes(`${"é".repeat(999)}石`), head + 2000);
  for (const value of [1, true, null, undefined, Symbol("a")]) assert.equal(heapBytes(value), 0);
  assert.equal(heapBytes({ a: "b", c: [1, "d"] }), list + 2 * slot + (head + 1) + list + 2 * slot + (head + 1));
});

Deno.test("a budget is used up at six tenths of the heap", () => {
  const budget = heapBudget(1000), half = "a".repeat(300 - 16);
  assert.deepEqual([budget.heap, budget.add(half), budget.add(half), budget.add("")], [1000, null, null, 616]);
  assert.ok(heapLimit() > 2 ** 24);
});
