// The memory plan: equal to what runs take, within reach of every adapter, and followed by advice that helps.
import assert from "node:assert/strict";
import { loadModel, loadModelFrom, openDevice, prune, type PruneOptions, readRows } from "../../mod.ts";
import { fits } from "../../lib/run/memory/advice.ts";
import { adviseMemory, planMemory } from "../../lib/run/mod.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { DEFAULT_LIMITS, openDryDevice } from "../../lib/gpu/dry.ts";
import { demoData, openModelFiles, openSpec } from "../../lib/local/open_model.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import { headRowsFor } from "../../lib/nn/head.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { adapterOf, type MemoryPlan } from "../../lib/run/memory/plan.ts";
import { checkMemory } from "../../lib/run/memory/advice.ts";
import { MEMORY_PARTS, partOfLabel } from "../../lib/gpu/memory_parts.ts";
import { bytesByPart } from "../../lib/run/memory/parts.ts";
import type { MemoryOptions } from "../../lib/run/options/options.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { verifyShape, verifySliced } from "../../lib/slice/verify.ts";
import { shortDemo } from "../demo.ts";
import { sharedDevice } from "../device.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";

const MIB = 2 ** 20;
const SHORT = await shortDemo(), DEMO = await openModelFiles("demo");
const { rows: ROWS } = await readRows(demoData("train"), { limit: 40 });

/** LLaMA-7B as its config.json says. */
const LLAMA_7B = {
  model_type: "llama",
  vocab_size: 32000,
  hidden_size: 4096,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  intermediate_size: 11008,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-6,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** A prune run of the demo with these options, as short as one can be. */
function pruneOptions(options: MemoryOptions): PruneOptions {
  const { batch, accumulate, seq, lora, units, layout, recompute, method, check } = options;
  return {
    rows: ROWS,
    sparsity: 0.3,
    steps: 1,
    prefinetune: 1,
    postfinetune: 1,
    prompt: null,
    ...(batch === undefined ? {} : { batch }),
    ...(accumulate === undefined ? {} : { accumulate }),
    ...(seq === undefined ? {} : { seq }),
    ...(lora ? { lora } : {}),
    ...(units ? { units } : {}),
    ...(layout ? { layout } : {}),
    ...(recompute === undefined ? {} : { recompute }),
    ...(method === undefined ? {} : { method }),
    ...(check === undefined ? {} : { check }),
  };
}

/** Plans for the device at hand and the first two layers of the demo, or a model of this shape. */
async function planFor(device: Device, options: MemoryOptions, spec = SHORT.source.spec): Promise<MemoryPlan> {
  return await planMemory(spec, { ...options, adapter: adapterOf(device) });
}

const SHAPES: readonly (MemoryOptions & { readonly baseDtype: BaseDtype })[] = [
  { batch: 2, seq: 96, baseDtype: "f16", check: "full" },
  { batch: 3, seq: 70, baseDtype: "f32", check: "full", units: ["heads", "ffn", "hidden"], recompute: false },
  { batch: 1, accumulate: 3, seq: 64, baseDtype: "f16", check: "full" },
  { batch: 1, seq: 64, baseDtype: "q4", check: "full", lora: { rank: 4, targets: ["q", "o", "gate", "down"] } },
  { batch: 5, seq: 65, baseDtype: "q8", check: "full", lora: { rank: 16, dropout: 0.1 }, recompute: false },
  { batch: 2, seq: 64, baseDtype: "f16", check: "full", units: ["heads", "ffn"], layout: "uniform" },
  { batch: 2, seq: 64, baseDtype: "f16", check: "full", method: "taylor" },
  { batch: 2, seq: 64, baseDtype: "f16", check: "full", method: "fisher" },
  { batch: 2, seq: 64, baseDtype: "f32", check: "full", method: "flap" },
  { batch: 2, seq: 64, baseDtype: "f16", check: "full", method: "magnitude" },
  { batch: 2, seq: 64, baseDtype: "f16", check: "full", method: "gradual" },
  { batch: 2, seq: 96, baseDtype: "f16", check: "quick" },
];

for (const [index, shape] of SHAPES.entries()) {
  // All layers for the first two; the first two layers for the others.
  const { source, tokenizer } = index < 2 ? DEMO : SHORT;
  Deno.test(`planMemory() is what a run takes to the byte: ${JSON.stringify(shape)}`, async () => {
    const plan = await (async () => {
      const device = await sharedDevice(), planned = await planFor(device, shape, source.spec);
      assert.equal(device.bytes, 0);
      using model = await loadModelFrom(source, { device, tokenizer, baseDtype: shape.baseDtype });
      assert.equal(device.bytes, planned.stages.weights);
      using session = prune(model, pruneOptions(shape));
      const planOfRecords = new Set<number>();
      for await (const { plannedGpuBytes } of session) planOfRecords.add(plannedGpuBytes);
      assert.equal(device.peakBytes, planned.stages.training);
      const uses = device.peakUsage();
      assert.deepEqual(bytesByPart(uses), planned.parts);
      for (const { label } of uses.filter(({ label }) => partOfLabel(label) === "rest")) {
        assert.match(label, /^(params|rope|step state|metrics|sums|ring|read-back|calibration \w+)$/);
      }
      // As slice() does it, without what the trainer holds.
      const { source: base, masks, lora, heldout } = session.result(), adapters = { masks, lora };
      session[Symbol.dispose]();
      device.resetPeak();
      const tokens = heldout, how = { device, adapters, tokens, ...verifyShape(session.options) };
      await verifySliced(base, sliceModel(base, adapters), how);
      // The quick check takes less than measuring a sequence of the batch, which the plan counts too.
      if (shape.check === "full") assert.equal(device.peakBytes, planned.stages.verification);
      else assert.ok(device.peakBytes <= planned.stages.verification);
      assert.deepEqual([...planOfRecords], [planned.peakBytes]);
      return planned;
    })();
    assert.equal(plan.peakBytes, Math.max(plan.stages.training, plan.stages.verification));
    assert.equal(Object.values(plan.parts).reduce((sum, bytes) => sum + bytes, 0), plan.peakBytes);
    assert.deepEqual(Object.keys(plan.parts), Object.keys(MEMORY_PARTS));
    assert.deepEqual(plan.excesses, []);
  });
}

Deno.test("a run without LoRA stages takes at most what is planned, and not a tenth less", async () => {
  const device = await sharedDevice();
  for (const shape of [{ batch: 2, seq: 64 }, { batch: 4, seq: 128, lora: { dropout: 0.1 } }]) {
    const plan = await planFor(device, shape);
    using model = await loadModelFrom(SHORT.source, { device, tokenizer: SHORT.tokenizer });
    device.resetPeak();
    using run = prune(model, { ...pruneOptions(shape), prefinetune: 0 });
    for await (const _ of run);
    assert.ok(device.peakBytes <= plan.peakBytes && device.peakBytes > 0.9 * plan.peakBytes, `${device.peakBytes}`);
  }
});

Deno.test("a plan needs a config.json only, and LLaMA-7B with a q4 base trains on 512 tokens in less than 8 GB", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(LLAMA_7B));
    const spec = await openSpec(folder);
    assert.deepEqual(await openSpec(`${folder}/config.json`), spec);
    const plan = await planMemory(spec, { batch: 1, seq: 512, baseDtype: "q4" });
    assert.ok(plan.peakBytes < 8e9, `${plan.peakBytes}`);
    // 6.48 billion parameters of layers in blocks of 4 bits and a scale, 0.26 billion of embedding and head in 8 bits at least.
    assert.ok(plan.stages.weights > 6.47e9 / 2 + 0.26e9 && plan.stages.weights < 4.5e9, `${plan.stages.weights}`);
    assert.deepEqual(plan.excesses, []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("what is read back at once is no reason to refuse a run, whose LoRA and moments are larger than a buffer may be", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(LLAMA_7B));
    const spec = await openSpec(folder), adapter = { limits: DEFAULT_LIMITS, isCpu: false };
    const { excesses, peakBytes } = await planMemory(spec, {
      ...{ batch: 1, seq: 256, baseDtype: "q4", lora: { rank: 12, alpha: 24 }, adapter },
    });
    assert.deepEqual(excesses, []);
    // 30 million parameters of LoRA, with gradients and two moments: 480 MB.
    assert.ok(peakBytes > 4e9 + 480e6 && peakBytes < 7e9, `${peakBytes}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("models with large vocabularies or wide FFNs stay within the limits of every adapter, whatever the dtype and the placement", async () => {
  const lavapipe = {
    ...DEFAULT_LIMITS,
    maxBufferSize: 2 ** 31 - 1,
    maxTextureDimension2D: 16384,
    maxStorageTexturesPerShaderStage: 8,
  };
  const demo = await openSpec("demo"), layers = demo.layers.slice(0, 1);
  for (const [vocab, ffn] of [[32000, 96], [65536, 96], [151936, 96], [768, 18944], [768, 28672]] as const) {
    const spec: DecoderSpec = { ...demo, vocab, hidden: 2048, layers: layers.map((layer) => ({ ...layer, ffn })) };
    for (const baseDtype of ["f32", "f16", "q8", "q4"] as const) {
      for (const [limits, isCpu] of [[DEFAULT_LIMITS, false], [DEFAULT_LIMITS, true], [lavapipe, true]] as const) {
        const { excesses } = await planMemory(spec, { batch: 1, seq: 64, baseDtype, adapter: { limits, isCpu } });
        assert.deepEqual(excesses, [], `${vocab} ${ffn} ${baseDtype} ${isCpu}`);
      }
    }
  }
});

Deno.test("layers of LLaMA-7B train on 4,096 tokens a step with LoRA of any kind: no grid is too wide", async () => {
  const limits = { ...DEFAULT_LIMITS, maxBufferSize: 2 ** 32, maxStorageBufferBindingSize: 2 ** 32 - 4 };
  const layers = [{ heads: 32, kvHeads: 32, ffn: 11008 }];
  const spec: DecoderSpec = { ...await openSpec("demo"), hidden: 4096, headDim: 128, maxPosition: 4096, layers };
  for (const dropout of [0, 0.1]) {
    const { excesses } = await planMemory(spec, {
      ...{ batch: 8, seq: 512, baseDtype: "q8", lora: { dropout } },
      adapter: { limits, isCpu: false },
    });
    assert.deepEqual(excesses, []);
  }
});

Deno.test("90,000 heads of short sequences are no grid that is too wide", async () => {
  const limits = { ...DEFAULT_LIMITS, maxBufferSize: 2 ** 32, maxStorageBufferBindingSize: 2 ** 32 - 4 };
  const demo = await openSpec("demo"), spec: DecoderSpec = { ...demo, layers: demo.layers.slice(0, 1) };
  const { excesses } = await planMemory(spec, { batch: 30_000, seq: 2, adapter: { limits, isCpu: false } });
  assert.deepEqual([spec.layers[0]?.kvHeads, excesses], [3, []]);
});

Deno.test("what is beyond a limit of the adapter is in the plan, and refuses the run before anything is allocated", async () => {
  const limits = { ...DEFAULT_LIMITS, maxStorageBufferBindingSize: MIB };
  const spec = await openSpec("demo"), options = { adapter: { limits, isCpu: false } };
  const plan = await planMemory(spec, options);
  assert.match(plan.excesses[0]?.rule ?? "", new RegExp(`\\b${MIB}\\b`));
  assert.ok(plan.largestBuffer.bytes > MIB && plan.largestBuffer.limit === MIB);
  assert.ok(!fits(plan, {}) && !fits(plan, { memoryLimit: 1e12 }));
  for (const { options: change } of await adviseMemory(spec, options, {})) {
    assert.deepEqual((await planMemory(spec, { ...options, ...change })).excesses, []);
  }
});

Deno.test("a run that does not fit is refused before its first step, and each advice makes it fit", async () => {
  const shape = { batch: 4, seq: 96, baseDtype: "f32" as const, recompute: false };
  const any = await sharedDevice();
  const plans = [planFor(any, { ...shape, baseDtype: "q4" }), planFor(any, { ...shape, recompute: true })];
  const memoryLimit = Math.max(...(await Promise.all(plans)).map(({ peakBytes }) => peakBytes));
  using device = await openDevice({ memoryLimit });
  const { source, tokenizer } = SHORT;
  const advice = await (async () => {
    using model = await loadModelFrom(source, { device, tokenizer, baseDtype: shape.baseDtype });
    const before = device.bytes;
    using run = prune(model, pruneOptions(shape));
    const error = checkRefusal(await run.prepare().catch((error) => error), "gpu", {
      value: "MiB",
      names: 'baseDtype: "q4"',
    });
    for (const change of [/\bbatch: \d/, /\bseq: \d/, /\brecompute: true/]) assert.match(error.parts.fix ?? "", change);
    await rejects(async () => {
      for await (const _ of run) assert.fail("a step was done");
    }, "gpu");
    assert.equal(device.bytes, before);
    const adapter = adapterOf(device);
    return await adviseMemory(model.spec, { ...shape, adapter }, { memoryLimit });
  })();
  assert.ok(advice.length >= 4, JSON.stringify(advice));
  for (const { options, peakBytes } of advice) {
    const change = JSON.stringify(options);
    assert.ok(peakBytes <= memoryLimit, change);
    const changed = { ...shape, ...options };
    using model = await loadModelFrom(source, { device, tokenizer, baseDtype: changed.baseDtype });
    device.resetPeak();
    using run = prune(model, pruneOptions({ ...changed }));
    let steps = 0;
    for await (const _ of run) steps++;
    assert.equal(steps, 3, change);
    assert.ok(device.peakBytes <= peakBytes && device.peakBytes > 0.9 * peakBytes, `${change}: ${device.peakBytes}`);
  }
});

Deno.test("advice is the mildest that fits of each kind, all together where one is not enough, and none where nothing helps", async () => {
  const spec = await openSpec("demo"), options = { batch: 8, seq: 256 };
  const { peakBytes } = await planMemory(spec, options);
  const single = await adviseMemory(spec, options, { memoryLimit: 0.6 * peakBytes });
  for (const { options: change, peakBytes: bytes } of single) {
    const { batch, seq } = change;
    assert.ok(bytes <= 0.6 * peakBytes);
    assert.equal(bytes, (await planMemory(spec, { ...options, ...change })).peakBytes);
    const milder = batch ? { batch: batch + 1 } : seq ? { seq: seq + 32 } : null;
    if (milder) assert.ok((await planMemory(spec, { ...options, ...milder })).peakBytes > 0.6 * peakBytes);
  }
  assert.ok(single.some(({ options: o }) => o.batch) && single.some(({ options: o }) => o.seq));
  const [together, ...others] = await adviseMemory(spec, options, { memoryLimit: 4.5 * MIB });
  assert.ok(together && others.length === 0 && together.peakBytes <= 4.5 * MIB);
  const { seq: least, ...rest } = together.options;
  assert.deepEqual(rest, { baseDtype: "q4", batch: 1 });
  assert.ok(least !== undefined && least < 256);
  assert.deepEqual(await adviseMemory(spec, options, { memoryLimit: 1 }), []);
});

Deno.test("LoRA that is too large for one buffer is refused with the rank that fits, however large it is", async () => {
  const demo = await openSpec("demo"), limits = { ...DEFAULT_LIMITS, maxStorageBufferBindingSize: MIB };
  const options = { adapter: { limits, isCpu: false }, batch: 1, seq: 8 } as const;
  const spec: DecoderSpec = { ...demo, vocab: 512 };
  assert.deepEqual((await planMemory(spec, { ...options, lora: { rank: 8 } })).excesses, []);
  const [advice, ...others] = await adviseMemory(spec, { ...options, lora: { rank: 60 } }, {});
  assert.ok(advice && others.length === 0);
  const rank = advice.options.lora?.rank ?? NaN;
  assert.deepEqual((await planMemory(spec, { ...options, lora: { rank } })).excesses, []);
  assert.match((await planMemory(spec, { ...options, lora: { rank: rank + 1 } })).excesses[0]?.what ?? "", /'lora/);
  await rejects(checkMemory(demo, { lora: { rank: 65536 } }), "gpu");
  await rejects(planMemory(demo, { lora: { rank: 65537 } }), "usage", { option: "lora.rank", value: 65537 });
});

Deno.test("a lower rank is advised together with the other changes where it takes all of them, and where it takes the shortest sequences too", async () => {
  const spec = await openSpec("demo"), options = { lora: { rank: 128 } };
  const least = { baseDtype: "q4", batch: 1 } as const;
  for (const others of [least, { ...least, seq: 32 }]) {
    const { peakBytes } = await planMemory(spec, { ...options, ...others, lora: { rank: 4 } });
    const [advice, ...more] = await adviseMemory(spec, options, { memoryLimit: peakBytes });
    assert.ok(advice && more.length === 0);
    const { lora, ...rest } = advice.options;
    assert.deepEqual([lora?.rank, rest, advice.peakBytes], [4, others, peakBytes]);
  }
});

Deno.test("a run over its limit by bytes is said to be over it, and what cannot help is not advised", async () => {
  const spec = await openSpec("demo"), options = { lora: { rank: 16 }, baseDtype: "q4", batch: 1, seq: 32 } as const;
  const { peakBytes } = await planMemory(spec, options);
  const shownOf = async (memoryLimit: number): Promise<string[]> => {
    const error = await checkMemory(spec, options, { memoryLimit }).then(() => null, (error: unknown) => error);
    const { rule, value, fix } = checkRefusal(error, "gpu").parts;
    return [...`${rule}; ${value}`.matchAll(/[\d.]+(?= MiB)/g)].map(([number]) => number).concat(fix ?? "");
  };
  const [limit, needed, fix] = await shownOf(peakBytes - 1);
  assert.ok(Number(limit) < Number(needed), `${limit} ${needed}`);
  assert.match(fix ?? "", /memoryLimit, .*lora\.rank: \d+ /);
  assert.match((await shownOf(2 * MIB))[2] ?? "", /memoryLimit/);
  const limits = { ...DEFAULT_LIMITS, maxStorageBufferBindingSize: 1024 };
  const both = checkMemory(spec, { ...options, adapter: { limits, isCpu: false } }, { memoryLimit: 2 * MIB });
  const { parts } = checkRefusal(await both.catch((error) => error), "gpu");
  assert.doesNotMatch(parts.fix ?? "", /memoryLimit|\b(batch|seq|rank|baseDtype)\b/);
});

Deno.test("a batch of 65,536 sequences is refused as others are, with what would fit", async () => {
  const demo = await openSpec("demo");
  const spec: DecoderSpec = { ...demo, vocab: 2 ** 20, layers: demo.layers.slice(0, 1) };
  const options = { batch: 65_536, seq: 12, baseDtype: "q4" as const }, rows = options.batch * options.seq;
  // Each chunk of the output head has three blocks of params of its own: more in all than a call has arguments.
  assert.equal(rows / headRowsFor(spec.vocab, rows), 49_152);
  assert.ok((await planMemory(spec, options)).excesses.length > 0);
  const few = { ...options, batch: 20_000 }, error: unknown = await checkMemory(spec, few).catch((error) => error);
  assert.match(checkRefusal(error, "gpu").parts.fix ?? "", /\bbatch: \d+ \([\d.]+ MiB\)/);
  // So do the blocks of rows that activations are counted in.
  const { excesses } = await planMemory({ ...spec, vocab: demo.vocab }, { batch: 65_536, seq: 144, method: "flap" });
  assert.ok(excesses.length > 0);
});

Deno.test("layers of one shape are compared once in a plan, and those of others too", async () => {
  const demo = await openSpec("demo"), [layer] = demo.layers;
  assert.ok(layer);
  const stages = async (layers: DecoderSpec["layers"]): Promise<MemoryPlan["stages"]> =>
    (await planMemory({ ...demo, layers }, { batch: 1, seq: 64, baseDtype: "f32" })).stages;
  /** What comparing takes beside the model. */
  const compared = async (layers: DecoderSpec["layers"]): Promise<number> => {
    const { verification, weights } = await stages(layers);
    return verification - weights;
  };
  const wide = { ...layer, ffn: 8 * layer.ffn }, most = await compared([wide]);
  assert.ok(most > await compared([layer]));
  for (const layers of [[layer, layer, wide], [wide, layer, wide], [layer, { ...layer, heads: 0, kvHeads: 0 }, wide]]) {
    assert.equal(await compared(layers), most);
  }
});

Deno.test("what else is on the device counts against its limit", async () => {
  using device = await openDevice({ memoryLimit: 24 * MIB });
  using model = await loadModel("demo", { device });
  const shape = { batch: 2, seq: 96 };
  using run = prune(model, pruneOptions(shape));
  {
    using _other = device.createBuffer("other", 14 * MIB);
    const { parts } = checkRefusal(await run.prepare().catch((error) => error), "gpu", { value: "14 MiB" });
    assert.match(parts.fix ?? "", /14 MiB.*memoryLimit/);
  }
  await run.prepare();
});

Deno.test("a dry device counts as another does, reads zeros, and holds what was live at the peak", async () => {
  using device = openDryDevice({ isCpu: true });
  assert.ok(device.isDry);
  const first = device.createBuffer("first", 100), second = device.createTexture("second", 3, 2, "rgba32float");
  first[Symbol.dispose]();
  using _third = device.uploadBuffer("third", Float32Array.of(1, 2));
  assert.equal(device.peakBytes, 112 + 96);
  assert.deepEqual(device.peakUsage(), [
    { label: "first", bytes: 112, kind: "storage" },
    { label: "second", bytes: 96, kind: "texture" },
  ]);
  assert.deepEqual([...await device.readFloats(_third, 2)], [0, 0]);
  second[Symbol.dispose]();
  assert.equal(device.bytes, 16);
  assert.equal(device.liveCount, 1);
  device.createBuffer("huge", 2 ** 30)[Symbol.dispose]();
  checkRefusal(device.excesses[0], "gpu", { names: ["'huge'", 2 ** 30] });
});

Deno.test("a dry device with a budget throws what is beyond it or a limit, as another does", () => {
  const limits = { ...DEFAULT_LIMITS, maxBufferSize: 64 };
  using device = openDryDevice({ isCpu: false, limits, memoryLimit: 100 });
  using _first = device.createBuffer("first", 64);
  refuses(() => device.createBuffer("second", 64), "gpu", { names: [100, "'second'"] });
  refuses(() => device.createBuffer("third", 80), "gpu", { names: [64, "'third'"] });
  assert.deepEqual([device.bytes, device.liveCount, device.excesses.length], [64, 1, 0]);
});

Deno.test("planMemory() refuses options that no run may have", async () => {
  const spec = await openSpec("demo");
  const cases: readonly (readonly [string, MemoryOptions])[] = [
    ["batch", { batch: 0 }],
    ["seq", { seq: 1.5 }],
    ["seq", { seq: 4096 }],
    ["lora.rank", { lora: { rank: 0 } }],
    ["units", { units: ["wings" as UnitKind] }],
  ];
  for (const [option, options] of cases) await rejects(planMemory(spec, options), "usage", { option });
});
