// Facts by which runs are told apart: what differs, and what decides nothing. Without a GPU.
import assert from "node:assert/strict";
import { differences } from "../../lib/experiment/identity.ts";
import { readCheckpoint, type RunIdentity, writeCheckpoint } from "../../lib/run/checkpoint.ts";
import { differencesOf, idleFacts } from "../../lib/run/facts.ts";
import { METHODS } from "../../lib/run/methods.ts";
import { firstPosition } from "../../lib/run/run_parts.ts";
import { inTemporaryFolder } from "../io/files.ts";

Deno.test("what differs is told by its path, members of both sides one by one", () => {
  const then = { rank: 8, lora: { alpha: 16, dropout: 0 }, prompt: null };
  const now = { rank: 4, lora: { alpha: 16, dropout: 0.1 }, prompt: "x" };
  assert.deepEqual(differencesOf(then, now), [
    "rank: 8 then, 4 now",
    "lora.dropout: 0 then, 0.1 now",
    "prompt: none then, x now",
  ]);
  assert.deepEqual(differencesOf(then, now, { idle: ["rank", "lora.dropout"] }), ["prompt: none then, x now"]);
});

Deno.test("the warm-up of a method without one tells neither checkpoints nor cells apart, another rate does", async () => {
  const none = new Float32Array(0), moments = { loraM: none, loraV: none, maskMoments: none };
  const arrays = { lora: none, logAlpha: none, constraint: none, slots: none, ...moments };
  const identity = (method: string, rates: Readonly<Record<string, number>>): RunIdentity => ({
    method,
    rates: JSON.stringify(rates),
  });
  const position = firstPosition({ epoch: 0, index: 0 });
  await inTemporaryFolder(async (folder) => {
    for (const method of METHODS) {
      const path = `${folder}/${method}.safetensors`, steps = method === "compresso" || method === "gradual";
      await writeCheckpoint(path, { identity: identity(method, { lora: 1, warmup: 0.7 }), position, arrays, kept: [] });
      const read = (rates: Readonly<Record<string, number>>): Promise<unknown> =>
        readCheckpoint(path, { identity: identity(method, rates) });
      if (steps) await assert.rejects(read({ lora: 1, warmup: 0.4 }), /rates\.warmup: 0\.7 then, 0\.4 now/);
      else await read({ lora: 1, warmup: 0.4 });
      await assert.rejects(read({ lora: 2, warmup: 0.4 }), /rates\.lora: 1 then, 2 now/);
      const cell = (warmup: string): Readonly<Record<string, string>> => ({
        method: JSON.stringify(method),
        "rates.warmup": warmup,
      });
      assert.equal(differences(cell("0.7"), cell("0.4")), steps ? "rates.warmup: 0.7 then, 0.4 now" : null);
      assert.deepEqual(idleFacts(method), steps ? [] : ["rates.warmup"]);
    }
  });
});
