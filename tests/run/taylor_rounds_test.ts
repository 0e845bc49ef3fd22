// Taylor scores measured anew over several cuts.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import { refuses } from "../refuses.ts";
import { BASE, bitsOf, drive, withShortDemo } from "./helpers/demo_run.ts";

const BARE = { method: "taylor", steps: 0, prefinetune: 0, postfinetune: 0 } as const;

Deno.test("one round of taylor is today's score, several meet the same target by other units, and a stop between two of them changes no bit", async () => {
  await withShortDemo(async ({ model }) => {
    const plain = await drive(model, BARE), cut = (z?: Float32Array): number[] => [...z ?? []];
    assert.equal(bitsOf(await drive(model, { ...BARE, rounds: 1 })), bitsOf(plain));
    const shares: number[] = [];
    const four = await drive(model, { ...BARE, rounds: 4, onScoring: (share) => shares.push(share) });
    assert.deepEqual([shares.length, shares.at(-1)], [32, 1]);
    assert.equal(four.result.sparsity.hard, plain.result.sparsity.hard);
    assert.notDeepEqual(cut(four.result.masks.ffn), cut(plain.result.masks.ffn));
    // Units fall in the order of the cuts: what the first cut takes stays below all else.
    const first = await drive(model, { ...BARE, sparsity: BASE.sparsity / 4 });
    first.result.masks.ffn?.forEach((z, column) => z === 1 || assert.equal(four.result.masks.ffn?.[column], 0));

    const path = `${await Deno.makeTempDir()}/checkpoint.safetensors`, checkpoint = { path, every: 1000 };
    const controller = new AbortController(), { signal } = controller;
    const onScoring = (share: number): void => share > 0.6 ? controller.abort(new Error("enough")) : undefined;
    await assert.rejects(drive(model, { ...BARE, rounds: 4, checkpoint, signal, onScoring }), /enough/);
    const rest = await drive(model, { ...BARE, rounds: 4, checkpoint: { ...checkpoint, resume: true } });
    assert.equal(bitsOf(rest), bitsOf(four));
    await Deno.remove(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  });
});

Deno.test("rounds of taylor reach sizes and equal widths, and are refused where they mean nothing", async () => {
  await withShortDemo(async ({ model }) => {
    const size = { ...BASE, ...BARE, rounds: 3, sparsity: undefined, size: { parameters: 380_000 } } as const;
    for (const layout of ["compact", "uniform"] as const) {
      using run = prune(model, { ...size, layout });
      for await (const _ of run); // no step
      const { parameters } = await run.slice();
      assert.ok(parameters.after <= 380_000 && parameters.after > 350_000, `${layout}: ${parameters.after}`);
    }
    for (const rounds of [0, 1.5, -1, NaN]) {
      refuses(() => prune(model, { ...BASE, ...BARE, rounds }), "usage", { option: "rounds", value: rounds });
    }
    refuses(() => prune(model, { ...BASE, ...BARE, method: "flap", rounds: 2 }), "usage", {
      option: "rounds",
      value: "flap",
    });
  });
});
