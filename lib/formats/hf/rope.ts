// RoPE settings of a config.json: rope_theta with rope_scaling (before transformers 5), or rope_parameters.
import { z } from "../../core/packages.ts";
import type { DecoderSpec, RopeScaling } from "../../spec/decoder.ts";
import { shownJson } from "../../core/text.ts";
import { refusal, valueAt } from "./refusal.ts";

const KINDS = ["default", "linear", "llama3"] as const;

const ROPE = z.looseObject({
  rope_type: z.enum(KINDS).nullish(),
  type: z.enum(KINDS).nullish(),
  rope_theta: z.number().positive().nullish(),
  factor: z.number().positive().nullish(),
  low_freq_factor: z.number().positive().nullish(),
  high_freq_factor: z.number().positive().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
  partial_rotary_factor: z.literal(1).nullish(),
});

const OUTER = z.looseObject({
  rope_theta: z.number().positive().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
  partial_rotary_factor: z.literal(1).nullish(),
  rope_scaling: ROPE.nullish(),
  rope_parameters: ROPE.nullish(),
});

/** What {@link ropeOf} takes beside the JSON; `path` is named in errors. */
export interface RopeContext {
  readonly maxPosition: number;
  readonly path: string;
}

/**
 * The RoPE base and scaling of a parsed config.json; `rope_scaling`, where it holds something, goes before `rope_parameters`, as in transformers.
 *
 * @throws CompressoError("input") for every other kind of scaling and for missing or senseless figures.
 */
export function ropeOf(json: unknown, { maxPosition, path }: RopeContext): DecoderSpec["rope"] {
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
      fix: "only default, linear and llama3 RoPE are supported",
    });
  }
  const outer = result.data;
  const scaling = outer.rope_scaling;
  const chosen = scaling && Object.keys(scaling).length > 0 ? "rope_scaling" : "rope_parameters";
  const rope = outer[chosen] ?? {};
  const layered = Object.entries(rope).find(([, value]) => typeof value === "object" && value !== null);
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
  return { base: rope.rope_theta ?? outer.rope_theta ?? 10000, scaling: scalingOf() };

  function scalingOf(): RopeScaling {
    if (kind === "default") return { kind: "none" };
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
}
