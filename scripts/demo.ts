// The demo: prunes the model in fixtures/ by 30 % and compares it with a one-shot magnitude cut of the same size.
import { join } from "node:path";
import { generateText, loadModel, type Model, openDevice, pruneToFolder, readRows, sliceModel } from "../mod.ts";
import { magnitudeScores, rankWithin, selectionMasks, selectUnits, unitTable } from "../lib/masks/mod.ts";
import { COLLABORATIVE_PROMPT } from "../lib/data/mod.ts";
import { encodeChoices, scoreChoices } from "../lib/eval/mod.ts";
import { demoData, loadModelFrom } from "../lib/model/mod.ts";
import { CompressoError } from "../lib/core/errors.ts";
import { exists } from "../lib/files/exists.ts";
import { originOf } from "../lib/run/origin.ts";
import { programAsRun } from "../cli/command.ts";
import { CALIBRATION_FILE, presentFiles, RECORDS_FILE } from "../lib/run/folder.ts";

const SPARSITY = 0.3;
const UNITS = ["kv", "ffn", "hidden"] as const;
const [given] = Deno.args;

try {
  if (given !== undefined) await refuseUsed(given);
  await demo(given ?? "out/demo");
} catch (error) {
  if (!(error instanceof CompressoError)) throw error;
  console.error(error.message);
  Deno.exitCode = error.exitStatus;
}

/** Refuses a named folder that holds anything of an earlier run, before minutes of work. */
async function refuseUsed(folder: string): Promise<void> {
  const refused = { what: `cannot run the demo in ${folder}`, fix: "name a new folder" };
  const isFile = await Deno.stat(folder).then(({ isDirectory }) => !isDirectory, () => false);
  if (isFile) throw new CompressoError("usage", { ...refused, rule: "it is a folder", value: "a file" });
  // Texts beside records are those of a demo that ended early, which the next one replaces; alone they may be anything.
  const isAlone = await exists(join(folder, CALIBRATION_FILE)) && !await exists(join(folder, RECORDS_FILE));
  const found = [...await presentFiles(folder), ...isAlone ? [CALIBRATION_FILE] : []];
  if (found.length === 0) return;
  throw new CompressoError("usage", {
    ...refused,
    rule: "the folder holds no earlier run",
    value: `it holds ${found.join(", ")}`,
  });
}

async function demo(out: string): Promise<void> {
  using device = await openDevice();
  using dense = await loadModel("demo", { device });
  const { tokenizer } = dense;
  if (!tokenizer) throw new Error("the demo has no tokenizer");
  const heldout = await readRows(demoData("heldout"));
  const questions = encodeChoices(heldout.rows, { tokenizer });
  const chance = questions.reduce((sum, { choices }) => sum + 1 / choices.length, 0) / questions.length;
  const score = async (model: Model): Promise<string> => {
    const { accuracy, n } = await scoreChoices(model, questions);
    return `${(100 * accuracy).toFixed(1)} % of ${n} held-out questions`;
  };

  console.log(`chance             ${(100 * chance).toFixed(1)} %`);
  console.log(`dense              ${await score(dense)}`);

  // One-shot: the units of least magnitude in each layer fall at once, nothing is trained.
  const table = unitTable(dense.spec, UNITS);
  const places = rankWithin(table, await magnitudeScores(dense.source, table));
  const kept = selectUnits(table, places, { target: SPARSITY });
  using oneShot = await loadModelFrom(sliceModel(dense.source, { masks: selectionMasks(table, kept) }), { device });
  console.log(`one-shot magnitude ${await score(oneShot)}, at ${100 * SPARSITY} % sparsity`);

  // Compresso: fine-tune, prune under a cubic schedule, fine-tune.
  const { rows } = await readRows(demoData("train"));
  const origin = await originOf({ model: "demo", data: demoData("train"), calibration: null });
  let quarter = 0, lastAt = 0;
  const summary = await pruneToFolder(dense, {
    rows,
    sparsity: SPARSITY,
    steps: 80,
    batch: 8,
    seq: 240,
    units: UNITS,
    prompt: COLLABORATIVE_PROMPT,
    lora: { targets: ["q", "k", "v", "o", "gate", "up", "down"] },
    rates: { lora: 2e-3 },
    out,
    // A folder of the user's own keeps what is in it.
    export: { replace: given === undefined, origin },
    onCalibration: (share) => {
      if (Math.floor(4 * share) <= quarter) return;
      quarter = Math.floor(4 * share);
      console.log(`  the model writes texts for calibration: ${25 * quarter} %`);
    },
    onRecord: ({ step, steps, stage, loss, expected }) => {
      if (step === 1) lastAt = performance.now();
      if (step % 10 !== 0) return;
      const sparsity = expected === null ? "" : `, expected sparsity ${expected.toFixed(3)}`;
      // By the last steps: the first ones compile kernels.
      const seconds = (performance.now() - lastAt) / 1000 / 10 * (steps - step);
      lastAt = performance.now();
      console.log(
        `  ${stage} ${step}/${steps}: loss ${loss.toFixed(3)}${sparsity}, some ${Math.ceil(seconds)} s left`,
      );
    },
  });
  using pruned = await loadModel(`${out}/model`, { device });
  console.log(`Compresso          ${await score(pruned)}, at ${(100 * summary.sparsity.hard).toFixed(1)} % sparsity`);
  console.log(`parameters         ${summary.parameters.before} before, ${summary.parameters.after} after`);
  console.log(`masked = sliced    largest logit difference ${summary.maskedVsSliced.maxAbs.toExponential(1)}`);
  for (const { file, programs } of summary.files) console.log(`${file} is loaded by ${programs.join("; ")}`);

  console.log("\nThe smaller model answers:");
  for (const row of heldout.rows.slice(0, 4)) {
    if (row.kind !== "instruct") continue;
    let answer = "";
    const prompt = `${row.instruction}\n${row.input}\n`;
    for await (const piece of generateText(pruned, prompt, { maxTokens: 8, temperature: 0 })) answer += piece;
    console.log(
      `${row.input}\n  ${answer.trim()} (${answer.trim() === row.output ? "right" : `right: ${row.output}`})`,
    );
  }
  const program = programAsRun(new URL("../cli/main.ts", import.meta.url));
  console.log(`\nAsk it yourself: ${program} chat ${out}/model`);
  console.log(`See the run:     ${program} report ${out}`);
}
