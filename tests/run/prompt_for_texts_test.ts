// A prompt of one's own beside rows that are texts, which get none. On the demo's tokenizer.
import { type Row, toRow } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { COLLABORATIVE_PROMPT } from "../../lib/data/mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { encodeRun } from "../../lib/run/data.ts";
import { refuses } from "../refuses.ts";

const { source: { spec }, tokenizer } = await openModelFiles("demo");
const TEXTS: readonly Row[] = Array.from({ length: 4 }, () => toRow({ text: "Tom went to Rome." }));
const ASKING = toRow({ instruction: "Name a colour.", output: "Red." });

function encodes(given: Omit<RunOptions, "steps">): void {
  const options = { sparsity: 0.2, steps: 1, batch: 1, seq: 64, ...given };
  encodeRun({ tokenizer, spec }, resolveOptions(options, spec), options);
}

Deno.test("a prompt of one's own is refused where all rows are texts, and taken where one is none or the run goes on", () => {
  const prompt = "Be small.", refused = { names: "prompt" };
  refuses(() => encodes({ rows: TEXTS, prompt }), "usage", refused);
  refuses(() => encodes({ rows: TEXTS, prompt, calibration: TEXTS }), "usage", refused);
  encodes({ rows: [...TEXTS, ASKING], prompt });
  encodes({ rows: TEXTS, prompt, calibration: [ASKING] });
  encodes({ rows: TEXTS, prompt, checkpoint: { path: "checkpoint.safetensors", every: 1, resume: true } });
});

Deno.test("texts are encoded with the prompt that is the default of all rows, named or not, and with none", () => {
  encodes({ rows: TEXTS });
  encodes({ rows: TEXTS, prompt: null });
  encodes({ rows: TEXTS, prompt: COLLABORATIVE_PROMPT });
});
