// The numbers that every run has, measured or not.
import type { CellOutcome, NumberName } from "./types.ts";

/** A number of a run. */
export interface RunNumber extends NumberName {
  readonly of: (outcome: CellOutcome) => number | null;
}

/** Name of the number that says how far a run's layers lie from all cut alike. */
export const UNEVENNESS = "unevenness of layers";

/** All of them, in the order of the tables. */
export const RUN_NUMBERS: readonly RunNumber[] = [
  { name: "hard sparsity", kind: "share", isMeasure: false, of: ({ sparsity }) => sparsity.hard },
  { name: "parameters", kind: "count", isMeasure: false, of: ({ parameters }) => parameters.after },
  { name: "loss, last 8 steps", kind: "loss", isMeasure: false, of: ({ loss }) => loss.last },
  { name: "loss, worst 5 steps", kind: "loss", isMeasure: false, of: ({ loss }) => loss.worst },
  { name: "roughness of the loss", kind: "loss", isMeasure: false, of: ({ loss }) => loss.roughness },
  { name: "gap to the schedule", kind: "share", isMeasure: false, of: ({ loss }) => loss.gap },
  { name: "undecided units", kind: "share", isMeasure: false, of: ({ undecided }) => undecided?.chance ?? null },
  { name: "fractional masks", kind: "share", isMeasure: false, of: ({ undecided }) => undecided?.value ?? null },
  { name: UNEVENNESS, kind: "share", isMeasure: false, of: ({ cut }) => cut.unevenness },
  { name: "labels seen", kind: "count", isMeasure: false, of: ({ labels }) => labels },
  { name: "rows cut", kind: "count", isMeasure: false, of: ({ cutRows }) => cutRows },
  { name: "prompt, tokens a row", kind: "count", isMeasure: false, of: ({ promptTokens }) => promptTokens },
  { name: "seconds of training", kind: "seconds", isMeasure: false, of: ({ seconds }) => seconds },
];
