// Cuts each random model of fixtures/golden, writes folders and GGUFs, loads them in stock transformers and in llama.cpp, and compares the logits.
import { parseArgs } from "node:util";
import process from "node:process";
import { openDevice } from "../../mod.ts";
import { FAMILIES, familyFor, fixedHeads, GGUF_ARCHS } from "../../lib/families/all.ts";
import { fits } from "../../lib/families/fit.ts";
import type { GgufArch } from "../../lib/families/gguf_arch.ts";
import { ggufArch } from "../../lib/formats/gguf/architecture.ts";
import type { GgufExportOptions } from "../../lib/formats/gguf/export.ts";
import type { GgufValue } from "../../lib/formats/gguf/types.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { type DecoderSpec, type LayerSpec, windowsOf, withWindow } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { recordOf } from "../../lib/units/kinds/all.ts";
import { exportGguf, exportHf, openHfFolder } from "../../tests/disk.ts";
import { VERSION } from "../node_llama_cpp.mjs";

const HELP = `usage: deno run -A scripts/check/families.ts [NAME …] [options]

For each random model of fixtures/golden and golden_hybrids, or the named ones: a uniform cut as a folder of its stock class, a cut whose
layers differ as a folder with Python files (not of hybrids), and a uniform cut as a GGUF of each architecture of its family and of the
one that is chosen. transformers and llama.cpp load them; their logits are compared with those of the cut models here.
Writes what was loaded, and the differences, into fixtures/golden/reloads.json.

  --python PATH      Python with torch and transformers (python3)
  --folder DIR       where node-llama-cpp is or will be installed
  --tolerance X      largest difference of a logit, as part of the largest |logit| (1e-4)
  --llama-tolerance X  the same for llama.cpp, which has tables of f16 for some functions (0.001)
  --work DIR         where the models are written (a temporary folder)
  --help             this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string", default: "python3" },
    folder: { type: "string" },
    tolerance: { type: "string", default: "1e-4" },
    "llama-tolerance": { type: "string", default: "0.001" },
    work: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

/** Tokens that are compared. */
const LENGTH = 17;
const ROOT = new URL("../../", import.meta.url), GOLDEN = new URL("fixtures/golden/", ROOT);
const HYBRIDS = new URL("fixtures/golden_hybrids/", ROOT),
  hybrids = Array.from(Deno.readDirSync(HYBRIDS), ({ name }) => name);
const RESULTS = new URL("reloads.json", GOLDEN);

/** What a program computed of a written model. */
interface Reload {
  /** Class of transformers, or architecture of llama.cpp. */
  readonly as: string;
  /** Units that were cut. */
  readonly units: readonly string[];
  /** Largest difference of a logit, as part of the largest. */
  readonly difference: number;
}

/** What was loaded of one model. */
interface Reloads {
  folder?: Reload;
  compact?: Reload;
  readonly gguf: Reload[];
}

type Cut = "kv" | "ffn" | "hidden";

/** Masks that cut the same number of units of each layer; of `uneven` ones also more columns of the second layer. */
function masksOf({ layers, hidden }: DecoderSpec, cuts: readonly Cut[], uneven = false): Record<string, Float32Array> {
  const of = (key: "heads" | "ffn", isCut: (at: number, layer: LayerSpec, index: number) => boolean): Float32Array =>
    Float32Array.from(layers.flatMap((own, layer) => {
      if (key === "heads" && own.conv) return [1];
      return Array.from({ length: own[key] }, (_, at) => isCut(at, own, layer) ? 0 : 1);
    }));
  // A KV group, or a head of the only one.
  const lost = ({ heads, kvHeads }: LayerSpec): number => kvHeads > 1 ? heads / kvHeads : 1;
  return {
    ...cuts.includes("kv") ? { head: of("heads", (at, layer) => at >= layer.heads - lost(layer)) } : {},
    ...cuts.includes("ffn")
      ? { ffn: of("ffn", (at, _, layer) => at % 4 === 1 || (uneven && layer === 1 && at > 20)) }
      : {},
    ...cuts.includes("hidden")
      ? { hidden: Float32Array.from({ length: hidden }, (_, at) => at % 5 === 2 ? 0 : 1) }
      : {},
  };
}

/** The cuts of most units, in turn, that a model admits. */
function cutsOf(spec: DecoderSpec): readonly (readonly Cut[])[] {
  const all: readonly (readonly Cut[])[] = [["kv", "ffn", "hidden"], ["kv", "ffn"], ["ffn", "hidden"], ["ffn"]];
  const admits = (cut: Cut): boolean =>
    !recordOf(cut).misfit?.isFor(spec) && (cut !== "kv" || fixedHeads(spec) === null);
  return all.filter((cuts) => cuts.every(admits));
}

const work = options.work ?? await Deno.makeTempDir({ prefix: "compresso_families_" });
const golden: { models: Record<string, unknown> } = JSON.parse(
  await Deno.readTextFile(new URL("golden.json", GOLDEN)),
);
const names = positionals.length > 0 ? positionals : [...Object.keys(golden.models), ...hybrids];
const failures: string[] = [], found = new Map<string, Reloads>();
/** Folders for transformers, and where each result goes. */
const folders: { readonly path: string; readonly put: (as: string, difference: number) => void }[] = [];
using device = await openDevice();

for (const name of names) {
  const root = hybrids.includes(name) ? HYBRIDS : GOLDEN;
  const source = await openHfFolder(new URL(`${name}/model`, root).pathname), { spec } = source;
  const type = String(source.config["model_type"]), reloads: Reloads = { gguf: [] };
  found.set(name, reloads);
  const cuts = cutsOf(spec),
    slice = (units: readonly Cut[], uneven = false): WeightSource =>
      sliceModel(source, { masks: masksOf(spec, units, uneven) });
  const uniform = cuts.find((units) => familyFor(slice(units).spec).type !== "compresso");
  const written = [["folder", uniform, false], ["compact", cuts[0], true]] as const;
  // No class holds convolutions in layers that differ.
  for (const [kind, units, uneven] of spec.convolution ? written.slice(0, 1) : written) {
    if (!units) {
      failures.push(`${name}: no uniform cut has a stock class`);
      continue;
    }
    const sliced = slice(units, uneven), path = `${work}/${name}_${kind}`;
    await exportHf(sliced, path, { dtype: "f32", tokenizer: null, replace: true });
    await writeLogits(sliced, `${path}/logits.json`, LENGTH);
    folders.push({ path, put: (as, difference) => (reloads[kind] = { as, units, difference }) });
  }
  const own = FAMILIES.find((family) => family.type === type)?.gguf ?? [];
  for (const arch of new Set([...chosenFor(cuts.map((units) => slice(units).spec)), ...own])) {
    const units = cuts.find((units) => fits(slice(units).spec, arch));
    if (!units) continue;
    const sliced = slice(units), path = `${work}/${name}_${arch.arch}`;
    await exportGguf(sliced, `${path}.gguf`, {
      dtype: "f32",
      name,
      tokenizerMetadata: vocabulary(spec),
      arch: arch.arch,
    });
    // Most architectures of llama.cpp ignore windows. Its context is never as short as LongRoPE's short factors need.
    const { scaling } = spec.rope, long = scaling.kind === "longrope" ? scaling.originalMaxPosition + 1 : 0;
    const windows = arch.windows ? [] : windowsOf(spec).filter((window) => window !== undefined);
    const length = long > 0 ? Math.max(LENGTH, long) : Math.min(LENGTH, ...windows);
    await writeLogits(long > 0 ? windowless(sliced) : sliced, `${path}.json`, length);
    const said = await run("node", [
      "scripts/check/llama_cpp.mjs",
      `${path}.gguf`,
      ...["--logits", `${path}.json`, "--logit-tolerance", options["llama-tolerance"], "--window", "32"],
      ...options.folder ? ["--folder", options.folder] : [],
    ]);
    const difference = Number(/\(([\d.e+-]+) of the largest/.exec(said)?.[1] ?? NaN);
    if (said.startsWith("PASS")) reloads.gguf.push({ as: arch.arch, units, difference });
    else failures.push(`${name} as ${arch.arch}: ${said}`);
    console.log(`${name} as ${arch.arch}: ${said.trim()}`);
  }
}

const lines = (await run(options.python, [
  "scripts/check/reload_hf.py",
  ...folders.map(({ path }) => path),
  ...["--logits", "{}/logits.json", "--logit-tolerance", options.tolerance],
])).split("\n").filter((line) => /^(PASS|FAIL)/.test(line));
folders.forEach(({ path, put }, index) => {
  const line = lines[index] ?? "FAIL nothing was said", as = /(\w+), \d+ parameters/.exec(line)?.[1] ?? "";
  const differences = [...line.matchAll(/at most ([\d.e+-]+) of/g)].map(([, value]) => Number(value));
  console.log(`${path}: ${line}`);
  if (line.startsWith("PASS") && differences.length === 2) put(as, Math.max(...differences));
  else failures.push(`${path}: ${line}`);
});
const version = (await run(options.python, ["-c", "import transformers; print(transformers.__version__)"])).trim();
const before = JSON.parse(await Deno.readTextFile(RESULTS).catch(() => "{}"));
const models = Object.fromEntries(
  Object.entries({ ...before.models, ...Object.fromEntries(found) }).sort(([a], [b]) => a < b ? -1 : 1),
);
const all = { transformers: version, node_llama_cpp: VERSION, models };
if (failures.length === 0) await Deno.writeTextFile(RESULTS, `${JSON.stringify(all, null, 1)}\n`);
for (const failure of failures) console.error(`FAIL ${failure}`);
console.log(failures.length > 0 ? `FAIL ${failures.length}` : `PASS ${names.length} models`);
if (options.work === undefined) await Deno.remove(work, { recursive: true });
process.exitCode = failures.length > 0 ? 1 : 0;

/** The architecture that is chosen for the first of these models that has one. */
function chosenFor(specs: readonly DecoderSpec[]): GgufArch[] {
  const spec = specs.find((one) => GGUF_ARCHS.some((arch) => !arch.uneven && fits(one, arch)));
  return spec ? [ggufArch(spec)] : [];
}

/** A model without its windows. */
function windowless(source: WeightSource): WeightSource {
  const layers = source.spec.layers.map((layer) => withWindow(layer, undefined));
  return { ...source, spec: { ...source.spec, layers } };
}

/** Words for the token ids, without which llama.cpp evaluates nothing. */
function vocabulary({ vocab }: DecoderSpec): NonNullable<GgufExportOptions["tokenizerMetadata"]> {
  // llama.cpp looks the first ones up in a phi3.
  const tokens = Array.from({ length: vocab }, (_, id) => ["<unk>", "<s>", "</s>", "<|endoftext|>"][id] ?? `w${id}`);
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", "default"],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", new Int32Array(vocab).fill(1)],
    ["tokenizer.ggml.merges", ["w 3"]],
  ]);
}

/** Writes our logits of tokens that step through the vocabulary, as dump_logits.ts does. */
async function writeLogits(source: WeightSource, path: string, length: number): Promise<void> {
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  const tokens = Array.from({ length }, (_, at) => Math.floor(((at + 1) * 0.6180339887) % 1 * source.spec.vocab));
  const logits = await model.logits(tokens);
  await Deno.writeTextFile(path, JSON.stringify({ tokens, logits: Array.from(logits) }));
}

/** What a program prints, on either stream where it fails. */
async function run(command: string, args: readonly string[]): Promise<string> {
  const { stdout, stderr, success } = await new Deno.Command(command, { args: [...args], cwd: ROOT }).output();
  const text = new TextDecoder();
  return text.decode(stdout) + (success ? "" : text.decode(stderr));
}
