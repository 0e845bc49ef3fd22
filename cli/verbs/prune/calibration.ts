// `prune --calibration`: a file, the model's own texts, or none. Owns the choice and what it reads; refuses to write.
import { join } from "node:path";
import { CompressoError } from "../../../lib/core/errors.ts";
import { type DataSet } from "../../../lib/data/rows.ts";
import { readRows } from "../../../lib/disk/rows.ts";
import { exists } from "../../../lib/files/exists.ts";
import { fileDigest } from "../../../lib/files/fingerprint.ts";
import { calibrationDefault } from "../../../lib/run/calibration.ts";
import type { PruneToFolderOptions } from "../../../lib/run/prune_to_folder.ts";
import { CALIBRATION_FILE } from "../../../lib/run/folder.ts";
import type { RunFlags } from "./run.ts";
import { isAmong } from "./run_folder.ts";

/** In place of a file: the model's own texts. */
const OWN = "own";
/** In place of a file: nothing. */
export const NONE = "none";

/** Flags of a run that has its choice. */
export type ChosenFlags = RunFlags & { readonly calibration: string };

/** What a run is told of it. */
export type CalibrationOptions = Pick<PruneToFolderOptions, "calibration" | "calibrationReading">;

/** The option, or what a run does without it. */
export async function calibrationChoice(
  { calibration, out, resume }: RunFlags,
  learning: Parameters<typeof calibrationDefault>[0],
): Promise<string> {
  if (calibration !== undefined) return calibration;
  const areThere = await exists(join(out, CALIBRATION_FILE));
  return calibrationDefault(learning, { resume: resume ?? false, areThere });
}

/** What stands for the calibration among the facts of a run. */
export async function calibrationName(calibration: string): Promise<string> {
  return calibration === OWN || calibration === NONE ? calibration : await fileDigest(calibration);
}

/** Calibration rows from their file, and what became of them in reading; else what was chosen. */
export async function calibrationOf(settings: ChosenFlags): Promise<CalibrationOptions> {
  const { calibration, data, out, resume } = settings;
  if (calibration === NONE) return { calibration };
  if (calibration === OWN) {
    if (!resume) await refuseOwnData(out, data);
    return { calibration };
  }
  const { rows, report } = await read(calibration, settings);
  return { calibration: rows, calibrationReading: report };
}

/** Rows of a file whose texts have the name that --text-field says or, where no row has it, the usual one. */
async function read(path: string, { textField, skipBroken }: ChosenFlags): Promise<DataSet> {
  const how = { fewerFix: "give --calibration a file with fewer rows", ...(skipBroken ? { skipBroken } : {}) };
  if (textField === undefined) return await readRows(path, how);
  try {
    return await readRows(path, { ...how, textField });
  } catch (error) {
    const named = await readRows(path, { textField, skipBroken: true }).catch(() => null);
    if (named && named.rows.length > 0) throw error;
    return await readRows(path, how);
  }
}

/** Refuses texts that the model is to write where they would replace the data. Throws `CompressoError("usage")`. */
async function refuseOwnData(out: string, data: string | undefined): Promise<void> {
  const path = join(out, CALIBRATION_FILE);
  if (!await isAmong(path, [data])) return;
  throw new CompressoError("usage", {
    what: `cannot write ${path}`,
    rule: "the model's own calibration texts do not replace the data",
    value: `--data ${data}`,
    fix: "choose another --out, move the data first, or give --calibration none",
  });
}
