// A hostile Hub: mutated answers to downloads, looks and pushes. Each ends in a named error, or in the right bytes, in bounded time and memory.
import { fuzz } from "../../tests/fuzz/fuzz.ts";
import { HUB_FORMATS } from "../../tests/fuzz/hub_formats.ts";
import { below, type Bounds, type Loop, type Tally } from "./loop.ts";

/** Mutants that are tried at a time. */
const COUNT = 200;

export const HUB: Loop = {
  name: "hub",
  promise: "answers of a hostile Hub end in a named error, or in the right bytes, in bounded time and 600 MiB",
  async run(tally: Tally, { until }: Bounds): Promise<void> {
    const seed = below(2 ** 31);
    tally.count(`(seed ${seed})`);
    for (let from = 0; performance.now() < until; from += COUNT) {
      for (const { name } of HUB_FORMATS) {
        const { accepted, refused, wrong } = await fuzz(name, { seed, from, count: COUNT });
        tally.tries += COUNT;
        tally.count("taken", accepted);
        tally.count("refused", refused);
        for (const { number, what } of wrong) {
          tally.failures.push(`${name}, mutant ${number} of seed ${seed}: ${what}`);
        }
      }
    }
  },
};
