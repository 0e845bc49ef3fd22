// `compresso prune MODEL`: declares the flags of the verb, from the table of options.
import type { CommandUnknownOpts } from "../../packages.ts";
import { MODEL_TEXT, verb } from "../../command.ts";
import { addTableFlags, type TableFlags } from "../../options/table_flags.ts";
import { withConfig } from "../../options/config.ts";
import { required } from "../../options/flags.ts";
import { trainsNothing } from "../../../lib/run/options/resolve.ts";
import { runPrune } from "./run.ts";

/** Default steps of the pruning stage. */
const STEPS = 200;

/** Declares the verb. */
export function pruneVerb(): CommandUnknownOpts {
  const command = verb("prune", {
    description: "Make a smaller model: fine-tune, prune, fine-tune again, slice, and write the files.",
    examples: [
      "prune demo --sparsity 0.3 --steps 200 --out runs/demo",
      "prune path/to/model --data alpaca.json --sparsity 0.2 --steps 400 --batch 4 --seq 256 --out runs/model",
      "prune path/to/model --units vocab --vocab-size 24000 --vocab-data texts.jsonl --out runs/words",
      "prune path/to/model --data alpaca.json --target-params 5.4B --save-adapter --out runs/model",
    ],
  }).argument("<model>", MODEL_TEXT);
  return addTableFlags(command).action(async (model: string, typed: TableFlags, called: CommandUnknownOpts) => {
    const flags = await withConfig(typed, called);
    await runPrune(model, {
      ...flags,
      steps: flags.steps ?? (trainsNothing(flags) ? 0 : STEPS),
      out: required(flags.out, "--out"),
    });
  });
}
