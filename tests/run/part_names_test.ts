// What slices and plans for programs refuses options and kinds of masks that it does not have: nobody would read them.
import { sliceModel } from "../../mod.ts";
import { sliceLora, uniformMasks } from "../../lib/masks/mod.ts";
import { fits } from "../../lib/run/memory/advice.ts";
import { adviseMemory, planMemory } from "../../lib/run/mod.ts";
import { builtinSchedule } from "../../lib/schedule/mod.ts";
import { rejectsWith } from "../formats/files.ts";
import { randomSource, SPEC } from "../formats/models.ts";

Deno.test("what slices and plans refuses options and kinds of masks that it does not have", async () => {
  const source = randomSource(SPEC), ones = new Float32Array(SPEC.hidden).fill(1);
  const long = { ...SPEC, maxPosition: 512 };
  const lora = { rank: 1, alpha: 1, targets: [], weights: new Map() };
  const calls: readonly (readonly [call: (options: object) => unknown, options: object, said: RegExp])[] = [
    [
      (options) => sliceModel(source, options),
      { mask: {} },
      /'mask'; expected: options of sliceModel are masks, lora; .*mean masks\?/,
    ],
    [
      (masks) => sliceModel(source, { masks }),
      { heads: ones },
      /'heads'; expected: options of masks are head, ffn, hidden; .*mean head\?/,
    ],
    [(masks) => sliceLora(SPEC, { masks, lora }), { fnn: ones }, /'fnn'.*did you mean ffn\?/],
    [
      (options) => uniformMasks(SPEC, {}, { masks: {}, ...options }),
      { targets: 0.2 },
      /'targets'.*did you mean target\?/,
    ],
    [(scores) => uniformMasks(SPEC, scores, { masks: {} }), { hiden: ones }, /'hiden'.*did you mean hidden\?/],
    [
      (options) => planMemory(long, options),
      { bacth: 8 },
      /'bacth'; expected: options of planMemory are .*mean batch\?/,
    ],
    [(options) => planMemory(long, options), { lora: { ranks: 2 } }, /'lora.ranks'.*did you mean lora.rank\?/],
    [
      (options) => adviseMemory(long, options, {}),
      { seq: "64" },
      /'seq'; expected: it is a number; got: the text "64"/,
    ],
    [(budget) => adviseMemory(long, {}, budget), { memory: 1 }, /'memory'.*did you mean memoryLimit\?/],
    [
      async (budget) => fits(await planMemory(long), budget),
      { limit: 1 },
      /expected: options of a memory budget are memoryLimit/,
    ],
    [(options) => builtinSchedule("cubic", options), { warmpu: 0.4 }, /'warmpu'.*did you mean warmup\?/],
  ];
  for (const [call, options, said] of calls) {
    await rejectsWith((async () => await call(options))(), "usage", said);
    await call({});
  }
});
