// Sweeps: several sparsities of one run, their measures, the knee, and resuming.
import assert from "node:assert/strict";
import { loadModelFrom, type Model, prune, readRows } from "../../mod.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { sweep, type SweepOptions, type SweepResult } from "../../lib/experiment/mod.ts";
import { sweepSchedule } from "../../lib/experiment/sweep.ts";
import { kneeOf } from "../../lib/experiment/sweep_points.ts";
import { sweepPage, sweepTable } from "../../lib/experiment/sweep_report.ts";
import { demoData } from "../../lib/model/mod.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { shortDemo } from "../demo.ts";
import { sharedDevice } from "../device.ts";

const { rows } = await readRows(demoData("train"), { limit: 48 });
const SHORT = { rows, batch: 1, seq: 64, prompt: null, units: ["kv", "ffn"], calibration: "none" } as const;
const { calibration: _none, ...PLAIN } = SHORT;
const SPARSITIES = [0.1, 0.2, 0.35] as const;

async function withDemo(work: (model: Model, out: string) => Promise<void>): Promise<void> {
  const device = await sharedDevice(), out = await Deno.makeTempDir({ prefix: "compresso_sweep_" });
  try {
    const { source, tokenizer } = await shortDemo();
    using model = await loadModelFrom(source, { device, tokenizer });
    await work(model, out);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

Deno.test("the knee is where what is cut exceeds the rise of the loss most, and there is none on a line", () => {
  const curve = (...losses: number[]): Parameters<typeof kneeOf>[0] =>
    losses.map((after, index) => ({ cut: (index + 1) / 10, before: 2, after }));
  assert.equal(kneeOf(curve(2.05, 2.1, 2.2, 3, 4)), 2);
  assert.equal(kneeOf(curve(2.01, 4)), 0);
  assert.equal(kneeOf(curve(2.1, 2.2, 2.3, 2.4)), null); // a line
  assert.equal(kneeOf(curve(3, 3.5, 3.8, 4)), null); // at first the dearest
  assert.equal(kneeOf(curve(1.9, 1.8)), null); // no rise
  assert.equal(kneeOf(curve(2.5)), null);
  assert.equal(kneeOf(curve(NaN, NaN)), null);
});

Deno.test("the schedule of a sweep rises from each sparsity to the next, holds, and ends at each exactly", () => {
  const ends = [4, 10], { definition: { sparsity } } = sweepSchedule([0.1, 0.3], { ends, warmup: 0.5 });
  assert.ok(typeof sparsity === "function");
  const at = (step: number): number =>
    sparsity({ step, steps: 10, progress: (step + 1) / 10, sparsity: 0.3, stage: "prune", records: [], layers: [] });
  const values = Array.from({ length: 10 }, (_, step) => at(step));
  assert.deepEqual([values[1], values[3], values[6], values[9]], [0.1, 0.1, 0.3, 0.3]);
  assert.ok(values.every((value, step) => step === 0 || value >= (values[step - 1] ?? 0)), values.join());
  assert.ok(Math.abs((values[0] ?? 0) - 0.1 * (1 - 0.5 ** 3)) < 1e-12 && (values[4] ?? 0) > 0.1);
});

for (const method of ["taylor", "flap"] as const) {
  Deno.test(`a sweep by ${method} scores once, and each sparsity is as a run of its own`, async () => {
    await withDemo(async (model, out) => {
      let scored = 0;
      const onScoring = (share: number): void => {
        if (share === 1) scored++;
      };
      const { points, dense } = await sweep(model, {
        ...SHORT,
        ...{ out, method, steps: 5, sparsities: SPARSITIES, onScoring },
      });
      assert.equal(scored, 1);
      assert.equal(dense.parameters, 480_192);
      assert.deepEqual(points.map(({ sparsity }) => sparsity), SPARSITIES);
      const point = points.at(-1), stages = { prefinetune: 0, steps: 0, postfinetune: 0 };
      using alone = prune(model, { ...PLAIN, ...stages, method, sparsity: 0.35 });
      for await (const _ of alone);
      const { parameters } = await alone.slice();
      const { heldoutLoss } = await alone.export(`${out}/alone`, { formats: ["hf"] });
      assert.equal(point?.parameters, parameters.after);
      assert.equal(point.heldout?.after, heldoutLoss?.after);
      assert.equal(point.heldout?.before, heldoutLoss?.before);
    });
  });
}

Deno.test("a sweep that is stopped continues to the same bits, writes what was asked for, and refuses what is not it", async () => {
  await withDemo(async (model, out) => {
    const run = async (folder: string, more: Partial<SweepOptions> = {}): Promise<SweepResult> =>
      await sweep(model, {
        ...SHORT,
        ...{ out: folder, method: "gradual", steps: 12, postfinetune: 2, recover: true, sparsities: SPARSITIES },
        ...{ checkpointEvery: 2, ...more },
      });
    const whole = await run(`${out}/whole`, { writesModels: true }), stop = new AbortController();
    for (const { folder, sparsity, hard, bytes } of whole.points) {
      assert.ok(hard >= sparsity - 1e-9 && hard < sparsity + 0.02, `${sparsity}: ${hard}`);
      assert.equal((await Deno.stat(`${folder}/model.gguf`)).size > 0 && bytes !== null, true);
      assert.equal((await Deno.stat(`${folder}/model/config.json`)).isFile, true);
      const { options: { postfinetune } } = JSON.parse(await Deno.readTextFile(`${folder}/run.json`));
      assert.equal(postfinetune, 2);
    }
    let steps = 0;
    const onRecord = (): void => {
      // Within the second sparsity, some steps after it began at the state of the first.
      if (++steps === 9) stop.abort(new CompressoError("aborted", { what: "stopped" }));
    };
    const parts = `${out}/parts`;
    await rejects(run(parts, { signal: stop.signal, onRecord }), "aborted");
    await rejects(run(parts, { resume: true, steps: 13 }), "mismatch", { value: [12, 13] });
    const places: boolean[] = [];
    const resumed = await run(parts, { resume: true, onPoint: (_, { isDone }) => places.push(isDone) });
    assert.deepEqual(places, [true, false, false]);
    const facts = ({ points }: SweepResult): unknown =>
      points.map(({ hard, parameters, heldout }) => [hard, parameters, heldout?.before, heldout?.after]);
    assert.deepEqual(facts(resumed), facts(whole));
    for (const { folder } of resumed.points) {
      const names = Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();
      assert.deepEqual(names, ["records.jsonl", "run.json"], folder);
    }
    const page = await Deno.readTextFile(`${parts}/sweep.html`), svg = await Deno.readTextFile(`${parts}/sweep.svg`);
    assert.ok(page.includes("Quality against size") && svg.startsWith("<svg "));
    const { head, rows } = sweepTable(resumed);
    const unmeasured = {
      ...resumed,
      knee: null,
      points: resumed.points.map((point) => ({ ...point, heldout: null, text: null })),
    };
    assert.match(sweepTable(unmeasured).caption, /No loss was measured\.$/);
    assert.ok(!sweepPage(unmeasured).includes("<h2>Chart</h2>") && sweepPage(resumed).includes("<h2>Chart</h2>"));
    assert.deepEqual(rows.map((row) => row.length), Array(4).fill(head.length));
    assert.ok(head.includes("bits per byte, held out") && rows[0]?.[0] === "0 %");
    await rejects(run(parts), "usage", { value: "sweep.json" });
    await run(parts, { sparsities: [0.1], steps: 2, export: { replace: true } });
    assert.deepEqual(
      Array.from(Deno.readDirSync(parts), ({ name }) => name).filter((name) => name.startsWith("sparsity")),
      ["sparsity-10"],
    );
  });
});

Deno.test("sparsities out of order or reach, and a last stage without recovery, are refused before any work", async () => {
  await withDemo(async (model, out) => {
    const cases: readonly (readonly [Partial<SweepOptions>, Refusal])[] = [
      [{ sparsities: [] }, { names: [0, 1] }],
      [{ sparsities: [0.2, 0.1] }, { value: [0.2, 0.1] }],
      [{ sparsities: [0.1, 1] }, { value: 1 }],
      [{ sparsities: [0.2, 0.99999] }, { value: 0.99999 }],
      [{ sparsities: [0.1, 0.2], postfinetune: 3 }, { option: "postfinetune" }],
      [{ units: ["vocab", "ffn"] }, { value: "vocab,ffn" }],
      [{ sparsities: [0.1, 0.2, 0.3], steps: 2 }, { option: "steps" }],
    ];
    for (const [more, message] of cases) {
      await rejects(
        sweep(model, { ...SHORT, out: `${out}/no`, method: "gradual", steps: 9, sparsities: [0.2], ...more }),
        "usage",
        message,
      );
    }
    await assert.rejects(Deno.stat(`${out}/no`));
  });
});

Deno.test("a sweep measures its held-out curve on given rows, and recovery leaves the LoRA of the lowest loss", async () => {
  await withDemo(async (model, out) => {
    const valRows = rows.slice(36), how = { ...SHORT, rows: rows.slice(0, 36), valRows };
    const run = async (more: Partial<SweepOptions> = {}): Promise<SweepResult> =>
      await sweep(model, {
        ...{ ...how, out, method: "gradual", steps: 4, prefinetune: 0, postfinetune: 4, recover: true },
        ...{ sparsities: [0.1, 0.2], evalEvery: 2, ...more },
      });
    const { points } = await run();
    let before: string | null = null;
    for (const { folder, heldout } of points) {
      const { validation } = JSON.parse(await Deno.readTextFile(`${folder}/run.json`));
      const lines = (await Deno.readTextFile(`${folder}/records.jsonl`)).trimEnd().split("\n");
      const records: readonly { readonly stage: string; readonly step: number; readonly heldout?: number }[] = lines
        .map(
          (line) => JSON.parse(line),
        );
      const last = records.filter(({ stage, heldout }) => stage === "postfinetune" && heldout !== undefined);
      assert.equal(last.length, 2);
      const [best] = last.toSorted((a, b) => (a.heldout ?? 0) - (b.heldout ?? 0));
      assert.deepEqual(validation.best, { step: best?.step, loss: best?.heldout });
      // Next to the curve the steps of the pruning stage are those of the sparsity before.
      const pruned = lines[0] ?? "";
      assert.equal(before ?? pruned, pruned);
      before = pruned;
      assert.ok(Number.isFinite(heldout?.after));
    }
    await rejects(run({ resume: true, valRows: rows.slice(35) }), "mismatch", { names: "valRows" });
    await rejects(run({ resume: true, evalEvery: 1 }), "mismatch", { names: "evalEvery" });
  });
});
