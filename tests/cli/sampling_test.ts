// What belongs to draws, on the command line: refused where nothing is drawn, and there where something is.
import assert from "node:assert/strict";
import { samplingOf } from "../../cli/options/sampling.ts";
import { cli } from "./helpers/cli.ts";

Deno.test("what is for draws is refused at temperature 0, a seed too, and draws have the seed 1 by default", () => {
  const cases = [
    [
      { seed: 7 },
      /cannot use --seed; expected: .* sampling, which needs a --temperature above 0; got: the temperature is 0/,
    ],
    [{ seed: 0, topK: 3 }, /cannot use --top-k and --seed;/],
    [{ topP: 0.5 }, /cannot use --top-p;/],
  ] as const;
  for (const [options, message] of cases) {
    assert.throws(() => samplingOf({ temperature: 0, ...options }), message);
    const { temperature, ...sampling } = samplingOf({ temperature: 0.5, ...options });
    assert.deepEqual(sampling, { topK: 0, topP: 1, repetitionPenalty: 1, stop: [], seed: 1, ...options });
    assert.equal(temperature, 0.5);
  }
  assert.equal(samplingOf({ temperature: 0 }).seed, 1);
});

Deno.test("generate and chat refuse a seed that draws nothing, before they load a model", async () => {
  for (const args of [["generate", "absent", "--prompt", "x"], ["chat", "absent"]]) {
    const { code, stderr } = await cli([...args, "--seed", "7"]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /cannot use --seed\n.*\n.*\n {2}fix: +add --temperature 1/);
    assert.match(
      (await cli([...args.slice(0, 1), "--help"])).stdout,
      /--seed <number>\s+seed of the sampling \(default: 1\)/,
    );
  }
});
