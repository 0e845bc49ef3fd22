// Attacks the promises of docs/evidence/reliability.md in loops, for a bounded time: deno run -A scripts/soak/main.ts [--minutes N] [LOOP…]
import { parseArgs } from "node:util";
import { CHECKPOINTS, FULL_DISKS } from "./disks.ts";
import { KILLS, STOPS } from "./kills.ts";
import { HUB } from "./hub.ts";
import { type Loop, Tally } from "./loop.ts";
import { SIEGE } from "./siege.ts";
import { MUTANTS, SCHEDULES, SERVER } from "./strangers.ts";

const LOOPS: readonly Loop[] = [KILLS, STOPS, FULL_DISKS, CHECKPOINTS, SCHEDULES, SERVER, SIEGE, HUB, MUTANTS];

const { values: { minutes }, positionals } = parseArgs({
  options: { minutes: { type: "string", default: "15" } },
  allowPositionals: true,
});
const chosen = LOOPS.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
if (chosen.length === 0 || !(Number(minutes) > 0)) {
  console.error(
    `usage: main.ts [--minutes N] [LOOP…], where loops are ${LOOPS.map(({ name }) => `"${name}"`).join(", ")}`,
  );
  Deno.exit(2);
}
const share = 60_000 * Number(minutes) / chosen.length;
console.log("| loop | promise | tries | failures | of these |\n| - | - | - | - | - |");
let hasFailed = false;
for (const loop of chosen) {
  const tally = new Tally(), folder = await Deno.makeTempDir({ prefix: "compresso-soak-" });
  let note = "";
  try {
    await loop.run(tally, { until: performance.now() + share, folder });
  } catch (error) {
    note = error instanceof Error ? error.message.split("\n")[0] ?? "" : String(error);
    if (!note.startsWith("not run")) tally.failures.push(note);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  const counts = [...tally.counts].map(([name, count]) => name.startsWith("(") ? name : `${count} ${name}`);
  console.log(
    `| ${loop.name} | ${loop.promise} | ${tally.tries} | ${tally.failures.length} | ${
      [...counts, ...note ? [note] : []].join(", ")
    } |`,
  );
  for (const failure of tally.failures.slice(0, 10)) console.error(`${loop.name}: ${failure}`);
  hasFailed ||= tally.failures.length > 0;
}
Deno.exit(hasFailed ? 1 : 0);
