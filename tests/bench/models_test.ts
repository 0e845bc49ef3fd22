// `compresso bench` and benchModels(): that they measure what they name, side by side, not how fast anything is.
import assert from "node:assert/strict";
import { benchModels } from "../../lib/bench/models.ts";
import { repeatsOf } from "../../lib/bench/stats.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { rejects } from "../refuses.ts";
import { cli } from "../cli/helpers/cli.ts";
import { randomSource, SPEC } from "../formats/models.ts";

Deno.test("repeatsOf() gives median and range", () => {
  assert.deepEqual(repeatsOf([3, 1, 2, 10]), { median: 2.5, least: 1, most: 10 });
});

Deno.test("benchModels() measures each model as often as asked, in turns, and compares with the first", async () => {
  using device = await openDevice();
  using dense = await loadModelFrom(randomSource(SPEC), { device });
  using wide = await loadModelFrom(randomSource({ ...SPEC, layers: [{ heads: 2, kvHeads: 1, ffn: 4096 }] }), {
    device,
  });
  const live = device.liveCount, steps: number[] = [];
  const sizes = { prompt: 8, tokens: 4, batch: 3, repeats: 3 };
  const models = [{ name: "dense", model: dense }, { name: "wide", model: wide }];
  const result = await benchModels(models, { ...sizes, onProgress: (done, total) => steps.push(done / total) });
  assert.equal(device.liveCount, live, "nothing stays allocated");
  assert.deepEqual(steps, Array.from({ length: 8 }, (_, index) => (index + 1) / 8));
  const { rows, adapter } = result;
  assert.equal(adapter.description, device.facts.description);
  assert.deepEqual(rows.map(({ name }) => name), ["dense", "wide"]);
  const [first, second] = rows;
  assert.equal(first?.faster, null);
  assert.ok((second?.tokenBytes ?? NaN) > 10 * (first?.tokenBytes ?? NaN));
  for (const figures of [first?.figures, second?.figures, second?.faster]) {
    for (const { median, least, most } of Object.values({ ...figures })) {
      assert.ok(least > 0 && least <= median && median <= most && Number.isFinite(most));
    }
  }
  const { decodeRate, nextToken } = first?.figures ?? assert.fail();
  // Of three repeats the middle one is the middle one in both.
  assert.ok(Math.abs(decodeRate.median * nextToken.median - 1) < 1e-9);
});

Deno.test("benchModels() refuses sizes that are none, and those that do not fit a context", async () => {
  using device = await openDevice();
  using model = await loadModelFrom(randomSource(SPEC), { device });
  const models = [{ name: "dense", model }];
  await rejects(benchModels([]), "usage");
  for (const bad of [{ prompt: 0 }, { tokens: 1 }, { batch: 1.5 }, { repeats: 0 }, { prompt: 125, tokens: 4 }]) {
    await rejects(benchModels(models, { prompt: 4, tokens: 2, batch: 1, repeats: 1, ...bad }), "usage");
  }
  const stop = new AbortController();
  stop.abort(new Error("enough"));
  await assert.rejects(benchModels(models, { prompt: 4, tokens: 2, signal: stop.signal }), /enough/);
});

Deno.test("bench names adapter, models and figures, as a table and as JSON", async () => {
  const sizes = ["--prompt-tokens", "8", "--tokens", "3", "--batch", "2", "--repeats", "1", "--no-tuning"];
  const table = await cli(["bench", "demo", "demo", ...sizes]);
  assert.equal(table.code, 0, table.stderr);
  for (
    const text of [/^\S.*weights in f16/, /demo: 979,008 parameters/, /first token after 8 .* ms/, /2 together .*×/]
  ) {
    assert.match(table.stdout, text);
  }
  const { rows, batch, baseDtype } = JSON.parse((await cli(["bench", "demo", ...sizes, "--json"])).stdout);
  assert.deepEqual([rows.length, batch, baseDtype], [1, 2, "f16"]);
  assert.ok(rows[0].figures.promptRateMany.median > 0);
  const wrong = await cli(["bench", "demo", "nowhere", ...sizes]);
  assert.equal(wrong.code, 3);
  const long = await cli(["bench", "demo", "--prompt-tokens", "511"]);
  assert.equal(long.code, 2);
  assert.match(long.stderr, /context of demo, 512 tokens/);
});
