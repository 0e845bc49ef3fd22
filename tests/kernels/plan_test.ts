// Plans: blocks of params, steps that repeat, and what a dry device keeps of them.
import assert from "node:assert/strict";
import { copyRows } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { f32, Plan, u32 } from "../../lib/gpu/plan.ts";
import { recordCopyRows } from "../../lib/nn/ops.ts";
import { IDLE_STATE } from "../../lib/nn/train/step_state.ts";
import { unitTable } from "../../lib/units/table.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { SPEC } from "../formats/models.ts";

/** Bytes of a block of params in the buffer of a plan. */
const BLOCK = 256;

Deno.test("a plan has room for each block of params that differs in a byte, and for any number of them", () => {
  using device = openDryDevice({ isCpu: false });
  const kernel = compileKernel(device, copyRows);
  using buffer = device.createBuffer("buffer", 16);
  const bytesOf = (record: (plan: Plan) => void): number => {
    const before = device.bytes;
    using plan = new Plan(device);
    record(plan);
    plan.finish();
    return device.bytes - before;
  };
  const dispatch = (plan: Plan, ...params: (ReturnType<typeof u32> | ReturnType<typeof f32>)[]): void =>
    plan.dispatch(kernel, [buffer, buffer, buffer, { params }], { groups: [1] });
  assert.equal(bytesOf(() => {}), BLOCK);
  const some = (plan: Plan): void => {
    dispatch(plan, u32(1), u32(2));
    dispatch(plan, u32(1), u32(2), u32(0)); // the same with its padding
    dispatch(plan, u32(1), f32(2));
    dispatch(plan, u32(0x3f800000), u32(2));
    dispatch(plan, f32(1), u32(2)); // the bits of the one before
    dispatch(plan, u32(256), u32(2));
    dispatch(plan, u32(1), u32(2), u32(0), u32(0), u32(0)); // two vectors
  };
  assert.equal(bytesOf(some), 5 * BLOCK);
  const most = 200_000; // more than a call has arguments
  assert.equal(bytesOf((plan) => Array.from({ length: most }, (_, at) => dispatch(plan, u32(at)))), most * BLOCK);
  const wide = Array.from({ length: 65 }, (_, at) => u32(at));
  assert.equal(bytesOf((plan) => [u32(1), u32(2)].forEach((last) => dispatch(plan, ...wide, last))), 2 * 2 * BLOCK);
});

Deno.test("repeat() records the steps that it has under a key, where it is called", async () => {
  using device = await openDevice();
  using order = device.uploadBuffer("order", Uint32Array.of(1, 0));
  const ROW = 64, first = Float32Array.from({ length: 2 * ROW }, (_, at) => at);
  using x = device.uploadBuffer("x", first);
  using y = device.createBuffer("y", 4 * 2 * ROW);
  let recorded = 0;
  /** x with its rows the other way round. */
  const turn = (plan: Plan): void =>
    plan.repeat("turn", () => {
      recorded++;
      recordCopyRows(plan, { order, x, y }, { rows: 2, width: ROW, first: 0, direction: "gather" });
      plan.copy(y, x, { bytes: 4 * 2 * ROW });
    });
  for (const { times, others } of [{ times: 1, others: 0 }, { times: 2, others: 0 }, { times: 3, others: 4 }]) {
    device.write(x, first);
    recorded = 0;
    using plan = new Plan(device);
    for (let time = 0; time < times; time++) turn(plan);
    plan.optional(() => false, () => {
      for (let time = 0; time < others + 1; time++) turn(plan); // an odd number
    });
    await plan.run();
    assert.equal(recorded, 1);
    assert.equal(plan.length, 2 * (times + others + 1));
    const rows = await device.readFloats(x, 2 * ROW);
    assert.deepEqual([rows[0], rows[ROW]], times % 2 === 1 ? [ROW, 0] : [0, ROW], `${times} times`);
  }
});

Deno.test("a profiled run does what another does, as often as is asked for, and ends at a signal", async () => {
  using device = await openDevice();
  const ROW = 64, first = Float32Array.from({ length: 2 * ROW }, (_, at) => at);
  using order = device.uploadBuffer("order", Uint32Array.of(1, 0));
  using x = device.uploadBuffer("x", first);
  using y = device.createBuffer("y", 4 * 2 * ROW);
  using plan = new Plan(device);
  // More than one submit holds.
  const TURNS = 301;
  for (let turn = 0; turn < TURNS; turn++) {
    plan.section(turn % 2 === 0 ? "even" : "odd");
    recordCopyRows(plan, { order, x, y }, { rows: 2, width: ROW, first: 0, direction: "gather" });
    plan.copy(y, x, { bytes: 4 * 2 * ROW });
  }
  const rowOf = async (): Promise<number> => (await device.readFloats(x, 1))[0] ?? NaN;
  for (const [repeat, expected] of [[1, ROW], [3, 0], [2, 0]] as const) {
    const profile = new Map<string, number>();
    await plan.run({ repeat, profile });
    assert.equal(await rowOf(), expected);
    if (!device.features.has("timestamp-query")) continue;
    assert.deepEqual([...profile.keys()].sort(), ["even", "odd"]);
    assert.ok([...profile.values()].every((seconds) => seconds >= 0 && seconds < 60), String([...profile]));
  }
  await assert.rejects(plan.run({ profile: new Map(), signal: AbortSignal.abort(new Error("enough")) }), /enough/);
  assert.equal(await rowOf(), 0);
});

Deno.test("a plan on a dry device has the length and the bytes of another, and no bind groups", async () => {
  const taken = (device: Device): readonly number[] => {
    using x = device.createBuffer("x", 4 * 64), y = device.createBuffer("y", 4 * 64);
    using plan = new Plan(device);
    for (let time = 0; time < 3; time++) {
      plan.repeat("copy", () => {
        recordCopyRows(plan, { order: x, x, y }, { rows: 1, width: 64, first: 0, direction: "gather" });
        plan.clear(x);
      });
    }
    plan.finish();
    return [plan.length, device.bytes, device.liveCount];
  };
  using real = await openDevice();
  using dry = openDryDevice({ isCpu: real.facts.isCpu });
  dry.gpu.createBindGroup = () => assert.fail("a bind group");
  assert.deepEqual(taken(dry), taken(real));
});

Deno.test("training on a dry device makes no data: nothing is written for a step, nor for LoRA", async () => {
  using device = openDryDevice({ isCpu: true });
  const read = (): never => assert.fail("weights were read");
  using model = await loadModelFrom({ spec: SPEC, read, storedDtype: () => "f32" }, { device });
  const written: string[] = [];
  device.write = ({ label }) => void written.push(label);
  const lora = { rank: 4, alpha: 8, targets: ["q"] } as const, shape = { batch: 2, seq: 16 };
  using trainer = new Trainer(model, { ...shape, seed: 1, lora, table: unitTable(SPEC, ["kv", "ffn"]) });
  assert.ok(!written.includes("lora: params"), written.join(", "));
  written.length = 0;
  const batch = { tokens: new Uint32Array(32), labels: new Int32Array(32), realTokens: 32, labelTokens: 32 };
  for (const kind of ["lora", "masks"] as const) await trainer.step(kind, batch, { state: IDLE_STATE });
  assert.deepEqual(written, []);
  assert.ok((await trainer.save()).lora.every((value) => value === 0));
});
