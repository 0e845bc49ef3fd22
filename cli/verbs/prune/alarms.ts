// Alarms of a run as the command line shows them.
import { respelled } from "../../../lib/core/errors.ts";
import { spellFlag } from "../../options/spelling.ts";
import type { Alarm } from "../../../lib/run/monitors/alarm.ts";

/** An alarm as one line. */
export function alarmLine({ monitor, step, action, restored, message, change, options }: Alarm): string {
  const done = restored === null
    ? action === "stop" ? "; stopping" : ""
    : `; went back to step ${restored} with halved rates`;
  return `step ${step}, ${monitor}: ${message}${done}; to fix it: ${respelled(change, options, spellFlag)}`;
}
