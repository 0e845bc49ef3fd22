// Which cells a sitting chooses, and what their folders are called, where a definition makes it hard. Without a GPU.
import assert from "node:assert/strict";
import { cellsOf, chooseCells } from "../../lib/experiment/grid.ts";
import { refuses } from "../refuses.ts";
import type { ExperimentDefinition } from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = { name: "plain", model: "demo", base: { sparsity: 0.2, steps: 4 }, grid: {} };

Deno.test("values that no cell has together are refused", () => {
  const joined = cellsOf({ ...PLAIN, grid: [{ rank: [4, 8] }, { method: ["taylor"] }] });
  const none = new Map([["method", ["taylor"]], ["rank", ["8"]]]);
  refuses(() => chooseCells(joined, none), "usage", { value: ["method=taylor", "rank=8"] });
  assert.equal(chooseCells(joined, new Map()).length, 3);
});

Deno.test("no two cells have names that differ in capitals alone", () => {
  const names = cellsOf({ ...PLAIN, grid: { data: ["A", "a"] } }).map(({ name }) => name.toLowerCase());
  assert.deepEqual([names[0], new Set(names).size], ["data=a", 2]);
});
