// `compresso plan MODEL`: the GPU memory of a prune run, before anything is loaded or downloaded. Owns the table; refuses to open a GPU for more than its limits.
import { lastStageSteps, type Method, METHODS } from "../../lib/run/methods/names.ts";
import type { CommandUnknownOpts } from "../packages.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { type AdapterOffer, describeAdapter } from "../../lib/gpu/adapter.ts";
import type { DeviceLimits } from "../../lib/gpu/types.ts";
import { openSpec } from "../../lib/disk/open_model.ts";
import { type DecoderSpec, parameterCount, type Projection, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { type Layout, LAYOUTS } from "../../lib/units/layout.ts";
import { UNIT_KINDS, type UnitKind } from "../../lib/units/units.ts";
import { type MemoryPlan, planMemory } from "../../lib/run/memory/plan.ts";
import { adviseMemory, fits, refusal } from "../../lib/run/memory/advice.ts";
import { MEMORY_PARTS, type MemoryPart } from "../../lib/run/memory/parts.ts";
import { presetOptions } from "../../lib/run/options/check.ts";
import type { Preset } from "../../lib/run/options/options.ts";
import { sizeGoal, sparsityBase } from "../../lib/run/size_goal.ts";
import { verb } from "../command.ts";
import { formatBytes, formatCount, print, printJson } from "../terminal/output.ts";
import { DEFAULTS, shapeDefaults } from "./prune/rates.ts";
import {
  byteCount,
  oneOf,
  parameterCount as parameterCountOf,
  realNumber,
  someOf,
  wholeNumber,
} from "../options/values.ts";
import { BASE_DTYPE_HELP, BASE_DTYPES } from "../with_model.ts";
import type { MemoryOptions } from "../../lib/run/contract.ts";

/** Options of `prune` that memory depends on, as parsed. */
export interface MemorySettings {
  readonly batch: number;
  readonly seq: number;
  readonly rank: number;
  readonly loraTargets: readonly Projection[];
  readonly dropout?: number | undefined;
  readonly units: readonly UnitKind[];
  readonly layout: Layout;
  readonly recompute: boolean;
  readonly method: Method;
  readonly focus?: number | undefined;
  /** Steps of the last stage, without which it has no focus; by default it has some. */
  readonly postfinetune?: number | undefined;
  readonly steps?: number | undefined;
  readonly preset?: Preset | undefined;
  readonly baseDtype?: typeof BASE_DTYPES[number] | undefined;
}

const PRESETS = ["paper"] as const;

/** Declares the verb. */
export function planVerb(): CommandUnknownOpts {
  return verb("plan", {
    description: "Tell how much GPU memory `prune` takes with these options. Reads no weights and needs no GPU.",
    examples: [
      "plan demo --batch 8",
      "plan path/to/config.json --base-dtype q4 --batch 1 --seq 512 --memory-limit 8G",
    ],
  })
    .argument("<model>", "a Hugging Face folder, or its config.json alone; a .gguf file; or demo")
    .option("--batch <count>", "sequences a step", wholeNumber("--batch", { least: 1 }), DEFAULTS.batch)
    .option("--seq <tokens>", "tokens of a sequence", wholeNumber("--seq", { least: 2 }), DEFAULTS.seq)
    .option(
      "--units <kinds>",
      `what is cut: heads or kv, ffn, hidden, layers (default: ${DEFAULTS.units})`,
      someOf("--units", UNIT_KINDS),
    )
    .option("--rank <count>", `rank of LoRA (default: ${DEFAULTS.lora.rank})`, wholeNumber("--rank", { least: 1 }))
    .option(
      "--lora-targets <list>",
      `projections with LoRA (default: ${DEFAULTS.lora.targets})`,
      someOf("--lora-targets", PROJECTIONS),
    )
    .option(
      "--dropout <share>",
      "dropout before LoRA",
      realNumber("--dropout", { least: 0, below: 1 }),
      DEFAULTS.lora.dropout,
    )
    .option("--preset <name>", `${PRESETS.join(", ")}: units, LoRA and focus as in prune`, oneOf("--preset", PRESETS))
    .option(
      "--target-params <count>",
      "tell what sparsity this number of parameters is, such as 5.4B; not with --layout padded",
      parameterCountOf("--target-params"),
    )
    .option("--layout <layout>", "uniform cuts all layers alike", oneOf("--layout", LAYOUTS), DEFAULTS.layout)
    .option("--base-dtype <type>", BASE_DTYPE_HELP, oneOf("--base-dtype", BASE_DTYPES), "f16" as const)
    .option("--no-recompute", "keep all activations for backward")
    .option(
      "--method <name>",
      `how units are chosen: ${METHODS.join(", ")}`,
      oneOf("--method", METHODS),
      "compresso" as const,
    )
    .option(
      "--focus <share>",
      "share of the labels that the last stage learns from, as in prune; 1 for a run without that stage",
      realNumber("--focus", { above: 0, most: 1 }),
    )
    .option("--memory-limit <bytes>", "GPU memory to fit into, such as 6G", byteCount("--memory-limit"))
    .option("--json", "print one JSON object")
    .action(async (model, { json, memoryLimit, targetParams, ...given }) => {
      const settings = { ...given, ...shapeDefaults(given) };
      const spec = await openSpec(model), adapter = await adapterHere();
      const options = memoryOptions(settings, {
        adapter: adapter && { limits: adapter.limits, isCpu: adapter.facts.isCpu },
      });
      const budget = memoryLimit === undefined ? {} : { memoryLimit };
      const plan = await planMemory(spec, options);
      const isEnough = fits(plan, budget);
      const advice = isEnough ? [] : await adviseMemory(spec, options, budget);
      const target = targetParams === undefined ? null : targetOf(spec, targetParams, settings);
      const { preset: _preset, ...shown } = settings;
      if (json) {
        printJson({
          model,
          parameters: parameterCount(spec),
          layers: spec.layers.length,
          adapter,
          options: shown,
          ...budget,
          ...(target ? { target } : {}),
          fits: isEnough,
          ...plan,
          advice,
        });
      } else show(model, { spec, adapter, settings, memoryLimit, target, plan });
      if (!isEnough) throw refusal({ ...plan, otherBytes: 0 }, { ...budget, advice });
    });
}

/** The options of a plan from those of `prune`. */
export function memoryOptions(
  {
    batch,
    seq,
    rank,
    loraTargets: targets,
    dropout = 0,
    units,
    layout,
    recompute,
    method,
    preset,
    baseDtype = "f16",
    ...last
  }: MemorySettings,
  { adapter, rules = {} }: {
    readonly adapter: { readonly limits: DeviceLimits; readonly isCpu: boolean } | null;
    readonly rules?: MemoryOptions["rules"];
  },
): MemoryOptions {
  const lora = { rank, targets, dropout },
    shape = { batch, seq, lora, units, rules, layout, recompute, method, baseDtype };
  const { steps = 0, focus } = last, ofPreset = preset && presetOptions(preset, steps);
  const lastSteps = last.postfinetune ?? ofPreset?.postfinetune ?? lastStageSteps(steps);
  const share = focus ?? ofPreset?.focus ?? (last.steps !== undefined && lastSteps === 0 ? 1 : undefined);
  return { ...shape, ...(share === undefined ? {} : { focus: share }), ...(adapter ? { adapter } : {}) };
}

/** What a number of parameters means for a run with these units. */
interface Target {
  readonly parameters: number;
  readonly sparsity: number;
  readonly sparsityOf: "layers" | "model";
}

function targetOf(spec: DecoderSpec, parameters: number, { units, method, layout }: MemorySettings): Target {
  const shape = { units, method, rules: {}, layout };
  const { sparsity } = sizeGoal({ spec, tokenizer: null }, shape, { parameters });
  return { parameters, sparsity, sparsityOf: sparsityBase(units) };
}

/** The adapter of this machine; null where there is none. */
async function adapterHere(): Promise<AdapterOffer | null> {
  try {
    return await describeAdapter();
  } catch (error) {
    if (error instanceof CompressoError && error.code === "gpu") return null;
    throw error;
  }
}

function show(model: string, { spec, adapter, settings, memoryLimit, target, plan }: {
  readonly spec: DecoderSpec;
  readonly adapter: AdapterOffer | null;
  readonly settings: MemorySettings;
  readonly memoryLimit: number | undefined;
  readonly target: Target | null;
  readonly plan: MemoryPlan;
}): void {
  const { batch, seq, rank, loraTargets: targets, units, recompute, baseDtype } = settings;
  const { peakBytes, parts, stages, largestBuffer } = plan;
  print(`model     ${model}, ${formatCount(parameterCount(spec))} parameters in ${spec.layers.length} layers`);
  print(
    adapter
      ? `adapter   ${adapter.facts.description}; products read ${adapter.facts.isCpu ? "textures" : "buffers"}`
      : "adapter   none here: planned for a GPU with the limits that every WebGPU adapter grants",
  );
  print(
    `run       ${batch} × ${seq} tokens, base ${baseDtype}, LoRA of rank ${rank} on ${targets.join(",")}, units ${
      units.join(",")
    }${recompute ? "" : ", nothing computed anew"}`,
  );
  if (target) {
    const whole = target.sparsityOf === "model" ? "model" : "layers' linear weights";
    print(
      `target    ${formatCount(target.parameters)} parameters: a sparsity of ${
        target.sparsity.toFixed(4)
      } of the ${whole}`,
    );
  }
  print();
  const rows = Object.entries(MEMORY_PARTS) as [MemoryPart, string][];
  const width = Math.max(...rows.map(([, name]) => name.length));
  const line = (name: string, bytes: number): string =>
    `${name.padEnd(width)}  ${formatBytes(bytes).padStart(9)}  ${(100 * bytes / peakBytes).toFixed(1).padStart(5)} %`;
  for (const [part, name] of rows) if (parts[part] > 0) print(line(name, parts[part]));
  print(line("peak", peakBytes));
  print();
  print(`limit     ${memoryLimit === undefined ? "none given (--memory-limit)" : formatBytes(memoryLimit)}`);
  print(
    `stages    training ${formatBytes(stages.training)}, comparing the sliced model ${
      formatBytes(stages.verification)
    }`,
  );
  print(
    `largest   buffer '${largestBuffer.label}', ${formatBytes(largestBuffer.bytes)} of ${
      formatBytes(largestBuffer.limit)
    } that a binding may have`,
  );
}
