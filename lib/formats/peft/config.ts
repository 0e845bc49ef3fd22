// adapter_config.json of PEFT (https://huggingface.co/docs/peft).
import type { LoraConfig } from "../../spec/lora.ts";
import { type DecoderSpec, type Projection, projectionName, PROJECTIONS } from "../../spec/decoder.ts";
import { z } from "../../core/packages.ts";
import { shownJson } from "../../core/text.ts";
import type { Json } from "../../core/guards.ts";
import type { RowRange } from "../../spec/source.ts";
import { loraModules } from "../../spec/lora.ts";
import { familyFor } from "../../families/all.ts";
import { FUSED_BLOCKS } from "../../families/fusion.ts";
import { fusedModuleName, fusedTensors } from "../fused.ts";
import { fusionsOf } from "../hf/model.ts";
import { keyError, valueAt } from "../hf/key_error.ts";
import { storedName } from "../hf/stored.ts";

/** What a configuration says of the modules it names; a module is named as in the model, `model.layers.0.self_attn.q_proj`. */
export interface PeftConfig {
  /** Whether the scale is alpha / √rank. */
  readonly rsLora: boolean;
  /** Dropout in training. */
  readonly dropout: number;
  /** Where the base model came from. */
  readonly baseModel: string | null;
  /** Whether PEFT puts LoRA on this module of a layer; null if a regular expression decides, so that only the tensors can tell. */
  expects(module: string, layer: number): boolean | null;
  /** Rank of a module. */
  rankOf(module: string): number;
  /** Numerator of its scale. */
  alphaOf(module: string): number;
}

/** What every refused adapter can still be used as. */
export const MERGE_FIRST = "merge it into its base model with PEFT (merge_and_unload), and give the merged model";

const names = z.union([z.string(), z.array(z.string())], { error: "expected module names, or a regular expression" });
const layers = z.union([z.int(), z.array(z.int())], { error: "expected a layer or a list of them" });

// Defaults are those of PEFT.
const CONFIG = z.looseObject({
  peft_type: z.literal("LORA"),
  r: z.int().positive().default(8),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().nonnegative().lt(1).nullish(),
  use_rslora: z.boolean().nullish(),
  target_modules: names,
  exclude_modules: names.nullish(),
  layers_to_transform: layers.nullish(),
  layers_pattern: names.nullish(),
  rank_pattern: z.record(z.string(), z.int().positive()).nullish(),
  alpha_pattern: z.record(z.string(), z.number().positive()).nullish(),
  bias: z.literal("none").nullish(),
  fan_in_fan_out: z.literal(false).nullish(),
  init_lora_weights: z.union([z.boolean(), z.enum(["gaussian", "eva", "orthogonal", "mica"])], {
    error:
      "expected an initialisation that leaves the base weights alone: true, false, gaussian, eva, orthogonal, mica",
  }).nullish(),
  base_model_name_or_path: z.string().nullish(),
});

/** Keys that change nothing once A and B are there: origin, and settings of an initialisation. */
const IDLE_KEYS = [
  ...["auto_mapping", "inference_mode", "runtime_config"],
  ...["loftq_config", "eva_config", "corda_config", "lora_ga_config"],
];

/**
 * Reads a parsed adapter_config.json. `rank_pattern`, `alpha_pattern`, `layers_to_transform` and `exclude_modules` are understood.
 *
 * @throws CompressoError("input") naming the key for an adapter that is not plain LoRA on linear layers: another method, DoRA and other variants,
 * biases or whole modules saved with it, an initialisation that changed the base weights, patterns that are regular expressions.
 */
export function parsePeftConfig(json: unknown, { path }: { readonly path: string }): PeftConfig {
  const fail = (key: string, rule: string, fix = MERGE_FIRST): never => {
    throw keyError(path, { key, rule, value: shownJson(valueAt(json, [key])), fix });
  };
  const result = CONFIG.safeParse(json);
  if (!result.success) {
    const [issue] = result.error.issues, keys = issue?.path ?? [];
    const key = keys.map(String).join(".") || "the file";
    const message = issue?.message.replace(/, received undefined$/, "").replace(/^Invalid \w+: /, "") ?? "";
    const fix = FIXES[String(keys[0])] ?? "correct it, or save or fetch the adapter again";
    throw keyError(path, { key, rule: message, value: shownJson(valueAt(json, keys)), fix });
  }
  const config = result.data;
  for (const [key, value] of Object.entries(config)) {
    // PEFT grows by variants of LoRA. Each is a key that is true, or holds something, where the variant is on.
    const known = Object.hasOwn(CONFIG.shape, key) || IDLE_KEYS.includes(key);
    if (!known && isOn(value)) {
      fail(key, "only plain LoRA is read, with or without rsLoRA; this key switches something else on");
    }
  }
  const targets = config.target_modules, excluded = config.exclude_modules ?? [];
  const outside = list(targets).find((name) => /(^|\.)(lm_head|embed_tokens)$/.test(name));
  if (outside !== undefined) fail("target_modules", `LoRA lies on ${MODULE_NAMES.join(", ")}, not on ${outside}`);
  const ranks = plainPattern(config.rank_pattern, (rule) => fail("rank_pattern", rule));
  const alphas = plainPattern(config.alpha_pattern, (rule) => fail("alpha_pattern", rule));
  return {
    rsLora: config.use_rslora ?? false,
    dropout: config.lora_dropout ?? 0,
    baseModel: config.base_model_name_or_path ?? null,
    expects(module, layer): boolean | null {
      if (typeof targets === "string" || typeof excluded === "string") return null;
      const named = (listed: readonly string[]): boolean => listed.some((name) => endsWithName(module, name));
      return named(targets) && !named(excluded) && inLayers(config, layer);
    },
    rankOf: (module) => ranks(module) ?? config.r,
    alphaOf: (module) => alphas(module) ?? config.lora_alpha,
  };
}

/**
 * Content of adapter_config.json for LoRA of one rank: keys that PEFT has had since it knows rsLoRA. LoRA on a fused
 * matrix has the rank of all its parts together, at the scale of each.
 */
export function peftConfig(
  config: LoraConfig,
  { spec, baseModel }: { readonly spec: DecoderSpec; readonly baseModel: string | null },
): unknown {
  const stored = storedModules(spec);
  const modules = new Map(PROJECTIONS.flatMap((projection) => {
    if (!config.targets.includes(projection)) return [];
    const holder = stored.find(({ parts }) => parts.some((part) => part.projection === projection));
    return holder ? [[targetName(spec, holder), holder.parts.length] as const] : [];
  }));
  const wide = [...modules].filter(([, parts]) => parts > 1);
  const pattern = (valueOf: (parts: number) => number): Json =>
    Object.fromEntries(wide.map(([module, parts]) => [module, valueOf(parts)]));
  return {
    ...wide.length > 0
      ? {
        alpha_pattern: pattern((parts) => config.alpha * (config.rsLora ? Math.sqrt(parts) : parts)),
        rank_pattern: pattern((parts) => config.rank * parts),
      }
      : {},
    base_model_name_or_path: baseModel,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: config.alpha,
    lora_dropout: config.dropout ?? 0,
    modules_to_save: null,
    peft_type: "LORA",
    r: config.rank,
    revision: null,
    target_modules: [...modules.keys()],
    task_type: "CAUSAL_LM",
    use_rslora: config.rsLora ?? false,
  };
}

/** The end of a module's name, by which PEFT finds it in all layers. A convolution has an out_proj, too, so that the block belongs to the name. */
function targetName({ convolution }: DecoderSpec, { path }: StoredModule): string {
  return path.split(".").slice(convolution ? -2 : -1).join(".");
}

/** Name of a projection's module in a layer of LLaMA: `q_proj`. */
function moduleName(projection: Projection): string {
  return `${projection}_proj`;
}

/** A projection, and its rows of the module that holds it. */
export interface ModulePart {
  readonly layer: number;
  readonly projection: Projection;
  readonly rows: RowRange;
}

/** A linear module of a model, with the projections that it holds. */
export interface StoredModule {
  /** Its name in LLaMA's class, and in that of a model whose layers differ: `model.layers.0.self_attn.q_proj`. */
  readonly key: string;
  /** Its name in the class of transformers that has this shape, as PEFT matches it: in an OPT `model.decoder.layers.0.fc1`. */
  readonly path: string;
  readonly shape: readonly [number, number];
  readonly parts: readonly ModulePart[];
}

/** The linear modules of a model in file order. */
export function storedModules(spec: DecoderSpec): StoredModule[] {
  const fused = fusedTensors(spec, fusionsOf(spec)),
    family = familyFor(spec),
    modules = new Map<string, StoredModule>();
  for (const { layer, projection, shape: [count, cols] } of loraModules(spec, PROJECTIONS)) {
    const name = projectionName(layer, projection), whole = fused.get(name);
    const stored = whole ? fusedModuleName(whole) : name, key = withoutWeight(stored);
    const rows = whole?.parts.find((part) => part.name === name)?.rows ?? { start: 0, count };
    modules.set(key, {
      key,
      path: withoutWeight(storedName(family, stored)),
      shape: [whole?.shape[0] ?? count, cols],
      parts: [...modules.get(key)?.parts ?? [], { layer, projection, rows }],
    });
  }
  return [...modules.values()];
}

function withoutWeight(name: string): string {
  return name.replace(/\.weight$/, "");
}

/** Names of the modules that LoRA lies on, the fused ones among them. */
export const MODULE_NAMES: readonly string[] = [
  ...PROJECTIONS.map(moduleName),
  ...FUSED_BLOCKS.map(({ module }) => module),
];

const FIXES: Readonly<Record<string, string>> = {
  peft_type: "only LoRA is read; other methods must be merged into the base model with PEFT",
  bias: MERGE_FIRST,
  fan_in_fan_out: "weights are [out, in], as torch's Linear has them: set it to false if A is [r, in] and B [out, r]",
  // PEFT converts no other initialisation that changes the base, such as LoftQ.
  init_lora_weights:
    `${MERGE_FIRST}, or, of PiSSA, CorDA and OLoRA, save it as an adapter of the unchanged base: save_pretrained(…, path_initial_model_for_weight_conversion=…) with the adapter as it was before training`,
};

function isOn(value: unknown): boolean {
  if (value === true) return true;
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

function list(value: string | readonly string[]): readonly string[] {
  return typeof value === "string" ? [] : value;
}

function inLayers(config: z.infer<typeof CONFIG>, layer: number): boolean {
  const { layers_to_transform: chosen, layers_pattern: pattern } = config;
  if (chosen === null || chosen === undefined) return true;
  const indices = [chosen].flat(), containers = [pattern || []].flat(); // to PEFT "" is none, too
  if (indices.length === 0) return true;
  return indices.includes(layer) && (containers.length === 0 || containers.some((name) => endsWithName(LAYERS, name)));
}

/** The list that holds the layers. */
const LAYERS = "model.layers";

/**
 * The value of the first key that a module's name ends with. PEFT takes keys as regular expressions, `(.*\.)?(key)$`; a name is one whose
 * dots also stand for any other character, which no two modules differ by. A leading ^ asks for the whole name.
 */
function plainPattern(
  pattern: Readonly<Record<string, number>> | null | undefined,
  fail: (rule: string) => never,
): (module: string) => number | undefined {
  const entries = Object.entries(pattern ?? {});
  for (const [key] of entries) {
    if (!/^\^?[\w.]+$/.test(key)) fail(`keys are names of modules, not regular expressions such as ${shownJson(key)}`);
  }
  return (module) =>
    entries.find(([key]) => key.startsWith("^") ? module === key.slice(1) : endsWithName(module, key))?.[1];
}

function endsWithName(module: string, name: string): boolean {
  return module === name || module.endsWith(`.${name}`);
}
