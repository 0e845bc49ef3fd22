// Options of pruning: how units are chosen.
import { option } from "../../../core/errors.ts";
import { RANKINGS } from "../../../masks/baselines.ts";
import { KINDS, UNIT_KINDS } from "../../../units/kinds/all.ts";
import { isOwnMethod, METHOD_NAMES, methodsThat } from "../../methods/all.ts";
import { EXPERT_METHODS } from "../../methods/experts.ts";
import { type Method, takesRounds } from "../../methods/method.ts";
import { IN_MEMORY, type OptionTable, PLANNED } from "./entry.ts";

const ranksByLayer = (method: Method): boolean => method.kind === "one-shot" && method.ranking === "layer";

/** Whether a list of units is empty: nothing is cut, at a sparsity of 0. */
function isEmpty(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

/** Their rows. */
export const METHOD_OPTIONS = {
  method: {
    type: "word",
    words: METHOD_NAMES,
    also: isOwnMethod,
    default: "compresso",
    work: "choosing",
    scope: PLANNED,
    defaultText: "compresso; reap for the unit experts",
    help:
      `how the units to cut are chosen; one-shot methods cut at the start and train in all steps; experts are chosen by ${
        EXPERT_METHODS.join(", ")
      }`,
  },
  units: {
    type: "words",
    words: UNIT_KINDS,
    also: isEmpty,
    everyday: true,
    default: ["kv", "ffn"],
    defaultText: "kv,ffn, or the one of them that the model and the layout can lose; layers for block-influence",
    paper: ["heads", "ffn", "hidden"],
    scope: PLANNED,
    help: `what is cut: ${Object.values(KINDS).map(({ name, help }) => help ? `${name} (${help})` : name).join(", ")}`,
  },
  "vocab.size": {
    type: "number",
    above: 0,
    name: "vocabSize",
    defaultText: "as many as the texts need",
    when: { units: ["vocab"] },
    scope: ["experiment", "memory", "plan"],
    help: "number of tokens that the unit vocab keeps, or below 1 their share",
  },
  "vocab.rows": {
    name: null,
    type: "list",
    when: { units: ["vocab"] },
    help: "rows that show which tokens are needed",
  },
  scores: {
    name: null,
    type: "value",
    mayChange: true,
    when: { units: ["experts"] },
    help: "measures of the experts that an earlier run has written",
  },
  schedule: {
    type: "value",
    placeholder: "name|file|url",
    defaultText: "cubic",
    mayChange: true,
    work: "training",
    scope: ["experiment"],
    help:
      "how sparsity rises over the steps: cubic, linear, cosine, exponential, step, constant, or a script, which runs isolated",
  },
  trustSchedule: {
    type: "switch",
    name: "trust",
    default: false,
    mayChange: true,
    work: "training",
    scope: ["experiment"],
    help: "run the schedule's script with all permissions of this process, not isolated",
  },
  ranking: {
    type: "word",
    words: RANKINGS,
    when: { method: ({ kind }: Method) => kind === "one-shot" },
    defaultText: `layer for ${methodsThat(ranksByLayer).join(", ")} and the layout uniform, else all`,
    work: "choosing",
    help: "units that a one-shot method ranks together: all, or those of one layer and kind",
  },
  rounds: {
    type: "count",
    least: 1,
    when: { method: takesRounds },
    default: 1,
    work: "choosing",
    help: "number of equal cuts to the target; the remaining units are scored again before each cut",
  },
  "rules.protect": {
    type: "layers",
    name: "protect",
    work: "choosing",
    scope: IN_MEMORY,
    help: "layers that keep all heads, FFN columns and gates, such as 0,1,-1 (negative: from the end)",
  },
  "rules.align": {
    type: "count",
    least: 1,
    name: "align",
    defaultText: "32; 256 for K-quants if the model's own widths are multiples of 256; 1 for small models",
    work: "choosing",
    scope: IN_MEMORY,
    help: "keep FFN widths and hidden size at multiples of this number, as quantised types need it; 1: any width",
  },
  "rules.minimum.heads": {
    type: "count",
    name: "minHeads",
    default: 0,
    work: "choosing",
    scope: IN_MEMORY,
    help: "fewest query heads of a layer",
  },
  "rules.minimum.ffn": {
    type: "count",
    name: "minFfn",
    default: 0,
    work: "choosing",
    scope: IN_MEMORY,
    help: "fewest FFN columns of a layer",
  },
  "rules.minimum.hidden": {
    type: "count",
    name: "minHidden",
    default: 0,
    work: "choosing",
    scope: IN_MEMORY,
    help: "fewest hidden dims",
  },
  "rules.minimum.layers": {
    type: "count",
    name: "minLayers",
    default: 0,
    work: "choosing",
    scope: IN_MEMORY,
    help: `fewest layers, if ${option("units")} has layers`,
  },
} as const satisfies OptionTable;
