// What `prune` checks of its schedule before and beside the run. Owns these refusals; refuses to steer.
import { CompressoError } from "../../../lib/core/errors.ts";
import { scheduleName } from "../../../lib/experiment/identity.ts";
import { scriptParts } from "../../../lib/schedule/host.ts";
import type { PruneOptions } from "../../../lib/run/options/options.ts";
import { checkFollowed, type Following, givenNumbers } from "../../../lib/run/steering_checks.ts";

/** What a run is told of its schedule. */
interface ScheduleSettings {
  readonly schedule?: string | undefined;
  readonly trust?: boolean | undefined;
}

/**
 * Refuses an isolated script that the run cannot follow, before rows and model are read; one that is trusted runs with the run alone. Throws
 * `CompressoError`: "usage" for that, "input" for what is no schedule.
 */
export async function checkScript(
  { schedule, trust }: ScheduleSettings,
  { told, options }: {
    readonly told: Pick<PruneOptions, "rates" | "lora" | "focus">;
    readonly options: Following;
  },
): Promise<void> {
  const script = trust ? null : await scriptParts(schedule);
  if (script) checkFollowed(script, { given: givenNumbers(told), options });
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
