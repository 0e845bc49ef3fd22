// What the studio keeps of a run in a browser's storage: copies where there is room, and what must be chosen again.
import assert from "node:assert/strict";
import { writeFile } from "../../lib/files/system.ts";
import { writeSafetensors } from "../../lib/formats/safetensors/write.ts";
import type { Choices, NamedFile } from "../../studio/messages.ts";
import { type KeptInputs, StudioStorage } from "../../studio/worker/storage.ts";
import { Folder } from "../files/handles.ts";
import { rejects } from "../refuses.ts";

const CHOICES: Choices = { sparsity: 0.3, steps: 8, batch: 1, seq: 32, baseDtype: "f16", writesTexts: false };
const HOW = { signal: new AbortController().signal, onProgress: (): void => {} };
const MODEL: readonly NamedFile[] = [{ name: "small.gguf", file: new File([new Uint8Array(4096)], "small.gguf") }];
const INPUTS: KeptInputs = {
  model: { name: "small.gguf", files: MODEL, isKept: false },
  rows: { name: "rows.jsonl", file: new File(["{}"], "rows.jsonl"), isKept: false },
  choices: CHOICES,
};

/** Gives this process a browser's storage with so many bytes, and opens it as one page after the other does. */
async function withStorage(
  bytes: number,
  work: (open: () => Promise<StudioStorage>, root: Folder) => Promise<void>,
): Promise<void> {
  const quota = { bytes }, root = new Folder(quota);
  const storage = {
    getDirectory: () => Promise.resolve(root),
    estimate: () => Promise.resolve({ quota: quota.bytes, usage: root.size }),
  };
  Object.defineProperties(navigator, {
    storage: { value: storage, configurable: true },
    locks: { value: undefined, configurable: true },
  });
  try {
    // Each page has a path of its own, so that none sees the runs of another.
    await work(() => StudioStorage.open("https://example.org/studio/"), root);
  } finally {
    Reflect.deleteProperty(navigator, "locks");
    Reflect.deleteProperty(navigator, "storage");
  }
}

async function saveStep({ files }: StudioStorage, step: number): Promise<void> {
  const head = { version: 1, identity: {}, position: { step }, kept: [], same: {} };
  await writeSafetensors("run/checkpoint.safetensors", [], { metadata: { compresso: JSON.stringify(head) }, files });
}

Deno.test("where there is room the files are copied, and the next page has them, the choices and the step", async () => {
  await withStorage(1e9, async (open, root) => {
    const storage = await open();
    await storage.begin(INPUTS, HOW);
    await storage.noteSteps(11);
    assert.equal(await (await open()).found(), null, "nothing was saved yet");
    await saveStep(storage, 3);
    const next = await open(), kept = await next.found();
    assert.deepEqual(kept, { model: "small.gguf", step: 3, steps: 11, bytes: root.size, wanted: [] });
    const { model, rows, choices } = await next.inputs();
    assert.deepEqual([model.name, rows.name, choices], ["small.gguf", "rows.jsonl", CHOICES]);
    assert.ok(Array.isArray(model.files) && rows.file instanceof File);
    assert.deepEqual([model.files[0].name, model.files[0].file.size], ["small.gguf", 4096]);
    assert.deepEqual([rows.file.name, await rows.file.text()], ["rows.jsonl", "{}"]);
    // A new run on the same model keeps its copy; one on another model replaces it.
    const again = { ...INPUTS, model: { ...INPUTS.model, files: model.files, isKept: true } };
    await next.begin(again, HOW);
    assert.deepEqual(await next.files.names("model"), ["small.gguf"]);
    assert.equal(await next.files.info("run"), null);
    await next.begin({ ...INPUTS, model: { name: "demo", files: "demo", isKept: false } }, HOW);
    assert.equal(await next.files.info("model"), null);
    await next.clear({ model: null, rows: null });
    assert.deepEqual([root.size, await next.found()], [0, null]);
    await rejects(next.inputs(), "input");
  });
});

Deno.test("without room for copies the run is kept, and its files must be chosen again; other contents are no run", async () => {
  await withStorage(1e6, async (open) => {
    const storage = await open();
    await storage.begin(INPUTS, HOW);
    await saveStep(storage, 3);
    assert.deepEqual((await (await open()).found())?.wanted, ["small.gguf", "rows.jsonl"]);
    const { model, rows } = await (await open()).inputs();
    assert.deepEqual([model.files, rows.file], [null, null]);
    await writeFile(storage.files, "about.json", "{");
    assert.equal(await (await open()).found(), null);
  });
});

Deno.test("while another tab has the storage it is refused", async () => {
  await withStorage(1e6, async (open) => {
    const request = (): Promise<never> => Promise.reject(new DOMException("it took too long", "TimeoutError"));
    Object.defineProperty(navigator, "locks", { value: { request }, configurable: true });
    await rejects(open(), "input", { value: "another tab" });
  });
});

Deno.test("a browser without private files is refused with what to do", async () => {
  await rejects(StudioStorage.open("https://example.org/"), "input", {});
});
