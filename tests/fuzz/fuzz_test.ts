// Mutants of every format that a verb reads: each is read or refused by a CompressoError, in bounded time and memory. More of them: deno task fuzz
import assert from "node:assert/strict";
import { fuzz } from "./fuzz.ts";
import { FORMATS } from "./mutants.ts";

const SEED = 1;
/** Mutants of formats whose reading takes milliseconds: of many files, of large ones, and by requests. */
const COUNTS: Readonly<Record<string, number>> = {
  ...{ "run folder and records": 500, evaluation: 500, experiment: 500 },
  ...{ "large packed rows": 18, "large GGUFs of blocks": 16 },
  ...{ "the Hub's answers to a download": 40, "the Hub's answers to a look": 40, "the Hub's answers to a push": 40 },
};

for (const { name } of FORMATS) {
  const count = COUNTS[name] ?? 2000;
  Deno.test(`${count} mutants of ${name} are read or refused by a named error`, async () => {
    const { accepted, refused, wrong } = await fuzz(name, { seed: SEED, count });
    const told = wrong.slice(0, 5).map(({ number, what }) => `mutant ${number} of seed ${SEED}: ${what}`);
    assert.equal(wrong.length, 0, told.join("\n"));
    assert.equal(accepted + refused, count);
    // A mutator that breaks everything or nothing would test little.
    assert.ok(accepted >= count / 200, `only ${accepted} are accepted`);
    if (name !== "tuning table") assert.ok(refused >= count / 20, `only ${refused} are refused`);
  });
}

Deno.test("a mutant that hangs, one that fills memory and a foreign exception are seen", async () => {
  const told: Readonly<Record<string, RegExp>> = {
    "hang for the test": /takes longer than/,
    "bomb for the test": /takes more than/,
    "throw for the test": /TypeError/,
    "rejection for the test": /an unhandled rejection/,
  };
  for (const [name, what] of Object.entries(told)) {
    const { wrong } = await fuzz(name, {
      seed: SEED,
      count: 1,
      mib: 400,
      ...(name.startsWith("hang") ? { seconds: 2 } : {}),
    });
    assert.match(wrong.map((one) => one.what).join("\n"), what);
  }
});
