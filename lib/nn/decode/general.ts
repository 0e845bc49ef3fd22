// The plan of one token, built from the record functions of the forward pass. Used with LoRA, and where the fused step
// does not apply.
import { cacheAppend } from "../../../kernels/mod.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { Plan, u32 } from "../../gpu/plan.ts";
import { createActivations } from "../activations.ts";
import { recordDecodeAttention } from "../attention.ts";
import { layerTable, recordRope } from "../rope.ts";
import { type DecodeState, type DecodeStep, recordGreedyChoice } from "./step.ts";
import type { DecoderContext } from "../context.ts";
import { recordFinalNorm, recordLogits } from "../head.ts";
import { strideOf } from "../padding.ts";
import type { Lora } from "../lora.ts";
import { hasRope } from "../../spec/decoder.ts";
import type { MaskKind } from "../mask_slots.ts";
import { recordForward } from "../pass.ts";
import { headWidths } from "../weights.ts";

/** Records the plan of one token: logits, then the greedy choice as the next token. The caches are buffers. */
export function createGeneralStep(
  device: Device,
  state: DecodeState,
  { lora, stepState }: { readonly lora: Lora | null; readonly stepState: DecoderContext["state"] },
): DecodeStep {
  const { weights, masks, rope, token, logits } = state, { spec } = weights;
  const act = createActivations(device, spec, {
    batch: 1,
    seq: 1,
    backward: false,
    rank: lora?.config.rank ?? 0,
    headRows: 1,
  });
  const plan = new Plan(device);
  const dispose = (): void => [plan, act].forEach((resource) => resource[Symbol.dispose]());
  try {
    const context: DecoderContext = {
      plan,
      weights,
      act,
      masks,
      lora,
      rope,
      position: state.position,
      state: stepState,
      dropout: false,
      maskGrads: new Set<MaskKind>(),
      attend: (own, index) => recordCachedAttention(own, state, index),
    };
    plan.copy(token, act.tokens, { bytes: 4 });
    recordForward(context);
    recordFinalNorm(context);
    recordLogits(context, { first: 0, rows: 1 });
    plan.copy(act.logits, logits, { bytes: 4 * strideOf(spec.vocab) });
    recordGreedyChoice(plan, state);
    plan.finish();
    return { plan, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * Computes o of each row of the context. Each row is the token of a separate sequence at position[0]. Its key and value
 * are first appended to the cache of that sequence. The caches are buffers [rows, capacity, …].
 */
export function recordCachedAttention(
  { plan, act, weights, rope }: DecoderContext,
  { caches: { layers, capacity }, position }: Pick<DecodeState, "caches" | "position">,
  index: number,
): void {
  const cache = layers[index], layer = weights.layers[index], own = act.layers[index];
  if (cache?.placement !== "buffer" || !layer || !own) return;
  const { headDim, rope: { dims }, scales: { attention: scale } = {} } = weights.spec,
    { heads, kvHeads, window } = layer.spec,
    { q, k, v, o } = own.forward,
    { rows } = act;
  const widths = headWidths(weights.spec, layer.spec), kvStride = strideOf(widths.kv);
  if (hasRope(weights.spec)) {
    const turn = { rows, seq: 1, headDim, dims, cosSin: layerTable(rope, layer.spec), positionBuffer: position };
    recordRope(plan, { ...turn, buffer: q, heads, stride: strideOf(widths.q) });
    recordRope(plan, { ...turn, buffer: k, heads: kvHeads, stride: kvStride });
  }
  plan.dispatch(compileKernel(plan.device, cacheAppend), [k, v, position, cache.k, cache.v, {
    params: [u32(kvStride / 4), u32(capacity)],
  }], { groups: [Math.ceil(kvStride / 256), rows], cost: 2 * rows * kvStride });
  recordDecodeAttention(plan, { heads, kvHeads, headDim, window, capacity, rows, ownCaches: rows > 1, scale }, {
    q,
    kCache: cache.k,
    vCache: cache.v,
    o,
    position,
  });
}
