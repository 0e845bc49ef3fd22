// Runs as a report reads them, made up.
import type { ReportRun } from "../../lib/report/read_run.ts";
import type { StepRecord } from "../../lib/run/contract.ts";
import type { RunSummary } from "../../lib/run/result.ts";

const MADE_LOSS = {
  before: 1.9,
  after: 2.15,
  perplexity: { before: 6.69, after: 8.58 },
  bitsPerByte: { before: 0.81, after: 0.92 },
  difference: { difference: 0.25, stderr: 0.05, low: 0.13, high: 0.37 },
  agreement: { kl: 0.081, klError: 0.002, klMedian: 0.03, kl99: 0.9, top1: 0.912, tokens: 640, dropped: 0 },
  labels: 640,
  bytes: 2170,
  sequences: 8,
};
const MADE_SCORE = { acc: 0.62, acc_norm: 0.6, stderr: 0.05, acc_norm_stderr: 0.05, n: 100, truncated: 0 };
const MADE_TASK = {
  before: MADE_SCORE,
  after: { ...MADE_SCORE, acc: 0.55 },
  difference: {
    acc: { difference: -0.07, stderr: 0.03, low: -0.13, high: -0.01 },
    acc_norm: { difference: 0, stderr: 0, low: NaN, high: NaN },
  },
};

/** A record of step `step` of 40: 4 of fine-tuning, 28 of pruning, 8 of fine-tuning. */
export function madeRecord(step: number, change: Partial<StepRecord> = {}): StepRecord {
  const stage = step <= 4 ? "finetune" : step <= 32 ? "prune" : "postfinetune";
  const target = stage === "prune" ? 0.3 * (1 - (1 - (step - 4) / 28) ** 3) : null;
  return {
    stage,
    step,
    steps: 40,
    loss: 2 + Math.exp(-step / 8) + 0.2 * Math.sin(step * 7),
    target,
    expected: target,
    lambda1: target === null ? 0 : 0.1 * target,
    lambda2: target === null ? 0 : 0.2,
    gradNorm: 1,
    learningRate: 1e-3,
    tokens: 100,
    labelTokens: 80,
    tokensPerSecond: 800,
    gpuBytes: 1e7,
    plannedGpuBytes: 1.2e7,
    layers: target === null ? null : [{ heads: target, ffn: target * 1.4, sparsity: target * 1.2 }, {
      heads: 0,
      ffn: target * 0.5,
      sparsity: target * 0.4,
    }],
    alarms: [],
    ...change,
  };
}

const MADE_OPTIONS = { sparsity: 0.3, seed: 1, lora: { rank: 8, targets: ["q", "v"] }, prompt: null };

/** run.json of a run of two layers, each of 4 heads in 2 KV groups and 8 FFN columns. */
export const MADE_SUMMARY: RunSummary = {
  sparsity: { target: 0.3, expected: 0.3, hard: 0.301 },
  validation: null,
  undecided: { chance: 0.02, value: 0.01 },
  parameters: { before: 10_000, after: 7_500 },
  layers: [{ heads: 2, kvHeads: 1, ffn: 4 }, { heads: 4, kvHeads: 2, ffn: 6 }],
  hidden: 15,
  heldoutLoss: MADE_LOSS,
  evaluation: { text: { ...MADE_LOSS, after: 2.5, sequences: 12 }, tasks: { arc_easy: MADE_TASK } },
  vocabulary: null,
  experts: null,
  seconds: { finetune: 1, prune: 20, postfinetune: 3 },
  parts: null,
  wallSeconds: 95,
  resumedAfter: 0,
  changes: [],
  tokensPerSecond: 812,
  peakGpuBytes: 1.1e7,
  maskedVsSliced: { maxAbs: 1e-5, range: 20 },
  before: {
    layers: [{ heads: 4, kvHeads: 2, ffn: 8 }, { heads: 4, kvHeads: 2, ffn: 8 }],
    hidden: 16,
    headDim: 4,
    bytes: 20_000,
  },
  masks: {
    heads: [[1, 0.8, 0, 0], [1, 1, 1, 0.9]],
    ffn: [[1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]],
    hidden: [1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1],
  },
  versions: { compresso: "1.2.3", deno: "4.5.6" },
  fileBytes: [
    { file: "runs/a/model", bytes: 15_000 },
    { file: "runs/a/model.gguf", bytes: 24_000, smaller: [{ dtype: "q8_0", bytes: 12_800 }] },
  ],
  writtenParameters: 7_500,
  ggufDtype: "f16",
  fellBack: 0,
  size: null,
  plannedGpuBytes: 1.2e7,
  alarms: [],
  warnings: [],
  adapter: "a made adapter",
  data: {
    ...{ rows: 50, heldOut: 8, examples: 50, truncated: 0, divided: 0, skipped: 0, empty: 0, broken: 0 },
    ...{ tokens: 4_000, labelTokens: 3_200, padding: 100, packed: false, leftOver: 0, promptTokens: 0 },
    lines: { truncated: [], divided: [], skipped: [], empty: [], broken: [] },
  },
  options: MADE_OPTIONS as unknown as RunSummary["options"],
  inputs: {},
  origin: [
    { role: "model", name: "dense.gguf", bytes: 20_480 },
    { role: "data", name: "rows.jsonl", bytes: 9_000 },
  ],
  files: [],
  skipped: [],
};

/** A finished run with {@link MADE_SUMMARY}; `change` replaces parts. */
export function madeRun(name: string, change: Partial<ReportRun> = {}): ReportRun {
  return {
    name,
    folder: `runs/${name}`,
    records: Array.from({ length: 40 }, (_, index) => madeRecord(index + 1)),
    summary: MADE_SUMMARY,
    options: MADE_OPTIONS,
    adapter: MADE_SUMMARY.adapter,
    origin: MADE_SUMMARY.origin,
    liveMasks: null,
    unread: [],
    evaluations: [{
      name: "eval",
      file: "runs/made/eval.json",
      scores: [{ task: "arc_easy", metric: "acc", value: 0.5, stderr: 0.01, count: 2376, change: null }],
    }],
    alarms: [],
    ...change,
  };
}
