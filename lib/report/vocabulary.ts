// What a report says of a vocabulary that is cut.
import { keepsLayers as keepsUnits } from "../units/kinds/all.ts";
import { fidelityText } from "../run/fidelity_text.ts";
import type { VocabularySummary } from "../run/vocabulary.ts";
import { ABSENT, grouped, percent } from "./numbers.ts";
import { short } from "./svg.ts";

/** The tile of a run that cut the vocabulary. */
export function vocabularyTile({ before, after, coverage, heldout, text }: VocabularySummary): {
  readonly label: string;
  readonly value: string;
  readonly note: string;
} {
  const [bits] = [heldout, text].filter((found) => found !== null);
  return {
    label: "Vocabulary",
    value: grouped(after),
    note: `of ${grouped(before)} tokens; they are ${percent(coverage)} of those in the texts${
      bits ? `; bits per byte ${short(bits.before)} → ${short(bits.after)}` : ""
    }`,
  };
}

/** Whether a run cuts the vocabulary alone, or nothing. */
export function keepsLayers(
  { options }: { readonly options: Readonly<Record<string, unknown>> | null },
): boolean {
  const units = options?.["units"];
  return Array.isArray(units) && keepsUnits(units);
}

/** What is read of a finished run. */
interface Finished {
  readonly vocabulary: VocabularySummary | null;
}

/** Rows about a cut vocabulary: its name, and what it is in a run. */
export function vocabularyRows(): (readonly [string, (summary: Finished) => string])[] {
  const cell = (value: (vocabulary: VocabularySummary) => string | null) => ({ vocabulary }: Finished): string =>
    (vocabulary && value(vocabulary)) ?? ABSENT;
  const bits = (of: "heldout" | "text") =>
    cell(({ [of]: found }) =>
      found &&
      `${short(found.after)}; whole model and vocabulary ${short(found.before)} (${grouped(found.bytes)} bytes)`
    );
  const fidelity = (of: "heldout" | "text") =>
    cell(({ [of]: found }) => found?.agreement ? fidelityText(found.agreement) : null);
  return [
    ["vocabulary", cell(({ before, after }) => `${grouped(after)} of ${grouped(before)} tokens`)],
    [
      "tokens of the texts that are kept",
      cell(({ coverage, counted }) => `${percent(coverage)} of ${grouped(counted)}`),
    ],
    ["expected growth of such texts", cell(({ growth }) => `${percent(growth)} more tokens`)],
    ["bits per byte of held-out rows, vocabulary cut", bits("heldout")],
    ["bits per byte of the text, vocabulary cut", bits("text")],
    ["fidelity on held-out rows, vocabulary cut alone", fidelity("heldout")],
    ["fidelity on the text, vocabulary cut alone", fidelity("text")],
  ];
}
