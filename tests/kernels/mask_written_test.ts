// Masks that were written in place of a sample, as the update is told of them: against the unit table itself.
import { maskWritten } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { packTables } from "../../lib/masks/tables.ts";
import { unitTable } from "../../lib/units/table.ts";
import { decoder, GROUPED, LAYER_KINDS, UNEVEN } from "../units/helpers/decoders.ts";
import { assertCells, type Cell, random, STALE } from "./helpers/cells.ts";
import { nameOf } from "./helpers/mask_rig.ts";

const device: Device = await openDevice();
const TABLES = [
  ...LAYER_KINDS.map((kinds) => unitTable(UNEVEN, kinds)),
  unitTable(GROUPED, ["heads", "ffn", "hidden", "layers"], { protect: [1] }),
  unitTable(decoder([{ heads: 6, kvHeads: 2, ffn: 300 }, { heads: 65, kvHeads: 5, ffn: 1 }]), ["kv", "ffn"]),
];

Deno.test("mask_written gives each unit the z of its first slot, no slope, and leaves P(z > 0)", async () => {
  for (const table of TABLES) {
    const units = table.count, before = random(4 * (units + 1), 2).fill(STALE, 4 * units);
    const z = random(table.layout.count, 3);
    using tables = device.uploadBuffer("tables", packTables(table));
    using slots = device.uploadBuffer("slots", z);
    using draws = device.uploadBuffer("draws", before);
    using plan = new Plan(device);
    plan.dispatch(compileKernel(device, maskWritten), [tables, slots, draws, { params: [u32(units)] }], {
      groups: [Math.ceil(units / 64)],
    });
    await plan.run();
    assertCells(await device.readFloats(draws, 4 * (units + 1)), {
      what: nameOf(table),
      rows: units + 1,
      stride: 4,
      want(unit, part): Cell {
        const own = unit < table.ranges.layers.first ? z[table.slotFirst[unit] ?? NaN] ?? NaN : 1;
        const stays = before[4 * unit + part] ?? NaN, values = [own, 0, stays, 0];
        return { value: unit === units ? stays : values[part] ?? NaN, bound: 0 };
      },
    });
  }
});
