// What the browser test bundles: a model pruned by a run and written as a GGUF, from bytes to bytes.
import { openDevice, openModel, pruneInMemory, type PruneSession, toRow } from "../../lib/browser/mod.ts";

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
  const files = Object.fromEntries(model.map((path) => [path.replace(/^.*\//, ""), new URL(path, location.href)]));
  using device = await openDevice({ gpu: navigator.gpu });
  using dense = await openModel(files, { device, baseDtype: "f32" });
  const rows = STORIES.map((text) => toRow({ text })), losses: number[] = [];
  let logits = new Float32Array(), session: PruneSession | null = null as PruneSession | null;
  const { files: written } = await pruneInMemory(dense, {
    ...{ rows, sparsity: 0.2, ...SHORT, calibration: "none" },
    export: { formats: ["gguf"], ggufDtype: "f32" },
    onRecord: ({ loss }) => void losses.push(loss),
    onStart: (started) => void (session = started),
    hooks: {
      async beforeExport(): Promise<void> {
        const { masks, lora } = session?.result() ?? {};
        logits = await dense.logits(tokens, masks && lora ? { masks, lora } : {});
      },
    },
  });
  await fetch("gguf", { method: "POST", body: written.get("model.gguf") ?? null });
  return { adapter: device.facts.description, losses, logits: [...logits] };
}

Object.assign(globalThis, { run });
