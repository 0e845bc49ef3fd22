// Checks that the schedule of `prune` does not change while the run is prepared.
import { refuse } from "../../../lib/core/errors.ts";
import { scheduleName } from "../../../lib/experiment/identity.ts";

/** Settings of the schedule. */
interface ScheduleSettings {
  readonly schedule?: string | undefined;
  readonly trust?: boolean | undefined;
}

/**
 * Refuses a schedule that differs from `before`, since preparing the run reads it again. Throws
 * `CompressoError("mismatch")`.
 */
export async function checkSchedule({ schedule, trust }: ScheduleSettings, before: string): Promise<void> {
  const now = await scheduleName(schedule, { trust });
  if (now === before) return;
  refuse("mismatch", `cannot run with the schedule ${schedule}`, {
    rule: "it does not change while a run is prepared",
    value: `${before} then, ${now} now`,
    fix: "start the run again from its beginning",
  });
}
