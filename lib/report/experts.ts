// What a report says of experts that are cut: a tile, and a map of how rows used them.
import type { ExpertsSummary } from "../run/experts/summary.ts";
import type { Figure } from "./figures.ts";
import { heatMap } from "./heat_map.ts";
import { ABSENT, grouped, percent } from "./numbers.ts";
import { short } from "./svg.ts";

/** The tile of a run that cut experts. */
export function expertsTile({ before, after, kept }: ExpertsSummary): {
  readonly label: string;
  readonly value: string;
  readonly note: string;
} {
  const [each] = kept.flatMap((own) => own?.length ?? []);
  return { label: "Experts", value: grouped(after), note: `of ${grouped(before)} in all layers; ${each ?? 0} in each` };
}

/** A measure of experts: what it is called, and its values by layer. */
interface Measure {
  readonly label: string;
  readonly valuesOf: (layer: number) => readonly number[];
}

/** The scores, how rows used the experts where that was measured, and which of them are kept. */
export function expertsFigure(
  { kept, scores, use }: ExpertsSummary,
  { id, title }: Pick<Figure, "id" | "title">,
): Figure {
  const layers = [...kept.keys()], labels = layers.map(String);
  const measures: readonly Measure[] = use
    ? [
      { label: "tokens", valuesOf: (layer) => use.layers[layer]?.tokens ?? [] },
      { label: "router weight", valuesOf: (layer) => use.layers[layer]?.weight ?? [] },
      { label: "REAP score", valuesOf: (layer) => use.layers[layer]?.output ?? [] },
    ]
    : [{ label: "score", valuesOf: (layer) => scores[layer] ?? [] }];
  const facts = layers.map((layer) => factsOf(layer, { kept: kept[layer] ?? null, scores, use }));
  const last = Math.max(0, ...scores.map((own) => (own?.length ?? 0) - 1)), ends = ["0", String(last)] as const;
  const notes = facts.map(({ kept, lost }, layer) => `layer ${layer}: ${kept}${lost === ABSENT ? "" : `; ${lost}`}`);
  return {
    id,
    title,
    caption: `A row for each layer, a cell for each expert, by its number. ${
      use
        ? `On ${
          grouped(use.tokens)
        } tokens: how many chose the expert, its mean router weight there, and the mean of weight times norm of its output (REAP)`
        : "The scores of the method"
    }, as parts of the largest value of the layer. On the right the experts that are kept; the others are faint.`,
    draw: (width) =>
      heatMap({
        title,
        description: notes.join(". "),
        rowLabels: labels,
        blocks: [
          ...measures.map(({ label, valuesOf }) => ({
            label,
            rows: layers.map((layer) => partsOfMost(valuesOf(layer))),
            notes,
            ends,
          })),
          {
            label: "kept",
            rows: layers.map((layer) =>
              (scores[layer] ?? []).map((_, expert) => kept[layer]?.includes(expert) ? 1 : 0)
            ),
            notes,
            ends,
          },
        ],
        scale: ["none", "most of the layer"],
        width,
        embedded: true,
      }),
    table: {
      caption: "Experts by layer",
      head: [
        "layer",
        "kept",
        "numbers of the others",
        "their part of all choices",
        "their scores",
        "scores of the kept",
      ],
      rows: facts.map(({ kept, gone, lost, goneScores, keptScores }, layer) => [
        String(layer),
        kept,
        gone,
        lost,
        goneScores,
        keptScores,
      ]),
    },
  };
}

/** What became of the experts of a layer, in words. */
function factsOf(
  layer: number,
  { kept, scores, use }: Pick<ExpertsSummary, "scores" | "use"> & { readonly kept: readonly number[] | null },
): Readonly<Record<"kept" | "gone" | "lost" | "goneScores" | "keptScores", string>> {
  const own = scores[layer];
  if (!kept || !own) return { kept: "dense", gone: ABSENT, lost: ABSENT, goneScores: ABSENT, keptScores: ABSENT };
  const gone = [...own.keys()].filter((expert) => !kept.includes(expert));
  const tokens = use?.layers[layer]?.tokens,
    sum = (experts: Iterable<number>): number =>
      Iterator.from(experts).reduce((total, expert) => total + (tokens?.[expert] ?? 0), 0);
  const range = (experts: readonly number[]): string => {
    const values = experts.map((expert) => own[expert] ?? NaN);
    return values.length === 0 ? ABSENT : `${short(Math.min(...values))} to ${short(Math.max(...values))}`;
  };
  return {
    kept: `${kept.length} of ${own.length} kept`,
    gone: gone.length === 0 ? "none" : gone.join(", "),
    lost: tokens ? percent(sum(gone) / sum(own.keys())) : ABSENT,
    goneScores: range(gone),
    keptScores: range(kept),
  };
}

/** Values as parts of the largest. */
function partsOfMost(values: readonly number[]): number[] {
  const most = Math.max(0, ...values);
  return values.map((value) => most > 0 ? value / most : 0);
}
