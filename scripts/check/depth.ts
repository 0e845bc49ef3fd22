// Cuts the same share of a model's weights as whole layers, as attention or as width, by several methods, and measures
// what remains and how fast it writes: docs/evidence/depth.md.
import { parseArgs } from "node:util";
import process from "node:process";
import { loadModelFrom, type Model, openDevice, prune, readRows } from "../../mod.ts";
import { fidelity, type FidelityResult, readReference } from "../../lib/eval/fidelity.ts";
import { speedOfUse } from "../../lib/fit/use.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { MethodName } from "../../lib/run/methods/all.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { livingLayers } from "../../lib/units/rules.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";

const HELP = `usage: deno run -A scripts/check/depth.ts MODEL --data FILE --text FILE [options]

Cuts a share of the layers' weights by each method without recovery. Prints bits per byte, perplexity, KL to the dense
model and equal first choices on the text, and speeds as multiples of the dense model's.

  --data FILE       rows that units are scored on
  --text FILE       text to measure on, from its beginning on
  --share SHARE     share of the layers' weights (0.2)
  --windows COUNT   windows of 256 tokens (4)
  --seq TOKENS      tokens of the 32 sequences that units are scored on (64)
  --methods LIST    methods (all)
  --rounds COUNT    rounds of speeds, in which models take turns (5)
  --help            this text`;

const { values: options, positionals: [path = ""] } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", default: "" },
    text: { type: "string", default: "" },
    share: { type: "string", default: "0.2" },
    windows: { type: "string", default: "4" },
    seq: { type: "string", default: "64" },
    methods: { type: "string" },
    rounds: { type: "string", default: "5" },
    help: { type: "boolean", default: false },
  },
});
if (options.help || path === "" || options.data === "" || options.text === "") {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

/** Rows that are read. */
const ROWS = 200;

/** What is cut, how it is chosen, and whether its speed is taken. */
interface Cut {
  readonly units: readonly UnitKind[];
  readonly method: MethodName;
  readonly timed?: true;
}

const CUTS: readonly Cut[] = [
  { units: ["layers"], method: "block-influence" },
  { units: ["kv", "ffn"], method: "flap" },
  { units: ["layers"], method: "taylor" },
  { units: ["kv", "ffn"], method: "taylor" },
  { units: ["attention"], method: "block-influence" },
  { units: ["attention", "layers"], method: "block-influence" },
  { units: ["kv", "ffn"], method: "wanda-sp" },
  { units: ["layers"], method: "random", timed: true },
  { units: ["kv", "ffn"], method: "random", timed: true },
];
const WINDOW = 256, seq = Number(options.seq), sparsity = Number(options.share), rounds = Number(options.rounds);

const startedAt = performance.now(), windows = Number(options.windows);
const device = await openDevice(), { source, tokenizer } = await openModelFiles(path);
const { rows } = await readRows(options.data, { limit: ROWS }), text = await Deno.readTextFile(options.text);
const dense = await loadModelFrom(source, { device, tokenizer });
const reference = await readReference(dense, text, { window: WINDOW, maxWindows: windows });

console.log("| units | method | layers | parameters | bits per byte | perplexity | mean KL | same first choice |");
console.log("| - | - | - | - | - | - | - | - |");
const cuts = CUTS.filter(({ method }) => options.methods === undefined || options.methods.split(",").includes(method));
const timed: { readonly name: string; readonly source: WeightSource }[] = [];
for (const cut of cuts) {
  const source = await cutBy(cut), name = `${cut.units.join(", ")} | ${cut.method}`;
  using model = await loadModelFrom(source, { device, tokenizer });
  const found = await fidelity(model, reference);
  if (cut === cuts[0]) tell("– | dense", dense, { ...found.dense, kl: 0, klError: 0, top1: 1 });
  tell(name, model, found);
  if (cut.timed) timed.push({ name, source });
}
await tellSpeeds();
console.log(`\n${windows} windows of ${WINDOW} tokens; ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);

/** The sliced model. Units are scored on up to 32 sequences of the rows. */
async function cutBy({ units, method }: Cut): Promise<WeightSource> {
  const how = { sparsity, units, method, steps: 0, seq, prompt: "none" } as const;
  using run = prune(dense, { ...how, rows, calibration: method === "random" ? undefined : rows });
  for await (const _ of run);
  const { source: base, masks, lora } = run.result();
  return sliceModel(base, { masks, lora });
}

/**
 * Speeds over the dense model's: by the clock, and by the CPU time of this process, which computes on the CPU where there
 * is no GPU and which other work does not slow down. In each round all models are timed one after the other.
 */
async function tellSpeeds(): Promise<void> {
  using stack = new DisposableStack();
  const models = [{ name: "– | dense", model: dense }];
  for (const { name, source } of timed) {
    models.push({ name, model: stack.use(await loadModelFrom(source, { device, tokenizer })) });
  }
  const speeds = models.map((): { readonly clock: number; readonly cpu: number }[] => []);
  // The first round compiles kernels.
  for (let round = 0; round <= rounds; round++) {
    for (const [at, { model }] of models.entries()) {
      const before = process.cpuUsage(), clock = await speedOfUse(model, {});
      const { user, system } = process.cpuUsage(before);
      if (round > 0) speeds[at]?.push({ clock, cpu: 1 / (user + system) });
    }
  }
  console.log("\n| units | method | by the clock, by round | by CPU time, by round |\n| - | - | - | - |");
  for (const [at, { name }] of models.entries()) {
    const ratios = (of: "clock" | "cpu"): string =>
      (speeds[at] ?? []).map((own, round) => (own[of] / (speeds[0]?.[round]?.[of] ?? NaN)).toFixed(2)).join(", ");
    console.log(`| ${name} | ${ratios("clock")} | ${ratios("cpu")} |`);
  }
}

function tell(
  name: string,
  { spec }: Pick<Model, "spec">,
  { bitsPerByte, perplexity, kl, klError, top1 }: Pick<
    FidelityResult,
    "bitsPerByte" | "perplexity" | "kl" | "klError" | "top1"
  >,
): void {
  const cells = [
    ...[name, livingLayers(spec), parameterCount(spec).toLocaleString("en"), bitsPerByte?.toFixed(4)],
    ...[perplexity.toPrecision(4), `${kl.toFixed(3)} ± ${klError.toFixed(3)}`, `${(100 * top1).toFixed(1)} %`],
  ];
  console.log(`| ${cells.join(" | ")} |`);
}
