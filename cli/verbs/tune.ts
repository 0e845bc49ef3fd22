// `compresso tune MODEL`: a run of `prune` that cuts nothing. Its flags are rows of the same table.
import type { CommandUnknownOpts } from "../packages.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { withConfig } from "../options/config.ts";
import { required } from "../options/flags.ts";
import { addTableFlags, FLAG_PATHS, type TableFlags } from "../options/table_flags.ts";
import { entryOf, type OptionPath } from "../../lib/run/options/table.ts";
import { TARGETS } from "../../lib/run/options/table/entry.ts";
import { runPrune } from "./prune/run.ts";

/** Default steps. */
const STEPS = 200;

/** Options that concern a cut, in addition to those of choosing and of units and methods. */
const OF_CUTS: readonly OptionPath[] = [
  ...TARGETS,
  "size.file.format",
  "units",
  "layout",
  "prefinetune",
  "postfinetune",
  "rates.postfinetune",
  "focus",
  "schedule",
  "trustSchedule",
  // An adapter is always written.
  "export.saveAdapter",
];

/** The options by which a run of prune tunes. */
const FIXED = { sparsity: 0, units: [], "export.saveAdapter": true } as const;

/** Paths of the options of the verb. */
export const TUNE_PATHS: readonly OptionPath[] = FLAG_PATHS.filter((path) => {
  const { work, when = {} } = entryOf(path);
  return work !== "choosing" && !("units" in when) && !("method" in when) && !OF_CUTS.includes(path);
});

/** Declares the verb. */
export function tuneVerb(): CommandUnknownOpts {
  const command = verb("tune", {
    description: "Fine-tune a model with LoRA, without a cut: write it merged, and the LoRA as an adapter for PEFT.",
    examples: [
      "tune demo --steps 100 --out runs/tuned",
      "tune path/to/model --data alpaca.json --steps 400 --batch 4 --seq 512 --out runs/tuned",
      "tune path/to/model.gguf --data alpaca.json --base-dtype q4 --formats gguf --out runs/tuned",
    ],
    notes: "The same as prune with --sparsity 0 and --save-adapter. No prompt stands before instructions by default. " +
      "Models with experts are not tuned.",
  }).argument("<model>", MODEL_TEXT);
  return addTableFlags(command, {
    paths: TUNE_PATHS,
    help: {
      steps: "steps of fine-tuning",
      out: "folder for model/, model.gguf, adapter/, run.json, records.jsonl and the checkpoint",
      check:
        "held-out tokens on which the merged model is compared with the model and its LoRA: quick, at most 64; full, up to 8 sequences",
      "rates.lora": "learning rate of LoRA at the first step; it falls to a tenth along a cosine",
      "objective.distillation":
        "weight of the KL divergence from the model before tuning in the training loss; costs one more forward pass per step",
    },
  }).action(async (model: string, typed: TableFlags, called: CommandUnknownOpts) => {
    const flags = await withConfig(typed, called, { paths: TUNE_PATHS, fixed: FIXED });
    await runPrune(model, {
      ...flags,
      sparsity: FIXED.sparsity,
      saveAdapter: FIXED["export.saveAdapter"],
      steps: flags.steps ?? STEPS,
      out: required(flags.out, "--out"),
    });
  });
}
