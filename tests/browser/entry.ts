// What the browser test bundles: a model pruned by a run and written as a GGUF, from bytes to bytes.
import type { TextRow } from "../../lib/data/row.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { openModel } from "../../lib/formats/open.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { pruneOn } from "../../lib/run/session.ts";

/** One step of each stage, so that a browser without a GPU is done soon. */
const SHORT = { prefinetune: 1, steps: 2, postfinetune: 1, batch: 1, seq: 32, start: "constant" } as const;
const STORIES = Array.from(
  { length: 8 },
  (_, day) => `On day ${day} a small dog ran to the river. It saw a red boat and a bird, and it was happy.`,
);

/** What the page says beside the GGUF. */
export interface Outcome {
  /** Name of the adapter. */
  readonly adapter: string;
  /** Loss of each step. */
  readonly losses: readonly number[];
  /** Logits of the masked model [T × vocab]. */
  readonly logits: readonly number[];
}

/** Prunes the model whose files are at these paths, relative to the page, and posts the GGUF to `gguf`. */
async function run({ model, tokens }: {
  readonly model: readonly string[];
  readonly tokens: readonly number[];
}): Promise<Outcome> {
  const files = memoryFiles(await Promise.all(model.map(async (path) => [path, await bytesOf(path)] as const)));
  const { source, tokenizer } = await openModel(files, "demo");
  using device = await openDevice({ gpu: navigator.gpu });
  using dense = await loadModelFrom(source, { device, tokenizer, baseDtype: "f32" });
  const rows = STORIES.map((text): TextRow => ({ kind: "text", text, extra: {} }));
  using session = pruneOn({ files, openScript: null, loadTasks: null }, dense, { rows, sparsity: 0.2, ...SHORT });
  const losses: number[] = [];
  for await (const { loss } of session) losses.push(loss);
  const { masks, lora } = session.result(), logits = await dense.logits(tokens, { masks, lora });
  await session.export("out", { formats: ["gguf"], ggufDtype: "f32" });
  await fetch("gguf", { method: "POST", body: files.files.get("out/model.gguf") ?? null });
  return { adapter: device.facts.description, losses, logits: [...logits] };
}

async function bytesOf(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

Object.assign(globalThis, { run });
