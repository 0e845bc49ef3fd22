// What the model card of a pruned model says of its run.
import { nameOfMethod } from "./methods/all.ts";
import type { OriginFile } from "../slice/export_options.ts";
import type { RunCard } from "../slice/model_card.ts";
import type { LossChange, QualityChange } from "./quality.ts";
import { stagesOf } from "./methods/stages.ts";
import { fidelityText } from "./fidelity_text.ts";
import { metricsOf, type TaskScore } from "../eval/metrics.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { ExpertsSummary } from "./experts/summary.ts";
import type { VocabularySummary } from "./vocabulary.ts";
import type { PruneResult, RunSummary, SlicedModel } from "./result.ts";
import { cutsNothing, keepsLayers } from "../units/kinds/all.ts";
import { trainsNothing } from "./options/resolve.ts";
import { sparsityBase } from "./size_goal.ts";

/** The card's facts, from the options and the outcome of a run. */
export function runCard(
  { options, origin, command, sliced, result, quality, vocabulary, experts, warnings }: {
    readonly options: ResolvedOptions;
    readonly origin: readonly OriginFile[];
    readonly command: string | null;
    readonly sliced: Pick<SlicedModel, "parameters">;
    readonly result: Pick<PruneResult, "sparsity">;
    readonly quality: QualityChange;
    readonly vocabulary: VocabularySummary | null;
    readonly experts: ExpertsSummary | null;
    readonly warnings: RunSummary["warnings"];
  },
): RunCard {
  const nameOf = (role: OriginFile["role"]): string | null => origin.find((file) => file.role === role)?.name ?? null;
  const { units, method, layout, batch, seq, seed, lora } = options, { before, after } = sliced.parameters;
  const base = sparsityBase(units) === "model" ? "the whole model" : "the layers' linear weights";
  const stages = stagesOf(options).filter(({ steps }) => steps > 0).map(({ stage, steps }) => `${stage} ${steps}`);
  const isWhole = keepsLayers(units),
    isTuned = cutsNothing(units),
    tokens = vocabulary ? ["tokens of the vocabulary"] : [];
  const whole = experts ? ["whole experts"] : [];
  const data = nameOf("data"), calibration = nameOf("calibration"), then = isTuned ? "before tuning" : "before pruning";
  return {
    base: nameOf("model"),
    command,
    removed: isTuned ? null : [...isWhole ? [] : ["parts of the layers"], ...tokens, ...whole].join(" and "),
    facts: [
      ["parameters", isTuned ? shown(after) : `${shown(after)}, before pruning ${shown(before)}`],
      ...vocabulary ? vocabularyFacts(vocabulary) : [],
      ...experts
        ? [
          ["experts", `${shown(experts.after)} in all layers, before pruning ${shown(experts.before)}`] as const,
          ["method", `${nameOfMethod(method)}: units ${units.join(", ")}; seed ${seed}`] as const,
        ]
        : [],
      ...(isWhole ? [] : [
        ["sparsity", `${(100 * result.sparsity.hard).toFixed(1)} % of ${base}`] as const,
        ["method", `${nameOfMethod(method)}: units ${units.join(", ")}; layout ${layout}`] as const,
      ]),
      ...(trainsNothing(options) ? [] : [
        [
          "training",
          `LoRA of rank ${lora.rank}; steps: ${stages.join(", ")}; batch ${batch}, ${seq} tokens, seed ${seed}`,
        ] as const,
      ]),
      ...(data === null ? [] : [["data", data] as const]),
      ...(calibration === null ? [] : [["calibration", calibration] as const]),
      ...lossFacts("held-out rows", quality.heldout, then),
      ...lossFacts("the text given for evaluation", quality.text, then),
      ...Object.entries(quality.tasks).map(([name, { before, after }]) =>
        [name, `${scoreOf(after)}, ${then} ${percent(before)} (${shown(after.n)} questions)`] as const
      ),
      ...warnings.map(({ message }) => ["warning", message] as const),
    ],
  };
}

/** Fidelity, loss, perplexity and bits per byte in words; nothing if none was measured. */
function lossFacts(of: string, loss: LossChange | null, before: string): (readonly [string, string])[] {
  if (!loss) return [];
  const { before: first, after, perplexity, bitsPerByte: bits, labels, agreement } = loss;
  const facts = [
    [`loss on ${of}`, after, first, ` (${shown(labels)} tokens)`, 3],
    [`perplexity on ${of}`, perplexity.after, perplexity.before, "", 2],
    ...(bits ? [[`bits per byte of ${of}`, bits.after, bits.before, "", 3] as const] : []),
  ] as const;
  return [
    ...(agreement ? [[`fidelity on ${of}`, fidelityText(agreement)] as const] : []),
    ...facts.map(([name, now, then, of, digits]) =>
      [name, `${now.toFixed(digits)}, ${before} ${then.toFixed(digits)}${of}`] as const
    ),
  ];
}

/** Name and value of the first number of a task. */
function scoreOf(score: TaskScore): string {
  return `${metricsOf(score)[0].name} ${percent(score)}`;
}

function percent(score: TaskScore): string {
  return `${(100 * metricsOf(score)[0].value).toFixed(1)} %`;
}

function vocabularyFacts({ before, after, coverage, growth, heldout, text }: VocabularySummary): [string, string][] {
  const bits = ([["held-out rows", heldout], ["the text given for evaluation", text]] as const).flatMap((
    [of, found],
  ): [string, string][] =>
    found
      ? [
        [
          `bits per byte of ${of}`,
          `${found.after.toFixed(3)}, with the whole vocabulary and model ${found.before.toFixed(3)} (${
            shown(found.bytes)
          } bytes)`,
        ],
        ...found.agreement ? [[`fidelity on ${of}`, fidelityText(found.agreement)] satisfies [string, string]] : [],
      ]
      : []
  );
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const growing = `${percent(coverage)} of those in the texts; such texts are expected to take ${percent(growth)} more`;
  return [["vocabulary", `${shown(after)} tokens, before pruning ${shown(before)}: ${growing}`], ...bits];
}

/** A count with separators. */
function shown(count: number): string {
  return count.toLocaleString("en");
}
