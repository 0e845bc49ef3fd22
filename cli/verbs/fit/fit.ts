// `compresso fit MODEL`: the choice of levers that loses least at a size of the file, written and measured.
import { dirname, join } from "node:path";
import type { CommandUnknownOpts } from "../../packages.ts";
import { CompressoError, refuse } from "../../../lib/core/errors.ts";
import { cutsAny, LEVERS } from "../../../lib/fit/choice.ts";
import { checkFolder, writeFileAtomically } from "../../../lib/files/atomic.ts";
import { checkBudget, planFit, WINDOWS } from "../../../lib/fit/plan.ts";
import { writeFit } from "../../../lib/fit/write.ts";
import { modelDigest } from "../../../lib/files/fingerprint.ts";
import { OWN_TEXTS, writeOwnTexts } from "../../../lib/fit/own_texts.ts";
import type { Row } from "../../../lib/data/rows.ts";
import { DEMO, modelPath } from "../../../lib/local/open_model.ts";
import { readRows } from "../../../lib/local/rows.ts";
import { stagesOf } from "../../../lib/run/methods/stages.ts";
import { originOf } from "../../../lib/run/origin.ts";
import { OPTION_TABLE } from "../../../lib/run/options/table.ts";
import { MODEL_TEXT, programAsRun, verb } from "../../command.ts";
import { fetchInputs, modelName } from "../../hub.ts";
import { addFlags, type FlagTable, type FlagValues, JSON_FLAG, required } from "../../options/flags.ts";
import { note, printJson } from "../../terminal/output.ts";
import { withModel } from "../../with_model.ts";
import { dataPathOf } from "../prune/inputs.ts";
import { checkRunFolder, isResumable } from "../prune/run_folder.ts";
import { nameOf } from "../prune/start.ts";
import { fitChart } from "./chart.ts";
import { commandOf, inputsOfChoice } from "./command.ts";
import { planValues, showPlan, showWritten, writtenValues } from "./report.ts";

const { data, textField, "export.replace": overwrite, baseDtype, memoryLimit } = OPTION_TABLE;

const FLAGS = {
  fileSize: {
    type: "bytes",
    help: "largest size of the GGUF, such as 80M (powers of 1024)",
  },
  memory: {
    type: "bytes",
    help:
      "most GPU memory that the model takes where this program writes text with its --base-dtype, such as 2G (powers of 1024)",
  },
  context: {
    type: "count",
    least: 3,
    help: "tokens of a text that --memory is counted for (default: 2048, or the model's context where that is less)",
  },
  tokensPerSecond: {
    type: "number",
    above: 0,
    help: "least tokens a second that the model writes for one sequence on this device; each choice is measured",
  },
  levers: { type: "words", words: LEVERS, initially: LEVERS, help: `what may be done: ${LEVERS.join(", ")}` },
  windows: {
    type: "count",
    least: 1,
    initially: WINDOWS,
    help: "windows of 256 tokens that choices are measured on, at most: more take longer and tell finer differences",
  },
  data: {
    ...data,
    defaultText: "texts that the model writes into DIR/texts.jsonl first; the demo has its own",
  },
  textField,
  out: { type: "text", placeholder: "dir", help: "folder for model.gguf and, where something is cut, the run's files" },
  steps: {
    type: "count",
    initially: 0,
    help: "steps of LoRA that recover the chosen cut on --data; choices are measured without (default: 0)",
  },
  dry: { type: "switch", help: "stop at the plan" },
  chart: { type: "text", placeholder: "file", help: "draw what each choice loses over its bytes, as an SVG" },
  overwrite: { type: "switch", help: overwrite.help },
  baseDtype,
  memoryLimit,
  json: JSON_FLAG,
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function fitVerb(): CommandUnknownOpts {
  const command = verb("fit", {
    description:
      "Find the most faithful model for a size of its file, memory or speed: tries types of matrices, a smaller vocabulary, narrower or fewer layers and these together, measures each, and writes the best.",
    examples: [
      "fit demo --file-size 700K --out runs/fit",
      "fit path/to/model --file-size 700M --data texts.jsonl --dry",
    ],
    notes:
      "Cuts are made by most rows of --data and measured on the last ones, which they do not see. The cut is a prune run: the command that is shown makes the same files, and with --resume it continues a fit that was stopped.",
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, FLAGS).action(fit);
}

async function fit(path: string, flags: Flags): Promise<void> {
  const { levers, windows, textField, dry = false, overwrite = false, json = false, baseDtype, memoryLimit } = flags;
  const { fileSize, memory, context, tokensPerSecond, steps } = flags;
  if (context !== undefined && memory === undefined) {
    const rule = "it is what --memory is counted for", fix = "give --memory, or leave it out";
    refuse("usage", "cannot use --context", { rule, value: context, fix, option: "context" });
  }
  checkBudget({ fileSize, memory, tokensPerSecond });
  const isOwn = flags.data === undefined && path !== DEMO;
  const out = dry && !isOwn ? flags.out ?? null : required(flags.out, "--out", dry ? { or: "--data" } : {});
  if (flags.chart !== undefined) await checkFolder(dirname(flags.chart));
  const data = isOwn && out !== null ? join(out, OWN_TEXTS) : dataPathOf(path, { data: flags.data });
  await fetchInputs({ model: [path], data: [flags.data] });
  if (!dry && out !== null) await checkRunFolder(out, { resume: false, overwrite, model: await modelPath(path) });
  const read = async (): Promise<readonly Row[]> => (await readRows(data ?? "", { textField })).rows;
  const given = isOwn ? null : await read();
  await withModel(path, { baseDtype, memoryLimit }, async ({ model, signal, progress }) => {
    if (isOwn && data !== null) {
      await writeOwnTexts(model, {
        ...{ path: data, signal, identity: { weights: await modelDigest(await modelPath(path)) } },
        onProgress: (share) => progress.phase(`writing texts into ${data}`, share),
      });
    }
    const rows = given ?? await read();
    const names = { exported: modelName(path).replace(/\.gguf$/, ""), pruned: nameOf(path, {}) };
    const plan = await planFit(model, {
      ...{ fileSize, memory, context, tokensPerSecond, rows, names, levers, windows, signal },
      onChoice: (text, { length }) => progress.phase(`measuring ${text} (${length} done)`),
    });
    const [best] = plan.rows;
    if (!best) return;
    if (flags.chart !== undefined) await writeFileAtomically(flags.chart, fitChart(plan));
    const named = { model: path, data, textField, baseDtype, out: out ?? "DIR", steps };
    const words = commandOf(best, plan, named), isCut = cutsAny(best.choice);
    if (!json) showPlan(plan, { command: words });
    if (steps > 0 && !isCut) note("compresso: nothing is cut, so nothing is trained: --steps has no effect");
    if (dry || out === null) {
      if (json) printJson(planValues(plan, { command: words }));
      return;
    }
    progress.phase(`writing ${out}/model.gguf`);
    const inputs = isCut ? await inputsOfChoice(best, plan, named) : undefined;
    const written = await writeFit(best, plan.workshop, {
      ...{ out, replace: overwrite, command: words, steps, inputs },
      ...inputs ? { identity: { weights: inputs.model } } : {},
      origin: await originOf({ model: path, data }),
      onStart: ({ options }) => progress.stages(stagesOf(options)),
      onRecord: (record) => progress.step(record),
    }).catch(async (error) => {
      if (!(error instanceof CompressoError && error.code === "aborted" && await isResumable(out))) throw error;
      throw error.with({ fix: `to resume, run: ${words.replace("compresso", programAsRun())} --resume` });
    });
    if (json) printJson({ ...planValues(plan, { command: words }), written: writtenValues(written) });
    else showWritten(best, written, { steps: isCut ? steps : 0 });
  });
}
