// The final norm, output head and cross-entropy, in chunks of tokens: [tokens, vocab] never exists whole. Owns the chunking; refuses the layers.
import { roundUp, strideOf } from "./layout.ts";
import type { DecoderContext } from "./decoder.ts";
import { operand, recordLinear } from "./linear.ts";
import { recordCrossEntropy, recordRmsNorm, recordRmsNormBackward } from "./ops.ts";

/** Tokens of a chunk such that its logits take about 32 MiB, at most `rows`. */
export function headRowsFor(vocab: number, rows: number): number {
  return Math.max(1, Math.min(rows, 512, Math.floor((1 << 23) / strideOf(vocab))));
}

/** act.final = RMSNorm(output of the last layer). */
export function recordFinalNorm({ plan, weights, act }: DecoderContext): void {
  const { spec } = weights, x = act.x[spec.layers.length];
  if (!x) return;
  plan.section("elementwise");
  recordRmsNorm(plan, { x, w: weights.finalNorm, y: act.final, r: act.rms[2] }, {
    rows: act.rows,
    width: spec.hidden,
    eps: spec.normEps,
  });
}

/** act.logits = head(act.final rows first … first + rows − 1). */
export function recordLogits(
  context: DecoderContext,
  { first, rows }: { readonly first: number; readonly rows: number },
): void {
  const { plan, weights, act } = context;
  const stride = strideOf(weights.spec.hidden);
  plan.section("head");
  plan.copy(act.final, act.chunk, { bytes: rows * stride * 4, sourceOffset: first * stride * 4 });
  recordLinear(
    plan,
    operand(plan, act.operands, act.chunk, { rows, stride }),
    weights.head,
    { buffer: act.logits, stride: strideOf(weights.spec.vocab) },
    { rows, direction: "forward" },
  );
}

/** act.loss of every token; with `gradient`, act.backward.dx = dL/d(output of the last layer), L = state.lossScale · Σ loss. */
export function recordLoss(context: DecoderContext, { gradient }: { readonly gradient: boolean }): void {
  const { plan, weights, act, state } = context;
  const { spec } = weights;
  recordFinalNorm(context);
  for (let first = 0; first < act.rows; first += act.shape.headRows) {
    const rows = Math.min(act.shape.headRows, act.rows - first);
    recordLogits(context, { first, rows });
    recordCrossEntropy(plan, { targets: act.targets, state, logits: act.logits, loss: act.loss }, {
      rows,
      stride: strideOf(spec.vocab),
      vocab: spec.vocab,
      firstRow: first,
      gradient,
    });
    if (gradient) recordLogitsBackward(context, { first, rows });
  }
  const x = act.x[spec.layers.length];
  if (!gradient || !act.backward || !act.dfinal || !x) return;
  plan.section("elementwise");
  recordRmsNormBackward(plan, { dy: act.dfinal, x, w: weights.finalNorm, r: act.rms[2], dx: act.backward.dx }, {
    rows: act.rows,
    width: spec.hidden,
    accumulate: false,
  });
}

function recordLogitsBackward(
  { plan, weights, act }: DecoderContext,
  { first, rows }: { readonly first: number; readonly rows: number },
): void {
  if (!act.dchunk || !act.dfinal) return;
  const { head, spec } = weights;
  const target = { buffer: act.dchunk, stride: strideOf(spec.hidden) };
  const stride = strideOf(spec.vocab);
  if (head.placement === "buffer" || head.shards.length === 1) {
    const x = operand(plan, act.operands, act.logits, { rows, stride });
    recordLinear(plan, x, head, target, { rows, direction: "backward" });
  } else {
    // Shard by shard: a texture is not as wide as a large vocabulary.
    head.shards.forEach((shard, index) => {
      const columns = [shard.row0, Math.min(roundUp(shard.rows, 64), stride - shard.row0)] as const;
      const x = operand(plan, act.operands, act.logits, { rows, stride, columns });
      recordLinear(plan, x, head, target, { rows, direction: "backward", shard: index, accumulate: index > 0 });
    });
  }
  plan.copy(act.dchunk, act.dfinal, {
    bytes: rows * target.stride * 4,
    targetOffset: first * target.stride * 4,
  });
}
