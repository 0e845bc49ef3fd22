// Reads the calibration rows of `prune --calibration`: from a file, or the model's own texts, or none.
import { join } from "node:path";
import { refuse } from "../../../lib/core/errors.ts";
import { type DataSet } from "../../../lib/data/rows.ts";
import { dataPath, readRows } from "../../../lib/local/rows.ts";
import { exists } from "../../../lib/files/exists.ts";
import { fileDigest } from "../../../lib/files/fingerprint.ts";
import { calibrationDefault } from "../../../lib/run/calibration.ts";
import type { PruneToFolderOptions } from "../../../lib/run/prune_to_folder.ts";
import { CALIBRATION_FILE } from "../../../lib/run/folder.ts";
import type { RunFlags, TypedFlags } from "./flags.ts";
import { isAmong } from "./run_folder.ts";

/** Value of --calibration for the model's own texts. */
const OWN = "own";
/** Value of --calibration for no rows. */
export const NONE = "none";

/** Settings that the choice depends on. */
export type CalibrationOptions = Pick<PruneToFolderOptions, "calibration" | "calibrationReading">;

/** The value of --calibration, or its default. */
export async function calibrationChoice(
  { calibration, out, resume }: Pick<RunFlags, "out" | "resume"> & Pick<TypedFlags, "calibration">,
  learning: Parameters<typeof calibrationDefault>[0],
): Promise<string> {
  if (calibration !== undefined) return calibration;
  const areThere = await exists(join(out, CALIBRATION_FILE));
  return calibrationDefault(learning, { resume, areThere });
}

/** Identifies the calibration among the facts of a run. */
export async function calibrationName(calibration: string): Promise<string> {
  return calibration === OWN || calibration === NONE ? calibration : await fileDigest(await dataPath(calibration));
}

/** Calibration rows from their file and a report of reading them; otherwise the choice alone. */
export async function calibrationOf(settings: RunFlags): Promise<CalibrationOptions> {
  const { calibration, data, out, resume } = settings;
  if (calibration === NONE) return { calibration };
  if (calibration === OWN) {
    if (!resume) await refuseOwnData(out, data);
    return { calibration };
  }
  const { rows, report } = await read(calibration, settings);
  return { calibration: rows, calibrationReading: report };
}

/** Rows of a file whose texts are in the field of --text-field or, if no row has it, in the usual one. */
async function read(path: string, { textField, skipBroken }: RunFlags): Promise<DataSet> {
  const how = { fewerFix: "give --calibration a file with fewer rows", skipBroken };
  if (textField === undefined) return await readRows(path, how);
  try {
    return await readRows(path, { ...how, textField });
  } catch (error) {
    const named = await readRows(path, { textField, skipBroken: true }).catch(() => null);
    if (named && named.rows.length > 0) throw error;
    return await readRows(path, how);
  }
}

/** Refuses the model's own texts if they would overwrite the data. Throws `CompressoError("usage")`. */
async function refuseOwnData(out: string, data: string | undefined): Promise<void> {
  const path = join(out, CALIBRATION_FILE);
  if (!await isAmong(path, [data])) return;
  refuse("usage", `cannot write ${path}`, {
    rule: "the model's own calibration texts do not replace the data",
    value: `--data ${data}`,
    fix: "choose another --out, move the data first, or give --calibration none",
  });
}
