// Flags of `prune`: as they are typed, and with what the folder and the method decide. Types only.
import type { TableFlags } from "../../options/table_flags.ts";

/** Flags as they are typed. Flags without a default in the library get one here. */
export type TypedFlags = TableFlags & Pick<RunFlags, "out" | "steps">;

/** Flags of a run, with what the folder and the method decide. */
export type RunFlags = TableFlags & {
  readonly out: string;
  readonly steps: number;
  /** Whether the folder's run is resumed. */
  readonly resume: boolean;
  readonly calibration: string;
};
