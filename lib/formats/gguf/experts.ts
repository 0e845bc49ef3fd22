// Experts in the metadata of a GGUF, read and written.
import type { DecoderSpec, Router } from "../../spec/decoder.ts";
import { GIVE_FAMILY } from "../../families/all.ts";
import { type F32, f32, type GgufArch } from "../../families/gguf_arch.ts";
import type { GgufFile } from "./file.ts";
import { metadataReader } from "./metadata.ts";
import { ggufError } from "./types.ts";

/** Keys after the prefix `arch.`. */
const COUNT = "expert_count", USED = "expert_used_count", GROUPS = "expert_group_count";
const GATING = "expert_gating_func", NORM = "expert_weights_norm", SCALE = "expert_weights_scale";

/** Values of the key of the scores. */
const SOFTMAX = 1, SIGMOID = 2;

/** What a file says of experts. */
export interface GgufExperts {
  readonly count: number;
  readonly ffn: number;
  /** Columns of the shared expert. */
  readonly shared: number;
  /** Dense layers before those with experts. */
  readonly dense: number;
  readonly router: Router;
}

/**
 * What a file says of experts; null for a dense model.
 *
 * @throws CompressoError("input") for experts that the architecture does not have, and for keys out of their range.
 */
export function ggufExperts(
  file: GgufFile,
  { arch, experts, holds: { router = ["none"], choiceBias } }: GgufArch,
): GgufExperts | null {
  const keys = metadataReader(file), own = (key: string): string => `${arch}.${key}`, countKey = own(COUNT);
  const count = keys.number(countKey, 0);
  if (count === 0 && router !== true && !router.includes("none")) keys.size(countKey);
  if (count === 0) return null;
  if (!experts) {
    const rule = `a ${arch} is dense`, value = `${countKey} = ${count}`;
    throw ggufError(file.path, { rule, value, fix: GIVE_FAMILY });
  }
  keys.size(countKey);
  const usedKey = own(USED), topK = keys.size(usedKey);
  keys.check(usedKey, topK, (value) => value <= count, `it is at most the number of experts, ${count}`);
  const whole = (key: string, most = Infinity): number => {
    const value = keys.number(own(key), 0), rule = "a whole number from 0 on";
    keys.check(own(key), value, (value) => Number.isInteger(value) && value >= 0 && value <= most, rule);
    return value;
  };
  keys.check(own(GROUPS), whole(GROUPS), (value) => value <= 1, "experts are in one group");
  if (experts.step) keys.check(own(experts.step), keys.number(own(experts.step), 1), (value) => value === 1, "it is 1");
  const ffn = keys.size(own(experts.columns));
  const dense = experts.dense ? whole(experts.dense, keys.size(own("block_count"))) : 0;
  return {
    count,
    ffn,
    shared: experts.sharedCount
      ? ffn * keys.size(own(experts.sharedCount))
      : !experts.shared
      ? 0
      : experts.isSharedOptional
      ? whole(experts.shared)
      : keys.size(own(experts.shared)),
    dense,
    router: {
      topK,
      ...choiceBias && file.tensors.has(`blk.${dense}.exp_probs_b.bias`) ? { choiceBias: true } : {},
      ...experts.saysRouter ? routerKeys(file, arch) : {},
      ...experts.renormalised ? { renormalised: true } : {},
      ...experts.sharedGate ? { sharedGate: true } : {},
    },
  };
}

/** The keys of scores and weights; sigmoids where the file does not say the scores. */
function routerKeys(file: GgufFile, arch: string): Pick<Router, "scores" | "renormalised" | "scale"> {
  const keys = metadataReader(file), own = (key: string): string => `${arch}.${key}`;
  const gating = keys.number(own(GATING), SIGMOID),
    scale = file.metadata.has(own(SCALE)) ? keys.decimal(own(SCALE)) : 1;
  keys.check(own(GATING), gating, (value) => [0, SOFTMAX, SIGMOID].includes(value), "scores are softmax or sigmoid");
  keys.check(own(SCALE), scale, (value) => value >= 0, "a number from 0 on");
  return {
    ...gating === SOFTMAX ? {} : { scores: "sigmoid" },
    ...file.metadata.get(own(NORM)) === true ? { renormalised: true } : {},
    ...scale === 0 || scale === 1 ? {} : { scale },
  };
}

/** The keys that {@link ggufExperts} reads, after the prefix `arch.`; none for a dense model. */
export function expertKeys(
  { layers, router }: DecoderSpec,
  { experts: record }: GgufArch,
): Record<string, number | boolean | F32> {
  const dense = layers.findIndex(({ experts }) => experts), { experts, ffn = 0 } = layers[dense] ?? {};
  if (!experts || !router || !record) return {};
  return {
    // llama.cpp requires it also if every FFN is an expert's.
    feed_forward_length: dense > 0 ? layers[0]?.ffn ?? 0 : experts.ffn,
    [COUNT]: experts.count,
    [USED]: router.topK,
    [record.columns]: experts.ffn,
    ...record.shared && (ffn > 0 || !record.isSharedOptional) ? { [record.shared]: ffn } : {},
    ...record.sharedCount ? { [record.sharedCount]: ffn / experts.ffn } : {},
    ...record.dense ? { [record.dense]: dense } : {},
    ...record.step ? { [record.step]: 1 } : {},
    ...record.saysRouter
      ? {
        [GATING]: router.scores === "sigmoid" ? SIGMOID : SOFTMAX,
        [NORM]: router.renormalised === true,
        [SCALE]: f32(router.scale ?? 1),
      }
      : {},
  };
}
