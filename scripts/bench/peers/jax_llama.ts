// One training step of a masked LLaMA decoder in jax-js, as its users would write it: one jit around valueAndGrad and the update.
// Weights are not read from disk. Every array is consumed by its use unless `ref` keeps it (jax-js's rule).
import type { JaxArray, JaxModule, Tree } from "./jax_api.ts";
import { type DecoderConfig, measure, type StepCase, type Times, uniform } from "./protocol.ts";

/** Hard concrete, Louizos et al. 2018. */
const GAMMA = -0.1, ZETA = 1.1, BETA = 2 / 3;
const INITIAL_LOG_ALPHA = 2.5, TARGET_SPARSITY = 0.2, LAMBDA_RATE = 0.1;
/** Bytes of the logits of one chunk of tokens: all of them exceed what a CPU adapter binds (128 MiB). */
const LOGITS_BYTES = 64 * 2 ** 20;

type Named = { readonly [name: string]: JaxArray };
type Parameters = { readonly lora: readonly Named[]; readonly logAlpha: Named };
type State = {
  readonly parameters: Parameters;
  readonly m: Parameters;
  readonly v: Parameters;
  readonly lambda: JaxArray;
};
/** The base without gradients: embedding, head (absent where tied), norms [hidden] each, cos and sin [seq, 1, headDim / 2]. */
type Frozen = { readonly tables: Named; readonly norms: readonly JaxArray[]; readonly layers: readonly Named[] };
type Batch = {
  readonly tokens: JaxArray;
  readonly labels: JaxArray;
  readonly key: JaxArray;
  readonly correction: JaxArray;
};
interface Rates {
  readonly lora: number;
  readonly mask: number;
}

/** Seconds of a step on random weights. */
export async function timeStep(
  jax: JaxModule,
  { work, repeats }: { readonly work: StepCase; readonly repeats: number },
): Promise<Times> {
  const begin = performance.now();
  const trainer = await createStep(jax, { work, rates: { lora: 2e-4, mask: 0.05 } });
  const losses: number[] = [];
  let first = 0;
  const times = await measure(async () => {
    losses.push(await trainer.step());
    first ||= (performance.now() - begin) / 1000;
  }, { repeats });
  trainer.dispose();
  // Out of memory is silent in WebGPU: results are then zeros or NaN.
  const bad = losses.find((loss) => !(Math.abs(loss - Math.log(work.config.vocab)) < 1));
  if (bad !== undefined) throw new Error(`the loss is ${bad}, not near ln(vocab)`);
  const loss = `loss ${losses[0]?.toFixed(2)}, ln(vocab) ${Math.log(work.config.vocab).toFixed(2)}`;
  return { ...times, note: `${loss}; set-up and first step ${first.toFixed(0)} s; no checkpointing` };
}

/** On a tiny decoder: the loss starts near ln(vocab) and falls, what trains moves, the base stays. */
export async function checkStep(jax: JaxModule): Promise<void> {
  const config = { hidden: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 16, ffn: 128, vocab: 256, tied: true };
  const work: StepCase = {
    name: "check",
    kind: "step",
    config,
    batch: 2,
    seq: 32,
    rank: 8,
    targets: ["q", "v"],
    masks: true,
  };
  const trainer = await createStep(jax, { work, rates: { lora: 1e-2, mask: 0.05 } });
  const base = await trainer.sums("base");
  const losses: number[] = [];
  for (let step = 0; step < 30; step++) losses.push(await trainer.step());
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const start = mean(losses.slice(0, 3)), end = mean(losses.slice(-3));
  if (!(Math.abs(start - Math.log(config.vocab)) < 0.5)) {
    throw new Error(`the loss starts at ${start}, not near ln(vocab)`);
  }
  if (!(end < start - 0.2)) throw new Error(`the loss goes from ${start} to ${end}`);
  const trained = await trainer.sums("trained");
  if (trained.some((sum) => sum === 0 || !Number.isFinite(sum))) throw new Error("something that trains did not move");
  if ((await trainer.sums("base")).join() !== base.join()) throw new Error("the base moved");
  trainer.dispose();
}

interface Trainer {
  /** Runs one step and gives its loss. */
  step(): Promise<number>;
  /** Sum of squares of each base weight, or of the change of each LoRA B and log α since the start. */
  sums(of: "base" | "trained"): Promise<number[]>;
  dispose(): void;
}

async function createStep(
  jax: JaxModule,
  { work, rates }: { readonly work: StepCase; readonly rates: Rates },
): Promise<Trainer> {
  const { numpy: np, tree, random } = jax;
  const { config, batch, seq } = work;
  const frozen = makeFrozen(jax, work);
  const parameters = makeParameters(jax, work);
  const zeros = (): Parameters => tree.map((p) => np.zeros(p.shape), tree.ref(parameters));
  let state: State = { parameters, m: zeros(), v: zeros(), lambda: np.zeros([2]) };
  await jax.blockUntilReady(frozen);
  await jax.blockUntilReady(state);
  const draw = uniform(3);
  const text = Int32Array.from({ length: batch * (seq + 1) }, () => Math.floor(draw() * config.vocab));
  const part = (offset: number): Int32Array =>
    Int32Array.from({ length: batch * seq }, (_, i) => text[Math.floor(i / seq) * (seq + 1) + (i % seq) + offset] ?? 0);
  const tokens = np.array(part(0)), labels = np.array(part(1));
  const update = jax.jit((state: State, frozen: Frozen, batch: Batch) =>
    updated(jax, { state, frozen, batch, work, rates })
  );
  let count = 0;
  return {
    async step(): Promise<number> {
      count++;
      const result = update(state, tree.ref(frozen), {
        tokens: tokens.ref,
        labels: labels.ref,
        key: random.key(count),
        correction: np.array([1 - 0.9 ** count, 1 - 0.999 ** count]),
      });
      state = result.state;
      await jax.blockUntilReady(state);
      return (await result.loss.data())[0] ?? NaN;
    },
    async sums(of): Promise<number[]> {
      const { lora, logAlpha } = state.parameters;
      const arrays = of === "base" ? tree.leaves(frozen).map((x) => x.ref) : [
        ...lora.flatMap((pair) => work.targets.map((t) => pair[`${t}B`])),
        ...Object.values(logAlpha).map((x) => x.ref.sub(2.5)),
      ]
        .flatMap((x) => x ? [x.ref] : []);
      return await Promise.all(arrays.map(async (x) => (await x.ref.mul(x).sum().data())[0] ?? NaN));
    },
    dispose(): void {
      for (const owned of [state, frozen, tokens, labels] as Tree[]) tree.dispose(owned);
      update.dispose();
    },
  };
}

/** Random base: fan-in scale keeps the residual stream alive, so that the loss of a tied head starts near ln(vocab). */
function makeFrozen(jax: JaxModule, { config: c, seq }: StepCase): Frozen {
  const { numpy: np, random } = jax;
  let seed = 100;
  const normal = (rows: number, cols: number, std = cols ** -0.5): JaxArray =>
    random.normal(random.key(seed++), [rows, cols]).mul(std);
  const angles = Array.from(
    { length: seq },
    (_, t) => Array.from({ length: c.headDim / 2 }, (_, i) => t / 10000 ** (2 * i / c.headDim)),
  ).flat();
  const rope = (f: (x: number) => number): JaxArray =>
    np.array(Float32Array.from(angles, f), { shape: [seq, 1, c.headDim / 2] });
  const tables = { embedding: normal(c.vocab, c.hidden, 0.02), cos: rope(Math.cos), sin: rope(Math.sin) };
  return {
    tables: c.tied ? tables : { ...tables, head: normal(c.vocab, c.hidden, 0.02) },
    norms: Array.from({ length: 2 * c.layers + 1 }, () => np.ones([c.hidden])),
    layers: Array.from({ length: c.layers }, () => ({
      q: normal(c.heads * c.headDim, c.hidden),
      k: normal(c.kvHeads * c.headDim, c.hidden),
      v: normal(c.kvHeads * c.headDim, c.hidden),
      o: normal(c.hidden, c.heads * c.headDim),
      gate: normal(c.ffn, c.hidden),
      up: normal(c.ffn, c.hidden),
      down: normal(c.hidden, c.ffn),
    })),
  };
}

function makeParameters(jax: JaxModule, { config: c, rank, targets, masks }: StepCase): Parameters {
  const { numpy: np, random } = jax;
  const out = { q: c.heads * c.headDim, v: c.kvHeads * c.headDim };
  const logAlpha = (shape: readonly number[]): JaxArray => np.full(shape, INITIAL_LOG_ALPHA);
  return {
    lora: Array.from({ length: c.layers }, (_, layer) =>
      Object.fromEntries(targets.flatMap((t, i) => [
        [`${t}A`, random.normal(random.key(1000 + 2 * layer + i), [rank, c.hidden]).mul(c.hidden ** -0.5)],
        [`${t}B`, np.zeros([out[t], rank])],
      ]))),
    logAlpha: masks
      ? { head: logAlpha([c.layers, c.heads]), ffn: logAlpha([c.layers, c.ffn]), hidden: logAlpha([c.hidden]) }
      : {},
  };
}

interface StepParts {
  readonly state: State;
  readonly frozen: Frozen;
  readonly batch: Batch;
  readonly work: StepCase;
  readonly rates: Rates;
}

/** Traced: gradients of LoRA and log α, AdamW and Adam, ascent of λ. */
function updated(
  jax: JaxModule,
  { state, frozen, batch: { tokens, labels, key, correction }, work, rates }: StepParts,
): { state: State; loss: JaxArray } {
  const { tree, numpy: np } = jax;
  const objective = (parameters: Parameters): readonly [JaxArray, { loss: JaxArray; excess: JaxArray }] => {
    const { logAlpha, lora } = parameters;
    const z = sampleMasks(jax, tree.ref(logAlpha), key);
    const loss = crossEntropy(jax, { z, lora, frozen, tokens, labels, work });
    if (!work.masks) return [loss.ref, { loss, excess: np.zeros([]) }];
    const excess = sparsity(jax, logAlpha, work.config).sub(TARGET_SPARSITY);
    const penalty = state.lambda.ref.slice(0).mul(excess.ref)
      .add(state.lambda.ref.slice(1).mul(excess.ref.mul(excess.ref)));
    return [loss.ref.add(penalty), { loss, excess }];
  };
  const [[total, { loss, excess }], gradient] = jax.valueAndGrad(objective, { hasAux: true })(
    tree.ref(state.parameters),
  );
  total.dispose();
  const m = tree.map((m, g) => m.mul(0.9).add(g.mul(0.1)), state.m, tree.ref(gradient));
  const v = tree.map((v, g) => v.mul(0.999).add(g.ref.mul(g).mul(0.001)), state.v, gradient);
  const move = (rate: number, decay: number) => (p: JaxArray, m: JaxArray, v: JaxArray): JaxArray => {
    const ratio = m.div(correction.ref.slice(0)).div(np.sqrt(v.div(correction.ref.slice(1))).add(1e-8));
    return (decay ? p.mul(1 - rate * decay) : p).sub(ratio.mul(rate));
  };
  const old = state.parameters;
  const parameters: Parameters = {
    lora: tree.map(move(rates.lora, 0.01), old.lora, tree.ref(m.lora), tree.ref(v.lora)),
    logAlpha: tree.map(
      (log) => np.clip(log, Math.log(1e-2), Math.log(1e2)),
      tree.map(move(rates.mask, 0), old.logAlpha, tree.ref(m.logAlpha), tree.ref(v.logAlpha)),
    ),
  };
  const rise = np.concatenate([excess.ref.reshape([1]), excess.ref.mul(excess).reshape([1])], 0);
  return { state: { parameters, m, v, lambda: state.lambda.add(rise.mul(LAMBDA_RATE)) }, loss };
}

/** z = clamp(s(ζ − γ) + γ, 0, 1) with s = sigmoid((log u − log(1 − u) + log α)/β). */
function sampleMasks(jax: JaxModule, logAlpha: Named, key: JaxArray): Named {
  const { numpy: np, random, nn } = jax;
  const keys = random.split(key.ref, 3);
  return Object.fromEntries(
    Object.entries(logAlpha).map(([name, log], index) => {
      const u = np.clip(random.uniform(keys.ref.slice(index), log.shape), 1e-6, 1 - 1e-6);
      const s = nn.sigmoid(np.log(u.ref).sub(np.log(u.mul(-1).add(1))).add(log).div(BETA));
      return [name, np.clip(s.mul(ZETA - GAMMA).add(GAMMA), 0, 1)];
    }),
  );
}

/** ŝ = 1 − expected kept / all parameters of the layers; a KV head lives while any head of its group does. */
function sparsity(jax: JaxModule, logAlpha: Named, c: DecoderConfig): JaxArray {
  const { head, ffn, hidden } = jax.tree.map(
    (log) => jax.nn.sigmoid(log.sub(BETA * Math.log(-GAMMA / ZETA))),
    logAlpha,
  );
  if (!head || !ffn || !hidden) throw new Error("a kind of mask is missing");
  const dead = head.ref.mul(-1).add(1).reshape([c.layers * c.kvHeads, c.heads / c.kvHeads]).prod(1).sum();
  const attention = head.sum().sub(dead).add(c.layers * c.kvHeads).mul(2 * c.headDim);
  const all = c.layers * c.hidden * (2 * c.headDim * (c.heads + c.kvHeads) + 3 * c.ffn);
  return hidden.sum().mul(attention.add(ffn.sum().mul(3))).div(-all).add(1);
}

interface Forward {
  readonly z: Named;
  readonly lora: readonly Named[];
  readonly frozen: Frozen;
  readonly tokens: JaxArray;
  readonly labels: JaxArray;
  readonly work: StepCase;
}

/** Mean cross-entropy of the decoder over all tokens. Shapes: x [batch · seq, hidden]. */
function crossEntropy(jax: JaxModule, { z, lora, frozen, tokens, labels, work }: Forward): JaxArray {
  const { numpy: np, nn } = jax;
  const { config: c, batch, seq } = work;
  const rows = batch * seq;
  const product = (x: JaxArray, w: JaxArray): JaxArray =>
    jax.lax.dot(x, w, { lhsContractingDims: [1], rhsContractingDims: [1] });
  const norm = (x: JaxArray, index: number): JaxArray =>
    x.ref.div(np.sqrt(x.ref.mul(x).mean(1, { keepdims: true }).add(1e-5))).mul(get(frozen.norms, index));
  const rotate = (x: JaxArray): JaxArray => {
    const half = c.headDim / 2;
    const first = x.ref.slice([], [], [], [0, half]), second = x.slice([], [], [], [half, c.headDim]);
    const cos = get(frozen.tables, "cos"), sin = get(frozen.tables, "sin");
    return np.concatenate([
      first.ref.mul(cos.ref).sub(second.ref.mul(sin.ref)),
      second.mul(cos).add(first.mul(sin)),
    ], 3);
  };
  const hidden = (x: JaxArray): JaxArray => z.hidden ? x.mul(z.hidden.ref) : x;
  let x = hidden(np.take(get(frozen.tables, "embedding"), tokens.ref, 0));
  for (let layer = 0; layer < c.layers; layer++) {
    const linear = (x: JaxArray, name: string): JaxArray => {
      const a = lora[layer]?.[`${name}A`], b = lora[layer]?.[`${name}B`];
      const y = product(x.ref, get(frozen.layers[layer] ?? {}, name));
      if (a && b) return y.add(product(product(x, a.ref), b.ref)); // α = r, so the scale is 1
      x.dispose();
      return y;
    };
    let h = norm(x.ref, 2 * layer);
    const q = linear(h.ref, "q").reshape([batch, seq, c.heads, c.headDim]);
    const k = linear(h.ref, "k").reshape([batch, seq, c.kvHeads, c.headDim]);
    const v = linear(h, "v").reshape([batch, seq, c.kvHeads, c.headDim]);
    let y = nn.dotProductAttention(rotate(q), rotate(k), v, { isCausal: true });
    if (z.head) y = y.mul(z.head.ref.slice(layer).reshape([c.heads, 1]));
    x = x.add(hidden(linear(y.reshape([rows, c.heads * c.headDim]), "o")));
    h = norm(x.ref, 2 * layer + 1);
    y = nn.silu(linear(h.ref, "gate")).mul(linear(h, "up"));
    if (z.ffn) y = y.mul(z.ffn.ref.slice(layer));
    x = x.add(hidden(linear(y, "down")));
  }
  x = norm(x, 2 * c.layers);
  const head = (): JaxArray => get(frozen.tables, c.tied ? "embedding" : "head");
  let chunk = Math.min(rows, Math.floor(LOGITS_BYTES / 4 / c.vocab));
  while (rows % chunk) chunk--;
  let loss = np.zeros([]);
  for (let from = 0; from < rows; from += chunk) {
    const part = x.ref.slice([from, from + chunk]);
    // The label's logit from its row of the head alone saves passes over the logits.
    const own = np.take(head(), labels.ref.slice([from, from + chunk]), 0).mul(part.ref).sum();
    loss = loss.add(nn.logsumexp(product(part, head()), 1).sum().sub(own));
  }
  x.dispose();
  return loss.div(rows);
}

/** A new reference to an array that must be there. */
function get(arrays: Named | readonly JaxArray[], name: string | number): JaxArray {
  const found = (arrays as Named)[name];
  if (!found) throw new Error(`there is no array ${name}`);
  return found.ref;
}
