// What a run that cuts experts tells of them.
import type { KeptExperts } from "../../nn/experts.ts";
import type { ExpertUse } from "../../slice/expert_use.ts";
import type { ExpertScores } from "../methods/experts.ts";

/** What became of the experts, as run.json holds it. */
export interface ExpertsSummary {
  /** Experts of all layers before the cut. */
  readonly before: number;
  /** Experts of all layers after the cut. */
  readonly after: number;
  /** Numbers of the experts that each layer keeps; null for a dense layer. */
  readonly kept: KeptExperts;
  /** Scores by which they were chosen. */
  readonly scores: ExpertScores;
  /** How rows used them; null for a method that reads no rows. */
  readonly use: ExpertUse | null;
}
