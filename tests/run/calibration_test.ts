// Rows that tell units apart beside those that are trained on: what they decide, and the texts that a model writes for it. On the demo model.
import assert from "node:assert/strict";
import {
  type Model,
  pruneToFolder,
  type PruneToFolderOptions,
  readRows,
  type Row,
  type StepRecord,
} from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { demoData, loadModelFrom } from "../../lib/model/mod.ts";
import { CALIBRATION_SEQUENCES, type RunHooks } from "../../lib/run/mod.ts";
import type { MethodName } from "../../lib/types/mod.ts";
import { exists } from "../../lib/files/exists.ts";
import { projectionName } from "../../lib/spec/decoder.ts";
import { calibrationDefault, encodeCalibration } from "../../lib/run/calibration.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, withShortDemo } from "./helpers/demo_run.ts";

const { rows } = await readRows(demoData("train"), { limit: 96 });
/** Three sets of rows that share none: few, as each calibration row is a pass through the model. */
const [SOME, OTHERS, TEXTS] = [rows.slice(0, 40), rows.slice(40, 80), rows.slice(80, 86)] as const;
/** Other rows, as many. */
const OTHER_TEXTS = rows.slice(86, 92);

Deno.test("calibration batches are the same at every call, of all sequences once and of 32 at most", async () => {
  await withShortDemo(({ model: { tokenizer } }) => {
    if (!tokenizer) throw new Error("the demo has a tokenizer");
    const encoding = { tokenizer, prompt: null, seq: 48, packing: false, padId: 0 };
    const tokensOf = (rows: readonly Row[], batch: number): string[] =>
      Array.from(encodeCalibration(rows, { ...encoding, batch }).batches(), ({ tokens }) => tokens.join());
    const data = encodeCalibration(SOME.slice(0, 5), { ...encoding, batch: 2 });
    assert.deepEqual(Array.from(data.batches()), Array.from(data.batches()));
    assert.equal(tokensOf(SOME.slice(0, 5), 2).length, 3);
    assert.equal(new Set(tokensOf(SOME.slice(0, 6), 1)).size, 6);
    assert.equal(tokensOf(SOME, 5).length, Math.ceil(CALIBRATION_SEQUENCES / 5));
    return Promise.resolve();
  });
});

Deno.test("learned masks start from the saliency on the run's rows and on calibration rows, and from what the weights say", async () => {
  await withShortDemo(async ({ model, device }) => {
    let strong = "";
    const { source, tokenizer } = model;
    /** The weights as they are read after they were loaded: of one layer, once it is named, a gate row is three times as long. */
    const read = async (name: string): Promise<Float32Array<ArrayBuffer>> => {
      const values = await source.read(name);
      return name === strong
        ? values.map((value, at) => Math.floor(at / source.spec.hidden) === 5 ? 3 * value : value)
        : values;
    };
    using own = await loadModelFrom({ spec: source.spec, storedDtype: source.storedDtype, read }, {
      device,
      tokenizer,
    });
    /** log α of the FFN columns, from its median: how kinds stand to each other is decided by the run's own rows. */
    const startOf = async (options: Partial<RunOptions>): Promise<readonly number[]> => {
      let start = new Float32Array();
      const beforeStage: RunHooks["beforeStage"] = async (stage, run) => {
        if (stage === "prune") start = (await run.logAlpha()).slice(run.table.ranges.ffn.first);
      };
      await drive(own, { prefinetune: 0, postfinetune: 0, steps: 1, ...options, hooks: { beforeStage } });
      const median = start.toSorted()[start.length >> 1] ?? NaN;
      return Array.from(start, (value) => value - median);
    };
    const changes = (a: readonly number[], b: readonly number[]): readonly number[] =>
      a.map((value, unit) => Math.abs(value - (b[unit] ?? NaN)));
    // Half of the units: log α of the highest and lowest is limited.
    const apart = (a: readonly number[], b: readonly number[]): number =>
      changes(a, b).toSorted((x, y) => x - y)[a.length >> 1] ?? NaN;
    const beside = { rows: SOME, calibration: TEXTS }, start = await startOf(beside);
    assert.ok(new Set(start).size > 100 && apart(start, await startOf(beside)) === 0, "the same every time");
    for (const [what, options] of Object.entries({ texts: { calibration: OTHER_TEXTS }, rows: { rows: OTHERS } })) {
      assert.ok(apart(start, await startOf({ ...beside, ...options })) > 0.3, `other ${what} decide otherwise`);
    }
    assert.ok(apart(start, await startOf({ rows: SOME })) > 0.3, "without texts");
    for (const options of [beside, { rows: SOME }]) {
      strong = "";
      const before = await startOf(options);
      strong = projectionName(1, "gate");
      const moved = changes(await startOf(options), before), unit = (source.spec.layers[0]?.ffn ?? NaN) + 5;
      const [most = NaN, next = NaN] = moved.toSorted((a, b) => b - a);
      assert.equal(moved.indexOf(most), unit, "the column of the longer gate row");
      assert.ok(most > 4 * next, `${most} beside ${next}`);
    }
  });
});

for (const method of ["wanda-sp", "flap", "taylor"] as const satisfies readonly MethodName[]) {
  Deno.test(`the method ${method} scores on calibration rows alone`, async () => {
    await withShortDemo(async ({ model }) => {
      const masksOf = async (options: Partial<RunOptions>): Promise<string> => {
        const { result: { masks } } = await drive(model, {
          method,
          prefinetune: 0,
          postfinetune: 0,
          steps: 0,
          ...options,
        });
        return JSON.stringify([masks.head, masks.ffn].map((values) => [...values ?? []]));
      };
      const on = await masksOf({ rows: SOME, calibration: TEXTS });
      assert.equal(await masksOf({ rows: OTHERS, calibration: TEXTS }), on);
      assert.notEqual(await masksOf({ rows: SOME }), on);
      assert.notEqual(await masksOf({ rows: SOME, calibration: OTHER_TEXTS }), on);
    });
  });
}

Deno.test("gradients that are not finite on the rows that tell units apart end the run, and say whose they are", async () => {
  await withShortDemo(async ({ model }) => {
    const afterStage: RunHooks["afterStage"] = async (_, run) => {
      const weights = await run.lora();
      weights.get("lora.1.v.B")?.fill(3e38);
      run.setLora(weights);
    };
    for (const method of ["compresso", "taylor"] as const) {
      const hooks = method === "compresso" ? { afterStage } : { beforeStage: afterStage };
      const error: unknown = await drive(model, { method, rows: SOME, prefinetune: 1, steps: 2, hooks }).catch((e) =>
        e
      );
      const { parts } = checkRefusal(error, "numeric", { value: ["NaN", "layer"] });
      // Other calibration rows help a method that scores on them.
      assert.equal(/\bcalibration\b/.test(parts.fix ?? ""), method === "taylor", parts.fix);
    }
  });
});

Deno.test("what became of calibration rows in reading is a part of the report, and of no rows it is refused", async () => {
  await withShortDemo(async ({ model }) => {
    const left = { row: 3, reason: "blank line" };
    const calibrationReading = { ...(await readRows(demoData("train"), { limit: 1 })).report, skipped: [left] };
    const { result } = await drive(model, { calibration: TEXTS, calibrationReading, steps: 1, postfinetune: 0 });
    assert.deepEqual([result.data.empty, result.data.calibration?.empty], [0, 1]);
    const option = "calibrationReading";
    await rejects(drive(model, { calibrationReading }), "usage", { option });
    const out = await Deno.makeTempDir(), own = { ...BASE, out, calibration: "own", calibrationReading } as const;
    await rejects(pruneToFolder(model, own), "usage", { option });
    assert.deepEqual([...Deno.readDirSync(out)], []);
    await Deno.remove(out);
  });
});

Deno.test("calibration rows are refused where nothing would look at them, and others than a checkpoint's on resuming", async () => {
  const refused = [
    [{ method: "gradual" }, "method gradual"],
    [{ method: "random" }, "method random"],
    [{ start: "constant" }, 'start: "constant"'],
    [{ rates: { prior: 0 } }, "rates.prior: 0"],
  ] as const;
  for (const [options, value] of refused) {
    const asked = { rows: SOME, sparsity: 0.2, steps: 4, calibration: TEXTS, ...options };
    refuses(() => resolveOptions(asked, { maxPosition: 512 }), "usage", { option: "calibration", value });
  }
  await withShortDemo(async ({ model }) => {
    const path = await Deno.makeTempFile(), controller = new AbortController();
    await Deno.remove(path);
    const options = { calibration: TEXTS, steps: 3, postfinetune: 0 } as const, whole = await drive(model, options);
    const checkpoint = { path, every: 2 }, seen: StepRecord[] = [];
    const afterStep = (record: StepRecord): void => {
      seen.push(record);
      if (record.step === 3) controller.abort(new Error("enough"));
    };
    const stopped = { ...options, checkpoint, signal: controller.signal, hooks: { afterStep } };
    await assert.rejects(drive(model, stopped), /enough/);
    const resumed = { ...options, checkpoint: { ...checkpoint, resume: true } };
    await rejects(drive(model, { ...resumed, calibration: OTHER_TEXTS }), "mismatch", { value: "calibration:" });
    const { calibration: _, ...without } = resumed;
    await rejects(drive(model, without), "mismatch", { value: ["calibration:", "not given now"] });
    const rest = await drive(model, resumed);
    assert.equal(bitsOf({ ...rest, records: [...seen, ...rest.records] }), bitsOf(whole));
    await Deno.remove(path);
  });
});

Deno.test("pruneToFolder lets the model write its own calibration texts into the folder, and a resumed run reads them", async () => {
  await inFolder(async ({ model, begin, weightsOf, textsOf }) => {
    const controller = new AbortController(), told: number[] = [];
    await pruneToFolder(model, { ...begin("own"), calibration: "own", onCalibration: (share) => told.push(share) });
    assert.ok(told.length > 4 && told.at(-1) === 1, told.join());
    assert.deepEqual(told, told.toSorted((a, b) => a - b));
    const texts = await textsOf("own");
    // A third of the sequences of the run: 5 steps of 2.
    assert.equal(texts?.length, 4);
    // Given as rows they are the same, and so they are what a run does that says nothing.
    await pruneToFolder(model, { ...begin("rows"), calibration: texts ?? [] });
    assert.ok(await weightsOf("rows") === await weightsOf("own"), "the same weights");
    await pruneToFolder(model, begin("default"));
    assert.deepEqual(await textsOf("default"), texts);
    assert.ok(await weightsOf("default") === await weightsOf("own"), "by default the same weights");
    await pruneToFolder(model, { ...begin("none"), calibration: "none" });
    assert.ok(await weightsOf("none") !== await weightsOf("own"), "other weights");
    const { signal } = controller;
    await assert.rejects(
      pruneToFolder(model, {
        ...begin("stopped"),
        signal,
        onRecord: ({ step }) => step === 2 ? controller.abort(new Error("enough")) : undefined,
      }),
      /enough/,
    );
    const again: number[] = [];
    const resumed = { ...begin("stopped"), resume: true } as const;
    await pruneToFolder(model, { ...resumed, onCalibration: (share) => again.push(share) });
    assert.deepEqual(again, [], "nothing is written anew");
    assert.ok(await weightsOf("stopped") === await weightsOf("own"), "the same bits as a run never stopped");
    // One that began without any is refused before the model writes.
    const plain = { ...begin("plain"), calibration: "none" } as const, stop = new AbortController();
    const onRecord = (): void => stop.abort(new Error("enough"));
    await assert.rejects(pruneToFolder(model, { ...plain, signal: stop.signal, onRecord }), /enough/);
    const late: number[] = [], onCalibration = (share: number): void => void late.push(share);
    await rejects(
      pruneToFolder(model, { ...plain, resume: true, calibration: "own", onCalibration }),
      "mismatch",
      { value: "calibration: not given then" },
    );
    assert.deepEqual(late, []);
    // What the run refuses is refused before anything is written.
    const refused: number[] = [];
    const bad = { ...begin("bad"), batch: 0, onCalibration: (share: number) => refused.push(share) };
    await rejects(pruneToFolder(model, bad), "usage", { option: "batch" });
    assert.deepEqual(refused, []);
  });
});

Deno.test("the model writes no calibration where nothing would look at it, and where a resumed run began without", async () => {
  await inFolder(async ({ model, begin, textsOf }) => {
    const without: readonly Partial<Omit<RunOptions, "units">>[] = [
      { method: "gradual" },
      { method: "flap" },
      { preset: "paper" },
      { rates: { prior: 0 } },
    ];
    for (const options of [{}, ...without]) {
      const resolved = resolveOptions({ rows: SOME, sparsity: 0.2, steps: 3, seq: 24, ...options }, model.spec);
      const wanted = without.includes(options) ? "none" : "own";
      assert.equal(calibrationDefault(resolved, { resume: false, areThere: false }), wanted, JSON.stringify(options));
    }
    const prior = { ...begin("prior"), prefinetune: 0, steps: 1, postfinetune: 0, rates: { prior: 0 } };
    await pruneToFolder(model, prior);
    assert.equal(await textsOf("prior"), null);
    const controller = new AbortController(), { signal } = controller;
    const stopped = { ...begin("stopped"), signal, onRecord: () => controller.abort(new Error("enough")) };
    await assert.rejects(pruneToFolder(model, { ...stopped, calibration: "none" }), /enough/);
    await pruneToFolder(model, { ...begin("stopped"), resume: true });
    assert.equal(await textsOf("stopped"), null);
  });
});

Deno.test("writing calibration takes no more memory than the run, and says where a model has nothing to say", async () => {
  await inFolder(async ({ model, begin }) => {
    const { device, spec } = model, wide = { ...begin("peak"), seq: 96, batch: 1 };
    let writing = 0;
    await pruneToFolder(model, { ...wide, onCalibration: () => writing = Math.max(writing, device.bytes) });
    const peak = device.peakBytes;
    assert.ok(writing > 0 && writing < peak, `${writing} of ${peak}`);
    const eosIds = Array.from({ length: spec.vocab }, (_, id) => id), { source, tokenizer } = model;
    using silent = await loadModelFrom({ ...source, spec: { ...spec, eosIds } }, { device, tokenizer });
    await rejects(pruneToFolder(silent, begin("silent")), "numeric", { names: 'calibration: "none"' });
    await pruneToFolder(silent, { ...begin("silent"), calibration: "none" });
  });
});

/** A folder for runs of the demo model of five steps of two sequences. */
async function inFolder(
  work: (
    tools: {
      readonly model: Model;
      readonly begin: (name: string) => PruneToFolderOptions;
      readonly weightsOf: (name: string) => Promise<string>;
      /** The texts that the model wrote for a run; null where it wrote none. */
      readonly textsOf: (name: string) => Promise<readonly Row[] | null>;
    },
  ) => Promise<void>,
): Promise<void> {
  await withShortDemo(async ({ model }) => {
    const out = await Deno.makeTempDir();
    const base = {
      ...BASE,
      seq: 24,
      batch: 2,
      prefinetune: 1,
      steps: 3,
      postfinetune: 1,
      export: { formats: ["hf"] },
    } as const;
    const weightsOf = async (name: string): Promise<string> =>
      new TextDecoder("latin1").decode(await Deno.readFile(`${out}/${name}/model/model.safetensors`));
    const textsOf = async (name: string): Promise<readonly Row[] | null> => {
      const path = `${out}/${name}/calibration.jsonl`;
      return await exists(path) ? (await readRows(path)).rows : null;
    };
    try {
      await work({ model, begin: (name) => ({ ...base, out: `${out}/${name}` }), weightsOf, textsOf });
    } finally {
      await Deno.remove(out, { recursive: true });
    }
  });
}
