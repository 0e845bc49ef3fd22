// A random model with experts and the tokenizer of the demo, as a folder.
import { fileURLToPath } from "node:url";
import { ggufTokenizerMetadata } from "../../../lib/formats/gguf/tokenizer_export.ts";
import { openModelFiles } from "../../../lib/local/open_model.ts";
import { type DecoderSpec, tensorShapes } from "../../../lib/spec/decoder.ts";
import type { WeightSource } from "../../../lib/spec/source.ts";
import { exportGguf, exportHf } from "../../disk.ts";
import { random } from "../../kernels/helpers/cells.ts";

/** The shape: two layers with 6 experts of which a token has 2, Qwen3's. */
export const EXPERT_SHAPE = { count: 6, topK: 2, ffn: 32, hidden: 64 } as const;

/** Weights of a small random model with experts; `loud` are experts whose outputs are larger than the others'. */
export async function expertSource({ loud = [] }: { readonly loud?: readonly number[] } = {}): Promise<WeightSource> {
  const { source } = await openModelFiles("demo"), { count, topK, ffn, hidden } = EXPERT_SHAPE, layers = 2;
  const spec: DecoderSpec = {
    ...source.spec,
    hidden,
    headDim: 16,
    qkNorm: "head",
    tied: false,
    router: { topK, renormalised: true },
    layers: Array.from({ length: layers }, () => ({ heads: 4, kvHeads: 2, ffn: 0, experts: { count, ffn } })),
  };
  const shapes = tensorShapes(spec);
  const made = (name: string): Float32Array<ArrayBuffer> => {
    const [rows = 1, columns = 1] = shapes.get(name) ?? [], isNorm = name.includes("norm");
    const seed = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7);
    const scale = isNorm ? 0.1 : 1.5 / Math.sqrt(columns);
    return random(rows * columns, seed).map((value, i) => {
      const expert = Math.floor(i / columns / hidden),
        isLoud = name.endsWith("experts.down_proj.weight") && loud.includes(expert);
      return (isNorm ? 1 : 0) + scale * value * (isLoud ? 4 : 1);
    });
  };
  return {
    spec,
    read: (name, rows) => {
      const all = made(name), [, columns = 1] = shapes.get(name) ?? [];
      return Promise.resolve(rows ? all.slice(rows.start * columns, (rows.start + rows.count) * columns) : all);
    },
    storedDtype: () => "f32",
  };
}

/** Writes the model as a folder and as a GGUF of Q8_0 in `dir`. */
export async function writeExperts(dir: string): Promise<{ readonly folder: string; readonly gguf: string }> {
  const source = await expertSource({ loud: [1, 4] }), { tokenizer } = await openModelFiles("demo");
  const folder = `${dir}/moe`, gguf = `${dir}/moe.gguf`;
  await exportHf(source, folder, { dtype: "f32", tokenizer });
  const tokenizerMetadata = tokenizer ? ggufTokenizerMetadata(tokenizer, { vocab: source.spec.vocab }) : new Map();
  await exportGguf(source, gguf, { dtype: "q8_0", name: "moe", tokenizerMetadata });
  return { folder, gguf };
}

/** Path of the demo's rows. */
export const ROWS = fileURLToPath(new URL("../../../fixtures/demo_data/train.jsonl", import.meta.url));
