// Objectives and optimizers of whole runs: what is refused, that a run resumes with the same bits, and what identities and plans say.
import assert from "node:assert/strict";
import { openSpec } from "../../lib/local/open_model.ts";
import { decidingOptions } from "../../lib/run/identity.ts";
import { planMemory } from "../../lib/run/memory/plan.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { refuses } from "../refuses.ts";
import { BASE, bitsOf, drive, interrupted, withShortDemo } from "./helpers/demo_run.ts";

const resolved = (options: Partial<RunOptions>): ReturnType<typeof resolveOptions> =>
  resolveOptions({ ...BASE, ...options });

Deno.test("a weight adds a loss to cross-entropy; without any loss, or to distil with flap, a run is refused", () => {
  assert.deepEqual(resolved({}).objective, { crossEntropy: 1 });
  assert.deepEqual(resolved({ objective: { zLoss: 1e-4 } }).objective, { crossEntropy: 1, zLoss: 1e-4 });
  const distils = { objective: { crossEntropy: 0, distillation: 1 } };
  assert.deepEqual(resolved(distils).objective, { distillation: 1 });
  refuses(() => resolved({ objective: { crossEntropy: 0 } }), "usage", { option: "objective" });
  refuses(() => resolved({ objective: { zLoss: -1 } }), "usage", { option: "objective.zLoss", value: -1 });
  refuses(() => resolved({ ...distils, method: "flap" }), "usage", { option: "objective.distillation", value: "flap" });
  refuses(() => Reflect.apply(resolved, null, [{ objective: { kl: 1 } }]), "usage");
  refuses(() => Reflect.apply(resolved, null, [{ optimizer: "sgd" }]), "usage", { option: "optimizer", value: "sgd" });
});

Deno.test("the identity of a run names objective and optimizer where they are no default, so that earlier checkpoints resume", () => {
  const plain = decidingOptions(resolved({}));
  assert.ok(!("objective" in plain) && !("optimizer" in plain));
  const own = decidingOptions(resolved({ objective: { zLoss: 1e-4 }, optimizer: "lion" }));
  assert.deepEqual([own["objective"], own["optimizer"]], [{ crossEntropy: 1, zLoss: 1e-4 }, "lion"]);
});

Deno.test("Lion has a tenth of LoRA's rate, unless it is given", () => {
  const { rates } = resolved({}), lion = resolved({ optimizer: "lion" }).rates;
  assert.deepEqual([lion.lora, lion.postfinetune], [0.1 * rates.lora, 0.1 * rates.lora]);
  assert.equal(resolved({ optimizer: "lion", rates: { lora: 0.5 } }).rates.lora, 0.5);
});

Deno.test("a plan counts what distillation needs, and that Lion keeps one array", async () => {
  const spec = await openSpec("demo"), shape = { batch: 2, seq: 64, accumulate: 1 };
  const bytes = async (options: Partial<RunOptions>): Promise<number> =>
    (await planMemory(spec, { ...shape, ...options })).stages.training;
  const plain = await bytes({});
  assert.equal(await bytes({ objective: { zLoss: 1 } }), plain);
  assert.ok(await bytes({ objective: { distillation: 1 } }) > plain + 4 * 2 * 64 * spec.hidden);
  assert.ok(await bytes({ optimizer: "lion" }) < plain);
});

Deno.test("a run that distils by Lion is within its plan, and ends with the same bits if it was interrupted", async () => {
  await withShortDemo(async ({ model }) => {
    for (const method of ["compresso", "magnitude"] as const) {
      const options: Partial<RunOptions> = {
        ...{ method, steps: method === "compresso" ? 6 : 0, objective: { crossEntropy: 0.5, distillation: 1 } },
        optimizer: "lion",
      };
      const whole = await drive(model, options);
      assert.ok(whole.records.every(({ gpuBytes, plannedGpuBytes }) => gpuBytes <= plannedGpuBytes), method);
      assert.equal(bitsOf(await interrupted(model, options, whole.steps - 1)), bitsOf(whole), method);
      assert.notEqual(
        bitsOf(await drive(model, { ...options, objective: { distillation: 1 } })),
        bitsOf(whole),
        method,
      );
    }
  });
});

Deno.test("scores come from cross-entropy: at the dense model the divergence from it has no gradient", async () => {
  await withShortDemo(async ({ model }) => {
    const options: Partial<RunOptions> = { method: "taylor", prefinetune: 0, steps: 0, postfinetune: 0 };
    const { result: { masks } } = await drive(model, options);
    const distilled = await drive(model, { ...options, objective: { crossEntropy: 0, distillation: 1 } });
    assert.ok(Object.values(masks).some((values) => values.includes(0)));
    assert.deepEqual(distilled.result.masks, masks);
  });
});
