// Losses of the logits of a chunk of rows, and their gradient.
import type { KernelSource } from "../source.ts";

/** One loss, as WGSL of a row. */
interface Loss {
  /**
   * Its value, from `top` and `total` (the largest logit, and Σ exp(y − top)), `lse` (log Σ exp y), `target_logit` and,
   * where it compares, `divergence` (Σ q·(log q − log p)).
   */
  readonly value: string;
  /** Its slope by four logits, from `p` (softmax of y), `hit` (1 at the target), `lse` and, where it compares, `q`. */
  readonly slope: string;
  /** Whether it compares with the logits of the dense model, whose softmax is q. */
  readonly compares: boolean;
}

/** Losses by name. An objective is a weighted sum of them. */
export const LOSSES = {
  /** −log p[target]. The difference of logits comes first: it is exact where they are close, however large they are. */
  crossEntropy: { value: "log(total) + (top - target_logit)", slope: "p - hit", compares: false },
  /** (log Σ exp y)², which keeps logits near 0 (PaLM, arXiv 2204.02311, section 5). */
  zLoss: { value: "lse * lse", slope: "2.0 * lse * p", compares: false },
  /** KL(q ‖ p) from the dense model (Hinton et al., arXiv 1503.02531, at temperature 1). */
  distillation: { value: "divergence", slope: "p - q", compares: true },
} as const satisfies Readonly<Record<string, Loss>>;

/** Name of a loss. */
export type LossName = keyof typeof LOSSES;

/** One kernel of the family. */
export interface LossKernel {
  /** Names of the losses that are added, each with its weight in params. */
  readonly losses: readonly LossName[];
  /** Whether logits have a soft cap: y = cap · tanh(raw / cap). Otherwise y = raw. */
  readonly isCapped: boolean;
  /** Workgroup size. */
  readonly lanes: 8 | 256;
}

/** Whether a loss compares with the logits of the dense model. */
export function comparesLogits(losses: readonly LossName[]): boolean {
  return losses.some((name) => LOSSES[name].compares);
}

/**
 * loss[m] = Σ weight · value of each loss; 0 for rows with target < 0. If params.gradient is 1, the gradient replaces
 * the logits: logits := Σ weight · slope · state.lossScale · dy/draw, zero for rows without target.
 * Shapes: logits and dense (the raw logits of the dense model) [rows, stride], stride a multiple of 4; targets [tokens]
 * i32 and loss [tokens], read and written from params.firstRow; columns ≥ vocab are padding.
 * A lane's maximum and sum are of one pass: the sum is scaled down where the maximum grows.
 * Grid: one workgroup per row. Writes (=). Bindings: targets, state, (dense where a loss compares,) logits, loss, params
 * (rows, stride, vocab, firstRow, gradient, cap, the weights).
 * `prelude` is the text of the step state and of the reductions.
 */
export function lossKernelWith({ losses, isCapped, lanes }: LossKernel, prelude: string): KernelSource {
  const compares = comparesLogits(losses), at = compares ? 3 : 2;
  const sum = (of: "value" | "slope"): string =>
    losses.map((name) => `params.${name} * (${LOSSES[name][of]})`).join(" + ");
  return {
    name: `loss_${losses.join("_")}${isCapped ? "_capped" : ""}-${lanes}`,
    bindings: ["read", "read", ...(compares ? ["read" as const] : []), "storage", "storage", "uniform"],
    code: `${prelude}
struct Params {
  rows: u32, stride: u32, vocab: u32, firstRow: u32, gradient: u32, cap: f32,
  ${losses.map((name) => `${name}: f32,`).join(" ")}
}
@group(0) @binding(0) var<storage, read> targets: array<i32>;
@group(0) @binding(1) var<storage, read> state: StepState;
${compares ? "@group(0) @binding(2) var<storage, read> dense: array<vec4f>;" : ""}
@group(0) @binding(${at}) var<storage, read_write> logits: array<vec4f>;
@group(0) @binding(${at + 1}) var<storage, read_write> loss: array<f32>;
@group(0) @binding(${at + 2}) var<uniform> params: Params;

const LEAST = -3.4e38;

${isCapped ? CAPPED : PLAIN}

/** Whether the columns of the vec4 c4 are within the vocabulary. */
fn is_column(c4: u32) -> vec4<bool> { return c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.vocab); }

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let token = params.firstRow + row;
  let width = params.stride / 4u;
  let base = row * width;
  let wanted = targets[token];
  if (wanted < 0) {
    if (lane == 0u) { loss[token] = 0.0; }
    if (params.gradient == 1u) {
      for (var c = lane; c < width; c += GROUP) { logits[base + c] = vec4f(); }
    }
    return;
  }
  let used = (params.vocab + 3u) / 4u;
${softmaxText("logits", { top: "top", total: "total" })}
${compares ? `${softmaxText("dense", { top: "dense_top", total: "dense_total" })}\n${DIVERGENCE}` : ""}
  let lse = log(total) + top;
  if (lane == 0u) {
    let target_logit = logits_of(logits[base + u32(wanted) / 4u])[u32(wanted) % 4u];
    loss[token] = ${sum("value")};
  }
  if (params.gradient == 0u) { return; }
  workgroupBarrier();
  storageBarrier();
  for (var c = lane; c < width; c += GROUP) {
    let raw = logits[base + c];
    let p = select(vec4f(), exp(logits_of(raw) - top) / total, is_column(c));
    let hit = vec4f(c * 4u + vec4u(0u, 1u, 2u, 3u) == vec4u(u32(wanted)));
${compares ? `    ${DENSE_SHARE}` : ""}
    logits[base + c] = (${sum("slope")}) * state.lossScale * logit_slopes(raw);
  }
}
`,
  };
}

const PLAIN = `fn logits_of(raw: vec4f) -> vec4f { return raw; }
fn logit_slopes(raw: vec4f) -> vec4f { return vec4f(1.0); }`;

const CAPPED = `fn bent(raw: vec4f) -> vec4f { return tanh(clamp(raw / params.cap, vec4f(-10.0), vec4f(10.0))); }
fn logits_of(raw: vec4f) -> vec4f { return params.cap * bent(raw); }
fn logit_slopes(raw: vec4f) -> vec4f {
  let slope = bent(raw);
  return 1.0 - slope * slope;
}`;

/** The largest logit of a row, and Σ exp(y − top). */
function softmaxText(logits: string, { top, total }: { readonly top: string; readonly total: string }): string {
  return `  var ${top}_lane = LEAST;
  var ${total}_lane = 0.0;
  for (var c = lane; c < used; c += GROUP) {
    let y = select(vec4f(LEAST), logits_of(${logits}[base + c]), is_column(c));
    let next = max(${top}_lane, max(max(y.x, y.y), max(y.z, y.w)));
    let e = exp(y - next);
    ${total}_lane = ${total}_lane * exp(${top}_lane - next) + ((e.x + e.y) + (e.z + e.w));
    ${top}_lane = next;
  }
  let ${top} = group_max(${top}_lane, lane);
  let ${total} = group_sum(${total}_lane * exp(${top}_lane - ${top}), lane);`;
}

const DENSE_SHARE = "let q = select(vec4f(), exp(logits_of(dense[base + c]) - dense_top) / dense_total, is_column(c));";

/** Σ q·((y_dense − top_dense) − (y − top)) + log total − log total_dense. Where q is 0 a logit may be −∞, and counts 0. */
const DIVERGENCE = `  var gaps = vec4f();
  for (var c = lane; c < used; c += GROUP) {
    ${DENSE_SHARE}
    let gap = (logits_of(dense[base + c]) - dense_top) - (logits_of(logits[base + c]) - top);
    gaps += select(vec4f(), q * gap, q > vec4f());
  }
  let divergence = group_sum((gaps.x + gaps.y) + (gaps.z + gaps.w), lane) + (log(total) - log(dense_total));`;
