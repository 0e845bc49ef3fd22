// Names and sizes of the files that a run is made from, for run.json.
import { DEMO, modelPath } from "../disk/open_model.ts";
import { disk } from "../files/disk.ts";
import { folderOf, lastPart } from "../files/path.ts";
import type { OriginFile } from "../slice/export_options.ts";
import { fileBytes } from "./mask_summary.ts";

/** The files as they are called and how large they are, by their paths; null where there is none. */
export async function originOf(
  paths: Readonly<Record<OriginFile["role"], string | null>>,
): Promise<OriginFile[]> {
  const found: OriginFile[] = [];
  for (const role of ["model", "data", "calibration"] as const) {
    const path = paths[role];
    if (path === null) continue;
    const [file] = await fileBytes([role === "model" ? modelPath(path) : path], disk);
    found.push({ role, name: role === "model" ? modelName(path) : lastPart(path), bytes: file?.bytes ?? 0 });
  }
  return found;
}

/** The last part of a path, or `owner/name` of a model in the cache of huggingface_hub: models--OWNER--NAME/snapshots/REVISION. */
function modelName(path: string): string {
  const snapshots = folderOf(path), [kind, owner, ...name] = lastPart(folderOf(snapshots)).split("--");
  const isCached = path !== DEMO && lastPart(snapshots) === "snapshots" && kind === "models";
  return isCached ? [owner, ...name].join("/") : lastPart(path);
}
