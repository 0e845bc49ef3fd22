// Makes a random LLaMA of any size as a GGUF in 4-bit blocks and prunes it: seconds, CPU seconds and peak memory of
// each phase. Nothing is downloaded. Peaks of single phases need Linux.
import { join } from "node:path";
import { cpuUsage } from "node:process";
import { parseArgs } from "node:util";
import { CompressoError } from "../../lib/core/errors.ts";
import { randomU32 } from "../../lib/core/random.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { DEMO, demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { readRows } from "../../lib/local/rows.ts";
import { disk } from "../../lib/files/disk.ts";
import { ggufNames } from "../../lib/formats/gguf/names.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import { type GgufItem, stageGgufFile } from "../../lib/formats/gguf/write.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { adapterOf, planMemory } from "../../lib/run/memory/plan.ts";
import { pruneToFolder } from "../../lib/run/prune_to_folder.ts";
import { COMPARED } from "../../lib/run/finish.ts";
import { type DecoderSpec, parameterCount, tensorShapes } from "../../lib/spec/decoder.ts";
import { elementCount } from "../../lib/spec/row_range.ts";
import { specOf } from "./random_model.ts";

const HELP = `usage: deno run -A scripts/bench/big_model.ts [options]

Makes a random LLaMA as FOLDER/model.gguf (Q4_0) unless it is there, and prunes it into FOLDER/run.

  --parameters N   size of the model, such as 1e9; the shape is LLaMA's, so that 6.7e9 is LLaMA-7B (default: 0.5e9)
  --keep SHARE     parameters of the pruned model (default: 0.8)
  --steps N        steps of the pruning stage (default: 2)
  --seq N          tokens of a step, one sequence (default: 128)
  --formats LIST   what is written: hf, gguf (default: hf,gguf)
  --folder PATH    default: a new temporary folder, which is removed`;

/** Values and bytes of a block of Q4_0: the f16 scale, then 32 codes of 4 bits. */
const BLOCK = 32, BLOCK_BYTES = 18;
/** Root mean square of the 16 codes, in scales. */
const CODE_SIZE = Math.sqrt(Array.from({ length: 16 }, (_, code) => (code - 8) ** 2).reduce((sum, x) => sum + x) / 16);

/** The LLaMA of about so many parameters: layers grow with the hidden size as from 7B to 13B. */
export function llamaOf(parameters: number): DecoderSpec {
  const heads = Math.max(1, Math.round(Math.cbrt(parameters * 128 / 12) / 128)), hidden = 128 * heads;
  const ffn = 256 * Math.ceil(Math.floor(8 * hidden / 3) / 256);
  return specOf({ hidden, layers: heads, heads, kvHeads: heads, headDim: 128, ffn, vocab: 32000, tied: false });
}

/** Writes a GGUF with random blocks, a tensor at a time. */
export async function writeRandomGguf(path: string, spec: DecoderSpec): Promise<void> {
  const { tokenizer } = await openModelFiles(DEMO), { hidden, headDim, vocab, layers: [layer] } = spec;
  if (!tokenizer || !layer) throw new Error("the demo has a tokenizer, and the model a layer");
  const float = (value: number): GgufTyped => ({ type: "f32", value });
  const metadata = new Map<string, GgufValue | GgufTyped>([
    ["general.architecture", "llama"],
    ["llama.vocab_size", vocab],
    ["llama.context_length", spec.maxPosition],
    ["llama.embedding_length", hidden],
    ["llama.block_count", spec.layers.length],
    ["llama.feed_forward_length", layer.ffn],
    ["llama.attention.head_count", layer.heads],
    ["llama.attention.head_count_kv", layer.kvHeads],
    ["llama.attention.layer_norm_rms_epsilon", float(spec.normEps)],
    ["llama.attention.key_length", headDim],
    ["llama.attention.value_length", headDim],
    ["llama.rope.dimension_count", headDim],
    ["llama.rope.freq_base", float(spec.rope.base)],
    ...ggufTokenizerMetadata(tokenizer, { vocab }),
  ]);
  const names = ggufNames(spec.layers.length);
  const tensors = [...tensorShapes(spec)].map(([canonical, shape], index): GgufItem => ({
    name: names.get(canonical)?.name ?? canonical,
    shape,
    ...shape.length === 1
      ? { type: "f32", data: (): Float32Array => new Float32Array(elementCount(shape)).fill(1) }
      : { type: "q4_0", data: (): Uint8Array<ArrayBuffer> => randomBlocks(shape, index) },
  }));
  using file = await stageGgufFile(path, { metadata, tensors }, { files: disk });
  await file.commit();
}

/** Blocks of values with a root mean square of 1 / √in, so that activations stay near 1. */
function randomBlocks(shape: readonly number[], seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(elementCount(shape) / BLOCK * BLOCK_BYTES);
  const words = new Uint32Array(bytes.buffer, 0, bytes.length >> 2);
  // xorshift32 (Marsaglia 2003)
  let state = randomU32(seed) | 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    words[i] = state ^= state << 5;
  }
  const [low = 0, high = 0] = new Uint8Array(new Float16Array([1 / CODE_SIZE / Math.sqrt(shape.at(-1) ?? 1)]).buffer);
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    // The lowest five bits of the scale stay random.
    bytes[at] = low & 0xe0 | (bytes[at] ?? 0) & 0x1f;
    bytes[at + 1] = high;
  }
  return bytes;
}

/** Seconds, CPU seconds and peak memory of phases that follow each other. */
class Phases {
  #name = "";
  #start = performance.now();
  #cpu = cpuUsage();

  begin(name: string): void {
    if (name === this.#name) return;
    this.end();
    this.#name = name;
  }

  end(): void {
    const now = performance.now(), cpu = cpuUsage();
    if (this.#name !== "") {
      const used = cpu.user + cpu.system - this.#cpu.user - this.#cpu.system;
      const seconds = ((now - this.#start) / 1000).toFixed(1), cpuSeconds = (used / 1e6).toFixed(1);
      console.log(
        `${this.#name.padEnd(10)} ${seconds.padStart(7)} s ${cpuSeconds.padStart(8)} CPU s   ${peakMemory()}`,
      );
    }
    [this.#name, this.#start, this.#cpu] = ["", now, cpu];
  }
}

/** Largest resident memory since the last call. */
function peakMemory(): string {
  try {
    const [, kib = "0"] = /VmHWM:\s+(\d+)/.exec(Deno.readTextFileSync("/proc/self/status")) ?? [];
    Deno.writeTextFileSync("/proc/self/clear_refs", "5");
    return `peak ${gigabytes(1024 * Number(kib))}`;
  } catch {
    return `now ${gigabytes(Deno.memoryUsage().rss)}`;
  }
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

/** Runs the command line. */
export async function main(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      parameters: { type: "string", default: "0.5e9" },
      keep: { type: "string", default: "0.8" },
      steps: { type: "string", default: "2" },
      seq: { type: "string", default: "128" },
      formats: { type: "string", default: "hf,gguf" },
      folder: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return console.log(HELP);
  const folder = values.folder ?? await Deno.makeTempDir({ prefix: "big-model-" }), path = join(folder, "model.gguf");
  const spec = llamaOf(Number(values.parameters)), whole = parameterCount(spec), { layers: { length } } = spec;
  const phases = new Phases(), seq = Number(values.seq), steps = Number(values.steps), out = join(folder, "run");
  try {
    console.log(`random LLaMA: ${whole} parameters, ${length} layers, hidden ${spec.hidden}`);
    phases.begin("make");
    await Deno.mkdir(folder, { recursive: true });
    if (!await disk.info(path)) await writeRandomGguf(path, spec);
    phases.begin("plan");
    using device = await openDevice();
    const adapter = adapterOf(device), batch = 1, baseDtype = "q4";
    const plan = await planMemory(spec, { batch, seq, baseDtype, adapter });
    phases.end();
    console.log(`file ${gigabytes((await Deno.stat(path)).size)}, plan: GPU peak ${gigabytes(plan.peakBytes)}`);
    console.log(`of which weights ${gigabytes(plan.stages.weights)}; on ${device.facts.description}`);
    phases.begin("read");
    using model = await loadModel(path, { device, baseDtype });
    phases.begin("prepare");
    const { rows } = await readRows(demoData("train"), { limit: 10 });
    const summary = await pruneToFolder(model, {
      out,
      rows,
      batch,
      seq,
      steps,
      prefinetune: 0,
      postfinetune: 1,
      size: { parameters: Math.round(Number(values.keep) * whole) },
      calibration: "none",
      export: { formats: values.formats.split(",").filter((one) => one === "hf" || one === "gguf"), replace: true },
      onStart: () => phases.begin("steps"),
      onPhase: (phase, share) => phases.begin(phase === "export" ? "write" : share < COMPARED ? "compare" : "measure"),
    });
    phases.end();
    const { maxAbs, range } = summary.maskedVsSliced;
    console.log(
      `${summary.parameters.after} parameters are left; masked = sliced to ${(maxAbs / range).toExponential(1)}`,
    );
    for (const { file, bytes } of summary.fileBytes) console.log(`${file} ${gigabytes(bytes)}`);
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
