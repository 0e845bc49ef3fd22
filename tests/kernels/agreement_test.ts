// KL divergence, first choices, losses and dropped mass of two models' logits, against f64 sums.
import assert from "node:assert/strict";
import { agreementKernel } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { assertValues, type Cell, type Dense, dense as randomMatrix, denseOf, lay, STALE } from "./helpers/cells.ts";

const device: Device = await openDevice();
const VALUES = ["divergence", "same", "loss", "dense loss", "dropped"] as const;
/** Logits of padding columns; if they counted, they would be the most likely. */
const PADDING = 50;
/** The chunk is not the first. */
const FIRST = 3;

interface Case {
  readonly own: Dense;
  readonly dense: Dense;
  /** Columns (own, dense) that both have; null if all are the same. */
  readonly pairs: readonly (readonly [number, number])[] | null;
  readonly lanes: 8 | 256;
}

const targetOf = ({ own, pairs }: Case, row: number): readonly [number, number] => {
  const same = (7 * row) % own.cols;
  return pairs?.[(5 * row) % pairs.length] ?? [same, same];
};

async function run(test: Case): Promise<Float32Array> {
  const { own, dense, pairs, lanes } = test, { rows } = own, tokens = FIRST + rows;
  const targets = new Int32Array(tokens).fill(-1), denseTargets = new Int32Array(tokens).fill(-1);
  for (let row = 0; row < rows; row++) {
    [targets[FIRST + row] = -1, denseTargets[FIRST + row] = -1] = targetOf(test, row);
  }
  const logits = ({ cols, values }: Dense): Float32Array<ArrayBuffer> =>
    lay(values, { rows, cols, stride: strideOf(cols), fill: PADDING });
  using targetBuffer = device.uploadBuffer("targets", targets);
  using denseTargetBuffer = device.uploadBuffer("dense targets", denseTargets);
  using pairBuffer = device.uploadBuffer("pairs", Uint32Array.from(pairs ? pairs.flat() : [0, 0]));
  using denseBuffer = device.uploadBuffer("dense", logits(dense));
  using ownBuffer = device.uploadBuffer("logits", logits(own));
  using out = device.uploadBuffer("agreement", new Float32Array(tokens * VALUES.length).fill(STALE));
  using plan = new Plan(device);
  const params = [strideOf(own.cols), own.cols, strideOf(dense.cols), dense.cols, pairs?.length ?? 0, FIRST];
  plan.dispatch(
    compileKernel(device, agreementKernel(lanes)),
    [targetBuffer, denseTargetBuffer, pairBuffer, denseBuffer, ownBuffer, out, { params: params.map(u32) }],
    { groups: [rows] },
  );
  await plan.run();
  return await device.readFloats(out, tokens * VALUES.length);
}

function softmax(logits: readonly number[]): { readonly lse: number; readonly first: number } {
  const top = Math.max(...logits);
  return {
    lse: top + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - top), 0)),
    first: logits.indexOf(top),
  };
}

/** The values of a row in f64. */
function oracle(test: Case, row: number): readonly number[] {
  const { own, dense, pairs } = test,
    of = ({ cols, at }: Dense): number[] => Array.from({ length: cols }, (_, column) => at(row, column));
  const y = of(own), d = of(dense), common = pairs ?? y.map((_, column) => [column, column] as const);
  const p = common.map(([column]) => y[column] ?? NaN), q = common.map(([, column]) => d[column] ?? NaN);
  const [pAll, qAll, pIn, qIn] = [softmax(y), softmax(d), softmax(p), softmax(q)];
  const divergence = q.reduce((sum, value, i) => {
    const share = Math.exp(value - qIn.lse);
    return share > 0 ? sum + share * (value - qIn.lse - ((p[i] ?? NaN) - pIn.lse)) : sum;
  }, 0);
  const [target, denseTarget] = targetOf(test, row);
  return [
    divergence,
    pIn.first === qIn.first ? 1 : 0,
    pAll.lse - (y[target] ?? NaN),
    qAll.lse - (d[denseTarget] ?? NaN),
    1 - Math.exp(qIn.lse - qAll.lse),
  ];
}

async function check(test: Case, what: string): Promise<Float32Array> {
  const got = await run(test), n = VALUES.length;
  const wanted = Array.from({ length: test.own.rows }, (_, row) => oracle(test, row));
  // Logits up to 6: f32's exp and log err by some 2⁻²⁰ of them.
  const bound = (value: number): number => VALUES[value] === "same" ? 0 : 2 ** -16;
  assertValues(got, {
    what: `${what}, ${test.lanes} lanes (value index mod 5: ${VALUES.join(", ")})`,
    want: (index): Cell => {
      const row = Math.floor(index / n) - FIRST, value = index % n;
      return row < 0 ? { value: STALE, bound: 0 } : { value: wanted[row]?.[value] ?? NaN, bound: bound(value) };
    },
  });
  return got;
}

for (const lanes of [8, 256] as const) {
  Deno.test(`the agreement of two models is that of f64 for every size, ${lanes} lanes`, async () => {
    for (const [rows, cols] of [[1, 1], [65, 63], [3, 64], [4, 65], [2, 257], [3, 1030]] as const) {
      const own = randomMatrix(rows, cols, { seed: cols, size: 6 });
      const dense = randomMatrix(rows, cols, { seed: 9, size: 4 });
      await check({ own, dense, pairs: null, lanes }, `${rows} × ${cols}`);
    }
  });

  Deno.test(`models of different vocabularies are compared over their common tokens, ${lanes} lanes`, async () => {
    for (
      const [rows, cols, denseCols, step] of [[3, 5, 9, 2], [2, 257, 1030, 4], [4, 63, 64, 1], [2, 3, 2, 3]] as const
    ) {
      const own = randomMatrix(rows, cols, { seed: cols, size: 6 });
      const dense = randomMatrix(rows, denseCols, { seed: 5, size: 5 });
      // Not all own columns are paired, and the dense ones are in another order.
      const pairs = Array.from({ length: Math.ceil(cols / step) }, (_, i) => [i * step, denseCols - 1 - i] as const)
        .filter(([, column]) => column >= 0);
      await check({ own, dense, pairs, lanes }, `${rows} × ${cols} of ${denseCols}`);
    }
  });

  Deno.test(`equal logits have a KL of exactly 0, and the first of equal choices counts, ${lanes} lanes`, async () => {
    const own = randomMatrix(3, 301, { seed: 4, size: 8 }),
      pairs = Array.from({ length: 301 }, (_, i) => [i, i] as const);
    for (const common of [null, pairs]) {
      const got = await check({ own, dense: own, pairs: common, lanes }, "equal logits");
      for (let row = 0; row < 3; row++) assert.deepEqual([...got.subarray((FIRST + row) * 5).subarray(0, 2)], [0, 1]);
    }
    // Ties: the dense model's first choice is column 2, and so is the first row's; the second's is 1.
    const ties = (rows: readonly (readonly number[])[]): Dense =>
      denseOf(
        rows.length,
        21,
        Float32Array.from(
          rows.flatMap((at) => Array.from({ length: 21 }, (_, column) => at.includes(column) ? 3 : -1)),
        ),
      );
    const got = await check(
      { own: ties([[2, 5, 20], [1, 2]]), dense: ties([[2, 20], [2, 3]]), pairs: null, lanes },
      "ties",
    );
    assert.deepEqual([got[FIRST * 5 + 1], got[(FIRST + 1) * 5 + 1]], [1, 0]);
  });
}

Deno.test("agreement leaves no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
