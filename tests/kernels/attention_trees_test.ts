// Attention and RoPE over token trees: each node as in the sequence of its ancestors alone, by the f64 oracle.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { AttentionScratch, recordAttention } from "../../lib/nn/attention.ts";
import { recordRope } from "../../lib/nn/rope.ts";
import { ropeTable } from "../../lib/spec/rope.ts";
import { createTreeBuilder, type Sequence, type TokenTree, treeSpans } from "../../lib/nn/token_tree.ts";
import { attentionOracle } from "./helpers/attention_oracle.ts";

// As in attention_test.ts: scores are sums of up to 64 f32 products.
const TOLERANCE = 2e-5;

/** Sequences with a common beginning, with beginnings within it, and alone; `tail` tokens in each. */
function someTrees(tail: number): TokenTree {
  const builder = createTreeBuilder();
  const prefix = Array.from({ length: 2 * tail + 1 }, (_, index) => index);
  const choice = (first: number): number[] => Array.from({ length: tail }, (_, index) => first + index);
  const add = (sequence: Sequence): void => builder.add(sequence, builder.shared(sequence));
  add({ prefix, choice: choice(100) });
  add({ prefix, choice: [...choice(100), 7, 8] });
  add({ prefix, choice: [100, 101, 9, 9] });
  add({ prefix, choice: [5] });
  add({ prefix: [50], choice: choice(60) });
  add({ prefix: [51], choice: [60, 61, 62] });
  add({ prefix: [51, 60], choice: [70] });
  return builder.finish();
}

Deno.test("a tree holds what sequences share once, and every node knows its root and where its subtree ends", () => {
  const builder = createTreeBuilder();
  const shared: number[] = [];
  for (const [prefix, choice] of [[[1, 2], [3, 4]], [[1, 2], [3, 5]], [[1, 2], [6]], [[9], [1]]] as const) {
    shared.push(builder.shared({ prefix, choice }));
    builder.add({ prefix, choice }, shared.at(-1) ?? 0);
  }
  const { tokens, positions, spans, edgeNodes, edgeTokens, paths } = builder.finish();
  assert.deepEqual(shared, [0, 3, 2, 0]);
  assert.deepEqual([...tokens], [1, 2, 3, 9], "the last token of a sequence is not read");
  assert.deepEqual([...positions], [0, 1, 2, 0]);
  assert.deepEqual([...spans], [0, 3, 0, 3, 0, 3, 3, 4]);
  assert.deepEqual([...edgeNodes].map((node, edge) => [node, edgeTokens[edge]]), [[1, 3], [2, 4], [2, 5], [1, 6], [
    3,
    1,
  ]]);
  assert.deepEqual(paths, [[0, 1], [0, 2], [3], [4]]);
});

for (const variant of ["lanes", "texture", "workgroup"] as const) {
  Deno.test(`attention over trees equals that of each node's own sequence with the variant '${variant}'`, async () => {
    using device = await openDevice();
    using scratch = new AttentionScratch(device);
    // One node more than a block of queries has, and several blocks.
    for (const [tail, heads, kvHeads, headDim] of [[23, 3, 1, 64], [11, 8, 4, 16]] as const) {
      const tree = someTrees(tail),
        { spans } = tree,
        seq = tree.tokens.length,
        shape = { batch: 1, seq, heads, kvHeads, headDim };
      const q = values(seq * heads * headDim, 1), k = values(seq * kvHeads * headDim, 2);
      const v = values(seq * kvHeads * headDim, 3);
      const padded = (data: Float32Array, width: number): Float32Array<ArrayBuffer> => {
        const stride = Math.ceil(width / 64) * 64, out = new Float32Array(Math.ceil(seq / 32) * 32 * stride);
        for (let row = 0; row < seq; row++) out.set(data.subarray(row * width, (row + 1) * width), row * stride);
        return out;
      };
      using pool = new DisposableStack();
      const upload = (data: Float32Array, width: number) => pool.use(device.uploadBuffer("test", padded(data, width)));
      const buffers = {
        q: upload(q, heads * headDim),
        k: upload(k, kvHeads * headDim),
        v: upload(v, kvHeads * headDim),
        o: upload(new Float32Array(q.length).fill(7), heads * headDim),
        lse: pool.use(device.uploadBuffer("lse", new Float32Array(heads * seq))),
      };
      const width = heads * headDim, stride = Math.ceil(width / 64) * 64;
      const check = (window: number | undefined, got: Float32Array): void => {
        for (let node = 0; node < seq; node++) {
          const path = Array.from({ length: node + 1 }, (_, j) => j).filter((j) => node < (spans[2 * j + 1] ?? 0));
          path.splice(0, Math.max(0, path.length - (window ?? Infinity)));
          const gather = (data: Float32Array, size: number): Float64Array =>
            Float64Array.from(path.flatMap((row) => [...data.subarray(row * size, (row + 1) * size)]));
          const inputs = { q: gather(q, width), k: gather(k, kvHeads * headDim), v: gather(v, kvHeads * headDim) };
          const want = attentionOracle({ ...shape, seq: path.length }, inputs).o.subarray((path.length - 1) * width);
          want.forEach((value, column) => {
            const actual = got[node * stride + column] ?? NaN;
            assert.ok(
              Math.abs(actual - value) <= TOLERANCE * (1 + Math.abs(value)),
              `${variant}, tail ${tail}, window ${window}: node ${node}, column ${column}: ${actual}, expected ${value}`,
            );
          });
        }
      };
      for (const window of [undefined, 1, 7, 2 * tail, 1000]) {
        using seen = device.uploadBuffer("spans", treeSpans(tree, seq, window));
        using plan = new Plan(device);
        recordAttention(plan, shape, { ...buffers, ranges: { of: "trees", spans: seen }, variant, scratch });
        await plan.run();
        check(window, await device.readFloats(buffers.o, seq * stride));
      }
    }
  });
}

Deno.test("recordRope() turns each row by its own position", async () => {
  using device = await openDevice();
  const spec = { headDim: 64, rope: { base: 10000, scaling: { kind: "none" } as const } };
  const positions = Uint32Array.of(0, 1, 2, 1, 7, 0, 3), rows = positions.length;
  const x = values(32 * 64, 5);
  using plain = device.uploadBuffer("x", values(32 * 64, 5));
  using buffer = device.uploadBuffer("x", x);
  using cosSin = device.uploadBuffer("table", ropeTable(spec, 8));
  using each = device.uploadBuffer("positions", positions);
  const common = { rows, heads: 1, headDim: 64, stride: 64, cosSin };
  using plan = new Plan(device);
  recordRope(plan, { ...common, seq: rows, buffer, positions: each });
  await plan.run();
  const got = await device.readFloats(buffer, rows * 64);
  // The same row by row, by the kernel that shifts all positions.
  for (const [row, position] of positions.entries()) {
    using shift = device.uploadBuffer("position", Uint32Array.of(position));
    using one = device.uploadBuffer("row", x.slice(row * 64, (row + 1) * 64));
    using single = new Plan(device);
    recordRope(single, { ...common, rows: 1, seq: 1, buffer: one, positionBuffer: shift });
    await single.run();
    assert.deepEqual(got.slice(row * 64, (row + 1) * 64), await device.readFloats(one, 64), `row ${row}`);
  }
  assert.notDeepEqual(got, await device.readFloats(plain, rows * 64));
});

/** Values in about (−2, 2) from a fixed seed. */
function values(length: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length }, (_, index) => 2 * Math.sin((index + 1) * 1.7 * seed + (index % 7)));
}
