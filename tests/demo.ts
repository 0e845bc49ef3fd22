// The first layers of the demo model, which train in less than half the time: for tests that ask nothing of its quality.
import { exportModel } from "../mod.ts";
import { openModelFiles } from "../lib/local/open_model.ts";
import type { ModelFiles } from "../lib/formats/open.ts";

/** Weights and tokenizer of the demo with two of its five layers. */
export async function shortDemo(): Promise<ModelFiles> {
  const { source, tokenizer } = await openModelFiles("demo");
  return { source: { ...source, spec: { ...source.spec, layers: source.spec.layers.slice(0, 2) } }, tokenizer };
}

/** Writes it to a folder, and gives that of the model. */
export async function writeShortDemo(folder: string): Promise<string> {
  const { source, tokenizer } = await shortDemo();
  await exportModel(source, folder, { formats: ["hf"], tokenizer, name: "short demo" });
  return `${folder}/model`;
}
