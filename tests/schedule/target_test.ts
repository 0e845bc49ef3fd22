// The sparsity at which a schedule ends, for a run without a target.
import assert from "node:assert/strict";
import { constant, cubic, linear, steps } from "../../lib/schedule/curves.ts";
import { defineSchedule, type ScheduleDefinition } from "../../lib/schedule/definition.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { endSparsity } from "../../lib/schedule/target.ts";
import { type Refusal, rejects } from "../refuses.ts";

async function endOf(definition: ScheduleDefinition): Promise<number> {
  await using schedule = await openSchedule(defineSchedule(definition));
  return await endSparsity(schedule, { steps: 20, layers: 3 });
}

Deno.test("a schedule that sets its own end gives the target, of whatever it is made", async () => {
  assert.equal(await endOf({ sparsity: 0.2 }), 0.2);
  assert.equal(await endOf({ sparsity: cubic({ to: 0.4, warmup: 0.5 }) }), 0.4);
  assert.equal(await endOf({ sparsity: steps([[0, 0.1], [0.5, 0.3]]) }), 0.3);
  assert.equal(await endOf({ sparsity: ({ step, steps: count }) => 0.5 * (step + 1) / count }), 0.5);
  assert.equal(await endOf({ sparsity: ({ layers, records }) => 0.1 * layers.length + records.length }), 0.1 * 3);
});

Deno.test("one that follows the run's target, ends at 0 or sets no sparsity is refused with what it does", async () => {
  const cases: readonly (readonly [ScheduleDefinition, Refusal])[] = [
    [{ sparsity: constant("target") }, { names: ["defineSchedule", 0] }],
    [{ sparsity: ({ sparsity }) => 0.1 + 0.5 * sparsity }, { names: ["defineSchedule", 0] }],
    [{ sparsity: linear({ from: 0.3, to: 0 }) }, { value: 0 }],
    [{ rates: { lora: 1e-3 } }, { names: ["defineSchedule", 0] }],
  ];
  for (const [definition, message] of cases) await rejects(endOf(definition), "usage", message);
});
