// Compares scoring tasks in packed passes with shared prefixes with scoring one sequence at a time: speed and results.
// The exit status is 1 if numbers or decisions differ, or the speed-up is below --least.
import { parseArgs } from "node:util";
import process from "node:process";
import { encodeQuestion } from "../../lib/eval/encode.ts";
import { loadTasks } from "../../lib/eval/evaluate.ts";
import { pick } from "../../lib/eval/metrics.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { nodeCount, type Sequence } from "../../lib/nn/token_tree.ts";
import { tuneProducts } from "../../lib/nn/products/tune.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { logLikelihoods } from "../../lib/eval/score.ts";
import { packSequences } from "../../lib/eval/score_packing.ts";

const HELP = `usage: deno run -A scripts/check/eval_speed.ts MODEL --data DIR [options]

Scores the first questions of each task twice, packed and one sequence at a time, and prints one line a task with both times and the largest
difference of a log-likelihood. Kernels are compiled and tuned for both before the clock runs.

  MODEL          what compresso reads
  --data DIR     data of the tasks
  --tasks LIST   (arc_easy,piqa,hellaswag,winogrande,openbookqa)
  --limit N      questions of each task (40)
  --least X      speed-up over all tasks that must be reached (3)
  --json         prints one JSON object
  --help         this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    tasks: { type: "string", default: "arc_easy,piqa,hellaswag,winogrande,openbookqa" },
    limit: { type: "string", default: "40" },
    least: { type: "string", default: "3" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const [path] = positionals, { data } = options;
if (options.help || path === undefined || data === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

/** Largest difference of two sums of f32 log-probabilities, as a share of them: both add the same terms in other orders. */
const TOLERANCE = 2e-5;

const loaded = await loadTasks({
  tasks: options.tasks.split(","),
  taskData: data,
  limit: Number(options.limit),
});
using device = await openDevice();
using model = await loadModel(path, { device, baseDtype: "f32" });
const { tokenizer, spec } = model;
if (!tokenizer) throw new Error("the model has no tokenizer");
const context = spec.maxPosition;
const encoded = loaded.map((task) => ({
  task,
  sequences: task.questions.flatMap((question) => encodeQuestion(task, question, { tokenizer, context }).sequences),
}));

for (const rows of [2048, 64]) await tuneProducts(device, spec, { rows, directions: ["forward"], baseDtype: "f32" });
interface Line {
  readonly task: string;
  readonly questions: number;
  readonly sequences: number;
  /** Tokens that sequences have alone, and that are computed when they share beginnings. */
  readonly tokens: number;
  readonly computed: number;
  /** Seconds by the clock. */
  readonly packed: number;
  readonly single: number;
  readonly speedup: number;
  /** Seconds of the processor, for a machine that others use too. */
  readonly packedCpu: number;
  readonly singleCpu: number;
  readonly worst: number;
  readonly differing: number;
}

const lines: Line[] = [];
for (const { task, sequences } of encoded) {
  const packings = [...packSequences(sequences)];
  const packed = await timed(
    async () => {
      for (const { tree, rows } of unique(packings, ({ rows }) => rows)) await model.treeLosses(tree, { rows });
    },
    () => logLikelihoods(model, sequences),
  );
  // By length, so that passes of the same size follow each other.
  const byLength = sequences.toSorted((a, b) => nodeCount(b) - nodeCount(a));
  const single = await timed(
    async () => {
      for (const sequence of unique(byLength, (one) => Math.ceil(nodeCount(one) / 32))) await alone(sequence);
    },
    async () => {
      const scores = new Map<Sequence, number>();
      for (const sequence of byLength) scores.set(sequence, await alone(sequence));
      return sequences.map((sequence) => scores.get(sequence) ?? NaN);
    },
  );
  const worst = single.scores.reduce((most, score, index) => {
    return Math.max(most, Math.abs((score - (packed.scores[index] ?? NaN)) / score));
  }, 0);
  let differing = 0, at = 0;
  for (const { choices } of task.questions) {
    const [a, b] = [packed, single].map(({ scores }) => pick(scores.slice(at, at + choices.length), choices));
    differing += Number(a?.picked !== b?.picked || a?.pickedNorm !== b?.pickedNorm);
    at += choices.length;
  }
  const line: Line = {
    ...{ task: task.name, questions: task.questions.length, sequences: sequences.length },
    tokens: sequences.reduce((sum, sequence) => sum + nodeCount(sequence) + 1, 0),
    computed: packings.reduce((sum, { tree }) => sum + tree.tokens.length, 0),
    ...{ packed: packed.seconds, single: single.seconds, speedup: single.seconds / packed.seconds },
    ...{ packedCpu: packed.cpu, singleCpu: single.cpu, worst, differing },
  };
  lines.push(line);
  if (!options.json) {
    console.log(
      `${line.task}: ${line.questions} questions, ${line.sequences} sequences; ${line.tokens} tokens alone, ${line.computed} packed; ` +
        `${line.single.toFixed(1)} s alone, ${line.packed.toFixed(1)} s packed, ${
          line.speedup.toFixed(2)
        } times as quick ` +
        `(of the processor ${line.singleCpu.toFixed(1)} and ${
          line.packedCpu.toFixed(1)
        } s); log-likelihoods differ by at most ` +
        `${worst.toExponential(1)} of them, ${differing} decisions differ`,
    );
  }
}

const total = (key: "packed" | "single" | "packedCpu" | "singleCpu"): number =>
  lines.reduce((sum, line) => sum + line[key], 0);
const speedup = total("single") / total("packed"), cpu = total("singleCpu") / total("packedCpu");
if (options.json) console.log(JSON.stringify({ speedup, cpu, tasks: lines }, null, 2));
else console.log(`over all: ${speedup.toFixed(2)} times as quick, with ${cpu.toFixed(2)} times less of the processor`);
const agree = lines.every(({ worst, differing }) => worst <= TOLERANCE && differing === 0);
if (!agree || speedup < Number(options.least)) {
  console.error(agree ? `below ${options.least} times` : "the numbers differ");
  process.exit(1);
}

/** The log-likelihood of a choice from a pass with its sequence alone. */
async function alone({ prefix, choice }: Sequence): Promise<number> {
  const losses = await model.tokenLosses([...prefix, ...choice], [...prefix.map(() => -100), ...choice], { batch: 1 });
  return -losses.reduce((sum, loss) => sum + loss, 0);
}

/** Times a run after each size of its passes has run once: drivers compile kernels when they are first used. */
async function timed(
  warm: () => Promise<void>,
  run: () => Promise<readonly number[]>,
): Promise<{ readonly seconds: number; readonly cpu: number; readonly scores: readonly number[] }> {
  await warm();
  const start = performance.now(), before = process.cpuUsage();
  const scores = await run();
  const { user, system } = process.cpuUsage(before);
  return { seconds: (performance.now() - start) / 1000, cpu: (user + system) / 1e6, scores };
}

function unique<T>(values: readonly T[], key: (value: T) => number): T[] {
  return [...new Map(values.map((value) => [key(value), value])).values()];
}
