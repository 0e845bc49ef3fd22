// Compares the next tokens of a model with those of the dense one. One pass runs the model, then both heads; the states
// that the dense head reads were kept from a pass of the dense model.
import { agreementKernel } from "../../kernels/mod.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { type Plan, u32 } from "../gpu/plan.ts";
import { embeddingWidth } from "../spec/decoder.ts";
import type { DecoderContext, Pass } from "./context.ts";
import { recordFinalNorm, recordHead, writeTargets } from "./head.ts";
import { recordCopyRows } from "./ops.ts";
import { paddedRows, strideOf } from "./padding.ts";
import { recordForward } from "./pass.ts";
import type { Weights } from "./weights.ts";

/** Values of a row in the output of the kernel. */
export const AGREEMENT_VALUES = 5;

/** The dense model's side of a comparison. */
export interface DenseSide {
  /** Its output head, which reads the states. */
  readonly weights: Weights;
  /** Its id of each token of the model [vocab], −1 for a token that it lacks; null if both have the same tokens. */
  readonly ids: Int32Array | null;
}

/** A forward pass with a comparison. */
export interface AgreementPass extends Disposable {
  readonly dense: DenseSide;
  /**
   * Runs on act.tokens. `targets` [rows] are ids of the next tokens, −1 for rows that are left out, and `states`
   * [rows with a target, embeddingWidth] what the dense model's head reads there.
   * Gives {@link AGREEMENT_VALUES} values for each row with a target; see agreement.wgsl.
   */
  run(input: {
    readonly targets: Int32Array;
    readonly states: Float32Array;
    readonly signal?: AbortSignal | undefined;
  }): Promise<Float32Array<ArrayBuffer>>;
}

/** How a model compares with a dense one at each label of some sequences, in their order. */
export interface LabelAgreement {
  /** KL divergence of the model's next tokens from the dense model's, in nats. */
  readonly divergence: Float32Array<ArrayBuffer>;
  /** 1 if both have the same first choice, else 0. */
  readonly isSame: Float32Array<ArrayBuffer>;
  /** Negative log-likelihood of the label, in nats. */
  readonly loss: Float32Array<ArrayBuffer>;
  /** The same by the dense model. */
  readonly denseLoss: Float32Array<ArrayBuffer>;
  /** The dense model's share for tokens that the model lacks. */
  readonly dropped: Float32Array<ArrayBuffer>;
}

/** What a pass gives, by its columns. */
export function labelAgreement(values: Float32Array): LabelAgreement {
  const column = (index: number): Float32Array<ArrayBuffer> =>
    Float32Array.from(
      { length: values.length / AGREEMENT_VALUES },
      (_, row) => values[row * AGREEMENT_VALUES + index] ?? NaN,
    );
  return { divergence: column(0), isSame: column(1), loss: column(2), denseLoss: column(3), dropped: column(4) };
}

/**
 * Records the plan and allocates what the dense side needs. With `fromStates` the pass is of a model without layers, and
 * the states that its final norm reads are written by the caller.
 */
export function createAgreementPass(
  pass: Pass,
  dense: DenseSide,
  { fromStates = false }: { readonly fromStates?: boolean } = {},
): AgreementPass {
  const { device, act } = pass, { rows, shape: { headRows } } = act, { spec } = dense.weights;
  const width = embeddingWidth(spec), stride = strideOf(width);
  using stack = new DisposableStack();
  const states = stack.use(device.createBuffer("forward: dense states", 4 * paddedRows(rows) * stride));
  const chunk = stack.use(device.createBuffer("head: dense input", 4 * paddedRows(headRows) * stride));
  const logits = stack.use(device.createBuffer("head: dense logits", 4 * paddedRows(headRows) * strideOf(spec.vocab)));
  const order = stack.use(
    device.uploadBuffer("head: dense order", Uint32Array.from({ length: rows }, (_, row) => row)),
  );
  const targets = stack.use(device.createBuffer("head: dense targets", 4 * rows));
  const agreement = stack.use(device.createBuffer("head: agreement", 4 * AGREEMENT_VALUES * rows));
  const pairs = stack.use(device.uploadBuffer("head: token pairs", pairsOf(dense)));
  const common = dense.ids ? pairs.bytes / 8 : 0;
  const context = pass.plan(), plan: Plan = stack.use(context.plan);
  if (!fromStates) recordForward(context);
  recordFinalNorm(context);
  plan.section("head");
  const ofDense: DecoderContext = { ...context, weights: dense.weights, act: { ...act, chunk, logits } };
  const own = strideOf(context.weights.spec.vocab);
  for (let first = 0; first < rows; first += headRows) {
    const count = Math.min(headRows, rows - first);
    plan.optional(() => first < act.wanted.rows, () => {
      const copied = { rows: count, first, direction: "gather" as const };
      recordCopyRows(plan, { order, x: states, y: chunk }, { ...copied, width });
      recordHead(ofDense, { rows: count, of: "dense head" });
      recordCopyRows(plan, { order: act.order, x: act.final, y: act.chunk }, {
        ...copied,
        width: embeddingWidth(context.weights.spec),
      });
      recordHead(context, { rows: count });
      const { vocab } = context.weights.spec, params = [own, vocab, strideOf(spec.vocab), spec.vocab];
      plan.dispatch(
        compileKernel(device, sourceOf(agreementKernel, device.facts.isCpu ? 8 : 256)),
        [act.targets, targets, pairs, logits, act.logits, agreement, {
          params: [...params, common, first].map(u32),
        }],
        { groups: [count], cost: 60 * count * (vocab + spec.vocab) },
      );
    });
  }
  plan.finish();
  const owned = stack.move();
  return {
    dense,
    async run({ targets: wanted, states: given, signal }): Promise<Float32Array<ArrayBuffer>> {
      writeTargets(pass, wanted);
      const count = act.wanted.rows;
      if (count === 0) return new Float32Array();
      const ids = new Int32Array(count), padded = new Float32Array(count * stride);
      let at = 0;
      wanted.forEach((target) => {
        if (target >= 0) ids[at++] = dense.ids ? dense.ids[target] ?? -1 : target;
      });
      for (let row = 0; row < count; row++) {
        padded.set(given.subarray(row * width, (row + 1) * width), row * stride);
      }
      device.write(targets, ids);
      device.write(states, padded);
      await plan.run({ signal });
      return await device.readFloats(agreement, AGREEMENT_VALUES * count);
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Columns of both vocabularies that stand for the same tokens, (own id, dense id), ascending by own id. */
function pairsOf({ ids }: DenseSide): Uint32Array<ArrayBuffer> {
  if (!ids) return new Uint32Array(2);
  return Uint32Array.from([...ids].flatMap((id, own) => id < 0 ? [] : [own, id]));
}
