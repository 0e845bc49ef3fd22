// What the browser test bundles: a model cut and written as a GGUF, from bytes to bytes.
import { uniform } from "../../lib/core/random.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { openModel } from "../../lib/formats/open.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { maskSizes, type MaskValues } from "../../lib/nn/mask_slots.ts";
import { stageModel } from "../../lib/slice/export.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";

/** What the page says beside the GGUF. */
export interface Outcome {
  /** Name of the adapter. */
  readonly adapter: string;
  /** Logits of the masked model [T × vocab]. */
  readonly logits: readonly number[];
}

/** Cuts the model whose files are at these paths, relative to the page, and posts the GGUF to `gguf`. */
async function run({ model, tokens }: {
  readonly model: readonly string[];
  readonly tokens: readonly number[];
}): Promise<Outcome> {
  const files = memoryFiles(await Promise.all(model.map(async (path) => [path, await bytesOf(path)] as const)));
  const { source, tokenizer } = await openModel(files, "demo");
  using device = await openDevice({ gpu: navigator.gpu });
  using dense = await loadModelFrom(source, { device, tokenizer, baseDtype: "f32" });
  const masks = someMasks(source.spec), logits = await dense.logits(tokens, { masks });
  using staged = await stageModel(sliceModel(source, { masks }), "out", {
    files,
    tokenizer,
    name: "demo",
    formats: ["gguf"],
    ggufDtype: "f32",
  });
  await staged.commit();
  await fetch("gguf", { method: "POST", body: files.files.get("out/model.gguf") ?? null });
  return { adapter: device.facts.description, logits: [...logits] };
}

/** Masks that cut about a third of every kind. */
function someMasks(spec: DecoderSpec): MaskValues {
  const sizes = maskSizes(spec);
  const kind = (count: number, stream: number): Float32Array =>
    Float32Array.from({ length: count }, (_, index) => uniform(1, stream, index, 0) < 0.3 ? 0 : 1);
  return { head: kind(sizes.head, 0), ffn: kind(sizes.ffn, 1), hidden: kind(sizes.hidden, 2) };
}

async function bytesOf(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

Object.assign(globalThis, { run });
