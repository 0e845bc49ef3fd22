// Cells that are finished without a run, and reports of them: what their runs came to is made up.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import { makeReport } from "../../lib/experiment/report.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { MADE_SUMMARY, madeRecord } from "../report/made_run.ts";
import type { ExperimentDefinition, ExperimentReport, PlannedCell, Value } from "../../lib/experiment/types.ts";

/** What a made run came to. */
export interface MadeOutcome extends Partial<Pick<RunSummary, "undecided" | "adapter" | "alarms">> {
  /** Share cut of each layer, in thousandths. Default one layer of 0.2. */
  readonly layers?: readonly number[];
  /** Hard sparsity. Default 0.2. */
  readonly hard?: number;
  /** Labels of its four steps. Default 8. */
  readonly labels?: number;
  readonly cutRows?: number;
  readonly promptTokens?: number;
  readonly seconds?: number;
}

/** Writes run.json, records.jsonl and cell.json of a finished cell into its folder. */
export async function finishCell(
  store: Store,
  { folder, identity }: Pick<PlannedCell, "folder" | "identity">,
  { layers = [0.2], hard = 0.2, labels = 8, cutRows = 0, promptTokens = 0, seconds = 1, ...others }: MadeOutcome = {},
): Promise<void> {
  const width = { heads: 0, kvHeads: 0 }, none = layers.map(() => []), dir = store.cell(folder);
  const summary: RunSummary = {
    ...{ ...MADE_SUMMARY, undecided: null, adapter: "none", ...others },
    sparsity: { target: 0.2, expected: 0.2, hard },
    parameters: { before: 2, after: 1 },
    before: { layers: layers.map(() => ({ ...width, ffn: 1000 })), hidden: 1, headDim: 1, bytes: 1 },
    layers: layers.map((share) => ({ ...width, ffn: Math.round(1000 * (1 - share)) })),
    hidden: 1,
    masks: { heads: none, ffn: none, hidden: [] },
    data: { ...MADE_SUMMARY.data, truncated: cutRows, promptTokens },
    seconds: { finetune: 0, prune: seconds, postfinetune: 0 },
  };
  const records = [1, 2, 3, 4].map((step) =>
    madeRecord(step, { stage: "prune", loss: 1, target: 0.2, expected: 0.2, tokens: 2, labelTokens: labels / 4 })
  );
  await store.begin(folder, identity, { restarts: true });
  await Deno.writeTextFile(`${dir}/run.json`, JSON.stringify(summary));
  await Deno.writeTextFile(`${dir}/records.jsonl`, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  await store.setCell(folder, { identity, isMeasured: true });
}

/** The report of an experiment whose cells are finished, with the values of their measures, and the names of its cells' folders. */
export async function madeReport(
  definition: ExperimentDefinition,
  { outcome = () => ({}), values = () => [], dense = values }: {
    readonly outcome?: (cell: PlannedCell, index: number) => MadeOutcome;
    /** What each measure gives of a cell. */
    readonly values?: (cell: PlannedCell, index: number) => readonly Value[];
    /** The same of its model before pruning; default: as of the cell. */
    readonly dense?: (cell: PlannedCell, index: number) => readonly Value[];
  } = {},
): Promise<ExperimentReport> {
  const resolved = resolveExperiment(defineExperiment(definition));
  let report: ExperimentReport | null = null;
  await inTemporaryFolder(async (folder) => {
    const store = new Store(`${folder}/out`), plan = (): Promise<ExperimentPlan> => planCells(resolved, store);
    const { all, measures } = await plan();
    for (const [index, cell] of all.entries()) {
      await finishCell(store, cell, outcome(cell, index));
      for (const measure of measures) {
        await store.addMeasured(store.dense(cell.model), measure, dense(cell, index));
        await store.addMeasured(store.cell(cell.folder), measure, values(cell, index));
      }
    }
    report = await makeReport(resolved, await plan(), store);
  });
  return report ?? assert.fail("no report");
}
