// The plan of one token of each sequence, built from the record functions of the forward pass. Used with LoRA, and where the fused step
// does not apply.
import type { Device } from "../../gpu/device.ts";
import { Plan } from "../../gpu/plan.ts";
import { createActivations } from "../activations.ts";
import { recordDecodeAttention } from "./attention.ts";
import { layerTable, recordRope } from "../rope.ts";
import { type CacheState, pagesFor, recordCacheFill } from "./cache.ts";
import { recordCachedConv } from "./convolution.ts";
import { recordChoice } from "./choice.ts";
import type { DecodeState, DecodeStep } from "./step.ts";
import type { DecoderContext } from "../context.ts";
import { recordFinalNorm, recordLogits } from "../head.ts";
import { recordTurn } from "../decoder.ts";
import { strideOf } from "../padding.ts";
import { headDimOf } from "../../spec/decoder.ts";
import type { Lora } from "../lora.ts";
import { recordStoredProducts } from "../products/matvec.ts";
import { createMatvecScratch } from "../products/matvec_batch.ts";
import type { MaskKind } from "../mask_slots.ts";
import { recordForward } from "../pass.ts";

/**
 * Records the plan of one token of each row: logits, then the choice of the next token. The caches are buffers.
 */
export function createGeneralStep(
  device: Device,
  state: DecodeState,
  { lora, stepState }: { readonly lora: Lora | null; readonly stepState: DecoderContext["state"] },
): DecodeStep {
  const { weights, masks, rope, token, logits, rows } = state, { spec } = weights;
  const act = createActivations(device, spec, {
    batch: rows,
    seq: 1,
    backward: false,
    rank: lora?.config.rank ?? 0,
    headRows: rows,
  });
  const plan = new Plan(device);
  const needsScratch = rows > 1 && weights.embedding.placement === "texture";
  const scratch = needsScratch ? createMatvecScratch(device, rows) : undefined;
  const dispose = (): void => [plan, act, scratch].forEach((resource) => resource?.[Symbol.dispose]());
  try {
    const context: DecoderContext = {
      plan,
      weights,
      act,
      masks,
      lora,
      rope,
      positions: state.position,
      state: stepState,
      dropout: false,
      maskGrads: new Set<MaskKind>(),
      attend: (own, index) => recordCachedAttention(own, state, index),
      convolve: (own, index) => recordCachedConv(own, state, { index, own: true }),
      multiply: lora ? undefined : (matrix, x, y) => {
        recordStoredProducts(plan, { ...x, batch: rows, scratch }, { parts: [{ matrix, offset: 0 }], y });
      },
    };
    plan.copy(token, act.tokens, { bytes: 4 * rows });
    recordForward(context);
    recordFinalNorm(context);
    recordLogits(context, { first: 0, rows });
    plan.copy(act.logits, logits, { bytes: 4 * rows * strideOf(spec.vocab) });
    recordChoice(plan, state);
    plan.finish();
    return { plan, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * Computes o of each row of the context. Each row is the next token of a separate sequence, whose key and value are
 * first appended to its cache. The caches are buffers.
 */
function recordCachedAttention(
  context: DecoderContext,
  state: CacheState,
  index: number,
): void {
  const { plan, act, weights: { spec, layers }, rope } = context;
  const { caches, capacity, position } = state;
  const cache = caches.layers[index], layer = layers[index], own = act.layers[index];
  if (cache?.placement !== "buffer" || !layer || !own) return;
  const { rope: { dims }, scales: { attention: scale } = {}, softCaps } = spec, headDim = headDimOf(spec, layer.spec);
  const { heads, kvHeads, window } = layer.spec, { q, k, v, o } = own.forward, { rows } = act;
  recordTurn(context, index, ({ of, width, ...part }) => {
    const cosSin = layerTable(rope, layer.spec, of), stride = strideOf(width);
    recordRope(plan, { ...part, rows, seq: 1, headDim, dims, cosSin, stride, positions: position });
  });
  const pages = pagesFor(state, layer.spec.window);
  recordCacheFill(plan, { ...state, pages }, { spec, layer: index, k, v, rows, own: true });
  const shape = {
    heads,
    kvHeads,
    headDim,
    window,
    capacity,
    rows,
    ownCaches: true,
    scale,
    softCap: softCaps?.attention,
  };
  recordDecodeAttention(plan, shape, { q, kCache: cache.k, vCache: cache.v, o, position, pages });
}
