// Rows and columns picked from another source.
import assert from "node:assert/strict";
import type { RowRange, WeightSource } from "../../lib/spec/source.ts";
import { type DecoderSpec, EMBEDDING, FINAL_NORM } from "../../lib/spec/decoder.ts";
import { remapSource } from "../../lib/slice/remap.ts";

function bare(vocab: number, hidden: number): DecoderSpec {
  return {
    vocab,
    hidden,
    headDim: 2,
    layers: [],
    normEps: 1e-5,
    rope: { base: 1e4, scaling: { kind: "none" } },
    tied: true,
    maxPosition: 8,
    bosId: null,
    eosIds: [],
    padId: null,
  };
}

/** Element [row, col] of the embedding is row + col / hidden; `reads` gets what was asked for. */
function counting(spec: DecoderSpec, reads: RowRange[]): WeightSource {
  return {
    spec,
    storedDtype: () => "f16",
    read(_name, rows = { start: 0, count: spec.vocab }): Promise<Float32Array<ArrayBuffer>> {
      reads.push(rows);
      const out = new Float32Array(rows.count * spec.hidden);
      for (let i = 0; i < out.length; i++) out[i] = rows.start + i / spec.hidden;
      return Promise.resolve(out);
    },
  };
}

Deno.test("remapSource() picks rows in any order, repeats them, leaves zeros, and scales", async () => {
  const reads: RowRange[] = [];
  const source = remapSource(counting(bare(8, 4), reads), bare(9, 3), () => ({
    from: EMBEDDING,
    rows: Int32Array.of(5, 5, 6, 2, -1, 7, 0, 1, 0),
    cols: Int32Array.of(3, -1, 1),
    rowScale: Float64Array.of(1, 2, 1, 1, 1, 1, 1, 1, 4),
    colScale: Float64Array.of(1, 1, 10),
  }));
  const row = (index: number, scale = 1): number[] => [(index + 0.75) * scale, 0, (index + 0.25) * 10 * scale];
  const wanted = [row(5), row(5, 2), row(6), row(2), [0, 0, 0], row(7), row(0), row(1), row(0, 4)];
  assert.deepEqual([...await source.read(EMBEDDING)], wanted.flat());
  assert.deepEqual(reads, [{ start: 5, count: 2 }, { start: 2, count: 6 }, { start: 0, count: 2 }, {
    start: 0,
    count: 1,
  }]);
  assert.deepEqual([...await source.read(EMBEDDING, { start: 3, count: 3 })], wanted.slice(3, 6).flat());
  assert.equal(source.storedDtype(EMBEDDING), "f32");
});

Deno.test("remapSource() adds a low-rank update before rows and columns are picked", async () => {
  const source = remapSource(counting(bare(4, 2), []), bare(2, 1), () => ({
    from: EMBEDDING,
    rows: Int32Array.of(3, 1),
    cols: Int32Array.of(1),
    lowRank: { rank: 2, scale: 0.5, a: Float32Array.of(1, 2, 3, 4), b: Float32Array.of(0, 0, 1, 2, 0, 0, 5, 6) },
  }));
  // Row 3, column 1: 3.5 + 0.5·(5·2 + 6·4); row 1: 1.5 + 0.5·(1·2 + 2·4).
  assert.deepEqual([...await source.read(EMBEDDING)], [20.5, 6.5]);
});

Deno.test("remapSource() reads wide tensors in pieces without large gaps, and passes on what is not changed", async () => {
  const reads: RowRange[] = [];
  const hidden = 1 << 20; // four rows are a piece
  const base = counting(bare(10, hidden), reads);
  const rows = Int32Array.of(0, 1, 2, 3, 4, 5, 7, 9);
  const source = remapSource(base, bare(8, hidden), (from) => from === FINAL_NORM ? { from } : { from, rows });
  const values = await source.read(EMBEDDING);
  assert.deepEqual(Array.from(rows, (_, i) => values[i * hidden]), [...rows]);
  assert.deepEqual(reads, [[0, 4], [4, 2], [7, 1], [9, 1]].map(([start, count]) => ({ start, count })));
  await source.read(FINAL_NORM, { start: 2, count: 3 });
  assert.deepEqual(reads.at(-1), { start: 2, count: 3 });
  assert.equal(source.storedDtype(FINAL_NORM), "f16");
});
