// Options of a cell: every option of a prune run by one flat name, so that a grid or a command line can set any of them. Owns names, checks
// and the way to `PruneOptions`; refuses files and grids.
import { type Projection, PROJECTIONS } from "../spec/decoder.ts";
import type { MatrixDtype } from "../nn/products/matrix.ts";
import { given } from "../core/check_options.ts";
import { z } from "../core/packages.ts";
import { MAX_SEED } from "../core/random.ts";
import { type Ranking, RANKINGS } from "../masks/baselines.ts";
import type { Layout } from "../units/layout.ts";
import { KEPT_RULES, type KeptRule } from "../masks/harden.ts";
import { LAMBDA_RULES, type LambdaRule } from "../masks/lambda_rule.ts";
import { START_RULES, type StartRule } from "../masks/initial_log_alpha.ts";
import { layersOf, UNIT_KINDS, type UnitKind } from "../units/units.ts";
import { isOneShot, type Method, METHODS } from "../run/methods/names.ts";
import type { PruneOptions } from "../run/options/options.ts";
import { LORA_RATES } from "../schedule/definition.ts";
import { alarmSettings } from "../run/monitors/alarm_setting.ts";
import type { Preset } from "../run/options/options.ts";
import { isScript } from "../schedule/open.ts";
import { CompressoError } from "../core/errors.ts";
import type { Rates } from "../run/contract.ts";

/** Options of one cell; what is absent has the default of a prune run. */
export interface CellOptions {
  /** Name of one of the experiment's models. */
  readonly model?: string | undefined;
  /** Name of one of the experiment's data sets. */
  readonly data?: string | undefined;
  /** Rows of the data that are taken at most, from the first on. */
  readonly limitRows?: number | undefined;
  /** Name of the data set that tells units apart before pruning, see `PruneOptions.calibration`; `skipBroken` is that of `data`. Default: none, also where the command line's `prune` has the model write it. */
  readonly calibration?: string | undefined;
  /** Storage of the frozen weights on the GPU; default "f16". */
  readonly baseDtype?: MatrixDtype | undefined;
  /** Share of the layers' linear weights to cut, in (0, 1); required. */
  readonly sparsity?: number | undefined;
  /** Steps of the pruning stage; required. */
  readonly steps?: number | undefined;
  /** Steps of LoRA alone before. */
  readonly prefinetune?: number | undefined;
  /** Steps of LoRA with frozen masks after. */
  readonly postfinetune?: number | undefined;
  /** Sequences a step. */
  readonly batch?: number | undefined;
  /** Tokens of a sequence. */
  readonly seq?: number | undefined;
  /** Seed; cells that differ in nothing else are one group of the table. */
  readonly seed?: number | undefined;
  /** Kinds of units, as a list or with commas between. */
  readonly units?: string | readonly UnitKind[] | undefined;
  /** How units are chosen. */
  readonly method?: Method | undefined;
  /** Which units a one-shot method compares. */
  readonly ranking?: Ranking | undefined;
  /** Name of a built-in schedule, a script's path or its URL. */
  readonly schedule?: string | undefined;
  /** Whether a schedule's script runs with all rights. An experiment in JSON cannot say so; an override can, see `ExperimentOverrides.set`. */
  readonly trust?: boolean | undefined;
  /** The prompt in training: true for the collaborative prompt (default), false for none, or the path of another text. */
  readonly prompt?: boolean | string | undefined;
  /** Whether rows are joined to full sequences. */
  readonly packing?: boolean | undefined;
  /**
   * False: LoRA stays at its beginning, where it adds nothing, and stages that would train nothing else have no steps, whatever is said of these, of
   * LoRA's shape and of its rates. Default true.
   */
  readonly lora?: boolean | undefined;
  /** Rank of LoRA. */
  readonly rank?: number | undefined;
  /** Numerator of LoRA's scale. */
  readonly alpha?: number | undefined;
  /** Rank-stabilised LoRA. */
  readonly rslora?: boolean | undefined;
  /** Projections with LoRA, as a list or with commas between. */
  readonly loraTargets?: string | readonly Projection[] | undefined;
  /** Dropout before LoRA. */
  readonly dropout?: number | undefined;
  /** Peak learning rate of LoRA. */
  readonly loraRate?: number | undefined;
  /** Peak learning rate of LoRA in the last stage. */
  readonly postfinetuneRate?: number | undefined;
  /** Published settings in place of the defaults. */
  readonly preset?: Preset | undefined;
  /** Where log α starts. */
  readonly start?: StartRule | undefined;
  /** The z of what stays of learned masks. */
  readonly keptMasks?: KeptRule | undefined;
  /** How λ moves. */
  readonly lambdaRule?: LambdaRule | undefined;
  /** Share of a batch's labels that the last stage learns from. */
  readonly focus?: number | undefined;
  /** Learning rate of log α. */
  readonly maskRate?: number | undefined;
  /** Rate of λ's ascent. */
  readonly lambdaRate?: number | undefined;
  /** β of hard concrete. */
  readonly temperature?: number | undefined;
  /** Scale of its noise. */
  readonly noise?: number | undefined;
  /** Spread of the initial log α. */
  readonly spread?: number | undefined;
  /** Share of itself that the running saliency keeps at each step. */
  readonly saliencyDecay?: number | undefined;
  /** Weight of what stands beside the running saliency: what the weights alone say, and that on calibration rows. */
  readonly prior?: number | undefined;
  /** Share of the pruning stage after which the target is reached. */
  readonly warmup?: number | undefined;
  /** Share of the gap to the schedule that is closed at every step. */
  readonly tracking?: number | undefined;
  /** log α is clamped to ± this. */
  readonly logAlphaLimit?: number | undefined;
  /** Largest norm of LoRA's gradients. */
  readonly clipNorm?: number | undefined;
  /** Weight decay of LoRA. */
  readonly weightDecay?: number | undefined;
  /** Layout of the pruned model. */
  readonly layout?: Layout | undefined;
  /** Whether backward computes layers anew; the same result. */
  readonly recompute?: boolean | undefined;
  /** Layers whose heads, FFN columns and gates are never cut; hidden dims go through all layers. */
  readonly protect?: readonly number[] | undefined;
  /** Kept widths are multiples of it. */
  readonly align?: number | undefined;
  /**
   * What alarms do: `divergence=warn`, or with a threshold `constraint=warn:0.02`; several with commas between, or as a list, in any order. What is
   * left out has its default, see `MonitorOptions`.
   */
  readonly onAlarm?: string | readonly string[] | undefined;
  /** Query heads that a layer keeps at least. */
  readonly minHeads?: number | undefined;
  /** FFN columns that a layer keeps at least. */
  readonly minFfn?: number | undefined;
  /** Hidden dims that stay at least. */
  readonly minHidden?: number | undefined;
  /** Layers that stay at least. */
  readonly minLayers?: number | undefined;
}

/** Name of an option of a cell. */
export type CellOptionName = keyof CellOptions;

const count = z.int().nonnegative(), positive = z.int().positive(), rate = z.number().nonnegative();
const share = z.number().min(0).max(1);

/** A list of words, or one text with commas between. */
function words<const T extends string>(known: readonly T[]): z.ZodType<string | readonly T[]> {
  const list = z.array(z.enum(known)).min(1), rule = `expected some of ${known.join(", ")}`;
  return z.union(
    [list, z.string().refine((text) => list.safeParse(splitWords(text)).success, rule)],
    rule,
  ) as z.ZodType<string | readonly T[]>;
}

/** Settings of monitors, refused with the reason. */
const alarms = z.union(
  [z.string(), z.array(z.string()).min(1)],
  "expected settings such as divergence=warn, or a list of them",
).superRefine((texts, context) => {
  try {
    alarmSettings(texts, { option: "onAlarm" });
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    context.addIssue({ code: "custom", message: error.parts.rule ?? error.message });
  }
});

/** What a list of layers is, for whoever gives something else. */
const LAYERS = "expected numbers of layers, such as 0, 1, -1";

/** How each option is checked. */
const CHECKS: { readonly [name in CellOptionName]-?: z.ZodType<Exclude<CellOptions[name], undefined>> } = {
  model: z.string().min(1),
  data: z.string().min(1),
  limitRows: positive,
  calibration: z.string().min(1),
  baseDtype: z.enum(["f16", "f32", "q8", "q4"]),
  sparsity: z.number().gt(0).lt(1),
  steps: count,
  prefinetune: count,
  postfinetune: count,
  batch: positive,
  seq: z.int().min(2),
  seed: count.max(MAX_SEED),
  units: words(UNIT_KINDS),
  method: z.enum(METHODS),
  ranking: z.enum(RANKINGS),
  schedule: z.string().min(1),
  trust: z.boolean(),
  prompt: z.union([z.boolean(), z.string().min(1)], "expected true, false or the path of a text"),
  packing: z.boolean(),
  lora: z.boolean(),
  rank: positive,
  alpha: z.number().positive(),
  rslora: z.boolean(),
  loraTargets: words(PROJECTIONS),
  dropout: z.number().min(0).lt(1),
  loraRate: rate,
  postfinetuneRate: rate,
  preset: z.enum(["paper"]),
  start: z.enum(START_RULES),
  keptMasks: z.enum(KEPT_RULES),
  lambdaRule: z.enum(LAMBDA_RULES),
  focus: z.number().positive().max(1),
  maskRate: rate,
  lambdaRate: rate,
  temperature: z.number().positive(),
  noise: rate,
  spread: rate,
  saliencyDecay: share,
  prior: rate,
  warmup: share,
  tracking: share,
  logAlphaLimit: z.number().positive(),
  clipNorm: z.number().positive(),
  weightDecay: rate,
  layout: z.enum(["compact", "uniform", "padded"]),
  recompute: z.boolean(),
  protect: z.array(z.int(LAYERS), LAYERS),
  align: positive,
  onAlarm: alarms,
  minHeads: count,
  minFfn: count,
  minHidden: count,
  minLayers: count,
};

/** Names of all options, in the order in which they are shown. */
export const CELL_OPTION_NAMES: readonly CellOptionName[] = Object.keys(CHECKS).filter(isCellOption);

/** Whether a text is the name of an option. */
export function isCellOption(name: string): name is CellOptionName {
  return Object.hasOwn(CHECKS, name);
}

/** Throws `CompressoError("usage")` for an option that does not exist, or a value that it cannot have; `where` is named. */
export function checkOption(name: string, value: unknown, where: string): void {
  if (!isCellOption(name)) {
    throw new CompressoError("usage", {
      what: `cannot use the option '${name}' in ${where}`,
      rule: `options are ${CELL_OPTION_NAMES.join(", ")}`,
      value: name,
      fix: "rename or remove it",
    });
  }
  const parsed = CHECKS[name].safeParse(value);
  if (parsed.success) return;
  throw new CompressoError("usage", {
    what: `cannot use this ${name} in ${where}`,
    rule: parsed.error.issues[0]?.message ?? "it has another type",
    value: JSON.stringify(value) ?? String(value),
    fix: "correct the value, or leave it out for the default",
  });
}

/** Options that are numbers of the loop. */
const RATES: { readonly [rate in keyof Rates]: CellOptionName } = {
  lora: "loraRate",
  postfinetune: "postfinetuneRate",
  mask: "maskRate",
  lambda: "lambdaRate",
  temperature: "temperature",
  noise: "noise",
  spread: "spread",
  saliencyDecay: "saliencyDecay",
  prior: "prior",
  warmup: "warmup",
  tracking: "tracking",
  logAlphaLimit: "logAlphaLimit",
  clipNorm: "clipNorm",
  weightDecay: "weightDecay",
};

/**
 * The options as `prune` takes them, without rows. `layers` is the number of the model's layers, from whose end negative ones of `protect`
 * count. Throws `CompressoError("usage")` where sparsity or steps are missing.
 */
export function pruneOptions(
  cell: CellOptions,
  { prompt, layers }: { readonly prompt: string | null; readonly layers: number },
): Omit<PruneOptions, "rows"> {
  const { sparsity, steps, method, lora = true } = cell;
  if (sparsity === undefined || steps === undefined) {
    throw new CompressoError("usage", {
      what: "cannot run a cell of the experiment",
      rule: "base or grid say its sparsity and its steps",
      value: sparsity === undefined ? "no sparsity" : "no steps",
      fix: "add it to base, or give --set KEY=VALUE",
    });
  }
  const cutsAtOnce = method !== undefined && isOneShot(method), { prefinetune = 0, postfinetune = 0 } = cell;
  const trains = !cutsAtOnce || (lora && prefinetune + steps + postfinetune > 0);
  // Base options of a grid may stand for its cells that train nothing, too.
  const idle: readonly string[] = [...lora ? [] : ["postfinetune"], ...trains ? [] : LORA_RATES];
  const rates = Object.fromEntries(
    Object.entries(RATES).flatMap(([rate, name]) =>
      cell[name] === undefined || idle.includes(rate) ? [] : [[rate, cell[name]]]
    ),
  );
  const stages = lora
    ? given({ steps, prefinetune: cell.prefinetune, postfinetune: cell.postfinetune })
    : { steps: cutsAtOnce ? 0 : steps, prefinetune: 0, postfinetune: 0 };
  return {
    sparsity,
    steps,
    ...stages,
    ...given({ batch: cell.batch, seq: cell.seq, seed: cell.seed, layout: cell.layout }),
    ...given({ method, ranking: cell.ranking }),
    // Its rows are read when the cell runs.
    ...(cell.calibration === undefined ? {} : { calibration: [] }),
    ...given({ recompute: cell.recompute, packing: cell.packing, schedule: cell.schedule }),
    // Beside scripts it may stand for cells without one.
    ...(cell.trust && isScript(cell.schedule) ? { trustSchedule: true } : {}),
    ...given({
      units: wordList(cell.units, UNIT_KINDS),
      preset: cell.preset,
      start: cell.start,
      keptMasks: cell.keptMasks,
      lambdaRule: cell.lambdaRule,
      focus: lora ? cell.focus : undefined,
    }),
    ...(cell.onAlarm === undefined ? {} : { monitors: alarmSettings(cell.onAlarm, { option: "onAlarm" }) }),
    prompt,
    lora: given({
      rank: cell.rank,
      alpha: cell.alpha,
      rsLora: cell.rslora,
      dropout: cell.dropout,
      targets: wordList(cell.loraTargets, PROJECTIONS),
    }),
    rules: {
      protect: layersOf(cell.protect ?? [], layers),
      minimum: {
        ...{ heads: cell.minHeads ?? 0, ffn: cell.minFfn ?? 0, hidden: cell.minHidden ?? 0 },
        ...given({ layers: cell.minLayers || undefined }),
      },
      align: cell.align ?? 1,
    },
    rates: { ...rates, ...(lora ? {} : { lora: 0 }) },
  };
}

/** Whether an option may have a value. */
export function takesValue(option: CellOptionName, value: unknown): boolean {
  return CHECKS[option].safeParse(value).success;
}

/** An option's value as tables and folders show it. `option` says whether a text is a path, which on Windows has backslashes. */
export function shownOption(value: unknown, option?: CellOptionName): string {
  if (value === undefined) return "default";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.join("+");
  const text = String(value), folders = option === "schedule" || option === "prompt" ? /^.*[/\\]/ : /^.*\//;
  return folders.test(text) ? text.replace(folders, "").replace(/\.\w+$/, "") : text.replaceAll(",", "+");
}

/** The words of a list in the order of those that are known. */
export function wordList<const T extends string>(
  value: string | readonly T[] | undefined,
  known: readonly T[],
): T[] | undefined {
  if (value === undefined) return undefined;
  const list: readonly string[] = typeof value === "string" ? splitWords(value) : value;
  return known.filter((word) => list.includes(word));
}

function splitWords(text: string): string[] {
  return text.split(",").map((word) => word.trim());
}
