// `compresso prune MODEL`: the three stages, and the smaller model's files. Owns options, progress and the report; refuses the loop itself.
import type { CommandUnknownOpts } from "../../packages.ts";
import { PROJECTIONS } from "../../../lib/spec/decoder.ts";
import { RANKINGS } from "../../../lib/masks/baselines.ts";
import { LAYOUTS } from "../../../lib/units/layout.ts";
import { UNIT_KINDS } from "../../../lib/units/units.ts";
import { ON_ALARM_OPTION } from "./alarms.ts";
import { verb } from "../../command.ts";
import { DTYPES, GGUF_DTYPES } from "../../../lib/slice/export_options.ts";
import { SCHEDULE_NAMES } from "../../../lib/schedule/builtin.ts";
import { METHODS } from "../../../lib/run/methods/names.ts";
import { KEPT_RULES } from "../../../lib/masks/harden.ts";
import { LAMBDA_RULES } from "../../../lib/masks/lambda_rule.ts";
import { START_RULES } from "../../../lib/masks/start.ts";
import { MAX_SEED } from "../../../lib/core/random.ts";
import { DEFAULTS, maskRate, shapeDefaults } from "./rates.ts";
import { TARGET_FILES } from "./targets.ts";
import { NO_TUNING_OPTION, TUNING_OPTION } from "../../tuning.ts";
import {
  byteCount,
  layerList,
  oneOf,
  outputPath,
  parameterCount,
  type Parse,
  realNumber,
  required,
  someOf,
  wholeNumber,
} from "../../options/values.ts";
import { BASE_DTYPE_HELP, BASE_DTYPES } from "../../with_model.ts";
import { runPrune } from "./run.ts";

const PRESETS = ["paper"] as const;

/** Declares the verb. */
export function pruneVerb(): CommandUnknownOpts {
  const atLeast = (option: string, least: number): Parse<number> => wholeNumber(option, { least });
  return verb("prune", {
    description: "Make a model smaller: fine-tune, prune, fine-tune, slice, and write the files.",
    examples: [
      "prune demo --sparsity 0.3 --steps 200 --out runs/demo",
      "prune path/to/model --data alpaca.json --sparsity 0.2 --steps 400 --batch 4 --seq 256 --out runs/model",
      "prune path/to/model --data alpaca.json --target-params 5.4B --save-adapter --out runs/model",
    ],
  })
    .argument("<model>", "a Hugging Face folder, a .gguf file, or demo")
    .option(
      "--out <dir>",
      "folder for model/, model.gguf, run.json, records.jsonl, calibration.jsonl and the checkpoint (required)",
      outputPath("--out"),
    )
    .option(
      "--data <file>",
      "instructions, conversations or texts, as JSON, JSON lines or plain text, also .gz or .zst, or as parquet (demo: its own)",
    )
    .option(
      "--sparsity <share>",
      "share of the layers' linear weights to cut; this, --target-params, --target-bytes or a schedule script that sets it is required",
      realNumber("--sparsity", { above: 0, below: 1 }),
    )
    .option(
      "--target-params <count>",
      "parameters of the smaller model at most, embedding and head included, such as 5.4B, 120M or 113280192; not with --layout padded",
      parameterCount("--target-params"),
    )
    .option(
      "--target-bytes <bytes>",
      "bytes of the smaller model's file at most, such as 200M or 1.5G (powers of 1024); see --target-file; not with --layout padded",
      byteCount("--target-bytes"),
    )
    .option(
      "--target-file <format>",
      "whose bytes they are: hf, the folder's safetensors as --dtype; gguf, model.gguf as --gguf-dtype (default: hf)",
      oneOf("--target-file", TARGET_FILES),
    )
    .option(
      "--preset <name>",
      `${
        PRESETS.join(", ")
      }: the published settings, but for --batch and --seq (published: 1 and 1024); options given beside it win`,
      oneOf("--preset", PRESETS),
    )
    .option("--steps <count>", "steps of the pruning stage", atLeast("--steps", 0), 200)
    .option(
      "--prefinetune <count>",
      "steps of LoRA alone before (default: a tenth of --steps; paper: a seventh)",
      atLeast("--prefinetune", 0),
    )
    .option(
      "--postfinetune <count>",
      "steps of LoRA after (default: three tenths of --steps; paper: three sevenths)",
      atLeast("--postfinetune", 0),
    )
    .option("--batch <count>", "sequences a step", atLeast("--batch", 1), DEFAULTS.batch)
    .option(
      "--seq <tokens>",
      "tokens of a sequence; the collaborative prompt counts",
      atLeast("--seq", 2),
      DEFAULTS.seq,
    )
    .option(
      "--seed <number>",
      "seed of data order, masks and LoRA",
      wholeNumber("--seed", { most: MAX_SEED }),
      DEFAULTS.seed,
    )
    .option(
      "--units <kinds>",
      `what is cut: heads (a KV group falls with its last) or kv (whole KV groups), ffn, hidden, layers (whole ones) (default: ${DEFAULTS.units}; paper: heads,ffn,hidden)`,
      someOf("--units", UNIT_KINDS),
    )
    .option(
      "--protect <layers>",
      "layers whose heads, FFN columns and gates are never cut, such as 0,1,-1 (negative: from the end); hidden dims go through all layers",
      layerList("--protect"),
    )
    .option(
      "--align <count>",
      "kept FFN widths and hidden size are multiples of it (default: 1; the block of --gguf-dtype for a size of model.gguf)",
      atLeast("--align", 1),
    )
    .option("--min-heads <count>", "query heads that a layer that stays keeps at least", atLeast("--min-heads", 0), 0)
    .option("--min-ffn <count>", "FFN columns that a layer that stays keeps at least", atLeast("--min-ffn", 0), 0)
    .option("--min-hidden <count>", "hidden dims that stay at least", atLeast("--min-hidden", 0), 0)
    .option("--min-layers <count>", "layers that stay at least, of --units layers", atLeast("--min-layers", 0), 0)
    .option(
      "--method <name>",
      `how units are chosen: ${METHODS.join(", ")}; the steps of a one-shot method are all recovery`,
      oneOf("--method", METHODS),
      "compresso" as const,
    )
    .option(
      "--ranking <scope>",
      "units that a one-shot method compares: all, or those of a layer and kind, which then all lose the same share, as with --layout uniform in any case (default: all; magnitude, taylor, wanda-sp and --layout uniform: layer)",
      oneOf("--ranking", RANKINGS),
    )
    .option(
      "--schedule <name|file|url>",
      `sparsity step by step: ${
        SCHEDULE_NAMES.join(", ")
      }, or a script, which runs isolated, see schedule preview --help; beside a one-shot method it steers the recovery (default: cubic)`,
    )
    .option("--trust", "run the schedule's script with all rights of this program, not isolated")
    .option("--prompt <file>", "your own text in place of the collaborative prompt")
    .option("--no-prompt", "leave the collaborative prompt out")
    .option("--text-field <name>", "take this field as the text of every row (default: the fields tell what a row is)")
    .option("--limit-rows <count>", "rows to read at most", atLeast("--limit-rows", 1))
    .option("--skip-broken", "leave broken rows out and count them, instead of stopping")
    .option("--packing", "rows joined to full sequences (default; paper: not)")
    .option("--no-packing", "a sequence for each row, padded or shortened, instead of rows joined to full ones")
    .option("--rank <count>", `rank of LoRA (default: ${DEFAULTS.lora.rank})`, atLeast("--rank", 1))
    .option(
      "--alpha <number>",
      `LoRA adds alpha / rank · B·A, with --rslora alpha / √rank · B·A (default: ${DEFAULTS.lora.alpha}; paper: 8)`,
      realNumber("--alpha", { above: 0 }),
    )
    .option("--rslora", "rank-stabilised LoRA")
    .option(
      "--lora-targets <list>",
      `projections with LoRA (default: ${DEFAULTS.lora.targets}; paper: q,v)`,
      someOf("--lora-targets", PROJECTIONS),
    )
    .option(
      "--dropout <share>",
      "dropout before LoRA",
      realNumber("--dropout", { least: 0, below: 1 }),
      DEFAULTS.lora.dropout,
    )
    .option(
      "--lora-rate <number>",
      `peak learning rate of LoRA, which rises over the first half of the first stage, stays while masks are pruned, and falls to a tenth in the last one (default: ${DEFAULTS.loraRate}; paper: 5e-5)`,
      realNumber("--lora-rate", { above: 0 }),
    )
    .option(
      "--postfinetune-rate <number>",
      "peak learning rate of LoRA in the last stage (default: that of --lora-rate; paper, where that is not given: 4e-4)",
      realNumber("--postfinetune-rate", { above: 0 }),
    )
    .option(
      "--clip-norm <number>",
      "largest norm of LoRA's gradients (default: 1)",
      realNumber("--clip-norm", { above: 0 }),
    )
    .option(
      "--weight-decay <number>",
      "weight decay of LoRA (default: 0)",
      realNumber("--weight-decay", { least: 0 }),
    )
    .option(
      "--focus <share>",
      "share of a batch's labels that the last stage learns from: those whose loss lies furthest above that of the model before pruning, at the cost of one more forward pass, not for flap; 1: all (default: 0.3 for --method compresso with a last stage, else 1; paper: 1)",
      realNumber("--focus", { above: 0, most: 1 }),
    )
    .option(
      "--start <rule>",
      "where log α of learned masks starts: saliency, or constant, as published (default: saliency; paper: constant)",
      oneOf("--start", START_RULES),
    )
    .option(
      "--calibration <file>",
      "further texts or rows that tell units apart before pruning (for --method compresso beside the data; taylor, wanda-sp and flap look at them alone), 32 sequences of them, rounded up to whole batches: a file as of --data; own: texts that the model writes first, 32, or fewer for short runs of learned masks, kept once the run has begun; none (default: own for masks learned from saliency with a prior, else none)",
    )
    .option(
      "--kept-masks <rule>",
      "z of what stays of learned masks, hidden dims apart, which have 1: one; median, that of hard concrete; or sigmoid, that of 0.8 log α / β, as published (default: one; paper: sigmoid)",
      oneOf("--kept-masks", KEPT_RULES),
    )
    .option(...maskRate("spread", "spread of log α that starts from saliency (default: 8)"))
    .option(
      ...maskRate(
        "saliency-decay",
        "share of itself that the running saliency keeps at each step; 1: log α does not follow it (default: 0.95 to 0.99)",
        { most: 1 },
      ),
    )
    .option(
      ...maskRate(
        "prior",
        "how much two things count beside the squared gradients on the data: what the weights alone say of a unit, and those on the calibration texts; 1: as much as the data; 0: neither, and the model writes no texts (default: 1)",
      ),
    )
    .option(
      "--lambda-rule <rule>",
      "how λ moves: plain, by its gradient times --lambda-rate; or adam, as published (default: plain; paper: adam)",
      oneOf("--lambda-rule", LAMBDA_RULES),
    )
    .option(...maskRate("mask-rate", "learning rate of log α (default: 20 / --steps, from 0.03 to 0.3; paper: 0.1)"))
    .option(...maskRate("lambda-rate", "rate of λ's ascent (default: 0.1)"))
    .option(
      ...maskRate("temperature", "β of hard concrete, such as 0.5, 1, 2 or 5 (default: 0.1; paper: 2/3)", { above: 0 }),
    )
    .option(...maskRate("noise", "scale of its noise; 1 is Louizos et al. (default: 0.1; paper: 1)"))
    .option(
      ...maskRate(
        "tracking",
        "share of the gap to the schedule that each step closes; 0 leaves it to λ (default: 1; paper: 0)",
        { most: 1 },
      ),
    )
    .option(
      ...maskRate(
        "log-alpha-limit",
        "log α is kept within ± this after each update (default: 100; paper: log 100 = 4.605)",
        { above: 0 },
      ),
    )
    .option(
      "--warmup <share>",
      "share of --steps after which the target is reached or, beside constant or a script with a sparsity of its own, monitors compare what is cut with it, not for one-shot methods (default: 0.4; paper: 4/7)",
      realNumber("--warmup", { least: 0, most: 1 }),
    )
    .option(
      "--layout <layout>",
      "compact: layers differ; padded: zeros to the widest layer; uniform: all layers alike, heads by their KV groups",
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
    .option(
      "--save-adapter",
      "save LoRA too, in PEFT's format: DIR/adapter, for the sliced model without it, DIR/unmerged",
    )
    .option("--no-recompute", "keep all activations for backward: quicker, more memory, the same result")
    .option("--memory-limit <bytes>", "GPU memory to use at most, such as 6G", byteCount("--memory-limit"))
    .option(...TUNING_OPTION)
    .option(...NO_TUNING_OPTION)
    .option(...ON_ALARM_OPTION)
    .option("--checkpoint-every <steps>", "steps between checkpoints", atLeast("--checkpoint-every", 1), 50)
    .option("--resume", "go on from the checkpoint in --out, with all options that decide the result as before")
    .option(
      "--may-differ <list>",
      "what --resume goes on with as it is given now, though the run began otherwise: schedule, rates",
      someOf("--may-differ", ["schedule", "rates"]),
    )
    .option(
      "--overwrite",
      "start anew where --out holds an earlier run, whose files, texts and report go; its eval….json are renamed earlier-…",
    )
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
        ...shapeDefaults(options),
        out: required(options.out, "--out"),
      })
    );
}
