// The sizes of the paper's table: 5.4, 5.0 and 4.5 of LLaMA-7B's 6.7 billion parameters, as memory by plan and tokens a second of random weights.
// Nothing is downloaded.
import { join } from "node:path";
import { cpuUsage } from "node:process";
import { parseArgs } from "node:util";
import { benchModels } from "../../lib/bench/models.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { planMemory } from "../../lib/run/memory/plan.ts";
import { type DecoderSpec, parameterCount } from "../../lib/spec/decoder.ts";
import { fileBytes } from "../../lib/units/file_size.ts";
import { llamaOf, writeRandomGguf } from "./big_model.ts";

const HELP = `usage: deno run -A scripts/bench/paper_sizes.ts [options]

Prints the memory of LLaMA-7B and of its cuts, by plan. With --measure it also makes each model as a random GGUF of Q4_0,
one after the other, and measures how fast it reads and writes with 4-bit weights.

  --parameters N   size of the dense model (default: 6.7e9, the shape of LLaMA-7B)
  --keep LIST      sizes of the cut ones (default: 5.4e9,5.0e9,4.5e9)
  --measure        measures too: about 10 GB of memory for 6.7e9
  --layers N       measures models of the first N layers only; two such runs give the cost of a layer by their difference
  --only N         measures only the model of this place, 0 for the dense one
  --prompt N       tokens of a prompt (default: 32)
  --tokens N       tokens written after it (default: 8)
  --folder PATH    where models lie while they are measured (default: a new temporary folder, which is removed)`;

/** Columns that are cut together: a block of the quantised types. */
const BLOCK = 32;

/** The model with about so many parameters, of which attention and FFN of each layer keep the same share, in whole heads and blocks. */
export function cutTo(spec: DecoderSpec, parameters: number): DecoderSpec {
  const { hidden, headDim, layers, layers: [layer] } = spec, count = layers.length;
  if (!layer) throw new Error("the model has a layer");
  const ofLayers = (heads: number, ffn: number): number => count * hidden * (4 * heads * headDim + 3 * ffn);
  const rest = parameterCount(spec) - ofLayers(layer.heads, layer.ffn),
    share = (parameters - rest) /
      (parameterCount(spec) - rest);
  const heads = Math.max(1, Math.round(share * layer.heads));
  const left = (parameters - rest - ofLayers(heads, 0)) / (3 * hidden * count);
  const ffn = Math.max(BLOCK, BLOCK * Math.round(left / BLOCK));
  return { ...spec, layers: layers.map(() => ({ heads, kvHeads: heads, ffn })) };
}

const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(2);

/** A line of the table of memory. */
async function memoryLine(spec: DecoderSpec): Promise<string> {
  const plan = (baseDtype: "f16" | "q4", seq: number): Promise<string> =>
    planMemory(spec, { batch: 1, seq, baseDtype }).then(({ peakBytes }) => gigabytes(peakBytes));
  const { layers: [layer] } = spec, name = "random";
  const file = (dtype: "f16" | "q4_0"): string =>
    gigabytes(fileBytes(spec, { format: "gguf", dtype }, { tokenizer: null, name }));
  return [
    (parameterCount(spec) / 1e9).toFixed(2),
    `${layer?.heads}, ${layer?.ffn}`,
    ...[file("f16"), file("q4_0")],
    ...[await plan("f16", 512), await plan("q4", 512), await plan("q4", 2048)],
  ].join(" | ");
}

/** Measures a model that it makes in `folder` and removes again. */
async function measure(
  spec: DecoderSpec,
  { folder, prompt, tokens }: { readonly folder: string; readonly prompt: number; readonly tokens: number },
): Promise<string> {
  const path = join(folder, "model.gguf");
  try {
    await writeRandomGguf(path, spec);
    using device = await openDevice();
    using model = await loadModel(path, { device, baseDtype: "q4" });
    const loaded = device.bytes, cpu = cpuUsage();
    const { rows: [row] } = await benchModels([{ name: "random", model }], { prompt, tokens, batch: 4, repeats: 1 });
    const { user, system } = cpuUsage(cpu), { promptRate, decodeRate, decodeRateMany } = row?.figures ?? {};
    const rate = (one: { readonly median: number } | undefined): string => one?.median.toFixed(2) ?? "";
    return [
      (parameterCount(spec) / 1e9).toFixed(2),
      ...[gigabytes(loaded), gigabytes(device.peakBytes), gigabytes(row?.tokenBytes ?? NaN)],
      ...[rate(promptRate), rate(decodeRate), rate(decodeRateMany), ((user + system) / 1e6).toFixed(0)],
    ].join(" | ");
  } finally {
    await Deno.remove(path).catch(() => {});
  }
}

/** Runs the command line. */
export async function main(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      parameters: { type: "string", default: "6.7e9" },
      keep: { type: "string", default: "5.4e9,5.0e9,4.5e9" },
      measure: { type: "boolean", default: false },
      layers: { type: "string" },
      only: { type: "string" },
      prompt: { type: "string", default: "32" },
      tokens: { type: "string", default: "8" },
      folder: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return console.log(HELP);
  const dense = llamaOf(Number(values.parameters));
  const specs = [dense, ...values.keep.split(",").map((size) => cutTo(dense, Number(size)))];
  const rule = (columns: number): string => Array(columns).fill("-").join(" | ");
  console.log(
    "B parameters | heads, FFN | GB as f16 | as Q4_0 | GB to train at 1 x 512, f16 | q4 | q4, 1 x 2048\n" + rule(7),
  );
  for (const spec of specs) console.log(await memoryLine(spec));
  if (!values.measure) return;
  const folder = values.folder ?? await Deno.makeTempDir({ prefix: "paper-sizes-" });
  const sizes = { folder, prompt: Number(values.prompt), tokens: Number(values.tokens) };
  console.log(
    "\nB parameters | GB loaded | GB at most | GB read a token | tokens/s read | written | written, four at once | CPU s\n" +
      rule(8),
  );
  try {
    await Deno.mkdir(folder, { recursive: true });
    for (const [index, spec] of specs.entries()) {
      const measured = values.layers === undefined
        ? spec
        : { ...spec, layers: spec.layers.slice(0, Number(values.layers)) };
      if (values.only === undefined || Number(values.only) === index) console.log(await measure(measured, sizes));
    }
  } finally {
    if (values.folder === undefined) await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    console.error(error.message);
    Deno.exitCode = error.exitStatus;
  }
}
