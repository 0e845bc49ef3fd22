// Every number that a schedule may set, on its way into a step; and a script that never ends, beside a run that does. On the demo model.
import assert from "node:assert/strict";
import { CompressoError, defineSchedule } from "../../mod.ts";
import { RATE_NAMES } from "../../lib/prune/schedule_script.ts";
import { unitTable } from "../../lib/prune/units.ts";
import { openModelFiles } from "../../lib/io/open_model.ts";
import { resolveOptions } from "../../lib/run/options.ts";
import { firstPosition, stepStateOf } from "../../lib/run/run_parts.ts";
import { openSteerer, type Steering } from "../../lib/run/steering.ts";
import { BASE, bitsOf, drive, withDemo } from "./helpers/demo_run.ts";
import { Lair, scriptOf } from "./helpers/scripts.ts";

Deno.test("each rate that a schedule sets comes into the step as it says, and no other one moves", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["kv", "ffn"]);
  const options = resolveOptions({ ...BASE, steps: 40 }, spec), position = firstPosition({ epoch: 0, index: 0 });
  const at = async (schedule?: ReturnType<typeof defineSchedule>): Promise<Steering> => {
    await using steerer = await openSteerer(table, options, { schedule });
    return await steerer.at({ step: 4, steps: 40, records: [], layers: () => Promise.resolve([]) });
  };
  const stateOf = ({ rates, target }: Steering): Record<string, number> => ({
    ...stepStateOf(options, position, { rate: rates.lora, target, rates }),
    memory: rates.memory,
  });
  const plain = stateOf(await at()), value = 0.375;
  const places: Record<string, string> = { lora: "loraRate", mask: "maskRate", lambda: "lambdaRate" };
  for (const name of RATE_NAMES) {
    const steered = stateOf(await at(defineSchedule({ rates: { [name]: () => value } })));
    const moved = Object.keys(plain).filter((key) => steered[key] !== plain[key]), place = places[name] ?? name;
    if (name === "warmup") {
      assert.deepEqual([moved, (steered["target"] ?? 0) > (plain["target"] ?? 1)], [["target"], true]);
    } else assert.deepEqual([moved, steered[place]], [[place], value], name);
  }
});

Deno.test("a schedule that never ends stops its own run with an error, and not another one on the same model", async () => {
  await using lair = new Lair();
  const endless = await lair.write(scriptOf({ body: "while (true) {}" }));
  await withDemo(async ({ model }) => {
    const alone = await drive(model, { steps: 4 });
    await assert.rejects(drive(model, { steps: 4, schedule: endless }), (error) => {
      assert.ok(error instanceof CompressoError && error.code === "input");
      assert.match(error.message, /step 0 of 4: it took longer than 2 s/);
      return true;
    });
    assert.equal(bitsOf(await drive(model, { steps: 4 })), bitsOf(alone));
  });
});
