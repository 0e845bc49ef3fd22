// Log-probabilities of targets and of the most likely tokens, against a sort and f64 sums.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { recordTopLogits } from "../../lib/nn/ops.ts";
import { assertValues, type Cell, type Dense, dense, denseOf, lay, ROUND, STALE } from "./helpers/cells.ts";

const device: Device = await openDevice();
/** Logits of padding columns; if they counted, they would be the most likely. */
const PADDING = 11;

interface Case {
  readonly logits: Dense;
  readonly targets: readonly number[];
  readonly firstRow?: number;
  readonly top: number;
}

interface Outcome {
  readonly chosen: Float32Array;
  readonly ids: Uint32Array;
  readonly values: Float32Array;
}

async function run({ logits, targets, firstRow = 0, top }: Case): Promise<Outcome> {
  const { rows, cols: vocab, values } = logits, stride = strideOf(vocab), tokens = firstRow + rows + 1;
  const wanted = new Int32Array(tokens).fill(-1);
  wanted.set(targets, firstRow);
  using targetBuffer = device.uploadBuffer("targets", wanted);
  using logitBuffer = device.uploadBuffer("logits", lay(values, { rows, cols: vocab, stride, fill: PADDING }));
  using chosen = device.uploadBuffer("chosen", new Float32Array(tokens).fill(STALE));
  using ids = device.uploadBuffer("ids", new Uint32Array(tokens * Math.max(1, top)).fill(STALE));
  using best = device.uploadBuffer("values", new Float32Array(tokens * Math.max(1, top)).fill(STALE));
  using plan = new Plan(device);
  recordTopLogits(plan, { targets: targetBuffer, logits: logitBuffer, chosen, ids, values: best }, {
    rows,
    stride,
    vocab,
    firstRow,
    top,
  });
  await plan.run();
  const bytes = 4 * tokens * Math.max(1, top);
  const [chosenBytes, idBytes, valueBytes] = await device.read([
    { buffer: chosen, bytes: 4 * tokens },
    { buffer: ids, bytes },
    { buffer: best, bytes },
  ]);
  return {
    chosen: new Float32Array(chosenBytes ?? new ArrayBuffer(0)),
    ids: new Uint32Array(idBytes ?? new ArrayBuffer(0)),
    values: new Float32Array(valueBytes ?? new ArrayBuffer(0)),
  };
}

/** Ids in the kernel's order with their log-probabilities in f64. */
function ranked(row: Float32Array): { readonly id: number; readonly p: number }[] {
  const peak = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - peak), 0));
  return [...row].map((logit, id) => ({ id, p: logit - peak - total })).sort((a, b) => b.p - a.p || a.id - b.id);
}

async function check(test: Case): Promise<void> {
  const { logits: { rows, cols: vocab, values }, targets, firstRow = 0, top } = test;
  const what = `top ${top} of ${rows} × ${vocab} from row ${firstRow}`, got = await run(test);
  const order = Array.from({ length: rows }, (_, row) => ranked(values.subarray(row * vocab, (row + 1) * vocab)));
  // exp errs by (3 + 2·|x|) ulp, |x| ≤ 12, which is the logarithm's absolute error; itself it errs by 2⁻²¹ or 3 ulp.
  const bound = (p: number): number => 80 * ROUND + 2 ** -21 + 8 * ROUND * Math.abs(p);
  assertValues(got.chosen, {
    what: `log-probabilities of targets, ${what}`,
    want(token): Cell {
      const row = token - firstRow, target = targets[row];
      if (row < 0 || target === undefined) return { value: STALE, bound: 0 };
      const p = order[row]?.find(({ id }) => id === target)?.p ?? 0;
      return { value: p, bound: target < 0 ? 0 : bound(p) };
    },
  });
  if (top === 0) return;
  const entry = (index: number): { id: number; p: number } | undefined =>
    order[Math.floor(index / top) - firstRow]?.[index % top];
  got.ids.forEach((id, index) => assert.equal(id, entry(index)?.id ?? STALE, `id ${index}, ${what}`));
  assertValues(got.values, {
    what: `log-probabilities of the most likely, ${what}`,
    want(index): Cell {
      const p = entry(index)?.p;
      return p === undefined ? { value: STALE, bound: 0 } : { value: p, bound: bound(p) };
    },
  });
}

Deno.test("recordTopLogits() ranks every vocabulary as a sort does, without its padding", async () => {
  for (
    const [rows, vocab, top] of [
      [1, 1, 1],
      [2, 2, 2],
      [3, 63, 5],
      [4, 64, 1],
      [2, 65, 65],
      [3, 255, 20],
      [2, 257, 3],
      [3, 1030, 7],
    ] as const
  ) {
    const logits = dense(rows, vocab, { seed: vocab, size: 6 });
    await check({ logits, targets: Array.from({ length: rows }, (_, row) => (row * 37 + vocab - 1) % vocab), top });
  }
});

Deno.test("recordTopLogits() leaves other chunks alone, and rows without a target at 0", async () => {
  const logits = dense(5, 83, { seed: 3, size: 4 });
  await check({ logits, targets: [-1, 0, -1, 82, 41], firstRow: 9, top: 4 });
  await check({ logits, targets: [7, -1, -1, -1, 3], top: 0 });
});

Deno.test("recordTopLogits() gives the lowest ids first among equals, and the bits of a target that is one of them", async () => {
  const row = Float32Array.from({ length: 600 }, (_, id) => id % 100 === 7 ? 3 : -(id % 5));
  await check({ logits: denseOf(1, 600, row), targets: [307], top: 9 });
  const { chosen, ids, values } = await run({ logits: denseOf(1, 600, row), targets: [307], top: 6 });
  assert.deepEqual([...ids.subarray(0, 6)], [7, 107, 207, 307, 407, 507]);
  for (const value of values.subarray(0, 6)) assert.equal(value, chosen[0]);
});

Deno.test("recordTopLogits() loses nothing to an offset that all logits share", async () => {
  const near = dense(3, 83, { seed: 5 }).values.map((value) => Math.round(value * 128) / 32);
  for (const offset of [0, 4096, -4096]) {
    await check({ logits: denseOf(3, 83, near.map((value) => value + offset)), targets: [0, 5, 82], top: 3 });
  }
});

Deno.test("the log-probabilities leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
