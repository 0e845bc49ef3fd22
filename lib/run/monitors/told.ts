// Which alarms of a run have been told. Owns that a run which goes back or is resumed tells none twice; refuses to tell.
import type { Alarm } from "./alarm.ts";

/**
 * Alarms that were told. A run that goes back more than once says again why it went back before, and a resumed one has those of earlier sittings. What
 * goes back twice for the same in the same words has two equal alarms in its list.
 */
export class ToldAlarms {
  /** How many there were in one list, by their JSON: a checkpoint gives back another object. */
  readonly #told = new Map<string, number>();

  /** Takes in the records of earlier sittings up to the step after which the run goes on. */
  know(records: readonly { readonly step: number; readonly alarms: readonly Alarm[] }[], doneBefore: number): void {
    for (const { step, alarms } of records) if (step <= doneBefore) this.fresh(alarms);
  }

  /** Of a list of alarms those that were not told; from now on they are. */
  fresh(alarms: readonly Alarm[]): Alarm[] {
    const counts = new Map<string, number>();
    return alarms.filter((alarm) => {
      const text = JSON.stringify(alarm), count = (counts.get(text) ?? 0) + 1;
      counts.set(text, count);
      if (count <= (this.#told.get(text) ?? 0)) return false;
      this.#told.set(text, count);
      return true;
    });
  }
}

/** All alarms of several lists, which may tell the same ones. */
export function allAlarms(lists: readonly (readonly Alarm[])[]): Alarm[] {
  const known = new ToldAlarms();
  return lists.flatMap((alarms) => known.fresh(alarms));
}
