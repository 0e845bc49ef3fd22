// A process that works on the tiny experiment beside others; it prints the names of the cells that it begins and ends.
import { openDevice } from "../../lib/gpu/device.ts";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { runExperiment } from "../../lib/experiment/run.ts";
import { TINY } from "./tiny.ts";

const [out = ""] = Deno.args;
using device = await openDevice();
let last: string | null = null;
const end = (): void => {
  if (last !== null) console.log(`end ${last}`);
};
const { left, failed } = await runExperiment(defineExperiment(TINY), {
  device,
  out,
  shared: { takeOverAfter: 4 },
  onCell: ({ name }) => {
    end();
    last = name;
    console.log(`begin ${name}`);
  },
});
end();
if (left > 0 || failed.length > 0) Deno.exit(1);
