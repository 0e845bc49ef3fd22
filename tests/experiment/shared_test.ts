// Several processes work on one experiment, and one of them is killed: the tables are those of one process.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { experimentTest, json, MODEL, TINY } from "./tiny.ts";
import type { ExperimentReport } from "../../lib/experiment/types.ts";
import { rejects } from "../refuses.ts";

const CHILD = fileURLToPath(new URL("shared_child.ts", import.meta.url));

/** A report without what depends on the machine's speed. */
function timeless(report: ExperimentReport): unknown {
  return JSON.parse(JSON.stringify(report, (key, value) => /second/i.test(key) ? undefined : value));
}

experimentTest(
  "processes that share an experiment do each cell once, also where one is killed",
  async (run, out, other) => {
    await run(TINY, other);
    const want = await json<ExperimentReport>(`${other}/report.json`);
    const children = [1, 2, 3].map(() =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", CHILD, out],
        env: { SHORT_DEMO: MODEL },
        stdout: "piped",
        stderr: "inherit",
      }).spawn()
    );
    const ended: string[] = [], begun: string[] = [];
    let killed = false;
    const codes = await Promise.all(children.map(async (child, index) => {
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
        for (const line of text.trim().split("\n")) {
          (line.startsWith("end ") ? ended : begun).push(line.replace(/^\w+ /, ""));
          if (index !== 0 || killed) continue;
          killed = true;
          child.kill("SIGKILL");
        }
      }
      return (await child.status).code;
    }));
    assert.deepEqual(codes.slice(1), [0, 0]);
    const names = want.cells.map(({ cell }) => cell).sort();
    // The killed one may have begun a cell, which another one began again.
    assert.deepEqual([...new Set(begun)].sort(), names);
    assert.equal(begun.length, names.length + (killed ? 1 : 0), begun.join(", "));
    assert.deepEqual(ended.sort(), names);
    assert.deepEqual(timeless(await json<ExperimentReport>(`${out}/report.json`)), timeless(want));
    assert.deepEqual([...Deno.readDirSync(`${out}/leases`)], []);
  },
);

experimentTest("shards are disjoint and leave no cell", async (run, out) => {
  const one = await run(TINY, out, { shard: { index: 1, count: 3 }, maxCells: 1 });
  const two = await run(TINY, out, { shard: { index: 2, count: 3 } });
  const three = await run(TINY, out, { shard: { index: 3, count: 3 } });
  const rest = await run(TINY, out, { shard: { index: 1, count: 3 } });
  assert.deepEqual([one, two, three, rest].map(({ worked }) => worked.length), [1, 1, 1, 1]);
  assert.equal(new Set([one, two, three, rest].flatMap(({ worked }) => worked)).size, 4);
  assert.equal(rest.result.left, 0);
  await rejects(run(TINY, out, { shard: { index: 4, count: 3 } }), "usage", { names: 1 });
});
