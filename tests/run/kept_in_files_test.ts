// A run that a browser keeps in its private file system: resumed with the same bits, without room, and refused. On the demo model.
import assert from "node:assert/strict";
import { pruneToFiles, type PruneToFilesOptions } from "../../lib/browser/mod.ts";
import { directoryFiles } from "../../lib/files/directory.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { type FileSystem, readBytes } from "../../lib/files/system.ts";
import type { Model } from "../../lib/model/model.ts";
import { checkpointPosition } from "../../lib/run/checkpoint.ts";
import type { Unsaved } from "../../lib/run/sink/files.ts";
import { Folder } from "../files/handles.ts";
import { checkRefusal, rejects } from "../refuses.ts";
import { BASE, withShortDemo } from "./helpers/demo_run.ts";

const SHORT = { ...BASE, steps: 3, postfinetune: 1, seq: 32, out: "run", export: { formats: ["gguf"] } } as const;
const CHECKPOINT = "run/checkpoint.safetensors";

async function ggufOf(files: FileSystem): Promise<Uint8Array> {
  const source = await files.open("run/model.gguf");
  return await readBytes(source, 0, source.size);
}

/** The GGUF of a run that was not interrupted. */
let whole: Promise<Uint8Array> | undefined;

function wholeRun(model: Model): Promise<Uint8Array> {
  const files = memoryFiles();
  return whole ??= pruneToFiles(model, { ...SHORT, files }).then(() => ggufOf(files));
}

async function stepsIn(files: FileSystem): Promise<number[]> {
  const text = await files.text("run/records.jsonl") ?? "";
  return text.trimEnd().split("\n").map((line) => JSON.parse(line).step);
}

/** Options that end the run as a closed tab does: without a word, in the midst of step 4. */
function closedIn(files: FileSystem, beforeEnd = (): void => {}): PruneToFilesOptions {
  return {
    ...{ ...SHORT, files, checkpointEvery: 3, checkpointSeconds: Infinity },
    onRecord({ step }): void {
      if (step !== 4) return;
      beforeEnd();
      throw new Error("closed");
    },
  };
}

Deno.test("a run that was closed goes on from a browser's folder with the same bits, and without a checkpoint after its end", async () => {
  await withShortDemo(async ({ model }) => {
    const folder = new Folder({ bytes: Infinity }), files = directoryFiles(folder);
    const expected = await wholeRun(model), saved: number[] = [], started: number[] = [];
    const onSaved = async (): Promise<void> => void saved.push((await checkpointPosition(CHECKPOINT, { files })).step);
    await assert.rejects(pruneToFiles(model, { ...closedIn(files), onSaved: () => void onSaved() }), /closed/);
    assert.deepEqual([saved, await stepsIn(files)], [[3], [1, 2, 3]]);
    assert.ok((await files.names("run")).includes("calibration.jsonl"));
    // A tab that is closed while it writes leaves a part under another name.
    await (await folder.getDirectoryHandle("run")).getFileHandle("checkpoint.safetensors.tmp", { create: true });
    await rejects(pruneToFiles(model, { ...SHORT, files }), "usage", { value: "checkpoint.safetensors" });
    await rejects(pruneToFiles(model, { ...SHORT, files, seed: 7, resume: true }), "mismatch", { names: "seed" });
    let bySeconds = 0;
    await pruneToFiles(model, {
      ...{ ...SHORT, files, resume: "auto", checkpointSeconds: 0 },
      onStart: (_, doneBefore) => void started.push(doneBefore),
      onSaved: () => void bySeconds++,
    });
    assert.ok(bySeconds >= 3, `${bySeconds} checkpoints of two steps and the end`);
    assert.deepEqual([started, await stepsIn(files)], [[3], [1, 2, 3, 4, 5]]);
    assert.deepEqual(await ggufOf(files), expected);
    const left = await files.names("run");
    assert.deepEqual(left, ["calibration.jsonl", "model.gguf", "records.jsonl", "run.json"]);
    await rejects(pruneToFiles(model, { ...SHORT, files, resume: true }), "usage", { option: "resume" });
  });
});

Deno.test("without room for checkpoints a run goes on and tells so, its model goes to the spare files, and an earlier checkpoint stays", async () => {
  await withShortDemo(async ({ model }) => {
    const quota = { bytes: Infinity }, files = directoryFiles(new Folder(quota));
    const expected = await wholeRun(model);
    await assert.rejects(pruneToFiles(model, closedIn(files, () => void (quota.bytes = 0))), /closed/);
    const refused: unknown = await pruneToFiles(model, { ...SHORT, files, resume: true, checkpointEvery: 1 })
      .catch((error: unknown) => error);
    checkRefusal(refused, "input", { names: "records.jsonl" });
    const spare = memoryFiles(), full: Unsaved[] = [], onFull = (what: Unsaved): void => void full.push(what);
    await pruneToFiles(model, { ...SHORT, files, resume: true, checkpointEvery: 1, spare, onFull });
    assert.ok(full.slice(0, -1).every((what) => what === "checkpoint") && full.length > 2, full.join(" "));
    assert.equal(full.at(-1), "files");
    assert.deepEqual(await ggufOf(spare), expected);
    assert.deepEqual(await stepsIn(spare), [1, 2, 3, 4, 5]);
    assert.equal((await checkpointPosition(CHECKPOINT, { files })).step, 3);
  });
});
