// RoPE: the table against Hugging Face transformers, the kernel against f64.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { headStride, paddedRows, strideOf } from "../../lib/nn/padding.ts";
import { ropeFrequencies, ropeTable } from "../../lib/spec/rope.ts";
import { recordRope } from "../../lib/nn/rope.ts";
import type { RopeScaling } from "../../lib/spec/decoder.ts";
import { refuses } from "../refuses.ts";

/*
 * Made with transformers 5.24 (and likewise with the other rope_parameters below):
 *   from transformers import LlamaConfig
 *   from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
 *   LlamaRotaryEmbedding(LlamaConfig(hidden_size=16, num_attention_heads=1, head_dim=16, rope_parameters=dict(rope_type="llama3",
 *     rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=1024))).inv_freq.tolist()
 * which calls ROPE_INIT_FUNCTIONS["linear"], ["llama3"] and ["yarn"]; cos and sin are those of position 7.
 */
const GOLDEN: readonly { base: number; scaling: RopeScaling; frequencies: number[]; cos: number[]; sin: number[] }[] = [
  {
    base: 10000,
    scaling: { kind: "none" },
    frequencies: [
      1.0,
      0.3162277638912201,
      0.10000000149011612,
      0.03162277862429619,
      0.009999999776482582,
      0.003162277862429619,
      0.0010000000474974513,
      0.0003162277862429619,
    ],
    cos: [
      0.7539022564888,
      -0.5994374752044678,
      0.7648422122001648,
      0.9755998849868774,
      0.9975510239601135,
      0.9997550249099731,
      0.9999755024909973,
      0.9999975562095642,
    ],
    sin: [
      0.6569865942001343,
      0.8004215955734253,
      0.6442176699638367,
      0.21955610811710358,
      0.06994284689426422,
      0.02213413640856743,
      0.0069999429397284985,
      0.002213592641055584,
    ],
  },
  {
    base: 10000,
    scaling: { kind: "linear", factor: 4 },
    frequencies: [
      0.25,
      0.07905694097280502,
      0.02500000037252903,
      0.007905694656074047,
      0.0024999999441206455,
      0.0007905694656074047,
      0.0002500000118743628,
      7.905694656074047e-05,
    ],
    cos: [
      -0.17824605107307434,
      0.8507431745529175,
      0.9847265481948853,
      0.9984691143035889,
      0.999846875667572,
      0.9999846816062927,
      0.9999984502792358,
      0.9999998807907104,
    ],
    sin: [
      0.983985960483551,
      0.5255815982818604,
      0.1741081327199936,
      0.055311620235443115,
      0.017499106004834175,
      0.005533957853913307,
      0.0017499991226941347,
      0.0005533986259251833,
    ],
  },
  {
    base: 500000,
    scaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPosition: 1024 },
    frequencies: [
      1.0,
      0.193922758102417,
      0.03760603070259094,
      0.0013125694822520018,
      0.00017677668074611574,
      3.428102354519069e-05,
      6.647869668086059e-06,
      1.289173155782919e-06,
    ],
    cos: [
      0.7539022564888,
      0.2117224484682083,
      0.9655513763427734,
      0.999957799911499,
      0.9999992251396179,
      1.0,
      1.0,
      1.0,
    ],
    sin: [
      0.6569865942001343,
      0.9773298501968384,
      0.2602124512195587,
      0.009187856689095497,
      0.00123743643052876,
      0.00023996716481633484,
      4.653508949559182e-05,
      9.024211976793595e-06,
    ],
  },
  // With max_position_embeddings=4096.
  {
    base: 10000,
    scaling: { kind: "yarn", factor: 8, betaFast: 16, betaSlow: 2, attention: 1.25, originalMaxPosition: 512 },
    frequencies: [
      1.0,
      0.3162277638912201,
      0.07083333283662796,
      0.01317615807056427,
      0.0012499999720603228,
      0.00039528473280370235,
      0.0001250000059371814,
      3.9528473280370235e-05,
    ],
    cos: [
      0.9423778057098389,
      -0.7492968440055847,
      1.0994657278060913,
      1.2446869611740112,
      1.2499521970748901,
      1.249995231628418,
      1.2499995231628418,
      1.2499998807907104,
    ],
    sin: [
      0.8212332725524902,
      1.000527024269104,
      0.5947059988975525,
      0.11512799561023712,
      0.010937360115349293,
      0.0034587369300425053,
      0.001093749888241291,
      0.00034587414120323956,
    ],
  },
];

for (const { base, scaling, frequencies, cos, sin } of GOLDEN) {
  Deno.test(`ropeTable() matches Hugging Face transformers with scaling '${scaling.kind}'`, () => {
    const spec = { headDim: 16, rope: { base, scaling } };
    ropeFrequencies(spec).forEach((frequency, i) => {
      const want = frequencies[i] ?? NaN; // of some f32 operations
      assert.ok(Math.abs(frequency / want - 1) < 5e-7, `frequency ${i}: ${frequency} against ${want}`);
    });
    const table = ropeTable(spec, 8);
    assert.equal(table.length, 8 * 8 * 2);
    for (let i = 0; i < 8; i++) {
      // The reference multiplies an f32 frequency: 7 · 6e-8 radians.
      for (const [offset, golden] of [[0, cos], [1, sin]] as const) {
        const got = table[(7 * 8 + i) * 2 + offset] ?? NaN, want = golden[i] ?? NaN;
        assert.ok(Math.abs(got - want) < 1e-6, `position 7, pair ${i}: ${got} against ${want}`);
      }
    }
  });
}

/**
 * Frequencies of YaRN (Peng et al. 2023, appendix A.2, and the paper's code) in f64. Pair i turns n times in the original
 * context where i = dims · ln(original / 2πn) / (2 ln base). With γ = 1 up to the pair of betaFast, 0 from that of
 * betaSlow, and linear between whole pairs, the frequency is (γ + (1 − γ) / factor) · base^(−2i / dims).
 */
function yarnFrequencies(
  { factor, betaFast, betaSlow, originalMaxPosition }: Extract<RopeScaling, { kind: "yarn" }>,
  { base, dims }: { readonly base: number; readonly dims: number },
): number[] {
  const pairOf = (turns: number): number =>
    dims / 2 * Math.log(originalMaxPosition / (2 * Math.PI * turns)) / Math.log(base);
  const fast = Math.max(Math.floor(pairOf(betaFast)), 0), slow = Math.min(Math.ceil(pairOf(betaSlow)), dims - 1);
  return Array.from({ length: dims / 2 }, (_, i) => {
    const gamma = i <= fast ? 1 : i >= slow ? 0 : (slow - i) / (slow - fast);
    return (gamma + (1 - gamma) / factor) * base ** (-2 * i / dims);
  });
}

Deno.test("ropeFrequencies() of YaRN is the published formula in f64, also where the ramp is cut off", () => {
  const common = { kind: "yarn", factor: 4, betaFast: 32, betaSlow: 1, attention: 1 } as const;
  for (
    const [scaling, base, dims] of [
      [{ ...common, originalMaxPosition: 4096 }, 1e4, 128],
      [{ ...common, factor: 40, betaFast: 8, betaSlow: 3, originalMaxPosition: 32768 }, 1e6, 18],
      // The ramp begins before the first pair, ends after the last one, and has no width.
      [{ ...common, originalMaxPosition: 64 }, 1e4, 32],
      [{ ...common, betaFast: 1e5, originalMaxPosition: 1 << 20 }, 100, 8],
      [{ ...common, betaFast: 1, originalMaxPosition: 6 }, 1e4, 6],
    ] as const
  ) {
    const found = ropeFrequencies({ headDim: dims, rope: { base, scaling } });
    const wanted = yarnFrequencies(scaling, { base, dims });
    assert.equal(found.length, wanted.length);
    for (const [i, want] of wanted.entries()) {
      const got = found[i] ?? NaN; // both in f64, of a dozen operations
      assert.ok(Math.abs(got / want - 1) < 1e-13, `base ${base}, pair ${i} of ${dims}: ${got} against ${want}`);
    }
  }
});

Deno.test("ropeTable() of queries is that of keys times 1 + b · ln(1 + floor(p / original))", () => {
  const scaling = {
    kind: "yarn",
    factor: 4,
    betaFast: 32,
    betaSlow: 1,
    attention: 1.5,
    originalMaxPosition: 3,
  } as const;
  const of = (queryGrowth: number): Parameters<typeof ropeTable>[0] => ({
    headDim: 4,
    rope: { base: 100, scaling: { ...scaling, queryGrowth } },
  });
  const keys = ropeTable(of(0.7), 8), queries = ropeTable(of(0.7), 8, { of: "q" });
  assert.deepEqual(keys, ropeTable({ headDim: 4, rope: { base: 100, scaling } }, 8));
  const factors = [1, 1, 1, 1 + 0.7 * Math.log(2), 1 + 0.7 * Math.log(2), 1 + 0.7 * Math.log(2)];
  factors.push(1 + 0.7 * Math.log(3), 1 + 0.7 * Math.log(3));
  queries.forEach((value, at) => {
    const want = (keys[at] ?? NaN) * (factors[Math.floor(at / 4)] ?? NaN);
    assert.ok(Math.abs(value - want) < 1e-6, `value ${at}: ${value} against ${want}`);
  });
});

Deno.test("ropeFrequencies() divides by the factors and refuses a wrong number of them", () => {
  const spec = (factors: number[]) => ({
    headDim: 4,
    rope: { base: 100, scaling: { kind: "factors", factors } as const },
  });
  assert.deepEqual([...ropeFrequencies(spec([2, 5]))], [0.5, 0.02]);
  refuses(() => ropeFrequencies(spec([2])), "input", { names: "RoPE" });
});

Deno.test("LongRoPE takes the short or long factors by the length of the sequence, and scales cos and sin", () => {
  /*
   * transformers 5.24, Phi3RotaryEmbedding of Phi3Config(hidden_size=20, num_attention_heads=2, max_position_embeddings=64,
   *   original_max_position_embeddings=8, rope_parameters=dict(rope_type="longrope", rope_theta=100.0,
   *   short_factor=[1.0, 1.5], long_factor=[2.0, 7.0], partial_rotary_factor=0.4)) at position 5 of 8 and of 9
   */
  const scaling = {
    kind: "longrope",
    short: [1, 1.5],
    long: [2, 7],
    attention: Math.SQRT2,
    originalMaxPosition: 8,
  } as const;
  const spec = { headDim: 10, rope: { base: 100, scaling, dims: 4 } };
  const golden = new Map([
    [8, [0.4011589288711548, -1.356123685836792, 1.3363709449768066, 0.4627231955528259]],
    [9, [-1.1329880952835083, 0.846367359161377, 1.4106073379516602, 0.1009293794631958]],
  ]);
  for (const [positions, want] of golden) {
    const table = ropeTable(spec, positions);
    assert.equal(table.length, positions * 4);
    for (let i = 0; i < 4; i++) {
      const got = table[5 * 4 + i] ?? NaN;
      assert.ok(Math.abs(got - (want[i] ?? NaN)) < 1e-6, `${positions} positions, ${i}: ${got}`);
    }
  }
});

const CASES: readonly { rows: number; seq: number; heads: number; headDim: number; dims?: number }[] = [
  { rows: 1, seq: 1, heads: 1, headDim: 2 },
  { rows: 21, seq: 7, heads: 3, headDim: 6 },
  { rows: 33, seq: 33, heads: 9, headDim: 64 },
  // The first dims of each head alone.
  { rows: 21, seq: 7, heads: 3, headDim: 6, dims: 2 },
  { rows: 33, seq: 33, heads: 5, headDim: 20, dims: 14 },
];

for (const offset of [undefined, 5]) {
  Deno.test(`recordRope() turns by the position${offset ? " of a position buffer" : ""}, and back`, async () => {
    using device = await openDevice();
    for (const { rows, seq, heads, headDim, dims = headDim } of CASES) {
      const hs = headStride(headDim), stride = strideOf(heads * hs), half = dims / 2, positions = 48;
      const spec = { headDim, rope: { base: 10000, scaling: { kind: "none" } as const, dims } };
      const x = Float32Array.from({ length: paddedRows(rows) * stride }, (_, i) => Math.sin(i * 0.37)); // padding must stay too
      const want = Float64Array.from(x);
      for (let m = 0; m < rows; m++) {
        for (let h = 0; h < heads; h++) {
          ropeFrequencies(spec).forEach((frequency, i) => {
            const angle = (m % seq + (offset ?? 0)) * frequency, at = m * stride + h * hs + i;
            const a = x[at] ?? NaN, b = x[at + half] ?? NaN;
            want[at] = a * Math.cos(angle) - b * Math.sin(angle);
            want[at + half] = b * Math.cos(angle) + a * Math.sin(angle);
          });
        }
      }
      using buffer = device.uploadBuffer("x", x);
      using cosSin = device.uploadBuffer("table", ropeTable(spec, positions));
      using position = device.uploadBuffer("position", new Uint32Array([offset ?? 0]));
      const options = {
        rows,
        seq,
        heads,
        headDim,
        dims,
        buffer,
        stride,
        cosSin,
        ...(offset ? { positionBuffer: position } : {}),
      };
      using turn = new Plan(device);
      recordRope(turn, options);
      await turn.run();
      assertNear(await device.readFloats(buffer, x.length), want, 5e-7); // four f32 roundings of values ≤ 1.5
      using back = new Plan(device);
      recordRope(back, { ...options, inverse: true });
      await back.run();
      assertNear(await device.readFloats(buffer, x.length), Float64Array.from(x), 1e-6); // twice that
    }
  });
}

function assertNear(got: Float32Array, want: Float64Array, tolerance: number): void {
  let worst = 0;
  want.forEach((value, i) => {
    if (!(Math.abs((got[i] ?? NaN) - value) <= Math.abs((got[worst] ?? NaN) - (want[worst] ?? NaN)))) worst = i;
  });
  const error = Math.abs((got[worst] ?? NaN) - (want[worst] ?? NaN));
  assert.ok(error <= tolerance, `error ${error} > ${tolerance} at ${worst}: ${got[worst]} against ${want[worst]}`);
}
