// Two cuts with recovery after each, against one cut to the same size, at equal tokens: 30 % and again 30 % against 51 %, about half the weights of the
// layers. Rows are means over seeds ± their standard deviation, the last one paired differences ± their standard error.
import { resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { defineExperiment, type ExperimentReport, runExperiment } from "../../lib/experiment/mod.ts";
import { differenceOf, spreadOf } from "../../lib/experiment/statistics.ts";
import type { ExperimentDefinition, ReportCell } from "../../lib/experiment/types.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { BASE, EVALUATE, FILES } from "../experiments/on_demo.ts";

const HELP = `usage: deno run -A scripts/check/two_cuts.ts OUT [options]

Cuts a model by --share, recovers, and cuts the result by the same share again; and cuts it once to the same size. The one
cut recovers for --steps, each of the two for half of them. Finished runs in OUT are kept. Without options: the demo.

  --model MODEL      default: demo
  --rows FILE        instructions to train on (default: those of the demo)
  --limit N          the first rows of them (default: all)
  --heldout FILE     its last 99 rows are measured (default: those of the demo)
  --wikitext FILE    a text to measure the perplexity of
  --tasks FOLDER     with the data of arc_easy, piqa, hellaswag and openbookqa
  --share S          share that a cut removes (default: 0.3)
  --steps N          steps of recovery in all, even (default: 40)
  --seq N            tokens of a sequence (default: 48)
  --rate R           LoRA's rate (default: 0.002)
  --seeds LIST       default: 1,2,3`;

const { values, positionals: [out] } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string", default: "demo" },
    rows: { type: "string", default: fileURLToPath(new URL("../../fixtures/demo_data/train.jsonl", import.meta.url)) },
    limit: { type: "string" },
    heldout: { type: "string" },
    wikitext: { type: "string" },
    tasks: { type: "string" },
    share: { type: "string", default: "0.3" },
    steps: { type: "string", default: "40" },
    seq: { type: "string", default: "48" },
    rate: { type: "string", default: "0.002" },
    seeds: { type: "string", default: "1,2,3" },
    help: { type: "boolean", default: false },
  },
});
if (values.help || out === undefined) {
  console.log(HELP);
  process.exit(values.help ? 0 : 2);
}

const { model, rows, limit, heldout, wikitext, tasks, seq, rate } = values;
const share = Number(values.share), steps = Number(values.steps), seeds = values.seeds.split(",").map(Number);
/** Share that two cuts remove together. */
const both = Number((1 - (1 - share) ** 2).toPrecision(6));
const place = resolve(out), root = fileURLToPath(new URL("../experiments/", import.meta.url));
const files = {
  ...(heldout === undefined ? {} : { heldout, questions: "none" }),
  ...(wikitext === undefined ? {} : { wikitext }),
  ...(tasks === undefined ? {} : { tasks }),
};
const common = {
  files: FILES,
  base: {
    ...BASE,
    ...{ method: "taylor", units: "kv,ffn", prompt: false, prefinetune: 0, postfinetune: 0 },
    ...{ seq: Number(seq), loraRate: Number(rate), limitRows: limit === undefined ? undefined : Number(limit) },
  },
  evaluate: EVALUATE,
} as const satisfies Partial<ExperimentDefinition>;

const first = defineExperiment({
  ...common,
  name: "first_cut",
  model: "demo",
  data: "demo",
  grid: [
    { sparsity: [share], steps: [steps / 2], seed: seeds },
    { sparsity: [both], steps: [steps], seed: seeds },
  ],
});
using device = await openDevice();
const notes = { onCell: ({ name }: { readonly name: string }): void => console.error(name), device, root };
const once = await runExperiment(first, {
  ...notes,
  out: `${place}/first`,
  ...{ models: { model }, data: { data: rows }, files, keep: "models" },
});
const cutOnce = cellsBy(once.report, "sparsity", String(share)),
  direct = cellsBy(once.report, "sparsity", String(both));
const second = defineExperiment({
  ...common,
  name: "second_cut",
  model: Object.fromEntries(
    seeds.map((seed) => [`seed ${seed}`, `${place}/first/cells/${cutOnce.get(seed)?.folder}/model`]),
  ),
  data: "demo",
  grid: seeds.map((seed) => ({ model: [`seed ${seed}`], sparsity: [share], steps: [steps / 2], seed: [seed] })),
});
const twice = await runExperiment(second, { ...notes, out: `${place}/second`, ...{ data: { data: rows }, files } });
const again = cellsBy(twice.report, "sparsity", String(share));

/** Cells with this value by seed. An option that does not differ is no axis of a report. */
function cellsBy({ cells }: ExperimentReport, option: string, value: string): ReadonlyMap<number, ReportCell> {
  return new Map(
    cells.filter(({ at }) => (at[option] ?? value) === value)
      .map((cell) => [Number(cell.at["seed"] ?? seeds[0]), cell]),
  );
}

const pairs = seeds.flatMap((seed) => {
  const [a, b] = [direct.get(seed), again.get(seed)];
  return a && b ? [{ seed: `${seed}`, one: a.numbers, two: b.numbers }] : [];
});
const numbers = once.report.names.map(({ name }) => name)
  .filter((name) => pairs.length > 0 && pairs.every(({ one, two }) => name in one && name in two));
const withError = (mean: number | undefined, error: number | null | undefined): string =>
  mean === undefined
    ? ""
    : `${mean.toPrecision(4)}${error === null || error === undefined ? "" : ` ± ${error.toPrecision(2)}`}`;
console.log(`| run | ${numbers.join(" | ")} |\n|${" - |".repeat(numbers.length + 1)}`);
for (const [name, cells] of [["one cut", direct], ["first of two cuts", cutOnce], ["two cuts", again]] as const) {
  const spreads = numbers.map((number) => spreadOf([...cells.values()].flatMap((cell) => cell.numbers[number] ?? [])));
  console.log(`| ${name} | ${spreads.map((one) => withError(one?.mean, one?.sd)).join(" | ")} |`);
}
const differences = numbers.map((number) =>
  differenceOf(pairs.map(({ seed, one, two }) => ({
    seed,
    setting: "",
    value: (two[number] ?? NaN) - (one[number] ?? NaN),
  })))
);
console.log(`| two cuts less one | ${differences.map((one) => withError(one?.mean, one?.stderr)).join(" | ")} |`);
