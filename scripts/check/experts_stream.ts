// Cuts half of the experts of a large random model, and measures what that takes: memory, and time against copying the file.
import { parseArgs } from "node:util";
import { Buffer } from "node:buffer";
import process from "node:process";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { randomU32 } from "../../lib/core/random.ts";
import { narrowF16 } from "../../lib/core/half.ts";
import { type DecoderSpec, EXPERT_MATRICES, expertsName, tensorShapes } from "../../lib/spec/decoder.ts";
import { rowWindow } from "../../lib/spec/row_range.ts";
import type { WeightSource } from "../../lib/spec/source.ts";

const HELP = `usage: deno run -A scripts/check/experts_stream.ts DIR [options]

Writes a GGUF in Q8_0 of the shape of Qwen3-30B-A3B with fewer layers and random weights to DIR, copies it, and cuts half
of its experts by reap with the rows of the demo. Prints seconds, the peak of the memory of the process, and whether the
kept blocks are those of the file. Needs Linux. Removes all it has written, unless --keep is given.

  --layers COUNT  layers (12: about 8.4 GB)
  --experts COUNT experts of a layer (128)
  --seq TOKENS    tokens of a sequence (32)
  --rows COUNT    rows on which experts are scored (24)
  --share SHARE   share of the experts to cut (0.5)
  --keep          keep the files
  --help          this text`;

const { values: options, positionals: [dir = ""] } = parseArgs({
  allowPositionals: true,
  options: {
    layers: { type: "string", default: "12" },
    experts: { type: "string", default: "128" },
    seq: { type: "string", default: "32" },
    rows: { type: "string", default: "24" },
    share: { type: "string", default: "0.5" },
    keep: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (options.help || dir === "") {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

/** Bytes of a block of 32 values of Q8_0: a scale in f16, then codes. */
const BLOCK = 34, VALUES = 32;
/** Blocks that are drawn; all tensors repeat them from different places on. A prime, so that no two experts are alike. */
const DRAWN = 300_007;
const GIB = 2 ** 30;

const { source: { spec: demo }, tokenizer } = await openModelFiles("demo");
/** Qwen3-30B-A3B as its config.json says, with fewer layers. */
const spec: DecoderSpec = {
  ...demo,
  vocab: 151936,
  hidden: 2048,
  headDim: 128,
  qkNorm: "head",
  tied: false,
  normEps: 1e-6,
  rope: { base: 1e6, scaling: { kind: "none" } },
  maxPosition: 40960,
  router: { topK: 8, renormalised: true },
  layers: Array.from({ length: Number(options.layers) }, () => {
    return { heads: 32, kvHeads: 4, ffn: 0, experts: { count: Number(options.experts), ffn: 768 } };
  }),
};

/** Blocks for rows of a width: their values have a variance of 1 / width. */
function drawnBlocks(width: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(DRAWN * BLOCK), [scale = 0] = narrowF16(Float32Array.of(1 / (73.5 * Math.sqrt(width))));
  for (let block = 0, state = width | 1; block < DRAWN; block++) {
    bytes[block * BLOCK] = scale & 255;
    bytes[block * BLOCK + 1] = scale >>> 8;
    for (let at = 2; at < BLOCK; at++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      bytes[block * BLOCK + at] = state;
    }
  }
  return bytes;
}

/** The model. Its large matrices are blocks; routers and norms are f32. */
function randomBlocks(): WeightSource {
  const shapes = tensorShapes(spec), names = [...shapes.keys()], drawn = new Map<number, Uint8Array<ArrayBuffer>>();
  const isBlocks = (name: string): boolean => (shapes.get(name)?.length ?? 0) > 1 && !name.endsWith("mlp.gate.weight");
  return {
    spec,
    storedDtype: (name) => isBlocks(name) ? "q8_0" : "f32",
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const shape = shapes.get(name) ?? [], { start, count, width } = rowWindow(name, shape, { rows });
      const seed = names.indexOf(name), scale = 2 * Math.sqrt(3 / width) / 2 ** 32;
      return Promise.resolve(Float32Array.from({ length: count * width }, (_, at) => {
        return shape.length < 2 ? 1 : scale * (randomU32(seed, start * width + at, 0) - 2 ** 31);
      }));
    },
    readStored(name, rows): Promise<Uint8Array<ArrayBuffer> | null> {
      if (!isBlocks(name)) return Promise.resolve(null);
      const { start, count, width } = rowWindow(name, shapes.get(name) ?? [], { rows });
      const own = drawn.get(width) ?? drawnBlocks(width), first = names.indexOf(name) * 7919 + start * width / VALUES;
      drawn.set(width, own);
      const bytes = new Uint8Array(count * width / VALUES * BLOCK);
      for (let at = 0, from = (first % DRAWN) * BLOCK; at < bytes.length; from = 0) {
        const piece = own.subarray(from, Math.min(own.length, from + bytes.length - at));
        bytes.set(piece, at);
        at += piece.length;
      }
      return Promise.resolve(bytes);
    },
  };
}

const seconds = (from: number): string => `${((performance.now() - from) / 1000).toFixed(1)} s`;

/** Writes the changed pages of a file to the disk. Then the system may drop the file from its cache. */
async function forget(path: string): Promise<void> {
  const args = [`of=${path}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none", "if=/dev/null"];
  const { success } = await new Deno.Command("dd", { args }).output();
  if (!success) throw new Error("dd cannot ask the system to forget a file");
}

/** Ticks of a second in /proc. */
const TICKS = 100;

/** Runs the program, and gives its output, the peak of its memory (all of it, and what belongs to no file), and its CPU time in seconds. */
async function measured(
  args: readonly string[],
): Promise<{ readonly json: string; readonly peak: number; readonly anonymous: number; readonly cpu: number }> {
  const main = new URL("../../cli/main.ts", import.meta.url).pathname;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", main, ...args, "--json"],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let peak = 0, anonymous = 0, cpu = 0;
  const timer = setInterval(() => {
    try {
      const status = Deno.readTextFileSync(`/proc/${child.pid}/status`);
      const of = (key: string): number => 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1] ?? 0);
      [peak, anonymous] = [Math.max(peak, of("VmHWM")), Math.max(anonymous, of("RssAnon"))];
      // After the name in brackets: user time is the 12th field, system time the 13th.
      const fields = Deno.readTextFileSync(`/proc/${child.pid}/stat`).split(") ")[1]?.split(" ") ?? [];
      cpu = (Number(fields[11]) + Number(fields[12])) / TICKS;
    } catch { // it has ended
    }
  }, 200);
  const { stdout, success } = await child.output();
  clearInterval(timer);
  const json = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`${args.join(" ")}: ${json}`);
  return { json, peak, anonymous, cpu };
}

const path = `${dir}/model.gguf`, copy = `${dir}/copy.gguf`, out = `${dir}/cut`;
await Deno.mkdir(dir, { recursive: true });
let from = performance.now();
await exportModel(randomBlocks(), dir, { formats: ["gguf"], ggufDtype: "q8_0", tokenizer, name: "random" });
const { size } = await Deno.stat(path);
console.log(`${spec.layers.length} layers, ${(size / 1e9).toFixed(2)} GB, written in ${seconds(from)}`);

await forget(path);
from = performance.now();
await Deno.copyFile(path, copy);
await forget(copy);
console.log(`copied in ${seconds(from)}, on the disk`);
await Deno.remove(copy);

const cut = ["--units", "experts", "--sparsity", options.share, "--seq", options.seq, "--base-dtype", "q8"];
const plan = JSON.parse((await measured(["plan", path, ...cut])).json);
await forget(path);
from = performance.now();
const { json, peak, anonymous, cpu } = await measured([
  ...["prune", path, ...cut, "--steps", "0", "--data", demoData("train"), "--limit-rows", options.rows],
  ...["--formats", "gguf", "--no-tuning", "--out", out],
]);
const took = seconds(from), run = JSON.parse(json);
console.log(
  `cut to ${run.experts.after} of ${run.experts.before} experts in ${took}, ${cpu.toFixed(0)} s of CPU; parts: ${
    JSON.stringify(run.parts)
  }`,
);
console.log(`scored on ${run.experts.use.tokens} tokens; check: ${JSON.stringify(run.maskedVsSliced)}`);
console.log(`memory: ${(peak / GIB).toFixed(2)} GiB at most, ${(anonymous / GIB).toFixed(2)} GiB of no file`);
console.log(`buffers: ${run.peakGpuBytes} bytes, planned ${plan.peakBytes}; states planned ${plan.experts.stateBytes}`);
const { size: left } = await Deno.stat(`${out}/model.gguf`);
console.log(
  `${(left / 1e9).toFixed(2)} GB are left, weights planned ${(plan.experts.files.gguf.after / 1e9).toFixed(2)} GB`,
);
await checkBlocks(run.experts.kept);
if (!options.keep) await Deno.remove(dir, { recursive: true });

/** Compares the blocks of the kept experts with those of the file. */
async function checkBlocks(kept: readonly (readonly number[])[]): Promise<void> {
  const { source: whole } = await openModelFiles(path), { source: small } = await openModelFiles(`${out}/model.gguf`);
  let bytes = 0;
  for (const [layer, own] of kept.entries()) {
    for (const matrix of EXPERT_MATRICES) {
      const name = expertsName(layer, matrix), rows = matrix === "down" ? spec.hidden : 768;
      for (const [place, expert] of own.entries()) {
        const is = await small.readStored?.(name, { start: place * rows, count: rows });
        const was = await whole.readStored?.(name, { start: expert * rows, count: rows });
        if (!is || !was || Buffer.compare(is, was) !== 0) {
          throw new Error(`${name}: expert ${expert} is not as it was`);
        }
        bytes += is.length;
      }
    }
  }
  console.log(`${(bytes / 1e9).toFixed(2)} GB of blocks of kept experts are those of the file`);
}
