// Lines about the quality of a model before and after pruning, and warnings where it got much worse.
import { gapsOf, type PairedDifference } from "../../../lib/eval/compare.ts";
import { metricsOf } from "../../../lib/eval/metrics.ts";
import { fidelityText } from "../../../lib/run/fidelity_text.ts";
import { LOSS_WARNING } from "../../../lib/run/evaluation.ts";
import type { LossChange } from "../../../lib/run/quality.ts";
import type { RunSummary } from "../../../lib/run/result.ts";
import { formatCount } from "../../terminal/output.ts";

type Qualities = Pick<RunSummary, "heldoutLoss" | "evaluation" | "vocabulary">;

/** Loss, perplexity and bits per byte, and accuracy or exact match on tasks. */
export function qualityLines({ heldoutLoss, evaluation: { text, tasks } }: Qualities): string[] {
  return [
    ...(heldoutLoss
      ? [
        lossLine("held out", heldoutLoss, `${formatCount(heldoutLoss.labels)} tokens of rows that were not trained on`),
        ...fidelityLine(heldoutLoss),
      ]
      : []),
    ...(text
      ? [
        lossLine("text", text, `${formatCount(text.labels)} tokens in ${text.sequences} windows`),
        ...fidelityLine(text),
      ]
      : []),
    ...Object.entries(tasks).map(([task, { before, after, difference }]) => {
      const [{ name, value }] = metricsOf(after),
        [{ value: first }] = metricsOf(before),
        [{ gap }] = gapsOf(difference);
      return `${task.padEnd(WIDTH)}${name} ${percent(first)} → ${percent(value)} %${
        interval(gap, percent)
      }, of ${after.n} questions`;
    }),
  ];
}

/** Why there is no loss before and after. */
export const UNMEASURED =
  "no loss was measured: there are fewer than ten rows, or no held-out row fits --seq; --eval-text measures a text";

/** Warns if nothing was measured, or if the loss (bits per byte, if the vocabulary was cut) rose so much that the model may be of little use. */
export function qualityWarnings({ heldoutLoss, evaluation: { text, tasks }, vocabulary }: Qualities): string[] {
  const isMeasured = heldoutLoss ?? text ?? vocabulary?.heldout ?? vocabulary?.text ?? Object.keys(tasks).length > 0;
  if (!isMeasured) return [`compresso: warning: ${UNMEASURED}`];
  const cut = "less sparsity, more steps or more rows keep more";
  const words = "a larger --vocab-size, or --vocab-data like these texts, keeps more";
  const measures = [
    ["the loss on held-out rows is", heldoutLoss, cut],
    ["the loss on the text is", text, cut],
    ["bits per byte of held-out rows are", vocabulary?.heldout, words],
    ["bits per byte of the text are", vocabulary?.text, words],
  ] as const;
  return measures.flatMap(([measure, found, advice]) =>
    found && found.after > LOSS_WARNING * found.before
      ? [
        `compresso: warning: ${measure} ${
          (found.after / found.before).toFixed(2)
        } times that before pruning, more than ${LOSS_WARNING}: try the model before you rely on it; ${advice}`,
      ]
      : []
  );
}

const WIDTH = 12;

function lossLine(
  name: string,
  { before, after, perplexity, bitsPerByte: bits, difference }: LossChange,
  on: string,
): string {
  const change = (then: number, now: number, digits: number): string =>
    `${then.toFixed(digits)} → ${now.toFixed(digits)}`;
  return `${name.padEnd(WIDTH)}loss ${change(before, after, 3)}${
    interval(difference, (value) => value.toFixed(3))
  }, perplexity ${change(perplexity.before, perplexity.after, 2)}${
    bits ? `, bits per byte ${change(bits.before, bits.after, 3)}` : ""
  }; ${on}`;
}

function fidelityLine({ agreement }: LossChange): string[] {
  return agreement ? [`${" ".repeat(WIDTH)}${fidelityText(agreement)}`] : [];
}

/** The 95 % confidence interval of a difference; nothing if the difference has no interval. */
function interval({ low, high }: PairedDifference, shown: (value: number) => string): string {
  const signed = (value: number): string => `${value < 0 ? "−" : "+"}${shown(Math.abs(value))}`;
  return !Number.isFinite(low) ? "" : ` (95 %: ${signed(low)} to ${signed(high)})`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
