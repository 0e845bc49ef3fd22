// Sittings of an experiment in one folder at a time. On the demo model.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/errors.ts";
import { exists } from "../../lib/io/exists.ts";
import { LOCK_FILE } from "../../lib/io/lock.ts";
import { experimentTest, TINY } from "./tiny.ts";

experimentTest("a second sitting in the folder of one that works is refused, and may follow it", async (run, out) => {
  const one = { ...TINY, grid: { rank: [2] }, evaluate: {} }, tried: Promise<void>[] = [];
  const onCell = (): void => {
    tried.push(assert.rejects(run(one, out, { redo: true }), (error) => {
      assert.ok(error instanceof CompressoError);
      assert.deepEqual([error.code, error.parts.value], ["usage", "another one writes to it"]);
      return true;
    }));
  };
  const { result } = await run(one, out, { onCell, maxCells: 1 });
  assert.equal(tried.length, 1);
  await Promise.all(tried);
  assert.deepEqual([result.failed, result.left], [[], 0]);
  for (const folder of [out, `${out}/cells/rank=2`]) assert.ok(!(await exists(`${folder}/${LOCK_FILE}`)), folder);
  const { result: again } = await run(one, out);
  assert.deepEqual([again.failed, again.left], [[], 0]);
});
