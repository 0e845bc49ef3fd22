// Memory that runs out: more in use than planned, near the limit.
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";
import { freeWords, limitMebibytes, mebibytes } from "../memory/advice.ts";

/** What a device holds. */
export interface MemoryState {
  /** Bytes in use now. */
  readonly bytes: number;
  /** Bytes that the run was to take at most. */
  readonly planned: number;
  /** Bytes that may be in use; infinite where there is no limit. */
  readonly limit: number;
}

/** Near the limit, and not by plan: a run that was planned to fill the memory is healthy. */
export function watchMemory(
  { bytes, planned, limit }: MemoryState,
  { setting }: { readonly setting: ResolvedMonitor },
): readonly Finding[] {
  if (bytes <= planned || bytes < setting.threshold * limit) return [];
  return [{
    monitor: "memory",
    key: "memory",
    message: `memory runs out: ${mebibytes(bytes)} are in use, ${limitMebibytes(planned)} were planned; the limit is ${
      limitMebibytes(limit)
    }, the alarm at ${percent(setting.threshold)} of it`,
    change: freeWords(bytes - planned),
  }];
}
