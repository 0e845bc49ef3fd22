// What belongs to draws, on the command line: refused where nothing is drawn, and there where something is.
import assert from "node:assert/strict";
import { samplingOf } from "../../cli/options/sampling.ts";
import { flagNamed } from "../../cli/options/spelling.ts";
import { assertNames, refuses } from "../refuses.ts";
import { cli, refused } from "./helpers/cli.ts";

Deno.test("what is for draws is refused at temperature 0, a seed too, and draws have the seed 1 by default", () => {
  const cases = [[{ seed: 7 }, "seed"], [{ seed: 0, topK: 3 }, undefined], [{ topP: 0.5 }, "topP"]] as const;
  for (const [options, option] of cases) {
    refuses(() => samplingOf({ temperature: 0, ...options }), "usage", {
      option: option ?? null,
      value: 0,
      names: Object.keys(options).map(flagNamed),
    });
    const { temperature, ...sampling } = samplingOf({ temperature: 0.5, ...options });
    assert.deepEqual(sampling, {
      topK: 0,
      topP: 1,
      repetitionPenalty: 1,
      frequencyPenalty: 0,
      presencePenalty: 0,
      stop: [],
      seed: 1,
      ...options,
    });
    assert.equal(temperature, 0.5);
  }
  assert.equal(samplingOf({ temperature: 0 }).seed, 1);
});

Deno.test("generate and chat refuse a seed that draws nothing, before they load a model", async () => {
  for (const args of [["generate", "absent", "--prompt", "x"], ["chat", "absent"]]) {
    const { fix } = await refused([...args, "--seed", "7"], "usage", { option: "--seed" });
    assertNames(fix ?? "", "--temperature 1");
    const { stdout } = await cli([...args.slice(0, 1), "--help"]);
    assert.match(stdout, /--seed <number>\s.*default: 1\)/);
  }
});
