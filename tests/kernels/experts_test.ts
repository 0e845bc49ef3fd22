// Experts against their definition in f64: which are chosen, how pairs are sorted, and what they add to a token.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { recordUse } from "../../lib/nn/expert_use.ts";
import { createExpertActivations, openExperts, recordExperts, routingOf } from "../../lib/nn/experts.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { createMatrix, type Matrix, readRows, type ValueDtype, writeRows } from "../../lib/nn/products/matrix.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { random } from "./helpers/cells.ts";

const device = await openDevice();
const NONE = 0xffffffff;

interface Case {
  readonly rows: number;
  readonly experts: number;
  readonly topK: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly renormalised?: true;
  readonly scores?: "sigmoid";
  readonly scale?: number;
  /** What is added to the scores for the choice. */
  readonly bias?: (expert: number) => number;
  readonly shared?: "added" | "gated";
  readonly dtype?: ValueDtype;
  readonly placement?: "buffer" | "texture";
  /** Rows of a shard of W at most. */
  readonly shard?: number;
  /** The logits of the router; default: random ones. */
  readonly logit?: (row: number, expert: number) => number;
  /** Experts that may be chosen; default: all. They belong to the second of two layers. */
  readonly open?: readonly number[];
}

const CASES: Readonly<Record<string, Case>> = {
  "of one token": { rows: 1, experts: 3, topK: 1, hidden: 5, ffn: 3 },
  "of one token with all experts": { rows: 1, experts: 7, topK: 7, hidden: 63, ffn: 65, renormalised: true },
  "without a token for one of them": {
    rows: 19,
    experts: 4,
    topK: 2,
    hidden: 33,
    ffn: 7,
    logit: (row, expert) => expert === 2 ? -50 : Math.sin(row * 3 + expert),
  },
  "with all tokens at one of them": {
    rows: 41,
    experts: 5,
    topK: 1,
    hidden: 64,
    ffn: 9,
    logit: (_, expert) => expert === 3 ? 4 : 0,
  },
  "of equal logits": { rows: 9, experts: 6, topK: 3, hidden: 17, ffn: 5, logit: () => 1 },
  "of a tile less and a tile more": {
    rows: 15,
    experts: 2,
    topK: 1,
    hidden: 65,
    ffn: 64,
    logit: (m, e) => (m < 7 ? e : -e),
  },
  "of many tokens": { rows: 257, experts: 8, topK: 2, hidden: 96, ffn: 33, renormalised: true },
  "with a shared one": { rows: 6, experts: 4, topK: 2, hidden: 20, ffn: 6, shared: "added" },
  "with a gated shared one": { rows: 70, experts: 4, topK: 2, hidden: 20, ffn: 6, shared: "gated" },
  "in buffers": { rows: 23, experts: 4, topK: 2, hidden: 40, ffn: 12, placement: "buffer" },
  "in textures": { rows: 23, experts: 4, topK: 2, hidden: 40, ffn: 12, placement: "texture" },
  "of f16": { rows: 23, experts: 4, topK: 2, hidden: 40, ffn: 12, dtype: "f16" },
  "of q8": { rows: 23, experts: 4, topK: 2, hidden: 64, ffn: 32, dtype: "q8" },
  "of q4 in buffers": { rows: 23, experts: 4, topK: 2, hidden: 64, ffn: 32, dtype: "q4", placement: "buffer" },
  "of which two are closed": { rows: 21, experts: 5, topK: 2, hidden: 24, ffn: 6, open: [0, 2, 3] },
  "of which as many are open as a token has": {
    rows: 10,
    experts: 4,
    topK: 2,
    hidden: 24,
    ffn: 6,
    renormalised: true,
    open: [1, 3],
    logit: (row, expert) => expert === 0 ? 90 : Math.cos(row + expert) - 40,
  },
  "by sigmoids": { rows: 23, experts: 5, topK: 2, hidden: 40, ffn: 12, scores: "sigmoid" },
  "by sigmoids with a bias and a factor": {
    rows: 65,
    experts: 7,
    topK: 3,
    hidden: 24,
    ffn: 5,
    scores: "sigmoid",
    scale: 1.75,
    renormalised: true,
    bias: (expert) => 0.6 * Math.sin(expert * 7),
  },
  "of equal sums of score and bias": {
    rows: 3,
    experts: 6,
    topK: 4,
    hidden: 8,
    ffn: 3,
    scores: "sigmoid",
    bias: (expert) => expert % 2 / 4,
    logit: () => 0,
  },
  "by probabilities with a bias, two closed": {
    rows: 33,
    experts: 6,
    topK: 2,
    hidden: 24,
    ffn: 5,
    renormalised: true,
    bias: (expert) => 0.4 * Math.cos(expert * 5),
    open: [0, 2, 3, 5],
  },
  "that shards divide": { rows: 30, experts: 5, topK: 2, hidden: 48, ffn: 50, shard: 64 },
};

const silu = (x: number): number => x / (1 + Math.exp(-x));

/** The experts of a token by falling scores with their bias, then rising numbers, and their weights. */
function chosen(given: Float64Array, own: Case): { expert: number; weight: number }[] {
  const { topK, renormalised, open, scores, scale = 1, bias = () => 0 } = own;
  const logits = given.map((value, expert) => open && !open.includes(expert) ? -Infinity : value);
  const top = Math.max(...logits), p = logits.map((value) => Math.exp(value - top));
  const total = p.reduce((a, b) => a + b, 0);
  const score = (e: number): number =>
    scores === "sigmoid" ? 1 / (1 + Math.exp(-(logits[e] ?? NaN))) : (p[e] ?? NaN) / total;
  const ranks = Array.from(logits, (logit, e) => logit === -Infinity ? logit : own.bias ? score(e) + bias(e) : logit);
  const order = [...ranks.keys()].sort((a, b) => (ranks[b] ?? 0) - (ranks[a] ?? 0) || a - b).slice(0, topK);
  const kept = renormalised ? order.reduce((sum, expert) => sum + score(expert), 0) : 1;
  return order.map((expert) => ({ expert, weight: scale * score(expert) / kept }));
}

for (const [name, own] of Object.entries(CASES)) {
  Deno.test(`experts ${name} add what their definition says`, async () => {
    const { rows, experts: count, topK, hidden, ffn, dtype = "f32", shared } = own;
    using owned = new DisposableStack();
    const placed = { ...own.placement ? { placement: own.placement } : {}, maxShardRows: own.shard ?? Infinity };
    const matrix = (label: string, out: number, cols: number, seed: number): Matrix => {
      const made = owned.use(createMatrix(device, label, { rows: out, cols, dtype, ...placed }));
      writeRows(device, made, 0, random(out * cols, seed));
      return made;
    };
    const gate = matrix("gate", count * ffn, hidden, 1), up = matrix("up", count * ffn, hidden, 2);
    const down = matrix("down", count * hidden, ffn, 3), router = matrix("router", count, hidden, 4);
    const sharedGate = shared === "gated" ? matrix("shared gate", 1, hidden, 5) : null;
    const [g, u, d] = await Promise.all(
      ([gate, up, down] as const).map((one) => readRows(device, one, 0, one.rows)),
    );
    assert.ok(g && u && d);
    const noise = random(rows * count, 6), stride = strideOf(count), width = strideOf(hidden);
    const logits = new Float32Array(rows * stride), scores = random(rows, 9), h = new Float32Array(rows * width);
    for (let m = 0; m < rows; m++) {
      for (let e = 0; e < count; e++) logits[m * stride + e] = own.logit?.(m, e) ?? 3 * (noise[m * count + e] ?? 0);
      h.set(random(hidden, 20 + m), m * width);
    }
    const given = owned.use(device.uploadBuffer("logits", logits)), input = owned.use(device.uploadBuffer("h", h));
    const gates = new Float32Array(rows * strideOf(1));
    scores.forEach((score, m) => gates[m * strideOf(1)] = score);
    const gateLogits = owned.use(device.uploadBuffer("gates", gates));
    const before = random(rows * width, 8), y = owned.use(device.uploadBuffer("y", before));
    const counts = { count, ffn };
    const spec: DecoderSpec = {
      vocab: 4,
      hidden,
      headDim: 2,
      layers: [
        ...own.open ? [{ heads: 1, kvHeads: 1, ffn: 0, experts: { count: 3, ffn } }] : [],
        { heads: 1, kvHeads: 1, ffn: shared ? 4 : 0, experts: counts },
      ],
      router: {
        topK,
        ...own.renormalised ? { renormalised: true } : {},
        ...own.scores ? { scores: own.scores } : {},
        ...own.scale ? { scale: own.scale } : {},
        ...own.bias ? { choiceBias: true } : {},
      },
      normEps: 1e-5,
      rope: { base: 1e4, scaling: { kind: "none" } },
      tied: true,
      maxPosition: 8,
      bosId: null,
      eosIds: [],
      padId: null,
    };
    const act = createExpertActivations(device, spec, { rows, own: (resource) => owned.use(resource) });
    assert.ok(act);
    if (own.open) device.write(act.open, openExperts(spec, [[0, 1, 2], own.open]));
    using plan = new Plan(device);
    const choiceBias = own.bias
      ? owned.use(device.uploadBuffer("bias", Float32Array.from({ length: count }, (_, e) => own.bias?.(e) ?? NaN)))
      : null;
    recordExperts(plan, { router, choiceBias, gate, up, down, sharedGate }, {
      act,
      spec,
      index: own.open ? 1 : 0,
      counts,
      rows,
      h: input,
      y,
      hasShared: shared !== undefined,
      multiply: (of, to) => {
        const source = of === router ? given : gateLogits;
        plan.copy(source, to, { bytes: source.bytes });
      },
    });
    await plan.run();
    const { tile, tiles, pairs } = routingOf(rows, { topK }, count);
    const [choice, slotOf, slots, tileOf, used] = (await device.read([
      { buffer: act.choice, bytes: 4 * pairs },
      { buffer: act.slotOf, bytes: 4 * pairs },
      { buffer: act.slots, bytes: 4 * tiles * tile },
      { buffer: act.tiles, bytes: 4 * tiles },
      { buffer: act.counts, bytes: 4 * count },
    ])).map((bytes) => new Uint32Array(bytes));
    assert.ok(choice && slotOf && slots && tileOf && used);
    const actual = await device.readFloats(y, rows * width);
    let worst = { off: 0, at: 0 };
    for (let m = 0; m < rows; m++) {
      const own64 = Float64Array.from(logits.subarray(m * stride, m * stride + count));
      const wanted = chosen(own64, own), sum = new Float64Array(hidden);
      assert.deepEqual(
        [...choice.subarray(m * topK, (m + 1) * topK)],
        wanted.map(({ expert }) => expert),
        `token ${m}`,
      );
      for (const { expert, weight } of wanted) {
        const a = Float64Array.from({ length: ffn }, (_, c) => {
          let [ofGate, ofUp] = [0, 0];
          for (let k = 0; k < hidden; k++) {
            const x = h[m * width + k] ?? NaN, at = (expert * ffn + c) * hidden + k;
            ofGate += x * (g[at] ?? NaN);
            ofUp += x * (u[at] ?? NaN);
          }
          return silu(ofGate) * ofUp;
        });
        for (let n = 0; n < hidden; n++) {
          const at = (expert * hidden + n) * ffn;
          sum[n] = (sum[n] ?? NaN) + weight * a.reduce((all, value, c) => all + value * (d[at + c] ?? NaN), 0);
        }
      }
      const share = shared === "gated" ? 1 / (1 + Math.exp(-(scores[m] ?? 0))) : shared ? 1 : 0;
      for (let n = 0; n < hidden; n++) {
        const at = m * width + n, value = (sum[n] ?? NaN) + share * (before[at] ?? NaN);
        const off = Math.abs((actual[at] ?? NaN) - value);
        if (!(off <= worst.off)) worst = { off, at };
      }
    }
    // Products of 100 factors below 1: sums of some tens, rounded some hundred times.
    assert.ok(
      worst.off < 1e-4,
      `off by ${worst.off} at token ${Math.floor(worst.at / width)}, column ${worst.at % width}`,
    );
    // Every pair has a slot in a tile of its expert; all other slots are padding.
    for (const [pair, slot] of slotOf.entries()) {
      assert.equal(slots[slot], pair);
      assert.equal(tileOf[Math.floor(slot / tile)], choice[pair]);
    }
    const inUse = [...tileOf.keys()].filter((at) => tileOf[at] !== NONE);
    const filled = inUse.flatMap((at) => [...slots.subarray(at * tile, (at + 1) * tile)]).filter((pair) =>
      pair !== NONE
    );
    assert.equal(filled.length, pairs);
    assert.deepEqual([...used], Array.from({ length: count }, (_, e) => choice.filter((one) => one === e).length));
  });
}

Deno.test("tiles suffice for every way in which tokens can choose", () => {
  for (const [rows, topK, count] of [[1, 1, 1], [1, 8, 128], [9, 2, 3], [64, 4, 8], [100, 1, 64]] as const) {
    const { pairs, tile, tiles } = routingOf(rows, { topK }, count);
    // The most tiles: every expert with a pair has one slot in its last tile.
    for (let used = topK; used <= Math.min(count, pairs); used++) {
      const rest = pairs - used;
      assert.ok(Math.floor(rest / tile) + used <= tiles, `${rows} tokens, ${used} experts`);
    }
  }
});

for (
  const [rows, topK, count, hidden] of [
    [1, 1, 1, 1],
    [1, 3, 3, 5],
    [7, 2, 5, 63],
    [65, 1, 63, 64],
    [31, 4, 65, 257],
    [300, 8, 128, 40],
  ] as const
) {
  Deno.test(`the use of ${count} experts by ${rows} tokens, ${topK} each, is what its definition says`, async () => {
    using owned = new DisposableStack();
    const upload = (label: string, values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>) =>
      owned.use(device.uploadBuffer(label, values));
    const pairs = rows * topK, width = strideOf(hidden), slotCount = pairs + 3;
    // Slots in reverse, with three that no pair has; columns beyond the width are zeros, as in memory.
    const slotOf = Uint32Array.from({ length: pairs }, (_, pair) => slotCount - 1 - pair);
    const choice = Uint32Array.from(
      { length: pairs },
      (_, pair) => (Math.floor(pair / topK) * 5 + pair % topK) % count,
    );
    const weights = random(pairs, 1).map((value) => Math.abs(value) + 0.01), out = new Float32Array(slotCount * width);
    for (let slot = 0; slot < slotCount; slot++) out.set(random(hidden, 2 + slot), slot * width);
    const keep = Uint32Array.from({ length: rows }, (_, row) => row % 3 === 1 ? 0 : 1);
    const parts = owned.use(device.createBuffer("parts", 8 * pairs));
    const use = upload("use", random(3 * count, 9));
    using plan = new Plan(device);
    recordUse(plan, {
      weights: upload("weights", weights),
      choice: upload("choice", choice),
      slotOf: upload("slot of", slotOf),
      out: upload("out", out),
      keep: upload("keep", keep),
      parts,
      use,
    }, { pairs, count, topK, hidden });
    await plan.run();
    const wanted = new Float64Array(3 * count);
    for (let pair = 0; pair < pairs; pair++) {
      const row = Math.floor(pair / topK), at = 3 * (choice[pair] ?? 0), first = (slotOf[pair] ?? 0) * width;
      if (keep[row] === 0) continue;
      const total = weights.subarray(row * topK, (row + 1) * topK).reduce((sum, value) => sum + value, 0);
      const share = (weights[pair] ?? NaN) / total, norm = Math.hypot(...out.subarray(first, first + width));
      for (const [place, value] of [1, share, share * norm].entries()) {
        wanted[at + place] = (wanted[at + place] ?? NaN) + value;
      }
    }
    const actual = await device.readFloats(use, 3 * count);
    for (const [at, value] of wanted.entries()) {
      // Sums of up to 300 positive values in f32.
      assert.ok(Math.abs((actual[at] ?? NaN) - value) <= 2e-5 * value, `${at}: ${actual[at]} for ${value}`);
    }
  });
}
