// The main numbers of one run, which stand out at the head of its report.
import type { RunSummary } from "../run/result.ts";
import type { ValidationSummary } from "../run/validation.ts";
import { namesOneShot } from "../run/methods/all.ts";
import { lastPruned, lossEnds, ofModel, secondsLeft, stepSeconds } from "./derived.ts";
import { expertsTile } from "./experts.ts";
import { ABSENT, duration, grouped, percent } from "./numbers.ts";
import type { ReportRun } from "./read_run.ts";
import { short } from "./svg.ts";
import { keepsLayers, vocabularyTile } from "./vocabulary.ts";

/** A number that stands out at the head of a report of one run. */
export interface Tile {
  readonly label: string;
  readonly value: string;
  readonly note: string;
}

/** The main numbers of one run; `isLive` says that it is under way. */
export function tilesOf(run: ReportRun, { isLive }: { readonly isLive: boolean }): Tile[] {
  const { summary, alarms, records } = run, heldout = summary?.heldoutLoss;
  const isTrained = summary === null || records.length > 0;
  return [
    ...(keepsLayers(run) ? [] : [sparsityTile(run)]),
    ...(summary ? [parameterTile(summary.parameters)] : []),
    ...(summary?.vocabulary ? [vocabularyTile(summary.vocabulary)] : []),
    ...(summary?.experts ? [expertsTile(summary.experts)] : []),
    ...(heldout
      ? [{
        label: "Loss, held-out rows",
        value: short(heldout.after),
        note: `${short(heldout.before)} before pruning; ${grouped(heldout.labels)} tokens${
          heldout.bitsPerByte
            ? `; bits per byte ${short(heldout.bitsPerByte.before)} → ${short(heldout.bitsPerByte.after)}`
            : ""
        }`,
      }]
      : []),
    ...(summary?.validation ? [bestTile(summary.validation)] : []),
    ...(summary ? fidelityTiles(summary) : []),
    ...(isTrained ? [trainingTile(run)] : []),
    ...(isTrained || !keepsLayers(run) ? [stepTile(run)] : []),
    ...timeTiles(run, { isLive }),
    // Nothing watches where a vocabulary is cut and nothing is trained.
    ...(isTrained || !keepsLayers(run)
      ? [{
        label: "Alarms",
        value: String(alarms.length),
        note: alarms.length === 0 ? "the monitors saw nothing unusual during the steps" : "see below",
      }]
      : []),
    ...(summary?.warnings ?? []).map(({ ratio, message }) => ({
      label: "Warning",
      value: ratio === null ? ABSENT : `× ${ratio.toFixed(2)}`,
      note: message,
    })),
  ];
}

/** The step whose LoRA is written. */
function bestTile({ best, last, isEarly }: ValidationSummary): Tile {
  const note = `lowest held-out loss, ${short(best.loss)}; at step ${last.step} ${short(last.loss)}`;
  return { label: "Best step", value: String(best.step), note: isEarly ? `${note}; ended early` : note };
}

/** On the text where there is one, as it has more tokens. */
function fidelityTiles({ heldoutLoss, evaluation: { text } }: RunSummary): Tile[] {
  const found = text?.agreement ?? heldoutLoss?.agreement, of = text?.agreement ? "the text" : "held-out rows";
  if (!found) return [];
  const note = `first choice of the dense model kept; mean KL ${short(found.kl)}; ${
    grouped(found.tokens)
  } tokens of ${of}`;
  return [{ label: "Fidelity", value: percent(found.top1), note }];
}

function sparsityTile(run: ReportRun): Tile {
  const { summary, records, options } = run, pruned = lastPruned(run), label = "Sparsity";
  const of = ofModel(run) && `, ${ofModel(run)}`;
  if (summary) {
    const { hard, target } = summary.sparsity;
    return { label, value: percent(hard), note: `hard${of}; target ${percent(target)}` };
  }
  if (pruned) {
    const { expected, target } = pruned;
    return { label, value: percent(expected ?? NaN), note: `expected${of}; target ${percent(target ?? NaN)}` };
  }
  const isCut = records.length > 0 && namesOneShot(options?.["method"]);
  return { label, value: ABSENT, note: isCut ? "cut before the first step" : "the pruning stage has not begun" };
}

function parameterTile({ before, after }: { readonly before: number; readonly after: number }): Tile {
  return { label: "Parameters", value: brief(after), note: `of ${grouped(before)}: ${percent(after / before)}` };
}

function trainingTile(run: ReportRun): Tile {
  const { first, last } = lossEnds(run), label = "Training loss";
  if (!first || !last) return { label, value: short(last?.value ?? NaN), note: last ? last.of : "no step yet" };
  return { label, value: short(last.value), note: `${last.of}; ${first.of}: ${short(first.value)}` };
}

function stepTile({ records, summary }: ReportRun): Tile {
  const last = records.at(-1), label = "Steps", value = `${last?.step ?? 0}`;
  if (!last) return { label, value, note: summary ? "none were asked for" : "none yet" };
  const isEarly = summary !== null && last.step < last.steps;
  return { label, value, note: `of ${last.steps}${isEarly ? "; a schedule ended the last stage" : ""}` };
}

function timeTiles({ summary, records }: ReportRun, { isLive }: { readonly isLive: boolean }): Tile[] {
  if (summary) {
    const { wallSeconds, resumedAfter } = summary;
    return [{
      label: "Time",
      value: duration(wallSeconds),
      note: resumedAfter > 0
        ? `since it was resumed after step ${resumedAfter}`
        : `steps alone ${duration(stepSeconds(summary))}`,
    }];
  }
  const left = isLive ? secondsLeft(records) : null;
  if (left === null) return [];
  return [{ label: "Time left", value: duration(left), note: "for the steps, at the present speed" }];
}

/** A count that is read at a glance: 729,238, 113.3 M, 5.40 B. */
function brief(count: number): string {
  if (count < 1e6) return grouped(count);
  const [unit, letter] = count < 1e9 ? [1e6, "M"] : [1e9, "B"];
  return `${(count / unit).toPrecision(4)} ${letter}`;
}
