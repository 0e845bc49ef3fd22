// Compares the demo pruned in the page of the studio with the demo pruned on the command line, on the same kind of adapter.
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";
import { pruneInPage, storedText } from "./studio_page.ts";

const HELP = `usage: deno run -A scripts/check/studio_same_bits.ts --out FOLDER [options]

Prunes the demo in the studio, in headless Chromium on SwiftShader, and on the command line on the SwiftShader that lies
next to Chromium. Prints whether the same units are kept, the first step whose losses differ, the losses on held-out
rows, and how many weights of the GGUFs are equal. Exit status 1 if other units are kept.

  --out FOLDER      where both results go
  --icd FILE        Vulkan driver of the command line (/usr/lib/chromium/vk_swiftshader_icd.json)
  --picture FILE    PNG of the page with its result
  --steps N         steps of the pruning stage (8)
  --batch N         sequences a step (2)
  --seq N           tokens a sequence (64)
  --help            this text`;

const { values: options } = parseArgs({
  options: {
    out: { type: "string" },
    icd: { type: "string", default: "/usr/lib/chromium/vk_swiftshader_icd.json" },
    picture: { type: "string" },
    steps: { type: "string", default: "8" },
    batch: { type: "string", default: "2" },
    seq: { type: "string", default: "64" },
    help: { type: "boolean", default: false },
  },
});
if (options.help || options.out === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const { out, steps, batch, seq } = options, page = join(out, "page"), line = join(out, "line");
await Deno.mkdir(page, { recursive: true });
const { adapter, zip } = await pruneInPage({
  model: "demo",
  rows: null,
  out: page,
  picture: options.picture,
  choices: {
    sparsity: 0.3,
    steps: Number(steps),
    batch: Number(batch),
    seq: Number(seq),
    baseDtype: "f16",
    writesTexts: false,
  },
  onState: (state) => console.log(state),
});
const cli = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const { code } = await new Deno.Command(Deno.execPath(), {
  args: [
    ...["run", "-A", cli, "prune", "demo", "--sparsity", "0.3", "--steps", steps, "--batch", batch, "--seq", seq],
    ...["--base-dtype", "f16", "--calibration", "none", "--out", line],
  ],
  env: { NO_COLOR: "1", VK_ICD_FILENAMES: options.icd },
  stdout: "null",
  stderr: "inherit",
}).output();
if (code !== 0) throw new Error(`the command line ended with status ${code}`);

const [inPage, onLine] = await Promise.all([resultIn(page, storedText(zip, "records.jsonl")), lineResult()]);
console.log(`page: ${adapter}; command line: ${onLine.run.adapter}`);
const isSame = JSON.stringify(inPage.run.masks) === JSON.stringify(onLine.run.masks);
console.log(
  `${isSame ? "the same" : "other"} units are kept, and values of masks that are no 0 or 1 are ${
    isSame ? "" : "not "
  }equal`,
);
const first = inPage.losses.findIndex((loss, at) => loss !== onLine.losses[at]);
console.log(
  first < 0
    ? `the losses of all ${inPage.losses.length} steps are equal`
    : `the losses differ from step ${first + 1} on: ${inPage.losses[first]} and ${onLine.losses[first]}`,
);
const { before, after } = inPage.run.heldoutLoss, theirs = onLine.run.heldoutLoss;
console.log(`loss on held-out rows: before ${before} and ${theirs.before}, after ${after} and ${theirs.after}`);
if (isSame) await compareValues();
process.exitCode = isSame ? 0 : 1;

interface Result {
  readonly losses: readonly number[];
  readonly run: {
    readonly adapter: string;
    readonly masks: unknown;
    readonly heldoutLoss: { readonly before: number; readonly after: number };
  };
}

async function lineResult(): Promise<Result> {
  return await resultIn(line, await Deno.readTextFile(join(line, "records.jsonl")));
}

async function resultIn(folder: string, records: string): Promise<Result> {
  const losses = records.trim().split("\n").map((text): number => JSON.parse(text).loss);
  return { losses, run: JSON.parse(await Deno.readTextFile(join(folder, "run.json"))) };
}

/** Compares the values of both GGUFs; other facts in the files name the run. */
async function compareValues(): Promise<void> {
  const [a, b] = await Promise.all([page, line].map((folder) => openModelFiles(join(folder, "model.gguf"))));
  if (!a || !b) return;
  let count = 0, equal = 0, worst = 0;
  for (const name of tensorShapes(a.source.spec).keys()) {
    const [ours, others] = await Promise.all([a.source.read(name), b.source.read(name)]);
    count += ours.length;
    ours.forEach((value, index) => {
      const difference = Math.abs(value - (others[index] ?? NaN));
      if (difference === 0) equal++;
      worst = Math.max(worst, difference);
    });
  }
  console.log(`${equal} of ${count} weights are equal; the largest difference is ${worst.toExponential(2)}`);
}
