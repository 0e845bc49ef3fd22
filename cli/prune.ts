// `compresso prune MODEL`: the three stages, and the smaller model's files. Owns options, progress and the report; refuses the loop itself.
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { PROJECTIONS } from "../lib/nn/spec.ts";
import { UNIT_KINDS } from "../lib/prune/units.ts";
import { DEFAULTS } from "../lib/run/options.ts";
import { ON_ALARM_OPTION } from "./alarms.ts";
import { verb } from "./command.ts";
import { DTYPES, GGUF_DTYPES, LAYOUTS } from "./formats.ts";
import { SCHEDULE_NAMES } from "../lib/prune/builtin_schedules.ts";
import { METHODS } from "../lib/run/methods.ts";
import { NO_PROMPT_OPTION, PROMPT_OPTION } from "./prompt.ts";
import { NO_TUNING_OPTION, TUNING_OPTION } from "./tuning.ts";
import { byteCount, layerList, oneOf, type Parse, realNumber, required, someOf, wholeNumber } from "./values.ts";
import { BASE_DTYPE_HELP, BASE_DTYPES } from "./with_model.ts";
import { runPrune } from "./prune_run.ts";

/** Declares the verb. */
export function pruneVerb(): CommandUnknownOpts {
  const atLeast = (option: string, least: number): Parse<number> => wholeNumber(option, { least });
  return verb("prune", {
    description: "Make a model smaller: fine-tune, prune, fine-tune, slice, and write the files.",
    examples: [
      "prune demo --sparsity 0.3 --steps 200 --out runs/demo",
      "prune path/to/model --data alpaca.json --sparsity 0.2 --steps 400 --batch 4 --seq 256 --out runs/model",
    ],
  })
    .argument("<model>", "a Hugging Face folder, a .gguf file, or demo")
    .option("--out <dir>", "folder for model/, model.gguf, run.json, records.jsonl and the checkpoint (required)")
    .option("--data <file>", "rows of instruction, input, output (JSON or JSON lines), or of text (demo: its own)")
    .option(
      "--sparsity <share>",
      "share of the layers' linear weights to cut (required)",
      realNumber("--sparsity", { above: 0, below: 1 }),
    )
    .option("--steps <count>", "steps of the pruning stage", atLeast("--steps", 0), 200)
    .option(
      "--prefinetune <count>",
      "steps of LoRA alone before (default: a tenth of --steps)",
      atLeast("--prefinetune", 0),
    )
    .option(
      "--postfinetune <count>",
      "steps of LoRA after (default: three tenths of --steps)",
      atLeast("--postfinetune", 0),
    )
    .option("--batch <count>", "sequences a step", atLeast("--batch", 1), DEFAULTS.batch)
    .option(
      "--seq <tokens>",
      "tokens of a sequence; the collaborative prompt counts",
      atLeast("--seq", 2),
      DEFAULTS.seq,
    )
    .option("--seed <number>", "seed of data order, masks and LoRA", atLeast("--seed", 0), DEFAULTS.seed)
    .option(
      "--units <kinds>",
      "what is cut: heads or kv (KV groups), ffn, hidden, layers (whole ones)",
      someOf("--units", UNIT_KINDS),
      DEFAULTS.units,
    )
    .option(
      "--protect <layers>",
      "layers that are never cut, such as 0,1,-1 (negative: from the end)",
      layerList("--protect"),
    )
    .option("--align <count>", "kept FFN widths and hidden size are multiples of it", atLeast("--align", 1), 1)
    .option("--min-heads <count>", "query heads that a layer keeps at least", atLeast("--min-heads", 0), 0)
    .option("--min-ffn <count>", "FFN columns that a layer keeps at least", atLeast("--min-ffn", 0), 0)
    .option("--min-hidden <count>", "hidden dims that stay at least", atLeast("--min-hidden", 0), 0)
    .option(
      "--method <name>",
      `how units are chosen: ${METHODS.join(", ")}; the steps of a one-shot method are all recovery`,
      oneOf("--method", METHODS),
      "compresso" as const,
    )
    .option(
      "--schedule <name|file|url>",
      `sparsity step by step: ${SCHEDULE_NAMES.join(", ")}, or a script, which runs isolated (default: cubic)`,
    )
    .option("--trust", "run the schedule's script with all rights of this program, not isolated")
    .option(...PROMPT_OPTION)
    .option(...NO_PROMPT_OPTION)
    .option("--text-field <name>", "field of the data that holds texts")
    .option("--limit-rows <count>", "rows to read at most", atLeast("--limit-rows", 1))
    .option("--skip-broken", "leave broken rows out and count them, instead of stopping")
    .option("--no-packing", "one text a sequence, instead of texts joined to full ones")
    .option("--rank <count>", "rank of LoRA", atLeast("--rank", 1), DEFAULTS.lora.rank)
    .option(
      "--alpha <number>",
      "LoRA adds alpha / rank · B·A, with --rslora alpha / √rank · B·A",
      realNumber("--alpha", { above: 0 }),
      DEFAULTS.lora.alpha,
    )
    .option("--rslora", "rank-stabilised LoRA")
    .option("--targets <list>", "projections with LoRA", someOf("--targets", PROJECTIONS), DEFAULTS.lora.targets)
    .option(
      "--dropout <share>",
      "dropout before LoRA",
      realNumber("--dropout", { least: 0, below: 1 }),
      DEFAULTS.lora.dropout,
    )
    .option(
      "--lora-rate <number>",
      "peak learning rate of LoRA",
      realNumber("--lora-rate", { above: 0 }),
      DEFAULTS.loraRate,
    )
    .option(
      "--layout <layout>",
      "compact: layers differ; padded: zeros to the widest layer; uniform: all layers alike",
      oneOf("--layout", LAYOUTS),
      DEFAULTS.layout,
    )
    .option(
      "--dtype <type>",
      "type of the folder's weights: f32, f16 or bf16",
      oneOf("--dtype", DTYPES),
      "f16" as const,
    )
    .option(
      "--gguf-dtype <type>",
      `type of the GGUF's matrices: ${GGUF_DTYPES.join(", ")}`,
      oneOf("--gguf-dtype", GGUF_DTYPES),
      "f16" as const,
    )
    .option(
      "--base-dtype <type>",
      BASE_DTYPE_HELP,
      oneOf("--base-dtype", BASE_DTYPES),
      "f16" as const,
    )
    .option("--no-recompute", "keep all activations for backward: quicker, more memory, the same result")
    .option("--memory-limit <bytes>", "GPU memory to use at most, such as 6G", byteCount("--memory-limit"))
    .option(...TUNING_OPTION)
    .option(...NO_TUNING_OPTION)
    .option(...ON_ALARM_OPTION)
    .option("--checkpoint-every <steps>", "steps between checkpoints", atLeast("--checkpoint-every", 1), 50)
    .option("--resume", "go on from the checkpoint in --out; all other options as before")
    .option("--overwrite", "start anew where --out holds an earlier run")
    .option("--dashboard", "serve the run's report while it goes on, on this machine alone; says where")
    .option(
      "--dashboard-port <port>",
      "port of the dashboard, which it asks for too (default: a free one)",
      wholeNumber("--dashboard-port", { least: 0, most: 65535 }),
    )
    .option("--json", "print run.json at the end")
    .action(async (model, options) =>
      await runPrune(model, {
        ...options,
        sparsity: required(options.sparsity, "--sparsity"),
        out: required(options.out, "--out"),
      })
    );
}
