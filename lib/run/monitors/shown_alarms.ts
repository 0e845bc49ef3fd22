// Remembers which alarms of a run were shown, so that a rollback or a resumed run repeats none.
import type { Alarm } from "./alarm.ts";

/**
 * Alarms that were shown. A second rollback repeats the reasons of the first one, and a resumed run has the alarms of
 * earlier sittings. A run that rolls back twice for the same reason has two equal alarms in its list, and both are
 * shown.
 */
export class ShownAlarms {
  /** Number of equal alarms in one list, by their JSON; a checkpoint restores them as other objects. */
  readonly #shown = new Map<string, number>();

  /** Adds the records of earlier sittings up to the step after which the run continues. */
  know(records: readonly { readonly step: number; readonly alarms: readonly Alarm[] }[], doneBefore: number): void {
    for (const { step, alarms } of records) if (step <= doneBefore) this.fresh(alarms);
  }

  /** The alarms of a list that were not shown; from now on they count as shown. */
  fresh(alarms: readonly Alarm[]): Alarm[] {
    const counts = new Map<string, number>();
    return alarms.filter((alarm) => {
      const text = JSON.stringify(alarm), count = (counts.get(text) ?? 0) + 1;
      counts.set(text, count);
      if (count <= (this.#shown.get(text) ?? 0)) return false;
      this.#shown.set(text, count);
      return true;
    });
  }
}

/** All alarms of several lists, without duplicates between lists. */
export function allAlarms(lists: readonly (readonly Alarm[])[]): Alarm[] {
  const known = new ShownAlarms();
  return lists.flatMap((alarms) => known.fresh(alarms));
}
