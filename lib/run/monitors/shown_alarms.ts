// Which alarms of a run were shown, so that a run that goes back or is resumed shows none twice.
import type { Alarm } from "./alarm.ts";

/**
 * Alarms that were shown. A run that goes back more than once says again why it went back before, and a resumed one has those of earlier sittings. What
 * goes back twice for the same in the same words has two equal alarms in its list.
 */
export class ShownAlarms {
  /** How many there were in one list, by their JSON: a checkpoint gives back another object. */
  readonly #shown = new Map<string, number>();

  /** Takes in the records of earlier sittings up to the step after which the run goes on. */
  know(records: readonly { readonly step: number; readonly alarms: readonly Alarm[] }[], doneBefore: number): void {
    for (const { step, alarms } of records) if (step <= doneBefore) this.fresh(alarms);
  }

  /** Of a list of alarms those that were not shown; from now on they count as shown. */
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

/** All alarms of several lists, which may have the same ones. */
export function allAlarms(lists: readonly (readonly Alarm[])[]): Alarm[] {
  const known = new ShownAlarms();
  return lists.flatMap((alarms) => known.fresh(alarms));
}
