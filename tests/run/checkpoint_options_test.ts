// What a run is told of its checkpoint and cannot use: facts by names of its own, and what may differ from a file that is not there. On the demo model.
import assert from "node:assert/strict";
import { CompressoError, prune, pruneToFolder } from "../../mod.ts";
import { openSafetensors } from "../disk.ts";
import { isObject } from "../../lib/core/guards.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { checkRefusal } from "../refuses.ts";
import { BASE, drive, withShortDemo } from "./helpers/demo_run.ts";

const SHORT = { ...BASE, steps: 1, prefinetune: 0, postfinetune: 1, seq: 32 } as const;

function isUsage(value: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof CompressoError, String(error));
    assert.deepEqual([error.code, error.parts.value], ["usage", value]);
    return true;
  };
}

Deno.test("facts of a caller's are refused by the name of any fact of the run's own, and kept by others", async () => {
  await inTemporaryFolder(async (folder) => {
    await withShortDemo(async ({ model }) => {
      const path = `${folder}/checkpoint.safetensors`, given = { weights: "own", rows: 5 };
      const learned = { units: ["heads"], layout: "uniform", rates: { tracking: 0 } } as const;
      await drive(model, { ...SHORT, ...learned, checkpoint: { path, every: Infinity, identity: given } });
      const { metadata } = await openSafetensors(path), { identity } = JSON.parse(metadata.get("compresso") ?? "{}");
      assert.ok(isObject(identity));
      const { weights, rows, ...facts } = identity;
      assert.deepEqual({ weights, rows }, given);
      // A run without a size or calibration has no such fact.
      const own = new Set([...Object.keys(facts), "size", "calibration"]);
      for (const name of ["keptMasks", "lambdaRule", "focus", "adapter"]) {
        assert.ok(own.has(name), `no run has ${name}`);
      }
      for (const name of own) {
        const identity = { weights: "own", [name]: 1 };
        assert.throws(() => prune(model, { ...SHORT, checkpoint: { path, every: 1, identity } }), isUsage(name));
      }
      await assert.rejects(
        pruneToFolder(model, { ...SHORT, out: `${folder}/run`, identity: { rates: 1 } }),
        isUsage("rates"),
      );
    });
  });
});

Deno.test("what may differ is refused where there is no checkpoint to go on from, and without it such a run begins", async () => {
  await inTemporaryFolder(async (folder) => {
    await withShortDemo(async ({ model, device }) => {
      const checkpoint = { path: `${folder}/none.safetensors`, every: Infinity, resume: true }, { bytes } = device;
      using run = prune(model, { ...SHORT, checkpoint: { ...checkpoint, mayDiffer: ["rates", "schedule"] } });
      await assert.rejects(run.prepare(), (error) => {
        checkRefusal(error, "usage", { names: [checkpoint.path, "rates", "schedule", "mayDiffer"] });
        return isUsage("no such file")(error);
      });
      assert.equal(device.bytes, bytes);
      await assert.rejects(run[Symbol.asyncIterator]().next(), isUsage("no such file"));
      assert.equal((await drive(model, { ...SHORT, checkpoint })).records.length, 2);
    });
  });
});
