// Input of a model: tokens, labels and adapters, and their checks.
import { type CompressoError, type Reasons, refusal, refuse } from "../core/errors.ts";
import type { Device } from "../gpu/device.ts";
import { type LoraConfig, refuseOthers } from "../spec/lora.ts";
import { type ExpertActivations, type KeptExperts, openExperts } from "../nn/experts.ts";
import { type Lora, packLora } from "../nn/lora.ts";
import { type MaskSlots, type MaskValues, packMasks } from "../nn/mask_slots.ts";
import type { DecoderSpec } from "../spec/decoder.ts";

/**
 * LoRA with its matrices `lora.<layer>.<projection>.<A|B>`, A [rank, in], B [out, rank], exactly for the model's
 * targets.
 */
export interface LoraInput extends Omit<LoraConfig, "dropout"> {
  /** Matrices by name. */
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/** Adapters of one evaluation. */
export interface Adapters {
  /** Mask values z; an absent kind is all 1. */
  readonly masks?: MaskValues;
  /** LoRA that is added to the projections. */
  readonly lora?: LoraInput;
  /** Experts that tokens may choose, as if the others were cut; absent: all. Text is not generated with them. */
  readonly experts?: KeptExperts;
}

/** Options of `Model.logits` and `Model.hiddenStates`. */
export interface ModelCallOptions extends Adapters {
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
}

/** Input of `Model.lossAndGradients`. */
export interface GradientInput extends ModelCallOptions {
  /** One sequence or several of the same length after right padding with any token. */
  readonly tokens: readonly number[] | readonly (readonly number[])[];
  /** As `tokens`, unshifted, −100 = ignored. */
  readonly labels: readonly number[] | readonly (readonly number[])[];
}

/** Sequences of one length, one after another. Throws `CompressoError("input")` if their lengths differ. */
export function flatten(rows: readonly number[] | readonly (readonly number[])[]): {
  tokens: number[];
  batch: number;
  seq: number;
} {
  const nested: readonly (readonly number[])[] = isNested(rows) ? rows : [rows];
  const seq = nested[0]?.length ?? 0;
  if (nested.some((row) => row.length !== seq)) {
    refuse("input", "cannot use these sequences as one batch", {
      rule: "all have the same length",
      value: nested.map((row) => row.length).join(", "),
      fix: "pad on the right, with labels −100",
    });
  }
  return { tokens: nested.flat(), batch: nested.length, seq };
}

function isNested(rows: readonly number[] | readonly (readonly number[])[]): rows is readonly (readonly number[])[] {
  return Array.isArray(rows[0]);
}

/** Refuses requested ids that do not match `tokens` or the vocabulary (−1: no request), and a `top` out of range. */
export function checkNext(
  tokens: ArrayLike<number>,
  next: ArrayLike<number>,
  { top, vocab }: { readonly top: number; readonly vocab: number },
): void {
  const fail = (code: "usage" | "input", reasons: Reasons): never =>
    refuse(code, "cannot ask for log-probabilities", reasons);
  if (next.length !== tokens.length) {
    fail("usage", {
      rule: "there is one entry for each token",
      value: `${tokens.length} tokens, ${next.length} entries`,
      fix: "give -1 where none is asked for",
    });
  }
  if (!Number.isInteger(top) || top < 0 || top > vocab) {
    const rule = `the most likely tokens asked for are a whole number from 0 to ${vocab}`;
    fail("usage", { rule, value: top });
  }
  for (let i = 0; i < next.length; i++) {
    const id = next[i] ?? NaN;
    if (!Number.isInteger(id) || id < -1 || id >= vocab) {
      const rule = `ids lie in [0, ${vocab}), or are -1`, fix = "use the tokenizer of this model";
      fail("input", { rule, value: id, fix });
    }
  }
}

/** Length of each of `batch` sequences of one length. Throws `CompressoError("usage")` if the tokens do not divide into them. */
export function lengthOfRows(tokens: ArrayLike<number>, batch: number): number {
  const seq = tokens.length / batch;
  if (Number.isInteger(batch) && batch >= 1 && Number.isInteger(seq)) return seq;
  refuse("usage", "cannot split the tokens into sequences", {
    rule: "batch is a whole number of at least 1 that divides the tokens",
    value: `${tokens.length} tokens, a batch of ${batch}`,
    fix: "pad the sequences on the right to one length, with labels −100",
  });
}

/**
 * Refuses labels whose number differs from that of `tokens`, and labels outside the vocabulary. Negative labels are
 * ignored.
 */
export function checkLabels(tokens: ArrayLike<number>, labels: ArrayLike<number>, vocab: number): void {
  if (labels.length !== tokens.length) {
    throw unlikeTokens(`${tokens.length} tokens, ${labels.length} labels`);
  }
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] ?? NaN;
    if (Number.isInteger(label) && label < vocab) continue;
    refuse("input", `cannot use label ${i} of the sequence`, {
      rule: `labels lie in [0, ${vocab}), or are negative where a token does not count`,
      value: label,
      fix: "use the tokenizer of this model",
    });
  }
}

/** The error for labels without the shape of the tokens. */
export function unlikeTokens(value: string): CompressoError {
  return refusal("input", "cannot compute the loss", {
    rule: "labels have the shape of tokens",
    value,
    fix: "give each token its label, −100 where it does not count",
  });
}

/** A copy of masks and LoRA, so that later changes of the caller's arrays have no effect. */
export function copyAdapters({ masks, lora, experts }: Adapters): Adapters {
  const { head, ffn, hidden } = masks ?? {};
  return {
    ...(masks
      ? {
        masks: {
          ...(head ? { head: head.slice() } : {}),
          ...(ffn ? { ffn: ffn.slice() } : {}),
          ...(hidden ? { hidden: hidden.slice() } : {}),
        },
      }
      : {}),
    ...(lora
      ? {
        lora: {
          ...lora,
          targets: [...lora.targets],
          weights: new Map(Array.from(lora.weights, ([name, matrix]) => [name, matrix.slice()])),
        },
      }
      : {}),
    ...(experts ? { experts: structuredClone(experts) } : {}),
  };
}

/** Writes masks and LoRA to a pass. Throws `CompressoError("input")` if they do not fit the model. */
export function writeAdapters(
  device: Device,
  pass: {
    readonly masks: MaskSlots;
    readonly lora: Lora | null;
    readonly act?: { readonly experts: ExpertActivations | null };
  },
  { spec, masks = {}, lora, experts }: Adapters & { readonly spec: DecoderSpec },
): void {
  const open = openExperts(spec, experts ?? null);
  if (pass.act?.experts) device.write(pass.act.experts.open, open);
  else if (experts) {
    refuse("usage", "cannot leave experts out of this model", {
      rule: "it has experts, and generates no text while some are left out",
      value: spec.router ? "text to generate" : "a dense model",
      fix: "cut the experts, and use the model without them",
    });
  }
  device.write(pass.masks.z, packMasks(spec, pass.masks.layout, masks));
  if (!lora || !pass.lora) return;
  refuseOthers(spec, lora);
  if (device.isDry) return; // a plan of memory for LoRA of gigabytes packs none
  device.write(pass.lora.params, packLora(spec, pass.lora, lora.weights));
}

/** Refuses sequences longer than the model's context. Throws `CompressoError("input")`. */
export function checkLength(length: number, { maxPosition }: Pick<DecoderSpec, "maxPosition">): void {
  if (length <= maxPosition) return;
  refuse("input", "cannot run a model on a sequence of this length", {
    rule: `it fits the model's context of ${maxPosition} tokens`,
    value: `${length} tokens`,
  });
}

/** Refuses ids outside the vocabulary, and no ids. */
export function checkTokens(tokens: ArrayLike<number>, vocab: number): void {
  if (tokens.length === 0) {
    refuse("input", "cannot run a model on no tokens", {
      rule: "there is at least one",
      value: "none",
    });
  }
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] ?? -1;
    if (Number.isInteger(token) && token >= 0 && token < vocab) continue;
    refuse("input", `cannot use token ${i} of the sequence`, {
      rule: `token ids lie in [0, ${vocab})`,
      value: token,
      fix: "use the tokenizer of this model",
    });
  }
}

/** Options of a plan with a signal, which may be absent. */
export function stopOf(
  { signal }: { readonly signal?: AbortSignal | undefined },
): { readonly signal?: AbortSignal | undefined } {
  return signal ? { signal } : {};
}
