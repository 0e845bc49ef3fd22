// RoPE settings of a config.json: rope_theta with rope_scaling (before transformers 5), or rope_parameters.
import { z } from "../../core/packages.ts";
import type { DecoderSpec, RopeScaling } from "../../spec/decoder.ts";
import { proportionalScaling } from "../../spec/rope.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { shownJson } from "../../core/text.ts";
import type { RopeRules } from "../../families/family.ts";
import { keyError, valueAt } from "./key_error.ts";

const KINDS = ["default", "linear", "llama3", "longrope", "su", "yarn", "proportional"] as const;

const share = z.number().positive().max(1), factors = z.array(z.number().positive());

const ROPE = z.looseObject({
  rope_type: z.enum(KINDS).nullish(),
  type: z.enum(KINDS).nullish(),
  rope_theta: z.number().positive().nullish(),
  factor: z.number().positive().nullish(),
  low_freq_factor: z.number().positive().nullish(),
  high_freq_factor: z.number().positive().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
  partial_rotary_factor: share.nullish(),
  short_factor: factors.nullish(),
  long_factor: factors.nullish(),
  attention_factor: z.number().positive().nullish(),
  beta_fast: z.number().positive().nullish(),
  beta_slow: z.number().positive().nullish(),
  mscale: z.number().nonnegative().nullish(),
  mscale_all_dim: z.number().nonnegative().nullish(),
  llama_4_scaling_beta: z.number().positive().nullish(),
  truncate: z.literal(true).nullish(),
});

const OUTER = z.looseObject({
  rope_theta: z.number().positive().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
  partial_rotary_factor: share.nullish(),
  rope_scaling: ROPE.nullish(),
  rope_parameters: ROPE.nullish(),
});

/** What {@link ropeOf} takes in addition to the JSON; `path` is named in errors. */
export interface RopeContext {
  readonly maxPosition: number;
  readonly headDim: number;
  readonly path: string;
  /** How the family says RoPE. */
  readonly rules: RopeRules | undefined;
}

/**
 * The RoPE of a parsed config.json, and the base of the second one where the family has one.
 *
 * @throws CompressoError("input") for kinds of scaling that are not supported and for missing or senseless figures.
 */
export function ropeOf(json: Json, context: RopeContext): DecoderSpec["rope"] {
  const { rope_parameters: parameters } = json, { path, rules: { localBase } = {} } = context;
  if (localBase === undefined) return oneRope(json, context);
  // `full_attention` and `sliding_attention` of rope_parameters, or rope_theta, rope_scaling and rope_local_base_freq.
  const of = (kind: string): Json => {
    const own = isObject(parameters) ? parameters[kind] : undefined;
    return isObject(own) ? own : {};
  };
  const { rope_theta, rope_scaling, rope_local_base_freq: localTheta } = json;
  const full = oneRope({ rope_theta, rope_scaling, rope_parameters: of("full_attention") }, context);
  const sliding = {
    rope_theta: localTheta ?? (localBase === "same" ? full.base : localBase),
    rope_parameters: of("sliding_attention"),
  };
  const local = oneRope(sliding, context);
  if (local.scaling.kind === "none") return { ...full, localBase: local.base };
  throw keyError(path, {
    key: "rope_parameters.sliding_attention",
    rule: "RoPE of layers with a window is not scaled",
    value: shownJson(of("sliding_attention")),
  });
}

/** The base and scaling: `rope_scaling`, where it holds something, goes before `rope_parameters`, as in transformers. */
function oneRope(json: Json, { maxPosition, headDim, path, rules = {} }: RopeContext): DecoderSpec["rope"] {
  const result = OUTER.safeParse(rules.hasAlpha ? withoutAlpha(json, headDim) : json);
  if (!result.success) {
    const [issue] = result.error.issues;
    const keys = issue?.path ?? [];
    const key = keys.map(String).join(".");
    const value = valueAt(json, keys);
    const message = issue?.message.replace(/^Invalid \w+: /, "") ?? "";
    throw keyError(path, {
      key,
      rule: message,
      value: shownJson(value),
      fix: "only default, linear, llama3, longrope and yarn RoPE are supported",
    });
  }
  const outer = result.data;
  const scaling = outer.rope_scaling;
  const chosen = scaling && Object.keys(scaling).length > 0 ? "rope_scaling" : "rope_parameters";
  const rope = outer[chosen] ?? {};
  const layered = Object.entries(rope).find(([, value]) => isObject(value));
  if (layered) {
    const key = `${chosen}.${layered[0]}`;
    const fix = "only models whose layers share one RoPE are supported";
    throw keyError(path, { key, rule: "all layers have the same RoPE", value: shownJson(layered[1]), fix });
  }
  const need = (key: keyof typeof rope): number => {
    const value = rope[key];
    if (typeof value === "number") return value;
    throw keyError(path, { key: `${chosen}.${key}`, rule: `${kind} RoPE needs it`, value: shownJson(value) });
  };
  const kind = rope.rope_type ?? rope.type ?? "default";
  const share = rope.partial_rotary_factor ?? outer.partial_rotary_factor ?? 1, turned = Math.floor(headDim * share);
  const isProportional = kind === "proportional", dims = isProportional ? headDim : turned;
  if (isProportional && !rules.isProportional) {
    const rule = "only default, linear, llama3, longrope and yarn RoPE are supported in this family";
    throw keyError(path, { key: `${chosen}.rope_type`, rule, value: shownJson(kind) });
  }
  if (share !== 1 && !rules.isPartial && !isProportional) {
    const rule = "the whole of each head rotates in this family";
    throw keyError(path, { key: "partial_rotary_factor", rule, value: String(share) });
  }
  if (dims < 2 || dims % 2 !== 0) {
    const rule = `an even number of the ${headDim} dims of a head rotates, at least 2`;
    throw keyError(path, { key: "partial_rotary_factor", rule, value: String(share) });
  }
  const base = rope.rope_theta ?? outer.rope_theta ?? rules.base ?? 10000;
  return { base, scaling: scalingOf(), ...dims < headDim ? { dims } : {} };

  function scalingOf(): RopeScaling {
    if (rules.longRope && kind !== "default" && kind !== "longrope" && kind !== "su") {
      const rule = "RoPE of this family is default or longrope";
      throw keyError(path, { key: `${chosen}.rope_type`, rule, value: shownJson(kind) });
    }
    if (rules.queryGrowth === "needed" && kind !== "yarn") {
      throw keyError(path, { key: `${chosen}.rope_type`, rule: "RoPE of this family is yarn", value: shownJson(kind) });
    }
    if (kind === "default") return { kind: "none" };
    if (isProportional) return proportionalScaling(headDim, Math.floor(turned / 2));
    if (kind === "longrope" || kind === "su") return longRope();
    if (kind === "yarn") return yarn();
    if (kind === "linear") return { kind: "linear", factor: need("factor") };
    const low = need("low_freq_factor"), high = need("high_freq_factor");
    if (high <= low) {
      throw keyError(path, {
        key: `${chosen}.high_freq_factor`,
        rule: `above low_freq_factor = ${low}`,
        value: String(high),
      });
    }
    return {
      kind: "llama3",
      factor: need("factor"),
      lowFreqFactor: low,
      highFreqFactor: high,
      // As transformers 5: the outer one goes before that of the scaling.
      originalMaxPosition: outer.original_max_position_embeddings ?? rope.original_max_position_embeddings ??
        maxPosition,
    };
  }

  function yarn(): RopeScaling {
    const originalMaxPosition = rope.original_max_position_embeddings ?? maxPosition;
    const factor = rope.factor ?? maxPosition / originalMaxPosition, { mscale, mscale_all_dim: all } = rope;
    const implied = mscale && all ? yarnAttention(factor, mscale) / yarnAttention(factor, all) : yarnAttention(factor);
    return {
      kind: "yarn",
      factor,
      betaFast: rope.beta_fast ?? 32,
      betaSlow: rope.beta_slow ?? 1,
      attention: rope.attention_factor ?? implied,
      originalMaxPosition,
      ...growth(),
    };
  }

  function growth(): { readonly queryGrowth?: number } {
    const { queryGrowth: rule } = rules, { llama_4_scaling_beta: beta } = rope;
    if (!rule || (rule === "possible" && !beta)) return {};
    return { queryGrowth: need("llama_4_scaling_beta") };
  }

  function longRope(): RopeScaling {
    const half = dims / 2;
    const need = (key: "short_factor" | "long_factor"): number[] => {
      const list = rope[key];
      if (list?.length === half) return list;
      const rule = `${half} numbers, one for each pair of dims that rotates`;
      throw keyError(path, {
        key: `${chosen}.${key}`,
        rule,
        value: list ? `${list.length} numbers` : shownJson(list),
      });
    };
    // As transformers: where LongRoPE is a family's own, the outer length always counts; the ratio of lengths is the factor where none is given.
    const originalMaxPosition = outer.original_max_position_embeddings ?? rules.longRope?.originalMaxPosition ??
      rope.original_max_position_embeddings ?? maxPosition;
    const attention = rope.attention_factor ??
      longRopeAttention(rope.factor ?? maxPosition / originalMaxPosition, originalMaxPosition);
    return { kind: "longrope", short: need("short_factor"), long: need("long_factor"), attention, originalMaxPosition };
  }
}

/** "dynamic" with `alpha` is RoPE with the base · alpha^(d / (d − 2)) for heads of d dims. */
function withoutAlpha(json: Json, headDim: number): Json {
  for (const key of ["rope_scaling", "rope_parameters"] as const) {
    const rope = json[key];
    if (!isObject(rope) || (rope["rope_type"] ?? rope["type"]) !== "dynamic") continue;
    const { alpha, rope_theta: base = json["rope_theta"] ?? 10000 } = rope;
    if (typeof alpha !== "number" || !(alpha > 0) || typeof base !== "number") continue;
    const stretched = base * alpha ** (headDim / (headDim - 2));
    return { ...json, [key]: { rope_type: "default", rope_theta: stretched } };
  }
  return json;
}

/** The factor of cos and sin with YaRN, where the configuration says none. */
export function yarnAttention(factor: number, mscale = 1): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/** The factor of cos and sin for a context that is `factor` times the original one (Ding et al. 2024). */
export function longRopeAttention(factor: number, originalMaxPosition: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPosition));
}
