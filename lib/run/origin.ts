// Names and sizes of the files that a run is made from, for run.json.
import { DEMO, modelPath } from "../local/open_model.ts";
import { dataPath } from "../local/rows.ts";
import { disk } from "../files/disk.ts";
import { lastPart } from "../files/path.ts";
import { snapshotOf } from "../hub/cache.ts";
import { hubText } from "../hub/name.ts";
import type { OriginFile } from "../slice/export_options.ts";
import { fileBytes } from "./mask_summary.ts";

/** The names and sizes of a run's input files. A path of null means that the run has no such file. */
export async function originOf(
  paths: Readonly<Partial<Record<OriginFile["role"], string | null>>>,
): Promise<OriginFile[]> {
  const found: OriginFile[] = [];
  for (const role of ["model", "data", "calibration", "vocabulary"] as const) {
    const path = paths[role] ?? null;
    if (path === null) continue;
    const place = role === "model" ? await modelPath(path) : await dataPath(path), hub = snapshotOf(place);
    const [file] = await fileBytes([place], disk);
    found.push({
      role,
      name: hub ? hub.repo : path === DEMO ? DEMO : lastPart(place),
      bytes: file?.bytes ?? 0,
      ...(hub ? { source: hubText({ ...hub, revision: hub.commit }) } : {}),
    });
  }
  return found;
}
