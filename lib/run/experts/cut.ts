// A run that cuts experts and trains nothing: scores them, cuts, compares the cut model with the whole, and writes.
import { refuse } from "../../core/errors.ts";
import type { EncodeReport } from "../../data/encode_report.ts";
import { loadModelFrom } from "../../model/model.ts";
import type { OpenedModel } from "../../model/opened.ts";
import { grouped } from "../../slice/by_layers.ts";
import type { ExpertUse, LayerUse } from "../../slice/expert_use.ts";
import { keepExperts } from "../../slice/experts.ts";
import { comparedTokens, verifyShape } from "../../slice/verify.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { sourceDigest } from "../../spec/source_digest.ts";
import type { WeightSource } from "../../spec/source.ts";
import { sequencesToMeasure } from "../calibration.ts";
import { encodeRun } from "../data.ts";
import { type FinishedRun, sizesOf } from "../finish.ts";
import { checkMemory } from "../memory/advice.ts";
import { adapterOf } from "../memory/plan.ts";
import { nameOfMethod } from "../methods/all.ts";
import {
  EXPERT_SCORES,
  type ExpertMethodName,
  type ExpertScores,
  scoresExperts,
  scoresUse,
} from "../methods/experts.ts";
import type { PruneOptions, ResolvedOptions } from "../options/options.ts";
import { memoryOptionsOf } from "../options/resolve.ts";
import type { PartTimer } from "../parts_of_time.ts";
import {
  checkWindow,
  compareQuality,
  type Measured,
  type MeasuredRow,
  measuredRows,
  measuredSequences,
  measureQuality,
  qualityData,
} from "../quality.ts";
import type { RunPlatform } from "../session.ts";
import type { DoneRun } from "../sink/sink.ts";
import { untrainedOutcome, untrainedRun } from "../untrained.ts";
import { groupOf, measureAtHead } from "./at_head.ts";
import { expertMagnitudes, highest, keptCounts } from "./choose.ts";
import { scoredGroups } from "./measure.ts";
import { checkScores, type SavedScores } from "./scores_file.ts";
import { streamCut, type Streamed } from "./stream.ts";
import type { ExpertsSummary } from "./summary.ts";

/** Tokens of a made sequence, where there are no rows. */
const MADE = 32;

/**
 * A run without steps on a model whose experts are cut. Scores that are given are used; others are measured on the rows.
 * The model is read from its source half a layer at a time, also if it is loaded. Tasks alone load a whole model.
 *
 * @throws CompressoError("usage") for a share that leaves fewer experts than a token has.
 * @throws CompressoError("mismatch") for scores of another model.
 * @throws CompressoError("gpu") if the planned memory is more than there is.
 * @throws as `encodeRun` for rows that cannot be read.
 */
export async function cutExpertsAlone(
  model: OpenedModel,
  { original, resolved, platform: { files, loadTasks }, onMeasured }: {
    readonly original: PruneOptions;
    readonly resolved: ResolvedOptions;
    readonly platform: RunPlatform;
    /** Called with the share of the layers that is done, from 0 to 1. */
    readonly onMeasured?: ((share: number) => void) | undefined;
  },
): Promise<DoneRun> {
  const { source, device, tokenizer, baseDtype } = model, { spec } = source, { sparsity } = resolved;
  const { hooks, evaluate, scores: given, signal = new AbortController().signal } = original;
  keptCounts(spec, resolved);
  const digest = await sourceDigest(source);
  if (given) checkScores(given, spec, { digest });
  const data = given && original.rows.length === 0 ? null : encodeRun({ spec, tokenizer }, resolved, original);
  const sequences = (): number[][] => data ? sequencesToMeasure(data, resolved) : [];
  const scoring = scoringOf(source, { given, digest, resolved, signal });
  const { peakBytes: plannedBytes } = await checkMemory(
    spec,
    memoryOptionsOf(resolved, {
      baseDtype,
      storedDtype: (name) => source.storedDtype(name),
      adapter: adapterOf(device),
    }),
    { memoryLimit: device.memoryLimit, deviceBytes: device.bytes },
  );
  const finish = async (timer: PartTimer): Promise<FinishedRun> => {
    const { heldout, heldoutLabels } = data ?? { heldout: [], heldoutLabels: [] };
    const measured = await qualityData({ spec, tokenizer }, { heldout, heldoutLabels }, {
      seq: resolved.seq,
      most: measuredSequences(resolved),
      evaluation: evaluate,
      loadTasks,
      signal,
    });
    const made = Array.from({ length: MADE }, (_, at) => at % spec.vocab);
    const shown = heldout.length > 0 ? comparedTokens(heldout, resolved.check) : [made];
    const compared = grouped(shown, verifyShape(resolved));
    const startedAt = performance.now(), others = secondsOf(timer);
    await scoring.prepare();
    const tokens = scoring.readsRows() ? sequences() : null;
    if (tokens?.length === 0) throw noUse();
    const { rows, windows } = measuredRows(measured), sets = [rows, windows];
    const streamed = await streamCut(source, {
      ...{ device, baseDtype, signal, compared, timer, choose: scoring.choose, onProgress: onMeasured },
      scored: tokens && scoredGroups(tokens, { spec, seq: resolved.seq }),
      measured: sets.map((set) => set.map(groupOf)),
    });
    timer.add("preparing", (performance.now() - startedAt) / 1000 - (secondsOf(timer) - others));
    const { kept, use, maskedVsSliced } = streamed, cut = keepExperts(source, kept);
    if (use) scoring.keep(use);
    const tasksOf = async (of: WeightSource): Promise<Measured["tasks"]> => {
      if (measured.tasks.length === 0) return {};
      using whole = await loadModelFrom(of, { device, baseDtype, tokenizer, signal });
      const alone = { ...measured, heldout: { ...measured.heldout, heldout: [], heldoutLabels: [] }, text: null };
      return (await measureQuality(whole, alone, { adapters: {}, signal })).tasks;
    };
    const quality = await timer.during("quality", async () => {
      const [before, after] = await measuresOf(source, streamed, { sets, device, baseDtype, signal });
      return compareQuality(measured, { ...before, tasks: await tasksOf(source) }, {
        ...after,
        tasks: await tasksOf(cut),
      });
    });
    const total = (counts: readonly (readonly unknown[] | null)[]): number =>
      counts.reduce((sum, own) => sum + (own?.length ?? 0), 0);
    const { scores } = scoring;
    const experts: ExpertsSummary = {
      before: total(scores),
      after: total(kept),
      kept,
      scores,
      use: scoring.saved().use,
    };
    const hard = (experts.before - experts.after) / experts.before, { peakBytes } = device;
    return {
      result: untrainedOutcome(source, {
        lora: resolved.lora,
        data: data?.report ?? NO_ROWS,
        sparsity: { target: sparsity, expected: hard, hard },
        peakBytes,
        plannedBytes,
      }),
      sliced: { source: cut, ...sizesOf(cut, { model, options: resolved, dense: source }), maskedVsSliced },
      quality,
      vocabulary: null,
      experts,
      peakGpuBytes: peakBytes,
    };
  };
  return untrainedRun({
    ...{ model, dense: model, kept: null, files, options: resolved, hooks, sequences, finish, signal },
    scores: scoring.saved,
  });
}

/** Seconds of the parts that a walk through the layers tells by itself. */
function secondsOf({ seconds: { check, quality } }: PartTimer): number {
  return check + quality;
}

/** What was measured of the whole and of the cut model, without tasks. */
async function measuresOf(
  source: WeightSource,
  { before, after }: Pick<Streamed, "before" | "after">,
  { sets, ...how }: Parameters<typeof measureAtHead>[2] & { readonly sets: readonly (readonly MeasuredRow[])[] },
): Promise<[Omit<Measured, "tasks">, Omit<Measured, "tasks">]> {
  const states = sets.map((rows, at) => ({ rows, before: before[at] ?? [], after: after[at] ?? [] }));
  const [heldout, text] = await measureAtHead(source, states, how);
  for (const time of ["before", "after"] as const) text?.[time].forEach(({ nll }, window) => checkWindow(window, nll));
  const own = (of: "before" | "after"): Pick<Measured, "heldout" | "text" | "states"> => {
    return { heldout: heldout?.[of] ?? [], text: text?.[of] ?? [], states: [] };
  };
  return [
    { ...own("before"), agreement: [] },
    { ...own("after"), agreement: [...heldout?.agreement ?? [], ...text?.agreement ?? []] },
  ];
}

/** How a run scores experts, with the measures that it takes. */
interface Scoring {
  /** Takes the scores that need no rows. */
  readonly prepare: () => Promise<void>;
  /** Whether rows are to tell how experts are used; known once it is prepared. */
  readonly readsRows: () => boolean;
  readonly choose: (layer: number, use: LayerUse | null) => Promise<readonly number[]>;
  /** Scores of the layers so far. */
  readonly scores: (readonly number[] | null)[];
  /** Keeps the use that was measured. */
  readonly keep: (use: ExpertUse) => void;
  readonly saved: () => SavedScores;
}

function scoringOf(
  source: WeightSource,
  { given, digest, resolved, signal }: {
    readonly given: SavedScores | undefined;
    readonly digest: string;
    readonly resolved: Pick<ResolvedOptions, "method" | "seed" | "sparsity">;
    readonly signal: AbortSignal;
  },
): Scoring {
  const { spec } = source, { seed } = resolved, name = expertMethod(resolved), score = EXPERT_SCORES[name];
  const wanted = keptCounts(spec, resolved), scores: (readonly number[] | null)[] = spec.layers.map(() => null);
  let use = given?.use ?? null, magnitude = given?.magnitude ?? null, known: ExpertScores | null = null;
  const measures = {
    counts: countsOf(spec),
    seed,
    magnitude: async () => magnitude ??= await expertMagnitudes(source, { signal }),
  };
  return {
    scores,
    async prepare(): Promise<void> {
      const saved = use;
      if (scoresUse(name) && !saved) return;
      known = await score({ ...measures, use: () => saved ? Promise.resolve(saved) : Promise.reject(noUse()) });
    },
    readsRows: () => known === null,
    async choose(layer, own): Promise<readonly number[]> {
      const [fresh = null] = known || !own
        ? []
        : await score({ ...measures, use: () => Promise.resolve({ tokens: 0, layers: [own] }) });
      const found = known?.[layer] ?? fresh;
      scores[layer] = found;
      return highest(found ?? [], wanted[layer] ?? 0);
    },
    keep: (measured) => use = measured,
    saved: () => ({ model: digest, use, magnitude }),
  };
}

function expertMethod({ method }: Pick<ResolvedOptions, "method">): ExpertMethodName {
  const name = nameOfMethod(method);
  if (scoresExperts(name)) return name;
  throw new Error(`${name} scores no experts`);
}

function countsOf({ layers }: DecoderSpec): number[] {
  return layers.map(({ experts }) => experts?.count ?? 0);
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
