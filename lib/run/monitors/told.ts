// Which alarms of a run have been told. Owns that a run which goes back or is resumed tells none twice; refuses to tell.
import type { Alarm } from "./alarm.ts";

/** Alarms that were told. A run that goes back more than once says again why it went back before, and a resumed one has those of earlier sittings. */
export class ToldAlarms {
  /** As JSON: a checkpoint gives back another object. */
  readonly #told = new Set<string>();

  /** Takes in the records of earlier sittings up to the step after which the run goes on. */
  know(records: readonly { readonly step: number; readonly alarms: readonly Alarm[] }[], doneBefore: number): void {
    for (const { step, alarms } of records) {
      if (step <= doneBefore) { for (const alarm of alarms) this.#told.add(JSON.stringify(alarm)); }
    }
  }

  /** Of these alarms those that were not told; from now on they are. */
  fresh(alarms: readonly Alarm[]): Alarm[] {
    return alarms.filter((alarm) => {
      const text = JSON.stringify(alarm), isNew = !this.#told.has(text);
      this.#told.add(text);
      return isNew;
    });
  }
}
