// Shared settings of the experiments on the demo: its files, how it is pruned, what is measured.
//
// `--file` and `--set` on the command line take the place of what stands here, so that the same experiments run on other models.
const HELDOUT = "../../fixtures/demo_data/heldout.jsonl";

/** Files by name; false is one that a run on another model may name. */
export const FILES = { heldout: HELDOUT, questions: HELDOUT, wikitext: false, tasks: false } as const;

/** Options of every run. */
export const BASE = {
  sparsity: 0.4,
  steps: 30,
  batch: 4,
  seq: 48,
  units: "kv,ffn,hidden",
  loraTargets: "q,k,v,o,gate,up,down",
  loraRate: 2e-3,
} as const;

/** What is measured of every model. */
export const EVALUATE = {
  perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
  rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }],
  choices: [{ name: "held-out questions", file: "@questions", limit: 100, exactMatch: true }],
  tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
} as const;
