// Properties of training on a small random model: it learns, repeats itself to the bit, goes on from a save, and stops without a trace.
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { unpackMasks } from "../../lib/nn/mask_slots.ts";
import { shiftLabels } from "../../lib/nn/pass.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { IDLE_STATE, type StepState } from "../../lib/nn/train/step_state.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import type { Batch } from "../../lib/data/batches.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { type Model } from "../../lib/model/model.ts";
import { findCause } from "../../lib/run/monitors/find_cause.ts";
import { RING_SLOTS } from "../../lib/run/step_plans.ts";
import type { Objective } from "../../lib/nn/train/objective.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import type { StepKind, TrainerArrays } from "../../lib/run/contract.ts";

const BATCH = 2, SEQ = 24;
const UNITS: readonly UnitKind[] = ["kv", "ffn", "hidden"];
const LORA = { rank: 3, alpha: 6, targets: PROJECTIONS, dropout: 0.1 };

/** Random tokens; the first four labels of every row and the last five of every second row do not count. */
function randomBatch(vocab: number, seed: number, { batch = BATCH, seq = SEQ } = {}): Batch {
  const tokens = Uint32Array.from({ length: batch * seq }, (_, i) => Math.floor(vocab * uniform(seed, i)));
  const labels = Int32Array.from(tokens, (token, i) => {
    const at = i % seq, isPadding = Math.floor(i / seq) % 2 === 1 && at >= seq - 5;
    return at < 4 || isPadding ? -100 : token;
  });
  const labelTokens = shiftLabels(labels, { seq }).reduce((count, target) => count + (target >= 0 ? 1 : 0), 0);
  return { tokens, labels, realTokens: tokens.length, labelTokens };
}

function stateAt(step: number, state: Partial<StepState> = {}): StepState {
  return {
    ...IDLE_STATE,
    seed: 11,
    step,
    target: 0.02 * (step + 1),
    loraRate: 5e-3,
    maskRate: 0.1,
    lambdaRate: 0.1,
    noise: 0.5,
    loraUpdates: step + 1,
    maskUpdates: step + 1,
    clipNorm: 1,
    weightDecay: 0.01,
    tracking: 1,
    limit: 100,
    dropout: LORA.dropout,
    ...state,
  };
}

interface Setup extends Disposable {
  readonly device: Device;
  readonly model: Model;
  trainer(options?: {
    seed?: number;
    dropout?: number;
    batch?: number;
    accumulate?: number;
    seq?: number;
    recompute?: boolean;
    units?: readonly UnitKind[];
    objective?: Objective;
  }): Trainer;
}

async function setup(): Promise<Setup> {
  const device = await openDevice();
  const { modelPath } = await openGolden("gqa_f16");
  const model = await loadModel(modelPath, { device, baseDtype: "f32" });
  return {
    device,
    model,
    trainer({
      seed = 5,
      dropout = LORA.dropout,
      batch = BATCH,
      accumulate = 1,
      seq = SEQ,
      recompute = true,
      units = UNITS,
      objective,
    } = {}): Trainer {
      const table = unitTable(model.spec, units);
      const lora = { ...LORA, dropout };
      const trainer = new Trainer(model, { batch, accumulate, seq, seed, lora, table, recompute, objective });
      trainer.setLogAlpha(Float32Array.from({ length: table.count }, (_, unit) => 4 * uniform(6, unit) - 1));
      return trainer;
    },
    [Symbol.dispose](): void {
      model[Symbol.dispose]();
      device[Symbol.dispose]();
    },
  };
}

/** Steps `from` … `to` − 1 of one kind, each on a batch of its own. */
async function steps(trainer: Trainer, kind: StepKind, { from, to }: { from: number; to: number }): Promise<void> {
  const { vocab } = trainer.pass.weights.spec;
  for (let step = from; step < to; step++) await trainer.step(kind, randomBatch(vocab, step), { state: stateAt(step) });
}

function assertSame(actual: TrainerArrays, expected: TrainerArrays, what: string): void {
  for (const [name, values] of Object.entries(expected)) {
    assert.deepEqual(Object.entries(actual).find(([key]) => key === name)?.[1], values, `${name} ${what}`);
  }
}

Deno.test("the loss of a batch falls over 20 LoRA steps on it", async () => {
  using parts = await setup();
  using trainer = parts.trainer({ dropout: 0 });
  const batch = randomBatch(parts.model.spec.vocab, 1);
  for (let step = 0; step < 20; step++) {
    await trainer.step("lora", batch, { state: stateAt(step, { loraRate: 2e-2, weightDecay: 0 }) });
  }
  const numbers = await trainer.numbers(0, 20), losses = numbers.map(({ loss }) => loss);
  const [first = NaN] = losses, last = losses.at(-1) ?? NaN;
  assert.deepEqual(numbers.map(({ step }) => step), Array.from({ length: 20 }, (_, step) => step));
  assert.ok(last < 0.8 * first, losses.map((loss) => loss.toFixed(3)).join(" "));
});

Deno.test("distillation is 0 at the dense model, and what is cut is learned back from it", async () => {
  using parts = await setup();
  const batch = randomBatch(parts.model.spec.vocab, 1), { layers } = parts.model.spec;
  const lossOf = async (trainer: Trainer, step: number): Promise<number> => {
    await trainer.step("lora", batch, { state: stateAt(step, { loraRate: 2e-2, weightDecay: 0 }) });
    return (await trainer.numbers(step, 1))[0]?.loss ?? NaN;
  };
  const made = (objective: Objective): Trainer => {
    const trainer = parts.trainer({ dropout: 0, objective });
    trainer.setMasks({
      ffn: Float32Array.from({ length: layers.reduce((sum, { ffn }) => sum + ffn, 0) }, (_, i) => i % 2),
    });
    return trainer;
  };
  using whole = parts.trainer({ dropout: 0, objective: { distillation: 1 } });
  assert.ok(Math.abs(await lossOf(whole, 0)) < 1e-6, "the dense model is its own teacher");
  using distilled = made({ distillation: 1 });
  const first = await lossOf(distilled, 0);
  // A sum of losses is the sum of each alone.
  using plain = made({ crossEntropy: 1 });
  using both = made({ crossEntropy: 1, distillation: 0.5 });
  const sum = await lossOf(plain, 0) + 0.5 * first;
  assert.ok(first > 1e-3 && Math.abs(await lossOf(both, 0) - sum) < 1e-5 * sum, `${first}, ${sum}`);
  for (let step = 1; step < 20; step++) await lossOf(distilled, step);
  const last = await lossOf(distilled, 20);
  assert.ok(last < 0.8 * first, `${first} to ${last}`);
});

Deno.test("LoRA steps leave masks, log α and their constraint alone; mask steps move all", async () => {
  using parts = await setup();
  using trainer = parts.trainer();
  const start = await trainer.save();
  await steps(trainer, "lora", { from: 0, to: 2 });
  const tuned = await trainer.save();
  for (const name of ["logAlpha", "maskMoments", "constraint", "slots"] as const) {
    assert.deepEqual(tuned[name], start[name], name);
  }
  for (const name of ["lora", "loraM", "loraV"] as const) assert.notDeepEqual(tuned[name], start[name], name);
  await steps(trainer, "masks", { from: 2, to: 4 });
  const pruned = await trainer.save();
  for (const [name, values] of Object.entries(pruned).filter(([name]) => name !== "written")) {
    assert.notDeepEqual(values, tuned[name], name);
    assert.ok(values.every(Number.isFinite), `${name} is finite`);
  }
});

Deno.test("two trainers of the same seed give the same bits after steps of each kind, another seed does not", async () => {
  using parts = await setup();
  const run = async (seed: number): Promise<TrainerArrays[]> => {
    using trainer = parts.trainer({ seed });
    await steps(trainer, "lora", { from: 0, to: 6 });
    const tuned = await trainer.save();
    await steps(trainer, "masks", { from: 6, to: 12 });
    return [tuned, await trainer.save()];
  };
  const [first, second, other] = [await run(5), await run(5), await run(6)];
  first.forEach((arrays, index) => assertSame(second[index] ?? arrays, arrays, `of run ${index}`));
  assert.equal(second.length, 2);
  assert.notDeepEqual(other[0]?.lora, first[0]?.lora);
});

for (const units of [["kv", "ffn", "hidden"], ["heads", "ffn"]] as const) {
  Deno.test(`keeping all activations takes more memory and gives the same bits, with masks on ${units.join(", ")}`, async () => {
    using parts = await setup();
    const run = async (recompute: boolean): Promise<{ arrays: TrainerArrays; bytes: number }> => {
      const before = parts.device.bytes;
      using trainer = parts.trainer({ recompute, units });
      await steps(trainer, "lora", { from: 0, to: 2 });
      await steps(trainer, "masks", { from: 2, to: 5 });
      return { arrays: await trainer.save(), bytes: parts.device.bytes - before };
    };
    const anew = await run(true), kept = await run(false);
    assertSame(kept.arrays, anew.arrays, "with all kept");
    assert.ok(kept.bytes > anew.bytes, `${kept.bytes} bytes against ${anew.bytes}`);
  });
}

Deno.test("a step of micro-batches is that of one batch of all their rows, but for rounding, with dropout and a focus too", async () => {
  using parts = await setup();
  const { vocab } = parts.model.spec, data = randomBatch(vocab, 5, { batch: 3 * BATCH });
  for (const [kind, focus] of [["lora", 1], ["masks", 1], ["gradual", 1], ["lora", 1 / 3]] as const) {
    using whole = parts.trainer({ batch: 3 * BATCH });
    using micro = parts.trainer({ accumulate: 3 });
    using again = parts.trainer({ accumulate: 3 });
    const run = async (trainer: Trainer): Promise<TrainerArrays> => {
      for (const step of [0, 1]) await trainer.step(kind, data, { state: stateAt(step), focus });
      return await trainer.save();
    };
    const [want, got] = [await run(whole), await run(micro)], what = `${kind}, focus ${focus.toFixed(2)}`;
    assertSame(await run(again), got, `of ${what}, repeated`);
    const [numbers, wholeNumbers] = [await micro.numbers(0, 2), await whole.numbers(0, 2)];
    wholeNumbers.forEach(({ loss, gradNorm }, index) => {
      // Focus chooses from each micro-batch what it else chooses from the whole, so only the first losses are the same.
      if (focus === 1 || index === 0) assertClose(numbers[index]?.loss, loss, 1e-5, `loss of ${what}`);
      if (focus === 1) assertClose(numbers[index]?.gradNorm, gradNorm, 1e-4, `gradient norm of ${what}`);
    });
    if (focus < 1) continue;
    for (const name of ["lora", "slots"] as const) {
      const most = want[name].reduce((large, value) => Math.max(large, Math.abs(value)), 0);
      got[name].forEach((value, index) =>
        assert.ok(Math.abs(value - (want[name][index] ?? NaN)) < 1e-3 * most, `${name} ${index} of ${what}`)
      );
    }
    const dz = [await micro.slotGradients(), await whole.slotGradients()] as const;
    const most = dz[1].reduce((large, value) => Math.max(large, Math.abs(value)), 0);
    dz[1].forEach((value, index) => assert.ok(Math.abs(value - (dz[0][index] ?? NaN)) <= 1e-3 * most, `dz of ${what}`));
  }
});

Deno.test("a step that is aborted between its micro-batches leaves the save as it was", async () => {
  using parts = await setup();
  using trainer = parts.trainer({ accumulate: 4 });
  const data = randomBatch(parts.model.spec.vocab, 5, { batch: 4 * BATCH }), reason = new Error("stop");
  await trainer.step("lora", data, { state: stateAt(0) });
  const before = await trainer.save();
  for (const delay of [0, 1, 20]) {
    const controller = new AbortController();
    const running = trainer.step("masks", data, { state: stateAt(1), signal: controller.signal });
    if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
    controller.abort(reason);
    const hasStopped = await running.then(() => false, (error) => error === reason);
    if (!hasStopped) {
      assert.ok(delay > 1, "the step ran to its end");
      break;
    }
    assertSame(await trainer.save(), before, `aborted after ${delay} ms`);
  }
});

Deno.test("a step does not depend on tokens whose head chunks are left out", async () => {
  // One head chunk takes up to 512 rows: only the first of three has labels here, though they lie at the ends of their rows.
  using parts = await setup();
  const { vocab } = parts.model.spec, seq = 120, batch = 10;
  using trainer = parts.trainer({ batch, seq, dropout: 0 });
  assert.ok(trainer.pass.act.shape.headRows <= 512);
  const data = randomBatch(vocab, 3, { batch, seq });
  const labels = data.labels.map((label, i) => i % seq >= seq - 20 ? label : -100);
  const labelTokens = shiftLabels(labels, { seq }).filter((target) => target >= 0).length;
  await trainer.step("lora", { ...data, labels, labelTokens }, { state: stateAt(0, { loraRate: 0 }) });
  const [numbers] = await trainer.numbers(0, 1);
  const rows = (values: Uint32Array | Int32Array): number[][] =>
    Array.from({ length: batch }, (_, row) => [...values.subarray(row * seq, (row + 1) * seq)]);
  const lora = { ...LORA, weights: await trainer.loraWeights() };
  const { loss, gradients } = await parts.model.lossAndGradients({
    tokens: rows(data.tokens),
    labels: rows(labels),
    lora,
  });
  assert.ok(trainer.pass.act.wanted.rows === labelTokens && labelTokens <= trainer.pass.act.shape.headRows);
  assert.ok(Math.abs((numbers?.loss ?? NaN) - loss) < 1e-6 * loss, `${numbers?.loss} against ${loss}`);
  const squares = [...gradients].filter(([name]) => name.startsWith("lora.")).flatMap(([, values]) => [...values]);
  const norm = Math.hypot(...squares);
  assert.ok(Math.abs((numbers?.gradNorm ?? NaN) - norm) < 1e-5 * norm, `${numbers?.gradNorm} against ${norm}`);
});

Deno.test("a trainer restored from a save goes on with the same bits", async () => {
  using parts = await setup();
  using trainer = parts.trainer();
  await steps(trainer, "lora", { from: 0, to: 3 });
  await steps(trainer, "masks", { from: 3, to: 6 });
  const saved = await trainer.save();
  using resumed = parts.trainer({ seed: 999 });
  resumed.restore(saved);
  assertSame(await resumed.save(), saved, "right after restoring");
  for (const one of [trainer, resumed]) {
    await steps(one, "masks", { from: 6, to: 9 });
    await steps(one, "lora", { from: 9, to: 11 });
  }
  assertSame(await resumed.save(), await trainer.save(), "after going on");
  assert.deepEqual(await resumed.numbers(6, 5), await trainer.numbers(6, 5));
});

Deno.test("a step that is aborted before it begins or in its midst leaves the save as it was", async () => {
  const batch = 16, seq = 128; // enough work for several submits on a CPU
  using parts = await setup();
  const { vocab } = parts.model.spec, reason = new Error("stop"), data = randomBatch(vocab, 1, { batch, seq });
  const cases = [["masks", "lora", false], ["lora", "masks", false], ["lora", "masks", true]] as const;
  for (const [earlier, kind, isSet] of cases) {
    using trainer = parts.trainer({ batch, seq });
    await trainer.step(earlier, data, { state: stateAt(0) });
    if (isSet) trainer.setMasks({ ffn: (await trainer.masks()).ffn.fill(0, 7) });
    const before = await trainer.save(), next = { state: stateAt(1) };
    await assert.rejects(trainer.step(kind, data, { ...next, signal: AbortSignal.abort(reason) }), reason);
    assertSame(await trainer.save(), before, `after a ${kind} step that was aborted at once`);
    const controller = new AbortController();
    const running = trainer.step(kind, data, { ...next, signal: controller.signal });
    controller.abort(reason); // the first pieces of the step are submitted by now
    const stopped = await running.then(() => false, (error) => error === reason);
    if (!stopped) {
      assert.ok(!parts.device.facts.isCpu, `the ${kind} step went on to its end`);
      console.log("this adapter takes a whole step in two submits: aborting in its midst was not tested");
      continue;
    }
    assertSame(await trainer.save(), before, `after a ${kind} step that was aborted in its midst`);
    // And the step can be done again, as if nothing had happened.
    await trainer.step(kind, data, next);
    using twin = parts.trainer({ batch, seq });
    twin.restore(before);
    await twin.step(kind, data, next);
    assertSame(await trainer.save(), await twin.save(), `after a repeated ${kind} step`);
  }
});

Deno.test("the records of a step are the loss and gradients of the model with that LoRA and those masks", async () => {
  using parts = await setup();
  const { model } = parts;
  for (const kind of ["lora", "masks"] as const) {
    using trainer = parts.trainer({ dropout: 0 });
    const batch = randomBatch(model.spec.vocab, 2);
    for (let step = 0; step < 3; step++) {
      const lora = await trainer.loraWeights();
      await trainer.step(kind, batch, { state: stateAt(step) });
      const [numbers] = await trainer.numbers(step, 1), { slots } = await trainer.save();
      const masks = unpackMasks(model.spec, trainer.learner.table.layout, slots);
      const rows = (values: ArrayLike<number>): number[][] =>
        Array.from({ length: BATCH }, (_, row) => Array.from(values).slice(row * SEQ, (row + 1) * SEQ));
      const { loss, gradients } = await model.lossAndGradients({
        tokens: rows(batch.tokens),
        labels: rows(batch.labels),
        masks,
        lora: { ...LORA, weights: lora },
      });
      let squares = 0;
      for (const [name, values] of gradients) {
        if (name.startsWith("lora.")) squares += values.reduce((sum, value) => sum + value * value, 0);
      }
      const what = `${kind}, step ${step}`;
      // The same kernels on the same numbers; only the last sum runs in another order.
      assertClose(numbers?.loss, loss, 1e-6, `loss of ${what}`);
      assertClose(numbers?.gradNorm, Math.sqrt(squares), 1e-5, `gradient norm of ${what}`);
      if (kind === "masks") assertClose(numbers?.projected, 0.02 * (step + 1), 1e-2, `ŝ of ${what}`);
    }
  }
});

Deno.test("setMasks() writes the kinds that are given, and leaves the others as they are", async () => {
  using parts = await setup();
  using trainer = parts.trainer();
  const ramp = (count: number): Float32Array => Float32Array.from({ length: count }, (_, i) => (i + 1) / (count + 1));
  const want: Record<string, Float32Array> = { ...await trainer.masks() };
  for (const kind of ["ffn", "hidden", "head"] as const) {
    want[kind] = ramp(want[kind]?.length ?? 0);
    trainer.setMasks({ [kind]: want[kind] });
    assert.deepEqual(await trainer.masks(), want, kind);
  }
  assert.throws(() => trainer.setMasks({ ffn: ramp(3) }), /3/);
  assert.deepEqual(await trainer.masks(), want);
});

Deno.test("a step of masks that were set samples none, and log α gets no gradient through them, until the next step", async () => {
  using parts = await setup();
  const units = ["kv", "ffn", "hidden", "layers"] as const;
  using trainer = parts.trainer({ dropout: 0, units });
  const batch = randomBatch(parts.model.spec.vocab, 4), { count } = trainer.learner.table;
  const momentum = async (): Promise<Float32Array> => (await trainer.save()).maskMoments.subarray(0, 2 * count);
  const { ffn } = await trainer.masks(), set = ffn.map((_, column) => column % 3 === 0 ? 0 : 1);
  trainer.setMasks({ ffn: set });
  const { dz } = await trainer.maskGradients(batch, { state: stateAt(0) });
  for (const step of [0, 1]) {
    assert.equal((await trainer.save()).written[0], 1 - step);
    // λ rests, so that the gradient of the loss is all there is.
    await trainer.step("masks", batch, { state: stateAt(step, { lambdaRate: 0, tracking: 0 }) });
    const seen = [(await trainer.masks()).ffn, await trainer.slotGradients()], is = step === 0;
    [set, dz].forEach((values, index) => assert.equal(isDeepStrictEqual(seen[index], values), is, `${step}, ${index}`));
    assert.equal((await momentum()).every((value) => value === 0), is);
  }
});

Deno.test("maskGradients() are those of the model at the trainer's masks, and change nothing that is saved", async () => {
  using parts = await setup();
  const { model } = parts;
  using trainer = parts.trainer();
  const { layout } = trainer.learner.table, batch = randomBatch(model.spec.vocab, 3);
  const ffn = Float32Array.from({ length: 2 * 53 }, (_, i) => uniform(7, i));
  trainer.setMasks({ ffn });
  const before = await trainer.save();
  const { dz, squares } = await trainer.maskGradients(batch, { state: stateAt(0) });
  const got = unpackMasks(model.spec, layout, dz), squared = unpackMasks(model.spec, layout, squares);
  assertSame(await trainer.save(), before, "after maskGradients()");
  const rows = (values: ArrayLike<number>): number[][] =>
    Array.from({ length: BATCH }, (_, row) => Array.from(values).slice(row * SEQ, (row + 1) * SEQ));
  const { gradients } = await model.lossAndGradients({
    tokens: rows(batch.tokens),
    labels: rows(batch.labels),
    masks: { ffn },
    lora: { ...LORA, weights: await trainer.loraWeights() },
  });
  for (const kind of ["head", "ffn", "hidden"] as const) {
    assert.deepEqual(got[kind], gradients.get(`mask.${kind}`), kind);
    assert.ok(got[kind].some((value) => value !== 0));
    // The batch is one block of rows. A hidden dim's gradient is the sum over all writes to the residual stream, its square that of theirs.
    if (kind === "hidden") assert.ok(squared.hidden.every((value) => value > 0));
    else {
      for (const [unit, value] of squared[kind].entries()) {
        assertClose(value, (got[kind][unit] ?? NaN) ** 2, 1e-5, `${kind} ${unit}`);
      }
    }
  }
});

Deno.test("the ring keeps the numbers of the last steps when it wraps around", async () => {
  using parts = await setup();
  using trainer = parts.trainer();
  await steps(trainer, "lora", { from: RING_SLOTS - 2, to: RING_SLOTS + 2 });
  const numbers = await trainer.numbers(RING_SLOTS - 2, 4);
  assert.deepEqual(numbers.map(({ step }) => step), [254, 255, 256, 257]);
  assert.equal(new Set(numbers.map(({ loss }) => loss)).size, 4);
  assert.ok(numbers.every(({ loss, gradNorm }) => loss > 0 && gradNorm > 0));
});

Deno.test("log α that is not a number is named as what broke a step, with its unit", async () => {
  using parts = await setup();
  using trainer = parts.trainer();
  const { model } = parts, { table } = trainer.learner;
  const logAlpha = Float32Array.from(await trainer.logAlpha());
  logAlpha[table.ranges.ffn.first + 3] = NaN;
  trainer.setLogAlpha(logAlpha);
  const step = {
    stage: "prune",
    kind: "masks",
    focus: 1,
    batch: randomBatch(model.spec.vocab, 1),
    state: stateAt(0),
  } as const;
  const { tensor } = await findCause({ model, trainer, table }, step);
  assert.equal(tensor, "log α of FFN column 3 of layer 0, which is NaN");
});

Deno.test("a trainer gives all its buffers back", async () => {
  using parts = await setup();
  const { device } = parts, live = device.liveCount, { bytes } = device;
  {
    using trainer = parts.trainer();
    assert.ok(device.liveCount > live);
    await steps(trainer, "lora", { from: 0, to: 1 });
    await steps(trainer, "masks", { from: 1, to: 2 });
    await trainer.maskGradients(randomBatch(parts.model.spec.vocab, 1), { state: stateAt(2) });
    await trainer.save();
  }
  assert.equal(device.liveCount, live);
  assert.equal(device.bytes, bytes);
});

function assertClose(actual: number | undefined, expected: number, tolerance: number, what: string): void {
  const distance = Math.abs((actual ?? NaN) - expected) / Math.abs(expected);
  assert.ok(distance <= tolerance, `${what}: ${actual} instead of ${expected}`);
}
