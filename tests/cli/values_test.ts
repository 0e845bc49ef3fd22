// What options of experiments make of their text.
import assert from "node:assert/strict";
import { namedPaths } from "../../cli/verbs/experiment/values.ts";

Deno.test("a path's name may hold spaces, as names in a definition may, and its path equals signs", () => {
  const parse = namedPaths("--file", null);
  assert.deepEqual([...parse("wiki text=a b/c=d.txt")], [["wiki text", ["a b/c=d.txt"]]]);
  assert.throws(() => parse("wiki.txt"), /NAME=PATH/);
  assert.throws(() => parse(" wiki=w.txt"), /NAME=PATH/);
  assert.deepEqual([...namedPaths("--data", "data")("/a/b c=d")], [["data", ["/a/b c=d"]]]);
});
