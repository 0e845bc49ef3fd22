// LoRA cut like its weights: the sliced model with it beside computes what the one with LoRA merged does, in PEFT's format too.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { readPeftAdapter, writePeftAdapter } from "../../lib/local/adapter.ts";
import { type DecoderSpec, layersAlike, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { padded } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { padLora, sliceLora } from "../../lib/slice/lora.ts";
import { generate } from "../../lib/generate/generate.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { refuses, rejects } from "../refuses.ts";
import { distance } from "../golden/helpers/golden.ts";
import {
  LOGIT_TOLERANCE,
  logitsOf,
  NAMES,
  openSource,
  randomLora,
  randomMasks,
  randomSource,
  someTokens,
} from "./helpers.ts";

const device: Device = await openDevice();
const KINDS = ["head", "ffn", "hidden"] as const;

Deno.test("the sliced model with the sliced LoRA beside it gives the logits of the merged one", async () => {
  for (const [index, name] of NAMES.entries()) {
    const base = await openSource(name), { spec } = base, lora = randomLora(spec, { seed: 7 });
    for (const soft of [false, true]) {
      const masks = randomMasks(spec, { seed: 20 + index, kinds: KINDS, soft });
      const wanted = await logitsOf(device, sliceModel(base, { masks, lora }));
      const bare = sliceModel(base, { masks }), own = sliceLora(spec, { masks, lora });
      const { relative } = distance(name, await logitsOf(device, bare, { lora: own }), wanted);
      assert.ok(relative < LOGIT_TOLERANCE, `${name}, soft ${soft}: ${relative}`);
      const without = distance(name, await logitsOf(device, bare), wanted);
      assert.ok(without.relative > 0.05, `LoRA matters: ${without.relative}`);
    }
  }
});

Deno.test("a padded model takes the padded LoRA, and PEFT's files hold it", async () => {
  const layers = [{ heads: 6, kvHeads: 3, ffn: 20 }, { heads: 6, kvHeads: 3, ffn: 24 }, {
    heads: 6,
    kvHeads: 3,
    ffn: 8,
  }];
  const base = randomSource({ ...(await openSource("gqa_llama3")).spec, layers } satisfies DecoderSpec),
    { spec } = base;
  const lora = randomLora(spec, { seed: 3 }), head = new Float32Array(18).fill(1), ffn = new Float32Array(52).fill(1);
  head.set([0, 1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0, 0]); // the second layer loses its attention, groups of the first become uneven
  ffn.fill(0, 44); // the third its FFN
  const masks = { head, ffn }, wanted = await logitsOf(device, sliceModel(base, { masks, lora }));
  const compact = sliceModel(base, { masks }), own = sliceLora(spec, { masks, lora });
  const folder = await Deno.makeTempDir();
  try {
    for (
      const [name, source, config] of [
        ["compact", compact, own],
        ["padded", padded(compact), padLora(compact.spec, own)],
      ] as const
    ) {
      const { weights, ...settings } = config, path = `${folder}/${name}`;
      await writePeftAdapter(path, {
        spec: source.spec,
        config: settings,
        weights,
        baseModel: "base",
        readme: "For base.",
      });
      assert.equal(await Deno.readTextFile(`${path}/README.md`), "For base.");
      const read = await readPeftAdapter(path, source.spec);
      const logits = await logitsOf(device, source, { lora: { ...read.config, weights: read.weights } });
      const { relative } = distance(name, logits, wanted);
      assert.ok(relative < LOGIT_TOLERANCE, `${name}: ${relative}`);
    }
    assert.ok(!layersAlike(compact.spec) && layersAlike(padded(compact).spec));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("targets say which LoRA there is: merged, cut, beside the model and in files others are refused, and fewer", async () => {
  const base = await openSource("gqa_llama3"), { spec } = base, all = randomLora(spec, { seed: 8 });
  using model = await loadModelFrom(base, { device, baseDtype: "f32" });
  const tokens = someTokens(spec), { weights, ...settings } = all, dir = "not/written";
  const calls = (lora: typeof all): (() => unknown)[] => [
    () => sliceModel(base, { lora }),
    () => sliceLora(spec, { masks: {}, lora }),
    () => model.logits(tokens, { lora }),
    () => Array.fromAsync(generate(model, tokens, { maxTokens: 1, adapters: { lora } })),
    () => verifySliced(base, base, { device, adapters: { lora }, tokens: [tokens] }),
    () => writePeftAdapter(dir, { spec, config: { ...settings, targets: lora.targets }, weights, baseModel: null }),
  ];
  for (const call of calls({ ...all, targets: ["q", "down"] })) {
    await rejects((async () => await call())(), "input", { value: "lora.0.k.A" });
  }
  const without = PROJECTIONS.filter((projection) => projection !== "k");
  const few = new Map([...weights].filter(([name]) => !name.includes(".k.")));
  refuses(() => sliceModel(base, { lora: { ...all, weights: few } }), "input", { names: "lora.0.k.A" });
  const wanted = await model.logits(tokens, { lora: { ...all, targets: without, weights: few } });
  for (const lora of [{ ...all, targets: without, weights: few }, { rank: all.rank, alpha: all.alpha, weights: few }]) {
    const { relative } = distance("few", await logitsOf(device, sliceModel(base, { lora })), wanted);
    assert.ok(relative < LOGIT_TOLERANCE, String(relative));
  }
});

Deno.test("LoRA of another model is refused by the name of its matrix", async () => {
  const { spec } = await openSource("gqa_llama3"), lora = randomLora(spec, { seed: 1 });
  lora.weights.get("lora.1.k.B")?.fill(1);
  const weights = new Map(lora.weights).set("lora.1.k.B", new Float32Array(3));
  refuses(() => sliceLora(spec, { masks: {}, lora: { ...lora, weights } }), "input", { names: "LoRA" });
  device[Symbol.dispose]();
});
