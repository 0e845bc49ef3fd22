// Compares types chosen for a size (export --gguf-size) with llama.cpp's named mixes of the same size, in KL to the dense model.
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { shuffle } from "../../lib/core/random.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { GgufWriteType } from "../../lib/formats/gguf/mixes.ts";
import { layerOf, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";

const HELP = `usage: deno run -A scripts/check/type_budget.ts MODEL OUT --text FILE [options]

Writes MODEL as an f16 GGUF, in each named mix, and with types chosen for the size of each of these files, into OUT; then
measures all against the f16 one. Files that OUT has are used again. A quantised MODEL would be at an advantage in its own
type, so hidden dims, FFN columns and value dims are put in a random order first: the model computes the same, but no block
holds the values of a block of MODEL any more.

  --text FILE        text to measure on
  --mixes NAMES      named mixes (q3_k_m,q4_k_m,q5_k_m)
  --window N         tokens of a window (512)
  --max-windows N    windows (4)
  --files            write the files only
  --help             this text`;

const { values: options, positionals: [model, out] } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: "string" },
    mixes: { type: "string", default: "q3_k_m,q4_k_m,q5_k_m" },
    window: { type: "string", default: "512" },
    "max-windows": { type: "string", default: "4" },
    files: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (options.help || !model || !out || (!options.text && !options.files)) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

/** The same model with its hidden dims, FFN columns and dims of values in a random order, read as f16. */
function reordered(source: WeightSource): WeightSource {
  const { spec } = source, hidden = shuffle(spec.hidden, 1, 0), shapes = tensorShapes(spec);
  const ffn = spec.layers.map((layer, at) => shuffle(layer.ffn, 2, at));
  const values = spec.layers.map(({ kvHeads }, at) =>
    Array.from({ length: kvHeads }, (_, group) => shuffle(spec.headDim, 3 + group, at))
  );
  /** Where each value of heads of a layer comes from; heads of a group share an order. */
  const headOrder = (layer: number, heads: number): Uint32Array => {
    const { kvHeads } = spec.layers[layer] ?? { kvHeads: 1 };
    return Uint32Array.from({ length: heads * spec.headDim }, (_, at) => {
      const head = Math.floor(at / spec.headDim), group = Math.floor(head * kvHeads / heads);
      return head * spec.headDim + (values[layer]?.[group]?.[at % spec.headDim] ?? 0);
    });
  };
  const ordersOf = (
    name: string,
  ): { readonly rows?: Uint32Array | undefined; readonly columns?: Uint32Array | undefined } => {
    const layer = layerOf(name), { heads, kvHeads } = spec.layers[layer] ?? { heads: 0, kvHeads: 0 };
    if (/(q|k)_norm/.test(name)) return {};
    if (/norm/.test(name)) return { columns: hidden };
    if (/q_proj|k_proj/.test(name)) return { columns: hidden };
    if (/v_proj/.test(name)) return { rows: headOrder(layer, kvHeads), columns: hidden };
    if (/o_proj/.test(name)) return { rows: hidden, columns: headOrder(layer, heads) };
    if (/gate_proj|up_proj/.test(name)) return { rows: ffn[layer], columns: hidden };
    if (/down_proj/.test(name)) return { rows: hidden, columns: ffn[layer] };
    if (/bias/.test(name)) throw new Error(`${name}: models with biases are not reordered here`);
    return { columns: hidden };
  };
  return {
    spec,
    storedDtype: () => "f16",
    async read(name, range): Promise<Float32Array<ArrayBuffer>> {
      const values = await source.read(name), [first = 1, second] = shapes.get(name) ?? [];
      const columns = second ?? first,
        rows = second === undefined ? 1 : first,
        { rows: up, columns: across } = ordersOf(name);
      const target = new Float32Array(values.length);
      for (let row = 0; row < rows; row++) {
        const from = (up?.[row] ?? row) * columns;
        for (let at = 0; at < columns; at++) target[row * columns + at] = values[from + (across?.[at] ?? at)] ?? NaN;
      }
      return range ? target.slice(range.start * columns, (range.start + range.count) * columns) : target;
    },
  };
}

const { source, tokenizer } = await openModelFiles(model), plain = reordered(source);
const written: string[] = [];

/** Writes a GGUF unless it is there; returns its bytes. */
async function write(
  name: string,
  types: { readonly ggufDtype?: GgufWriteType; readonly ggufSize?: number },
): Promise<number> {
  const folder = `${out}/${name}`, path = `${folder}/model.gguf`;
  written.push(path);
  if (!(await Deno.stat(path).catch(() => null))) {
    const result = await exportModel(plain, folder, { ...types, formats: ["gguf"], tokenizer, name });
    if (result.ggufTypes) {
      await Deno.writeTextFile(
        `${folder}/types.json`,
        JSON.stringify({ types: result.ggufTypes, asked: types.ggufSize }),
      );
    }
  }
  return (await Deno.stat(path)).size;
}

await write("dense", { ggufDtype: "f16" });
for (const mix of options.mixes.split(",")) {
  const size = await write(mix, { ggufDtype: mix as GgufWriteType }),
    own = await write(`${mix}_size`, { ggufSize: size });
  console.log(`${mix}: ${size} bytes; types for this size: ${own} bytes`);
}
if (options.files) process.exit(0);

const [dense = "", ...others] = written, root = fileURLToPath(new URL("../..", import.meta.url));
const { stdout, success } = await new Deno.Command("deno", {
  args: [
    ...[
      "run",
      "-A",
      "--no-check",
      `${root}cli/main.ts`,
      "eval",
      ...others,
      "--against",
      dense,
      "--text",
      options.text ?? "",
    ],
    ...["--window", options.window, "--max-windows", options["max-windows"], "--base-dtype", "f32", "--json"],
  ],
  stderr: "inherit",
}).output();
if (!success) process.exit(1);
const text = new TextDecoder().decode(stdout);
await Deno.writeTextFile(`${out}/eval.json`, text);
console.log("| file | bytes | mean KL | error | 99th percentile | same first choice |\n| - | - | - | - | - | - |");
for (const [at, own] of JSON.parse(text).models.entries()) {
  const { size } = await Deno.stat(others[at] ?? ""),
    figures = [own.kl, own.klError, own.kl99].map((value) => value.toFixed(5));
  console.log(
    `| ${others[at]?.split("/").at(-2)} | ${size} | ${figures.join(" | ")} | ${(100 * own.top1).toFixed(2)} % |`,
  );
}
