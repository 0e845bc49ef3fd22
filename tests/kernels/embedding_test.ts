// Embedding look-up from every storage of its matrix, across shards.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { createMatrix, writeRows } from "../../lib/nn/products/matrix.ts";
import { recordEmbedding } from "../../lib/nn/ops.ts";
import { assertActivation, type Cell, dense, denseOf, ROUND, staleActivation } from "./helpers/cells.ts";
import { DTYPES, stored as storedValues } from "./helpers/stored.ts";

const device: Device = await openDevice();

for (const placement of ["texture", "buffer"] as const) {
  for (const dtype of DTYPES) {
    Deno.test(`recordEmbedding() copies or scales the tokens' rows from a ${placement} of ${dtype}, whole or in shards`, async () => {
      for (const [vocab, width] of [[1, 1], [63, 3], [64, 63], [150, 64], [150, 65], [150, 300]] as const) {
        for (const maxShardRows of [64, 128, 1024]) {
          const table = dense(vocab, width, { seed: width });
          using matrix = createMatrix(device, "embedding", {
            rows: vocab,
            cols: width,
            dtype,
            placement,
            maxShardRows,
          });
          assert.equal(matrix.shards.length, Math.ceil(vocab / maxShardRows));
          writeRows(device, matrix, 0, table.values);
          const stored = denseOf(vocab, width, storedValues(table.values, { cols: width, dtype }));
          // Both ends of every shard, a repetition, and some rows in no order.
          const ids = [0, 63, 64, 127, 128, 149, 149, 1, 77, 30].map((id) => id % vocab);
          const tokens = Uint32Array.from({ length: 70 }, (_, index) => ids[index % ids.length] ?? 0);
          using tokenBuffer = device.uploadBuffer("tokens", tokens);
          for (const scale of [undefined, Math.fround(25.3)]) {
            using x = staleActivation(device, tokens.length, width);
            using plan = new Plan(device);
            recordEmbedding(plan, matrix, { tokens: tokenBuffer, x }, { rows: tokens.length, scale });
            await plan.run();
            await assertActivation(device, x, {
              what: `${vocab} × ${width}, ${matrix.shards.length} shards, scale ${scale}`,
              rows: tokens.length,
              cols: width,
              want(row, column): Cell {
                const value = stored.at(tokens[row] ?? -1, column) * (scale ?? 1);
                return { value, bound: scale === undefined ? 0 : ROUND * Math.abs(value) };
              },
            });
          }
        }
      }
    });
  }
}

Deno.test("recordEmbedding() leaves no buffer or texture behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
