// A run that cuts experts and trains nothing: scores them, cuts, compares the cut model with the whole, and writes.
import { refuse } from "../../core/errors.ts";
import type { EncodeReport } from "../../data/encode_report.ts";
import { loadModelFrom, type Model } from "../../model/model.ts";
import type { ExpertUse } from "../../slice/expert_use.ts";
import { keepExperts } from "../../slice/experts.ts";
import { verifyShape, verifySliced } from "../../slice/verify.ts";
import { sourceDigest } from "../../spec/source_digest.ts";
import { sequencesToMeasure } from "../calibration.ts";
import { encodeRun } from "../data.ts";
import { type FinishedRun, sizesOf } from "../finish.ts";
import { nameOfMethod } from "../methods/all.ts";
import { EXPERT_SCORES, type ExpertScores, scoresExperts } from "../methods/experts.ts";
import type { PruneOptions, ResolvedOptions } from "../options/options.ts";
import type { PartTimer } from "../parts_of_time.ts";
import {
  compareQuality,
  type Measured,
  type MeasuredDense,
  measuredSequences,
  measureQuality,
  qualityData,
} from "../quality.ts";
import type { RunPlatform } from "../session.ts";
import type { DoneRun } from "../sink/sink.ts";
import { untrainedOutcome, untrainedRun } from "../untrained.ts";
import { chooseExperts, expertMagnitudes, keptCounts } from "./choose.ts";
import { measureOnSequences } from "./measure.ts";
import { checkScores, type SavedScores } from "./scores_file.ts";
import type { ExpertsSummary } from "./summary.ts";

/** Sequences on which the whole and the cut model are compared, at most. */
const COMPARED = 8;
/** Tokens of a made sequence, where there are no rows. */
const MADE = 32;

/** The measures that a run has taken, and where it takes them from. */
interface Measures {
  readonly use: () => Promise<ExpertUse>;
  readonly magnitude: () => Promise<ExpertScores>;
  readonly saved: () => SavedScores;
}

/**
 * A run without steps on a model whose experts are cut. Scores that are given are used; others are measured on the rows.
 *
 * @throws CompressoError("usage") for a share that leaves fewer experts than a token has.
 * @throws CompressoError("mismatch") for scores of another model.
 * @throws as `encodeRun` for rows that cannot be read.
 */
export async function cutExpertsAlone(
  model: Model,
  { original, resolved, platform: { files, loadTasks }, onMeasured }: {
    readonly original: PruneOptions;
    readonly resolved: ResolvedOptions;
    readonly platform: RunPlatform;
    /** Called with the share of the measures that is done, from 0 to 1. */
    readonly onMeasured?: ((share: number) => void) | undefined;
  },
): Promise<DoneRun> {
  const { source, spec, device } = model, { sparsity, seed } = resolved;
  const { hooks, evaluate, scores: given, signal = new AbortController().signal } = original;
  keptCounts(spec, resolved);
  const digest = await sourceDigest(source);
  if (given) checkScores(given, spec, { digest });
  const data = given && original.rows.length === 0 ? null : encodeRun(model, resolved, original);
  const sequences = (): number[][] => data ? sequencesToMeasure(data, resolved) : [];
  const measures = measuresOf(model, { given, digest, resolved, sequences, onMeasured, signal });
  const score = async (): Promise<ExpertScores> => {
    const name = nameOfMethod(resolved.method);
    if (!scoresExperts(name)) throw new Error(`${name} scores no experts`);
    const counts = spec.layers.map(({ experts }) => experts?.count ?? 0);
    return await EXPERT_SCORES[name]({ counts, seed, use: measures.use, magnitude: measures.magnitude });
  };
  const finish = async (timer: PartTimer): Promise<FinishedRun> => {
    const { heldout, heldoutLabels } = data ?? { heldout: [], heldoutLabels: [] };
    const measured = await qualityData(model, { heldout, heldoutLabels }, {
      seq: resolved.seq,
      most: measuredSequences(resolved),
      evaluation: evaluate,
      loadTasks,
      signal,
    });
    const quality = async (of: Model, dense: MeasuredDense | null = null): Promise<Measured> =>
      await timer.during("quality", () => measureQuality(of, measured, { adapters: {}, dense, signal }));
    const before = await quality(model);
    const scores = await timer.during("preparing", score),
      kept = chooseExperts(spec, scores, { sparsity }),
      cut = keepExperts(source, kept);
    const made = Array.from({ length: MADE }, (_, at) => at % spec.vocab);
    const compared = {
      device,
      adapters: { experts: kept },
      tokens: heldout.length > 0 ? heldout.slice(0, COMPARED) : [made],
      ...verifyShape(resolved),
      signal,
    };
    const maskedVsSliced = await timer.during("check", () => verifySliced(source, cut, compared));
    const { baseDtype } = model.weights, { tokenizer } = model;
    using small = await loadModelFrom(cut, { device, baseDtype, tokenizer, signal });
    const dense = { states: before.states, side: { weights: model.weights, ids: null } };
    const after = await quality(small, dense);
    const total = (counts: readonly (readonly unknown[] | null)[]): number =>
      counts.reduce((sum, own) => sum + (own?.length ?? 0), 0);
    const experts: ExpertsSummary = {
      before: total(scores),
      after: total(kept),
      kept,
      scores,
      use: measures.saved().use,
    };
    const hard = (experts.before - experts.after) / experts.before, { peakBytes } = device;
    return {
      result: untrainedOutcome(source, {
        lora: resolved.lora,
        data: data?.report ?? NO_ROWS,
        sparsity: { target: sparsity, expected: hard, hard },
        peakBytes,
      }),
      sliced: { source: cut, ...sizesOf(cut, { model, options: resolved, dense: model }), maskedVsSliced },
      quality: compareQuality(measured, before, after),
      vocabulary: null,
      experts,
      peakGpuBytes: peakBytes,
    };
  };
  return untrainedRun({
    ...{ model, dense: model, kept: null, files, options: resolved, hooks, sequences, finish, signal },
    scores: measures.saved,
  });
}

/** Measures that are given, or taken once when they are asked for. */
function measuresOf(
  model: Model,
  { given, digest, resolved, sequences, onMeasured, signal }: {
    readonly given: SavedScores | undefined;
    readonly digest: string;
    readonly resolved: ResolvedOptions;
    readonly sequences: () => number[][];
    readonly onMeasured: ((share: number) => void) | undefined;
    readonly signal: AbortSignal;
  },
): Measures {
  const { source, device } = model;
  let use = given?.use ?? null, magnitude = given?.magnitude ?? null;
  return {
    async use(): Promise<ExpertUse> {
      if (use) return use;
      const tokens = sequences(), { seq } = resolved;
      if (tokens.length === 0) throw noUse();
      const { baseDtype } = model.weights;
      return use = await measureOnSequences(source, tokens, { device, seq, baseDtype, signal, onProgress: onMeasured });
    },
    magnitude: async () => magnitude ??= await expertMagnitudes(source, { signal }),
    saved: () => ({ model: digest, use, magnitude }),
  };
}

function noUse(): Error {
  return refuse("input", "cannot score experts", {
    rule: "scores tell how rows used the experts, or there are rows",
    value: "scores without use, and no rows",
    fix: "give rows, or the method magnitude or random",
  });
}

const NONE: readonly number[] = [];

/** The report of a run without rows. */
const NO_ROWS: EncodeReport = {
  ...{ rows: 0, heldOut: 0, examples: 0, truncated: 0, divided: 0, skipped: 0, empty: 0, broken: 0, tokens: 0 },
  ...{ labelTokens: 0, padding: 0, packed: false, leftOver: 0, promptTokens: 0 },
  lines: { truncated: NONE, divided: NONE, skipped: NONE, empty: NONE, broken: NONE },
};
