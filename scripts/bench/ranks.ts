// Times the sum of gradients over ranks: mpirun -n 4 deno run -A scripts/bench/ranks.ts
// Prints the median of so many sums for each size, in milliseconds, on rank 0.
import { openMpi } from "../../lib/ranks/mpi.ts";

const REPEATS = 15;
const ranks = openMpi();
if (!ranks) {
  console.error("start this by mpirun, on two ranks or more");
  Deno.exit(2);
}
for (const mebibytes of [1, 10, 80]) {
  const values = new Float32Array(mebibytes * 2 ** 18).fill(ranks.rank + 1), times: number[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    await ranks.textOf(0, ""); // all begin together
    const start = performance.now();
    const total = await ranks.sum([values]);
    times.push(performance.now() - start);
    if (total[0] !== ranks.size * (ranks.size + 1) / 2) throw new Error(`a wrong sum: ${total[0]}`);
  }
  times.sort((a, b) => a - b);
  const [median = NaN] = times.slice(REPEATS >> 1);
  if (ranks.rank === 0) {
    const spread = `${times[0]?.toFixed(1)} to ${times.at(-1)?.toFixed(1)}`;
    console.log(`${ranks.size} ranks, ${mebibytes} MiB: ${median.toFixed(1)} ms (${spread})`);
  }
}
await ranks.finish();
