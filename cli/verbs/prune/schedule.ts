// What `prune` checks of its schedule before and beside the run. Owns these refusals; refuses to steer.
import { CompressoError } from "../../../lib/core/errors.ts";
import { scheduleName } from "../../../lib/experiment/identity.ts";

/** What a run is told of its schedule. */
interface ScheduleSettings {
  readonly schedule?: string | undefined;
  readonly trust?: boolean | undefined;
}

/** Refuses a schedule that is not what it was `before`: it was read again as the run was prepared. Throws `CompressoError("mismatch")`. */
export async function checkSchedule({ schedule, trust }: ScheduleSettings, before: string): Promise<void> {
  const now = await scheduleName(schedule, { trust });
  if (now === before) return;
  throw new CompressoError("mismatch", {
    what: `cannot run with the schedule ${schedule}`,
    rule: "it stays as it is while a run is prepared",
    value: `${before} then, ${now} now`,
    fix: "start the run anew",
  });
}
