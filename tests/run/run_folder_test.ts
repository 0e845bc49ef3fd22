// The folder of a run: held from its start to its end, cleared of what a killed run left, and its checkpoint refused where it is broken. On the demo model.
import assert from "node:assert/strict";
import type { FolderOptions } from "../../lib/run/prune_to_folder.ts";
import { CompressoError, type Model, prune, pruneToFolder } from "../../mod.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import { openWeights } from "../disk.ts";
import { openSafetensors } from "../disk.ts";
import { writeSafetensors } from "../disk.ts";
import { HELD } from "../../lib/files/lock.ts";
import { CHECKPOINT_FILE } from "../../lib/run/folder.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { BASE, withShortDemo } from "./helpers/demo_run.ts";

const SHORT = { ...BASE, steps: 2, postfinetune: 1, seq: 32, export: { formats: ["hf"] } } as const;

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), (entry) => entry.name)).sort();
}

async function withFolder(
  work: (parts: { readonly model: Model; readonly out: string }) => Promise<void>,
): Promise<void> {
  const out = await Deno.makeTempDir();
  try {
    await withShortDemo(({ model }) => work({ model, out }));
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

/** Leaves a checkpoint of a run that was stopped after its second step. */
async function stopped(model: Model, out: string): Promise<void> {
  const controller = new AbortController(), { signal } = controller;
  const onRecord = ({ step }: { readonly step: number }): void =>
    step === 2 ? controller.abort(new Error("enough")) : undefined;
  await assert.rejects(pruneToFolder(model, { ...SHORT, out, signal, onRecord }), /enough/);
}

Deno.test("a second run in the folder of one that goes on is refused, however it is to begin, and the first one ends as it would", async () => {
  await withFolder(async ({ model, out }) => {
    const others: Partial<FolderOptions>[] = [{}, { resume: true }, {
      export: { formats: ["hf"], replace: true },
    }];
    const tried: Promise<void>[] = [];
    const onRecord = ({ step }: { readonly step: number }): void => {
      if (step !== 2) return;
      for (const other of others) {
        const onReady = (): Promise<void> => assert.fail("it would have begun");
        const second = pruneToFolder(model, { ...SHORT, out, seed: 5, ...other, onReady });
        tried.push(rejects(second, "usage", { value: HELD, names: out }));
      }
    };
    // Hooks wait for those that are tried, so that all of this is in the midst of the run.
    const afterStage = async (): Promise<void> => void await Promise.all(tried);
    const summary = await pruneToFolder(model, { ...SHORT, out, checkpointEvery: 1, onRecord, hooks: { afterStage } });
    assert.equal(tried.length, others.length);
    await Promise.all(tried);
    assert.equal(summary.options.seed, 1);
    assert.deepEqual(await names(out), ["calibration.jsonl", "model", "records.jsonl", "run.json"]);
  });
});

Deno.test("run.json tells what is left and what the files hold, with the zeros of the layout padded", async () => {
  await withFolder(async ({ model, out }) => {
    const options = { ...SHORT, units: ["ffn"], layout: "padded", lora: { targets: ["q"] }, out } as const;
    const { parameters, writtenParameters, layers } = await pruneToFolder(model, options);
    const least = Math.min(...layers.map(({ ffn }) => ffn)), most = Math.max(...layers.map(({ ffn }) => ffn));
    assert.ok(least < most, "all layers were cut alike");
    const zeros = layers.reduce((sum, { ffn }) => sum + (most - ffn) * 3 * model.spec.hidden, 0);
    assert.equal(writtenParameters, parameters.after + zeros);
    assert.equal(parameterCount((await openWeights(`${out}/model`)).spec), writtenParameters);
  });
});

Deno.test("of two runs that begin at once in a folder one goes on", async () => {
  await withFolder(async ({ model, out }) => {
    const ends = await Promise.allSettled(
      [1, 2].map((seed) => pruneToFolder(model, { ...SHORT, out: `${out}/new`, seed })),
    );
    const reasons = ends.flatMap((end): unknown[] => end.status === "rejected" ? [end.reason] : []);
    assert.equal(reasons.length, 1, reasons.join(", "));
    checkRefusal(reasons[0], "usage", { value: HELD, names: `${out}/new` });
  });
});

Deno.test("a run removes what one that was killed has left of its files, and nothing else", async () => {
  await withFolder(async ({ model, out }) => {
    await stopped(model, out);
    await Deno.mkdir(`${out}/model.tmp-147ffd59`);
    for (
      const name of [
        "model.gguf.tmp-91ed01e2",
        "checkpoint.safetensors.tmp-00000000",
        "calibration.jsonl.tmp-00000000",
        ".lock",
        "my.tmp-00000000",
      ]
    ) {
      await Deno.writeTextFile(`${out}/${name}`, "");
    }
    await pruneToFolder(model, { ...SHORT, out, resume: true });
    assert.deepEqual(await names(out), ["calibration.jsonl", "model", "my.tmp-00000000", "records.jsonl", "run.json"]);
  });
});

Deno.test("a checkpoint of a model of other weights is refused, also where shape and options are the same", async () => {
  await withFolder(async ({ model, out }) => {
    await stopped(model, out);
    const { device, source, tokenizer } = model, changed = "model.layers.1.self_attn.v_proj.weight";
    const read: typeof source.read = async (name, rows) => {
      const values = await source.read(name, rows);
      return name === changed ? values.map((value) => 1.01 * value) : values;
    };
    using other = await loadModelFrom({ spec: source.spec, storedDtype: source.storedDtype, read }, {
      device,
      tokenizer,
    });
    const resumed = { ...SHORT, out, resume: true } as const;
    const refused: unknown = await pruneToFolder(other, resumed).catch((error) => error);
    // Nothing else differs.
    assert.match(checkRefusal(refused, "mismatch").parts.value ?? "", /^weights: (\w+) then, (?!\1)\w+ now$/);
    assert.equal((await pruneToFolder(model, resumed)).options.seed, 1);
  });
});

Deno.test("a run whose files stand there, but whose end could not be written, is ended by resuming it", async () => {
  await withFolder(async ({ model, out }) => {
    const afterExport = (): void => {
      throw new Error("the disk is full");
    };
    await assert.rejects(pruneToFolder(model, { ...SHORT, out, hooks: { afterExport } }), /the disk is full/);
    assert.ok((await names(out)).includes(CHECKPOINT_FILE));
    const files = { ...SHORT, out, resume: true };
    const kept = pruneToFolder(model, { ...files, export: { formats: ["hf"], replace: false } });
    await assert.rejects(kept, (error) => error instanceof CompressoError && error.message.includes(`${out}/model`));
    await pruneToFolder(model, files);
    assert.deepEqual(await names(out), ["calibration.jsonl", "model", "records.jsonl", "run.json"]);
  });
});

Deno.test("a run that replaces another one and dies before its first checkpoint is not taken for that, and can be begun again", async () => {
  await withFolder(async ({ model, out }) => {
    await stopped(model, out);
    const dies = { hooks: { beforeStep: () => assert.fail("it dies") } };
    await assert.rejects(
      pruneToFolder(model, { ...SHORT, out, seed: 5, export: { replace: true }, ...dies }),
      /it dies/,
    );
    assert.deepEqual(await names(out), ["calibration.jsonl", "records.jsonl"]);
    await rejects(pruneToFolder(model, { ...SHORT, out, resume: true }), "usage", { names: CHECKPOINT_FILE });
    assert.equal((await pruneToFolder(model, { ...SHORT, out })).options.seed, 1);
  });
});

Deno.test("a number of steps between checkpoints that is none is refused", async () => {
  await withFolder(async ({ model, out }) => {
    for (const checkpointEvery of [-1, 0.5, NaN]) {
      await rejects(pruneToFolder(model, { ...SHORT, out, checkpointEvery }), "usage", { option: "checkpointEvery" });
    }
  });
});

Deno.test("what may differ is refused where no run is resumed, whatever its name", async () => {
  await withFolder(async ({ model, out }) => {
    for (const mayDiffer of [["schedule"], ["sedule"]]) {
      const refused = { option: "mayDiffer", value: mayDiffer };
      await rejects(pruneToFolder(model, { ...SHORT, out, mayDiffer }), "usage", refused);
      const checkpoint = { path: `${out}/checkpoint.safetensors`, every: 1, mayDiffer };
      refuses(() => prune(model, { ...BASE, checkpoint }), "usage", refused);
    }
    await pruneToFolder(model, { ...SHORT, out, mayDiffer: [] });
  });
});

Deno.test("a checkpoint that is broken is refused with a fix that works, whatever of it is", async () => {
  await withFolder(async ({ model, out }) => {
    await stopped(model, out);
    const path = `${out}/${CHECKPOINT_FILE}`, whole = await Deno.readFile(path);
    const text = new TextDecoder("latin1").decode(whole), at = text.indexOf("stageStep");
    const flipped = (place: number): Uint8Array => whole.with(place, (whole[place] ?? 0) ^ 1);
    const file = await openSafetensors(path);
    const rewritten = async (
      changed: (meta: Record<string, unknown>) => unknown,
      digest = true,
    ): Promise<Uint8Array> => {
      const meta = changed(JSON.parse(file.metadata.get("compresso") ?? ""));
      const items = await Promise.all([...file.tensors].map(async ([name, { shape }]) => {
        const data = await file.read(name);
        return { name, dtype: "F32", shape, data: () => data } as const;
      }));
      const sha256 = digest ? { sha256: file.metadata.get("sha256") ?? "" } : {};
      await writeSafetensors(`${out}/other`, items, { metadata: { compresso: JSON.stringify(meta), ...sha256 } });
      return await Deno.readFile(`${out}/other`);
    };
    const step = (meta: Record<string, unknown>): unknown => {
      const { position } = meta;
      assert.ok(position && typeof position === "object");
      return { ...meta, position: { ...position, stageStep: "1" } };
    };
    const cases: readonly (readonly [Uint8Array, string])[] = [
      [new Uint8Array(0), "empty"],
      [whole.subarray(0, 1000), "header"],
      [whole.subarray(0, whole.length - 100), "bytes"],
      // The quote behind the name.
      [whole.with(at + "stageStep".length, 0x78), path],
      [flipped(text.indexOf('stageStep\\":') + 'stageStep\\":'.length), "SHA-256"],
      [flipped(whole.length - 1), "SHA-256"],
      [whole.slice().fill(0xff, whole.length - 400), "SHA-256"],
      [await rewritten((meta) => ({ ...meta, position: {} }), false), "SHA-256"],
      [await rewritten(step, false), "SHA-256"],
      [await rewritten((meta) => ({ ...meta, kept: [{}] }), false), "SHA-256"],
      [await rewritten((meta) => ({ ...meta, kept: 1 }), false), "format 1"],
      [await rewritten(() => null, false), "format 1"],
      [await rewritten((meta) => meta, false), "SHA-256"],
    ];
    await Deno.remove(`${out}/other`);
    for (const [index, [bytes, told]] of cases.entries()) {
      await Deno.writeFile(path, bytes);
      const resumed: unknown = await pruneToFolder(model, { ...SHORT, out, resume: true }).catch((error) => error);
      const { parts } = checkRefusal(resumed, "input", { names: [path, told] });
      assert.match(parts.fix ?? "", /\bexport\.replace\b/, `case ${index}`);
    }
    await Deno.writeFile(path, whole);
    assert.equal((await pruneToFolder(model, { ...SHORT, out, resume: true })).alarms.length, 0);
  });
});

Deno.test("a model that a crash put aside is an earlier run's, and is refused before the first step", async () => {
  await withFolder(async ({ model, out }) => {
    await Deno.mkdir(`${out}/model.old-0123abcd`);
    await Deno.writeTextFile(`${out}/model.old-0123abcd/config.json`, "{}");
    const onRecord = (): void => assert.fail("a step was done");
    await rejects(pruneToFolder(model, { ...SHORT, out, calibration: "none", onRecord }), "usage", { value: "model" });
    assert.ok((await names(out)).includes("model"), "it is back in its place");
  });
});

Deno.test("a checkpoint that is a link is written and removed where it leads, and the link stays", async () => {
  await withFolder(async ({ model, out }) => {
    await Deno.mkdir(`${out}/disk`);
    await Deno.symlink("disk/state", `${out}/${CHECKPOINT_FILE}`);
    const seen: string[][] = [];
    const onRecord = async (): Promise<void> => void seen.push(await names(`${out}/disk`));
    await pruneToFolder(model, { ...SHORT, out, calibration: "none", checkpointEvery: 1, onRecord });
    assert.deepEqual([seen.at(-1), await names(`${out}/disk`)], [["state"], []]);
    assert.ok((await Deno.lstat(`${out}/${CHECKPOINT_FILE}`)).isSymlink);
  });
});

Deno.test("onPhase has the share of the comparison and of the files, each from 0 to 1", async () => {
  await withFolder(async ({ model, out }) => {
    const seen: [phase: string, share: number][] = [], exported: number[] = [];
    await pruneToFolder(model, {
      ...SHORT,
      out,
      export: { ...SHORT.export, onProgress: (share) => void exported.push(share) },
      onPhase: (phase, share) => void seen.push([phase, share]),
    });
    const shares = (name: string): number[] => seen.filter(([phase]) => phase === name).map(([, share]) => share);
    for (const name of ["slice", "export"]) {
      assert.deepEqual([shares(name)[0], shares(name).at(-1)], [0, 1]);
      assert.ok(shares(name).length > 5, `${name}: ${shares(name)}`);
    }
    assert.deepEqual(shares("export").slice(1), exported);
    assert.equal(seen.findIndex(([phase]) => phase === "export"), shares("slice").length);
  });
});

Deno.test("a run with resume auto starts, also after one that was stopped as it wrote calibration texts, and then resumes", async () => {
  await withFolder(async ({ model, out }) => {
    const anew = { ...SHORT, calibration: "own" } as const,
      auto = { ...anew, out: `${out}/run`, resume: "auto" } as const;
    const whole = await pruneToFolder(model, { ...anew, out: `${out}/whole` });
    const stop = new AbortController(), later = new AbortController();
    const onCalibration = (): void => stop.abort(new Error("enough"));
    await assert.rejects(pruneToFolder(model, { ...auto, onCalibration, signal: stop.signal }), /enough/);
    const onRecord = ({ step }: { readonly step: number }): void =>
      step === 2 ? later.abort(new Error("enough")) : undefined;
    const mayDiffer = ["rates"] as const;
    await assert.rejects(pruneToFolder(model, { ...auto, mayDiffer, onRecord, signal: later.signal }), /enough/);
    const { masks, resumedAfter } = await pruneToFolder(model, { ...auto, mayDiffer });
    assert.equal(resumedAfter, 2);
    assert.deepEqual(masks, whole.masks);
    const [one, other] = await Promise.all(
      ["whole", "run"].map((name) => Deno.readFile(`${out}/${name}/model/model.safetensors`)),
    );
    assert.ok(one?.every((byte, index) => byte === other?.[index]) && one.length === other?.length);
    await rejects(pruneToFolder(model, auto), "usage", { value: "run.json" });
  });
});
