// Lines on the time of a run: by part, before it and after it.
import { duration } from "../../../lib/report/numbers.ts";
import { type PartSeconds, RUN_PARTS, type RunPart } from "../../../lib/run/parts_of_time.ts";
import type { RunSummary } from "../../../lib/run/result.ts";

/** Names of the parts. */
const NAMES: Readonly<Record<RunPart, string>> = {
  reading: "reading",
  preparing: "preparing",
  steps: "steps",
  check: "check",
  quality: "quality before and after",
  writing: "writing",
};

/** What is expected of a run before its first step. */
export function forecastLine(forecast: PartSeconds): string {
  const total = RUN_PARTS.reduce((sum, part) => sum + forecast[part], 0);
  return `time      about ${duration(total)} by a measurement of this device: ${partsText(forecast)}`;
}

/** The seconds of each part of a finished run, and of its prediction; nothing for a run of an older version. */
export function partLines({ parts }: Pick<RunSummary, "parts">): readonly string[] {
  if (!parts) return [];
  const { seconds, predicted } = parts;
  return [
    `            ${partsText(seconds)}`,
    ...predicted ? [`            predicted: ${partsText(predicted)}`] : [],
  ];
}

function partsText(seconds: PartSeconds): string {
  return RUN_PARTS.map((part) => `${NAMES[part]} ${duration(seconds[part])}`).join(", ");
}
