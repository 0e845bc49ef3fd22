// Numbers of the training loop, with defaults that follow from the step budget. Owns their ranges; refuses everything else that a run is told.
import { CompressoError } from "../errors.ts";

/** Numbers of the training loop. */
export interface Rates {
  /** Peak learning rate of LoRA in all stages. */
  readonly lora: number;
  /** Learning rate of log α. */
  readonly mask: number;
  /** Rate of λ's ascent. */
  readonly lambda: number;
  /** β of hard concrete. */
  readonly temperature: number;
  /** Scale τ of its noise; 1 is Louizos et al. */
  readonly noise: number;
  /** Spread of the initial log α over the units. */
  readonly spread: number;
  /** Share of the pruning stage after which the target is reached. */
  readonly warmup: number;
  /** Share of the gap to the schedule that the projection closes at every step. */
  readonly tracking: number;
  /** Largest global norm of the LoRA gradients. */
  readonly clipNorm: number;
  /** Decoupled weight decay of LoRA. */
  readonly weightDecay: number;
}

/** Peak learning rate of LoRA where none is given. */
export const LORA_RATE = 5e-4;

/** Rates for a step budget: with few steps log α must move further in each. */
export function defaultRates(steps: number): Rates {
  return {
    lora: LORA_RATE,
    mask: Math.min(0.3, Math.max(0.03, 20 / steps)),
    lambda: 0.1,
    temperature: 2 / 3,
    noise: 0.2,
    spread: 8,
    warmup: 0.7,
    tracking: 1,
    clipNorm: 1,
    weightDecay: 0,
  };
}

/** Throws `CompressoError("usage")` for a number out of range. */
export function checkRates(rates: Rates): void {
  for (const [name, value] of Object.entries(rates)) {
    if (Number.isFinite(value) && value >= 0) continue;
    throw new CompressoError("usage", {
      what: `cannot use the rate '${name}'`,
      rule: "it is a number ≥ 0",
      value: String(value),
    });
  }
}
