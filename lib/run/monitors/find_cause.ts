// Finds the tensor that introduced a number that is not finite, from the base model to the gradients.
import { option } from "../../core/errors.ts";
import { type LoraWeights } from "../../spec/lora.ts";
import { unpackLora } from "../../nn/lora.ts";
import { packMasks } from "../../nn/mask_slots.ts";
import { EMBEDDING, FINAL_NORM, HEAD, PROJECT_IN, PROJECT_OUT, tensorShapes } from "../../spec/decoder.ts";
import type { StepState } from "../../nn/train/step_state.ts";
import type { UnitTable } from "../../units/table.ts";
import type { Batch } from "../../data/batches.ts";
import type { Model } from "../../model/model.ts";
import type { Inspection, Trainer } from "../trainer.ts";
import type { Finding } from "./alarm.ts";
import { lowerRate } from "./divergence.ts";
import { brokenUnit } from "./mask_look.ts";
import type { MaskLook, Stage, StepKind, StepRecord } from "../contract.ts";

/** A step before it is run. */
export interface StepToSearch {
  readonly stage: Stage;
  readonly kind: StepKind;
  readonly batch: Batch;
  readonly state: StepState;
  /** Share of the labels that it learns from. */
  readonly focus: number;
}

/** Where the number was introduced. */
export interface Cause {
  /** The tensor, or the value that was computed. */
  readonly tensor: string;
  /** What to change. */
  readonly change: string;
  /** Whether the base model causes it, so that other rates do not help. */
  readonly isBase: boolean;
}

/** Largest finite f32. */
const F32_MAX = 3.4028234663852886e38;

/**
 * Searches in order of computation: base weights, trained parameters, activations, gradients, and the step's own update
 * of the masks, as `masks` reports it. Changes the trainer's state.
 */
export async function findCause(
  { model, trainer, table }: { readonly model: Model; readonly trainer: Trainer; readonly table: UnitTable },
  { stage, kind, batch, state, focus }: StepToSearch,
  masks: string | null = null,
): Promise<Cause> {
  const before = await trainer.save(), { lora } = trainer.pass, lower = lowerRate(stage);
  trainer.restore({
    ...before,
    lora: new Float32Array(before.lora.length),
    slots: packMasks(model.spec, table.layout, {}),
  });
  const base = placeOf(await trainer.inspect("lora", batch, { state }));
  if (base) return await baseCause(model, base);
  trainer.restore(before);
  const trained = trainedCause(
    { ...before, weights: lora ? unpackLora(model.spec, lora, before.lora) : new Map() },
    table,
  );
  if (trained) {
    return {
      tensor: trained,
      change: kind === "masks" ? `${lower}, or ${option("rates.mask")}` : lower,
      isBase: false,
    };
  }
  const inspection = await trainer.inspect(kind, batch, { state }), place = placeOf(inspection);
  if (place) return { tensor: place.name, change: lower, isBase: false };
  const gradient = gradientCause(inspection);
  if (gradient === null && masks !== null) {
    return { tensor: masks, change: `lower ${option("rates.mask")} and ${option("rates.lambda")}`, isBase: false };
  }
  return { tensor: gradient ?? elsewhere(focus), change: `${lower}, or load the base in f32`, isBase: false };
}

/** Which of a step's numbers, and of its masks if they were read, are not finite; empty if all are finite. */
export function brokenNumbers(record: StepRecord | null, look: MaskLook | null): string {
  const { loss = 0, gradNorm = 0, expected = null } = record ?? {};
  const isFine = [loss, gradNorm, expected ?? 0].every(Number.isFinite) && !look?.broken;
  if (isFine) return "";
  return [
    ...record ? [`loss ${loss}`, `gradient norm ${gradNorm}`] : [],
    ...Number.isFinite(expected ?? 0) ? [] : [`expected sparsity ${expected}`],
    ...look?.broken ? [`not finite: ${look.broken}`] : [],
  ].join(", ");
}

/** The finding of numbers that are not finite; it names no cause if the step cannot be repeated. */
export function brokenFinding(cause: Cause | null, { stage, step, numbers }: {
  readonly stage: Stage;
  readonly step: number;
  readonly numbers: string;
}): Finding {
  const nothing = { tensor: "no tensor that repeating the step finds", change: lowerRate(stage), isBase: false };
  const { tensor, change, isBase } = cause ?? nothing;
  return {
    monitor: "nan",
    key: "nan",
    message: `numbers are not finite at step ${step} (${numbers}); first in ${tensor}`,
    change,
    ...(isBase ? { instead: "stop" } : {}),
  };
}

interface Place {
  /** Layer whose output is not finite; −1 is the embedding, null the head. */
  readonly layer: number | null;
  readonly name: string;
}

function placeOf({ streams, loss }: Inspection): Place | null {
  const first = streams.indexOf(false);
  if (first === 0) return { layer: -1, name: "the output of the embedding" };
  if (first > 0) return { layer: first - 1, name: `the residual stream after layer ${first - 1}` };
  return loss ? null : { layer: null, name: "the logits" };
}

/** Loading checks that weights are finite, so a product overflows, most likely that of the largest weight. */
async function baseCause({ source }: Model, { layer, name }: Place): Promise<Cause> {
  const isThere = (tensor: string): boolean =>
    layer === null
      ? [FINAL_NORM, PROJECT_OUT, HEAD, EMBEDDING].includes(tensor)
      : layer < 0
      ? tensor === EMBEDDING || tensor === PROJECT_IN
      : tensor.startsWith(`model.layers.${layer}.`);
  let most = 0, place = "";
  for (const tensor of tensorShapes(source.spec).keys()) {
    if (!isThere(tensor)) continue;
    (await source.read(tensor)).forEach((value, at) => {
      if (Math.abs(value) <= most) return;
      most = Math.abs(value);
      place = `${tensor}, element ${at} is ${value}`;
    });
  }
  return {
    tensor: `${name} of the model as it was loaded, without masks and LoRA; the largest weight there is ${place}`,
    change: "fix the model's weights: they overflow without any training",
    isBase: true,
  };
}

function trainedCause(
  { weights, logAlpha, slots }: {
    readonly weights: LoraWeights;
    readonly logAlpha: Float32Array;
    readonly slots: Float32Array;
  },
  table: UnitTable,
): string | null {
  for (const [name, values] of weights) {
    const at = brokenAt(values);
    if (at >= 0) return `${name}, element ${at} is ${values[at]}`;
  }
  const unit = brokenUnit(table, { logAlpha });
  if (unit !== null) return unit;
  const slot = brokenAt(slots);
  return slot < 0 ? null : `the masks, slot ${slot} is ${slots[slot]}`;
}

/** Backward runs from the last layer to the first, so the last gradient in order is the first that was not finite. */
function gradientCause({ gradients, slots }: Inspection): string | null {
  const first = [...gradients].reverse().find(([, values]) => brokenAt(values) >= 0);
  if (first) return `the gradient of ${first[0]}`;
  if (brokenAt(slots) >= 0) return "the gradients of the masks";
  let squares = 0;
  for (const values of gradients.values()) for (const value of values) squares += value * value;
  return squares > F32_MAX ? "the sum of the squares of LoRA's gradients, which are all finite" : null;
}

function elsewhere(focus: number): string {
  return focus < 1
    ? `the gradients of the labels that the last stage learns from (${
      option("focus")
    }), as those of all labels are finite`
    : "nothing when the step was repeated, so a hook or the device has changed what it computes";
}

/** Index of the first number that is not finite; −1 if all are finite. */
export function brokenAt(values: Float32Array): number {
  return values.findIndex((value) => !Number.isFinite(value));
}
