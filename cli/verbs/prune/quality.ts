// Lines about the quality of a model before and after pruning, and warnings where it got much worse.
import { gapsOf, type PairedDifference } from "../../../lib/eval/compare.ts";
import { metricsOf } from "../../../lib/eval/metrics.ts";
import { fidelityText } from "../../../lib/run/fidelity_text.ts";
import type { LossChange } from "../../../lib/run/quality.ts";
import type { RunSummary } from "../../../lib/run/result.ts";
import type { Qualities } from "../../../lib/run/warnings.ts";
import { formatCount } from "../../terminal/output.ts";

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

/** Which step is kept by its held-out loss; nothing if it was not measured. */
export function validationLines({ validation, options }: Pick<RunSummary, "validation" | "options">): string[] {
  if (!validation) return [];
  const { best, last, isEarly } = validation;
  return [
    `${"best".padEnd(WIDTH)}step ${best.step}, held-out loss ${best.loss.toFixed(3)}; step ${last.step}: ${
      last.loss.toFixed(3)
    }${isEarly ? `; ended early, after ${options.patience} measures without a lower loss` : ""}`,
  ];
}

/** Why there is no loss before and after. */
export const UNMEASURED =
  "no loss was measured: there are fewer than ten rows, or no held-out row fits --seq; --eval-text measures a text";

/** The warnings of a run as lines, each with what to do. */
export function qualityWarnings({ warnings }: Pick<RunSummary, "warnings">): string[] {
  const cut = "less sparsity, more steps or more rows keep more";
  const words = "a larger --vocab-size, or --vocab-data like these texts, keeps more";
  return warnings.map(({ measure, message }) => {
    if (measure === "none") return `compresso: warning: ${UNMEASURED}`;
    const advice = measure === "heldoutLoss" || measure === "textLoss" ? cut : words;
    return `compresso: warning: ${message}: try the model before you rely on it; ${advice}`;
  });
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
