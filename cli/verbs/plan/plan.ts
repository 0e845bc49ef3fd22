// `compresso plan MODEL`: the GPU memory of a prune run, before anything is loaded.
import type { CommandUnknownOpts } from "../../packages.ts";
import { CompressoError, spelled } from "../../../lib/core/errors.ts";
import { spellFlag } from "../../options/spelling.ts";
import { type AdapterOffer, describeAdapter } from "../../../lib/gpu/adapter.ts";
import { modelKind, readSpec } from "../../../lib/formats/open.ts";
import { openWeights } from "../../../lib/formats/open.ts";
import { lookAt } from "../../../lib/local/open_model.ts";
import { type DecoderSpec, hasProjection, parameterCount } from "../../../lib/spec/decoder.ts";
import type { BaseDtype } from "../../../lib/nn/weights.ts";
import { type MemoryPlan, planMemory } from "../../../lib/run/memory/plan.ts";
import { adviseMemory, changeWords, fits, overMemory } from "../../../lib/run/memory/advice.ts";
import { heldText, type HeldType, heldTypes } from "../../../lib/run/memory/held.ts";
import type { WeightSource } from "../../../lib/spec/source.ts";
import { MEMORY_PARTS, type MemoryPart } from "../../../lib/gpu/memory_parts.ts";
import { checkTogether, valueOf } from "../../../lib/run/options/check.ts";
import { forecastRun, measureSpeed } from "../../../lib/run/forecast.ts";
import { learnsBesideCalibration } from "../../../lib/run/methods/stages.ts";
import type { PartSeconds } from "../../../lib/run/parts_of_time.ts";
import { FORMATS } from "../../../lib/slice/export_options.ts";
import type { ResolvedMemory, RunOptions } from "../../../lib/run/options/options.ts";
import { memoryOptionsOf, resolveMemory, withFittingWidths } from "../../../lib/run/options/resolve.ts";
import { choiceLines } from "../../../lib/run/options/fitting.ts";
import { type OptionPath, pathsIn } from "../../../lib/run/options/table.ts";
import { sizeGoal, sparsityBase } from "../../../lib/run/size_goal.ts";
import { verb } from "../../command.ts";
import { verifies } from "../../hub.ts";
import { chosenWebgpu, openDeviceHere } from "../../webgpu.ts";
import { forecastLine } from "../prune/time_lines.ts";
import { windowLine } from "../inspect/inspect.ts";
import { formatBytes, formatCount, print, printJson } from "../../terminal/output.ts";
import { checkExpertPlan, planExperts, type PlannedExperts, showKept, stageLine } from "./experts.ts";
import { addTableFlags, pruneOptionsOf, type TableFlags } from "../../options/table_flags.ts";

/** Declares the verb. */
export function planVerb(): CommandUnknownOpts {
  const command = verb("plan", {
    description:
      "Show how much GPU memory `prune` needs with these options, and with --time how long it takes. Reads no weights; only --time needs a GPU.",
    examples: [
      "plan demo --batch 8",
      "plan demo --steps 60 --time",
      "plan path/to/config.json --base-dtype q4 --batch 1 --seq 512 --memory-limit 8G",
      "plan path/to/moe.gguf --units experts --sparsity 0.5",
    ],
  }).argument(
    "<model>",
    "a Hugging Face folder, or its config.json alone; a .gguf file; hf:owner/name[:file]; or demo",
  );
  return addTableFlags(command, {
    paths: pathsIn("plan"),
    inOneGroup: true,
    help: {
      sparsity:
        "share of the experts to cut: shows how many stay, and the bytes of the files; goes with --units experts",
      "size.parameters":
        "show which sparsity leads to this number of parameters, such as 5.4B; not with the padded layout",
      focus: "share of the labels on which the last stage trains, as in prune; 1 for a run without that stage",
      memoryLimit: "GPU memory that the run must fit into, such as 6G",
    },
  })
    .option("--time", "measure this device with layers of this shape, and predict the time of a run by its parts")
    .option("--json", "print one JSON object")
    .action(async (model: string, flags: TableFlags & { readonly json?: true; readonly time?: true }) => {
      const { json, time, memoryLimit, targetParams, baseDtype = "f16" } = flags;
      const given = pruneOptionsOf(flags);
      resolveMemory(given);
      checkTogether(given, { paths: ["vocab.size"] });
      const view = await lookAt(model, { use: "shape", verify: verifies() }), { files, path } = view;
      const kind = await modelKind(files, path), spec = await readSpec(files, path);
      checkExpertPlan(spec, given, { time: time ?? false });
      const adapter = await adapterHere();
      const asked = resolveMemory(given, spec, kind === "gguf" ? { formats: ["gguf"] } : {});
      const run = { ...asked, rules: withFittingWidths(asked, spec, null) };
      const stored = kind === "gguf" ? await openWeights(files, path) : null;
      const storedDtype = stored ? (name: string): string => stored.storedDtype(name) : undefined;
      const options = memoryOptionsOf(run, {
        baseDtype,
        storedDtype,
        adapter: adapter === null
          ? undefined
          : { limits: adapter.limits, isCpu: adapter.facts.isCpu, subgroupSize: adapter.subgroupSize },
      });
      const budget = { memoryLimit };
      const plan = await planMemory(spec, options);
      const isEnough = fits(plan, budget);
      const advice = isEnough ? [] : await adviseMemory(spec, options, budget);
      const ofExperts = await planExperts(spec, given, { run, view, isGguf: kind === "gguf" });
      const target = targetParams === undefined ? null : targetOf(spec, targetParams, run);
      const forecast = time && isEnough
        ? await timeOf(spec, given, { ...run, baseDtype, storedDtype, memoryLimit })
        : null;
      const held = baseDtype === "file" && storedDtype ? await heldTypes({ spec, storedDtype }, options) : null;
      if (json) {
        const { adapter: _adapter, storedDtype: _types, ...shown } = options;
        printJson({
          model,
          parameters: parameterCount(spec),
          layers: spec.layers.length,
          // One a layer, in tokens; null for all.
          windows: spec.layers.map(({ window = null }) => window),
          adapter,
          options: shown,
          ...budget,
          target,
          experts: ofExperts,
          held,
          time: forecast,
          fits: isEnough,
          ...plan,
          advice: advice.map((one) => ({ ...one, change: spelled(changeWords(one.options), spellFlag) })),
        });
      } else {
        const choices = choiceLines(spec, given, run);
        show(model, { spec, adapter, run: { ...run, baseDtype }, choices, memoryLimit, target, ofExperts, held, plan });
        if (forecast) print(forecastLine(forecast));
      }
      if (!isEnough) throw overMemory({ ...plan, otherBytes: 0 }, { ...budget, advice });
    });
}

/** Predicts the time of a run with these options, whose rows are instructions or texts, with all files. */
async function timeOf(
  spec: DecoderSpec,
  given: Partial<RunOptions>,
  { memoryLimit, ...run }: ResolvedMemory & {
    readonly baseDtype: BaseDtype;
    readonly storedDtype: WeightSource["storedDtype"] | undefined;
    readonly memoryLimit: number | undefined;
  },
): Promise<PartSeconds> {
  using device = await openDeviceHere({ memoryLimit });
  const { steps = PLANNED_STEPS } = given, stage = (path: OptionPath): number => Number(valueOf(given, path, steps));
  const start = valueOf(given, "start") === "constant" ? "constant" : "saliency", prior = stage("rates.prior");
  return forecastRun(await measureSpeed(device, spec, run), {
    ...run,
    steps,
    rounds: 1,
    prefinetune: stage("prefinetune"),
    postfinetune: stage("postfinetune"),
  }, {
    formats: FORMATS.length,
    writesTexts: learnsBesideCalibration({ method: run.method, start, rates: { prior } }),
    hasText: false,
  });
}

/** Steps of the pruning stage, as the default of `prune`. */
const PLANNED_STEPS = 200;

/** What a number of parameters means for a run with these units. */
interface Target {
  readonly parameters: number;
  readonly sparsity: number;
  readonly sparsityOf: "layers" | "model";
}

function targetOf(spec: DecoderSpec, parameters: number, run: ResolvedMemory): Target {
  const { units } = run, { sparsity } = sizeGoal({ spec, tokenizer: null }, run, { parameters });
  return { parameters, sparsity, sparsityOf: sparsityBase(units) };
}

/** The adapter of this machine; null without an adapter. */
async function adapterHere(): Promise<AdapterOffer | null> {
  try {
    return await describeAdapter(await chosenWebgpu());
  } catch (error) {
    if (error instanceof CompressoError && error.code === "gpu") return null;
    throw error;
  }
}

function show(model: string, { spec, adapter, run, choices, memoryLimit, target, ofExperts, held, plan }: {
  readonly spec: DecoderSpec;
  readonly adapter: AdapterOffer | null;
  readonly run: ResolvedMemory & { readonly baseDtype: BaseDtype };
  readonly choices: readonly string[];
  readonly memoryLimit: number | undefined;
  readonly target: Target | null;
  readonly ofExperts: PlannedExperts | null;
  /** Types of the matrices of a base of the file's blocks. */
  readonly held: readonly HeldType[] | null;
  readonly plan: MemoryPlan;
}): void {
  const { batch, accumulate, seq, lora: { rank, targets }, units, recompute, baseDtype } = run;
  const { peakBytes, parts, stages, largestBuffer } = plan;
  print(`model     ${model}, ${formatCount(parameterCount(spec))} parameters in ${spec.layers.length} layers`);
  const window = windowLine(spec);
  if (window) print(`window    ${window}`);
  print(
    adapter
      ? `adapter   ${adapter.facts.description}; products read ${adapter.facts.isCpu ? "textures" : "buffers"}`
      : "adapter   none here; planned with the limits that every WebGPU adapter grants",
  );
  const own = targets.filter((target) => hasProjection(spec, target));
  if (ofExperts) {
    print(`run       sequences of ${seq} tokens, base ${baseDtype}, units ${units.join(",")}`);
    showKept(spec, ofExperts);
  } else {
    print(
      `run       ${
        accumulate > 1 ? `${accumulate} × ` : ""
      }${batch} × ${seq} tokens, base ${baseDtype}, LoRA of rank ${rank} on ${own.join(",")}, units ${units.join(",")}${
        recompute ? "" : ", no recomputation"
      }`,
    );
    for (const line of choices) print(`chosen    ${line}`);
  }
  if (held) print(`weights   ${heldText(held)}`);
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
    `stages    ${
      ofExperts
        ? stageLine(plan)
        : `training ${formatBytes(stages.training)}, comparing the sliced model ${formatBytes(stages.verification)}`
    }`,
  );
  print(
    `largest   buffer '${largestBuffer.label}', ${formatBytes(largestBuffer.bytes)} of ${
      formatBytes(largestBuffer.limit)
    } that a binding may have`,
  );
}
