// `inspect MODEL --experts FILE`: how often and how strongly a model uses each of its experts on data.
import { refuse } from "../../../lib/core/errors.ts";
import { openModelFiles } from "../../../lib/local/open_model.ts";
import { readRows } from "../../../lib/local/rows.ts";
import { measureOnRows } from "../../../lib/run/experts/measure.ts";
import { OPTION_TABLE } from "../../../lib/run/options/table.ts";
import { checkExperts } from "../../../lib/slice/expert_use.ts";
import { flagNamed } from "../../options/spelling.ts";
import type { FlagTable, FlagValues } from "../../options/flags.ts";
import { fetchInputs } from "../../hub.ts";
import { watchInterrupt } from "../../terminal/interrupt.ts";
import { blockOf } from "../../terminal/mask_map.ts";
import { formatCount } from "../../terminal/output.ts";
import { shortNumber } from "../../terminal/plot.ts";
import { stderrProgress } from "../../terminal/progress.ts";
import { openDeviceHere } from "../../webgpu.ts";

const { seq, baseDtype, memoryLimit, limit, textField, skipBroken } = OPTION_TABLE;

/** Flags that say how the experts are measured. */
const MEASURING = { seq, limitRows: limit, textField, skipBroken, baseDtype, memoryLimit } as const;

/** Flags of the measure. */
export const EXPERT_FLAGS = {
  experts: {
    type: "text",
    placeholder: "file",
    help: "show how rows or texts use the experts of each layer, read as by prune; needs a GPU",
  },
  ...MEASURING,
} as const satisfies FlagTable;

type ExpertFlags = FlagValues<typeof EXPERT_FLAGS>;

/** The use of the experts of a layer, a value for each expert. */
interface LayerFacts {
  /** Tokens that chose it. */
  readonly tokens: readonly number[];
  /** Share of all tokens that chose it. */
  readonly share: readonly number[];
  /** Mean of its router weight over the tokens that chose it, as a share of all weights of a token. */
  readonly weight: readonly number[];
  /** Mean of weight times norm of its output over these tokens. */
  readonly reap: readonly number[];
}

/** The use of all experts. */
export interface ExpertFacts {
  readonly data: string;
  /** Tokens of the data that were read. */
  readonly tokens: number;
  /** Experts of a token. */
  readonly topK: number;
  /** By layer; null for a dense one. */
  readonly layers: readonly (LayerFacts | null)[];
}

/** Runs the model over the data, a layer at a time; null where no data are given. */
export async function expertFacts(model: string, flags: ExpertFlags): Promise<ExpertFacts | null> {
  const { experts: data, baseDtype: dtype = "f16" } = flags;
  if (data === undefined) {
    refuseIdle(flags);
    return null;
  }
  using interrupt = watchInterrupt();
  interrupt.start();
  const { signal } = interrupt;
  await fetchInputs({ model: [model], data: [data] }, { signal });
  const files = await openModelFiles(model), { source: { spec } } = files;
  checkExperts(files.source, "cannot measure the use of experts");
  using progress = stderrProgress();
  progress.phase("reading the data");
  const { rows } = await readRows(data, {
    limit: flags.limitRows,
    textField: flags.textField,
    skipBroken: flags.skipBroken,
  });
  using device = await openDeviceHere({ memoryLimit: flags.memoryLimit });
  const onProgress = (share: number): void => progress.phase("measuring the experts", share);
  const { tokens, layers } = await measureOnRows(files, rows, {
    ...{ device, seq: flags.seq ?? Math.min(seq.default, spec.maxPosition), baseDtype: dtype, signal, onProgress },
  });
  return {
    data,
    tokens,
    topK: spec.router?.topK ?? 0,
    layers: layers.map((own) =>
      own && {
        tokens: own.tokens,
        share: own.tokens.map((count) => count / tokens),
        weight: own.weight,
        reap: own.output,
      }
    ),
  };
}

/** Refuses flags of the measure without it. */
function refuseIdle(flags: ExpertFlags): void {
  const given = (Object.keys(MEASURING) as (keyof typeof MEASURING)[]).find((name) => flags[name] !== undefined);
  if (given === undefined) return;
  refuse("usage", `cannot use ${flagNamed(given)} here`, {
    rule: "it says how experts are measured",
    value: "no --experts",
    fix: "add --experts FILE, or leave it out",
    option: given,
  });
}

/** Experts of a line of blocks. */
const BLOCKS = 32;

/** A measure in the table: its name, and how its least and largest value are written. */
const COLUMNS = [
  ["tokens", "share", (value: number) => `${(100 * value).toFixed(2)} %`],
  ["weight", "weight", shortNumber],
  ["REAP", "reap", shortNumber],
] as const;

/** Lines for the terminal, at most 80 columns wide. */
export function expertLines({ data, tokens, topK, layers }: ExpertFacts): string[] {
  const all = layers.flatMap((own) => own?.tokens ?? []), idle = all.filter((count) => count === 0).length;
  return [
    `use of experts on ${data}`,
    `${formatCount(tokens)} tokens, ${topK} experts for each; ${
      idle === 0 ? "all experts are used" : `${formatCount(idle)} of ${formatCount(all.length)} experts are never used`
    }`,
    `tokens: share that chose the expert; weight: its mean router weight there;`,
    `REAP: mean of weight times norm of its output. In brackets: number of the expert`,
    "",
    "layer  measure  least         largest       experts in order; █ the largest",
    ...layers.flatMap((own, layer) => own ? layerLines(own, layer) : [`${String(layer).padStart(5)}  dense`]),
  ];
}

function layerLines(own: LayerFacts, layer: number): string[] {
  return COLUMNS.flatMap(([name, key, written], at) => {
    const values = own[key], most = Math.max(...values), least = Math.min(...values);
    const cell = (value: number): string => `${written(value)} (${values.indexOf(value)})`.padEnd(13);
    const strip = values.map((value) => blockOf(most > 0 ? value / most : 0)).join("");
    const head = `${at === 0 ? String(layer).padStart(5) : "     "}  ${name.padEnd(8)} ${cell(least)} ${cell(most)} `;
    return Array.from({ length: Math.ceil(strip.length / BLOCKS) }, (_, line) => {
      const blocks = strip.slice(line * BLOCKS, (line + 1) * BLOCKS);
      return line === 0 ? `${head}${blocks}` : `${" ".repeat(head.length)}${blocks}`;
    });
  });
}
