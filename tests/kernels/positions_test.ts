// Learned position embeddings: which row each token gets, for the three sources of a position.
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { recordPositions } from "../../lib/nn/ops.ts";
import { assertActivation, type Cell, dense, lay, uploadActivation } from "./helpers/cells.ts";

const device: Device = await openDevice();
/** Tokens of a sequence, sequences, width. */
const SIZES = [[1, 1, 1], [3, 2, 63], [5, 1, 64], [7, 3, 65], [2, 4, 257], [1, 9, 300]] as const;
const POSITIONS = 20, OFFSET = 2;

Deno.test("recordPositions() adds the row of each position, past the offset, and leaves padding at zero", async () => {
  for (const [seq, batch, width] of SIZES) {
    const rows = seq * batch, x = dense(rows, width, { seed: 1 }), table = dense(POSITIONS, width, { seed: 2 });
    const listed = Uint32Array.from({ length: rows }, (_, row) => (7 * row + 3) % (POSITIONS - OFFSET));
    for (const kind of ["plain", "offset", "rows"] as const) {
      using tableBuffer = device.uploadBuffer(
        "positions",
        lay(table.values, { rows: POSITIONS, cols: width, stride: strideOf(width) }),
      );
      using xBuffer = uploadActivation(device, x);
      using start = device.uploadBuffer("position", Uint32Array.of(4));
      using each = device.uploadBuffer("positions of rows", listed);
      using plan = new Plan(device);
      recordPositions(plan, { table: tableBuffer, x: xBuffer }, {
        rows,
        width,
        offset: OFFSET,
        seq,
        ...kind === "offset" ? { positionBuffer: start } : kind === "rows" ? { positions: each } : {},
      });
      await plan.run();
      await assertActivation(device, xBuffer, {
        what: `${kind} ${rows} × ${width}`,
        rows,
        cols: width,
        fill: 0,
        want(row, column): Cell {
          const at = { plain: row % seq, offset: row % seq + 4, rows: listed[row] ?? NaN }[kind];
          return { value: Math.fround(x.at(row, column) + table.at(at + OFFSET, column)), bound: 0 };
        },
      });
    }
  }
});

Deno.test("recordPositions() takes the last row for positions past the table", async () => {
  const table = dense(3, 2, { seed: 2 });
  using tableBuffer = device.uploadBuffer("positions", lay(table.values, { rows: 3, cols: 2, stride: strideOf(2) }));
  using x = uploadActivation(device, dense(4, 2, { seed: 1, size: 0 }));
  using plan = new Plan(device);
  recordPositions(plan, { table: tableBuffer, x }, { rows: 4, width: 2, offset: 1, seq: 4 });
  await plan.run();
  await assertActivation(device, x, {
    what: "past the table",
    rows: 4,
    cols: 2,
    fill: 0,
    want: (row, column): Cell => ({ value: table.at(Math.min(row + 1, 2), column), bound: 0 }),
  });
});
