// RoPE settings of a config.json: rope_theta with rope_scaling (before transformers 5), or rope_parameters.
import { z } from "../../core/packages.ts";
import type { DecoderSpec, RopeScaling } from "../../spec/decoder.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { shownJson } from "../../core/text.ts";
import { refusal, valueAt } from "./refusal.ts";

const KINDS = ["default", "linear", "llama3", "longrope", "su"] as const;

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
});

const OUTER = z.looseObject({
  rope_theta: z.number().positive().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
  partial_rotary_factor: share.nullish(),
  model_type: z.string().nullish(),
  rope_scaling: ROPE.nullish(),
  rope_parameters: ROPE.nullish(),
});

/**
 * RoPE of a model whose layers with a window have a RoPE of their own, without scaling: `full_attention` and
 * `sliding_attention` of rope_parameters, or rope_theta, rope_scaling and rope_local_base_freq.
 *
 * @throws CompressoError("input") as {@link ropeOf}.
 */
export function layeredRope(json: unknown, context: RopeContext): DecoderSpec["rope"] {
  const outer = isObject(json) ? json : {}, { rope_parameters: parameters } = outer, { path } = context;
  const of = (kind: string): Json => {
    const own = isObject(parameters) ? parameters[kind] : undefined;
    return isObject(own) ? own : {};
  };
  const full = ropeOf({
    rope_theta: outer["rope_theta"] ?? GLOBAL_BASE,
    rope_scaling: outer["rope_scaling"],
    rope_parameters: of("full_attention"),
  }, context);
  const sliding = { rope_theta: outer["rope_local_base_freq"] ?? LOCAL_BASE, rope_parameters: of("sliding_attention") };
  const local = ropeOf(sliding, context);
  if (local.scaling.kind !== "none") {
    const key = "rope_parameters.sliding_attention";
    throw refusal(path, {
      key,
      rule: "RoPE of layers with a window is not scaled",
      value: shownJson(of("sliding_attention")),
    });
  }
  return { ...full, localBase: local.base };
}

/** Bases of a Gemma 3 that says none. */
const GLOBAL_BASE = 1e6, LOCAL_BASE = 1e4;
/** Model types that may rotate a part of each head. */
const PARTIAL: readonly string[] = ["phi3", "gpt_neox", "stablelm", "phi", "compresso"];

/** What {@link ropeOf} takes beside the JSON; `path` is named in errors. */
export interface RopeContext {
  readonly maxPosition: number;
  readonly headDim: number;
  readonly path: string;
}

/**
 * The RoPE base and scaling of a parsed config.json; `rope_scaling`, where it holds something, goes before `rope_parameters`, as in transformers.
 *
 * @throws CompressoError("input") for every other kind of scaling and for missing or senseless figures.
 */
export function ropeOf(json: unknown, { maxPosition, headDim, path }: RopeContext): DecoderSpec["rope"] {
  const result = OUTER.safeParse(json);
  if (!result.success) {
    const [issue] = result.error.issues;
    const keys = issue?.path ?? [];
    const key = keys.map(String).join(".");
    const value = valueAt(json, keys);
    const message = issue?.message.replace(/^Invalid \w+: /, "") ?? "";
    throw refusal(path, {
      key,
      rule: message,
      value: shownJson(value),
      fix: "only default, linear, llama3 and longrope RoPE are supported",
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
    throw refusal(path, { key, rule: "all layers have the same RoPE", value: shownJson(layered[1]), fix });
  }
  const need = (key: keyof typeof rope): number => {
    const value = rope[key];
    if (typeof value === "number") return value;
    throw refusal(path, { key: `${chosen}.${key}`, rule: `${kind} RoPE needs it`, value: shownJson(value) });
  };
  const kind = rope.rope_type ?? rope.type ?? "default";
  const isPhi3 = outer.model_type === "phi3";
  const share = rope.partial_rotary_factor ?? outer.partial_rotary_factor ?? 1, dims = Math.floor(headDim * share);
  if (share !== 1 && !PARTIAL.includes(outer.model_type ?? "")) {
    const rule = "the whole of each head rotates in this family";
    throw refusal(path, { key: "partial_rotary_factor", rule, value: String(share) });
  }
  if (dims < 2 || dims % 2 !== 0) {
    const rule = `an even number of the ${headDim} dims of a head rotates, at least 2`;
    throw refusal(path, { key: "partial_rotary_factor", rule, value: String(share) });
  }
  const base = rope.rope_theta ?? outer.rope_theta ?? (outer.model_type === "smollm3" ? SMOLLM3_BASE : 10000);
  return { base, scaling: scalingOf(), ...dims < headDim ? { dims } : {} };

  function scalingOf(): RopeScaling {
    if (isPhi3 && kind !== "default" && kind !== "longrope" && kind !== "su") {
      const rule = "RoPE of a phi3 is default or longrope";
      throw refusal(path, { key: `${chosen}.rope_type`, rule, value: shownJson(kind) });
    }
    if (kind === "default") return { kind: "none" };
    if (kind === "longrope" || kind === "su") return longRope();
    if (kind === "linear") return { kind: "linear", factor: need("factor") };
    const low = need("low_freq_factor"), high = need("high_freq_factor");
    if (high <= low) {
      throw refusal(path, {
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

  function longRope(): RopeScaling {
    const half = dims / 2;
    const need = (key: "short_factor" | "long_factor"): number[] => {
      const list = rope[key];
      if (list?.length === half) return list;
      const rule = `${half} numbers, one for each pair of dims that rotates`;
      throw refusal(path, {
        key: `${chosen}.${key}`,
        rule,
        value: list ? `${list.length} numbers` : shownJson(list),
      });
    };
    // As transformers: of a Phi-3 the outer length always counts, and the ratio of lengths is the factor where none is given.
    const originalMaxPosition = outer.original_max_position_embeddings ??
      (isPhi3 ? PHI3_ORIGINAL : rope.original_max_position_embeddings ?? maxPosition);
    const attention = rope.attention_factor ??
      longRopeAttention(rope.factor ?? maxPosition / originalMaxPosition, originalMaxPosition);
    return { kind: "longrope", short: need("short_factor"), long: need("long_factor"), attention, originalMaxPosition };
  }
}

/** The base of a SmolLM3 whose configuration leaves it out. */
const SMOLLM3_BASE = 2_000_000;

/** The original context of a Phi-3 whose configuration leaves it out. */
const PHI3_ORIGINAL = 4096;

/** The factor of cos and sin for a context that is `factor` times the original one (Ding et al. 2024). */
export function longRopeAttention(factor: number, originalMaxPosition: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPosition));
}
