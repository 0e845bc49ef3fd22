// Detects memory that runs out: more in use than planned, and near the limit.
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";
import { freeWords, limitMebibytes, mebibytes } from "../memory/advice.ts";

/** Memory of a device, in bytes. */
export interface MemoryState {
  /** Bytes in use now. */
  readonly bytes: number;
  /** Most bytes that the run was planned to use. */
  readonly planned: number;
  /** Limit of bytes in use; infinite where there is none. */
  readonly limit: number;
}

/** Warns near the limit if more than planned is in use. A run that was planned to fill the memory is healthy. */
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
