// Compares the demo pruned in the page of the studio with the demo pruned on the command line, on the same kind of adapter.
import { createHash } from "node:crypto";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";
import { pruneInPage } from "./studio_page.ts";

const HELP = `usage: deno run -A scripts/check/studio_same_bits.ts --out FOLDER [options]

Prunes the demo in the studio, in headless Chromium on SwiftShader, and on the command line on the SwiftShader that lies
next to Chromium. Prints what is equal: which units are kept, the bytes of the tensors, and the losses on held-out rows.
Exit status 1 if other units are kept.

  --out FOLDER      where both results go
  --icd FILE        Vulkan driver of the command line (/usr/lib/chromium/vk_swiftshader_icd.json)
  --steps N         steps of the pruning stage (8)
  --batch N         sequences a step (2)
  --seq N           tokens a sequence (64)
  --help            this text`;

const { values: options } = parseArgs({
  options: {
    out: { type: "string" },
    icd: { type: "string", default: "/usr/lib/chromium/vk_swiftshader_icd.json" },
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
const { adapter } = await pruneInPage({
  model: "demo",
  rows: null,
  out: page,
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
}).output();
if (code !== 0) throw new Error(`the command line ended with status ${code}`);

const both = await Promise.all([page, line].map(resultIn));
const [inPage, onLine] = both;
if (!inPage || !onLine) throw new Error("no result");
console.log(`page: ${adapter}; command line: ${onLine.run.adapter}`);
for (
  const [what, a, b] of [
    ["kept units", JSON.stringify(inPage.run.masks), JSON.stringify(onLine.run.masks)],
    ["bytes of the tensors", inPage.digest, onLine.digest],
    ["loss before", inPage.run.heldoutLoss.before, onLine.run.heldoutLoss.before],
    ["loss after", inPage.run.heldoutLoss.after, onLine.run.heldoutLoss.after],
  ] as const
) console.log(`${a === b ? "equal" : "other"}  ${what}${typeof a === "number" ? ` ${a} ${b}` : ""}`);
process.exitCode = JSON.stringify(inPage.run.masks) === JSON.stringify(onLine.run.masks) ? 0 : 1;

interface Result {
  readonly digest: string;
  readonly run: {
    readonly adapter: string;
    readonly masks: unknown;
    readonly heldoutLoss: { readonly before: number; readonly after: number };
  };
}

/** run.json, and one digest of all tensors of the GGUF by their names; other facts in the file name the run. */
async function resultIn(folder: string): Promise<Result> {
  const { source } = await openModelFiles(join(folder, "model.gguf")), hash = createHash("sha256");
  for (const name of [...tensorShapes(source.spec).keys()].toSorted()) {
    const { buffer, byteOffset, byteLength } = await source.read(name);
    hash.update(name).update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return { digest: hash.digest("hex"), run: JSON.parse(await Deno.readTextFile(join(folder, "run.json"))) };
}
