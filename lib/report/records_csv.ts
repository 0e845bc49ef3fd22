// Records of runs as comma-separated values (RFC 4180), for spreadsheets and data frames.
import type { StepRecord } from "../run/contract.ts";
import { keptRecords } from "./derived.ts";
import type { ReportRun } from "./read_run.ts";

/** What a record has that is one value. */
type Column = Exclude<keyof StepRecord, "layers" | "alarms">;

const ALL: Readonly<Record<Column, true>> = {
  ...{ stage: true, step: true, steps: true, loss: true, heldout: true, target: true, expected: true },
  ...{ lambda1: true, lambda2: true, gradNorm: true, learningRate: true, tokens: true, labelTokens: true },
  ...{ tokensPerSecond: true, gpuBytes: true, plannedGpuBytes: true },
};
const COLUMNS = Object.keys(ALL) as readonly Column[];

/**
 * A line for each step of each run, below a line of names: the run's folder, the numbers of the step by their names in
 * records.jsonl, and the monitors that raised an alarm. A number that is absent or not finite is an empty cell. Steps
 * that a rollback undid are left out.
 */
export function recordsCsv(runs: readonly Pick<ReportRun, "folder" | "records">[]): string {
  const rows = runs.flatMap(({ folder, records }) =>
    keptRecords(records).map((record) => {
      const monitors = new Set(record.alarms.map(({ monitor }) => monitor));
      return [folder, ...COLUMNS.map((column) => record[column]), [...monitors].join(" ")];
    })
  );
  return [["run", ...COLUMNS, "alarms"], ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function cell(value: string | number | null | undefined): string {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = value ?? "";
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
