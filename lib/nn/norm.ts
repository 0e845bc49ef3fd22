// The norm of a residual stream, RMSNorm or LayerNorm as the spec says, forward and backward.
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Plan } from "../gpu/plan.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { recordLayerNorm, recordLayerNormBackward, recordRmsNorm, recordRmsNormBackward } from "./ops.ts";

/** Weight [stride] of a norm and, for LayerNorm, its bias [stride]. */
export interface NormWeights {
  /** Weight. */
  readonly weight: DeviceBuffer;
  /** Null for RMSNorm. */
  readonly bias: DeviceBuffer | null;
}

/** y = norm(x) and r, the factor of each row [rows] that backward needs; writes (=). */
export function recordNorm(
  plan: Plan,
  { weight: w, bias: b }: NormWeights,
  io: { readonly x: DeviceBuffer; readonly y: DeviceBuffer; readonly r: DeviceBuffer },
  { rows, spec }: { readonly rows: number; readonly spec: DecoderSpec },
): void {
  const shape = { rows, width: spec.hidden, eps: spec.normEps };
  if (b) recordLayerNorm(plan, { ...io, w, b }, shape);
  else recordRmsNorm(plan, { ...io, w }, shape);
}

/** Gradient of {@link recordNorm} with respect to x: (+=) with `accumulate`, otherwise (=). */
export function recordNormBackward(
  plan: Plan,
  { weight: w, bias }: NormWeights,
  io: { readonly dy: DeviceBuffer; readonly x: DeviceBuffer; readonly r: DeviceBuffer; readonly dx: DeviceBuffer },
  { rows, spec, accumulate }: { readonly rows: number; readonly spec: DecoderSpec; readonly accumulate: boolean },
): void {
  const record = bias ? recordLayerNormBackward : recordRmsNormBackward;
  record(plan, { ...io, w }, { rows, width: spec.hidden, accumulate });
}
