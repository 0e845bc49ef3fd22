// Names and sizes of the files that a run is made from, for run.json.
import { basename, dirname, resolve } from "node:path";
import { DEMO, modelPath } from "../../../lib/disk/open_model.ts";
import { disk } from "../../../lib/files/disk.ts";
import { fileBytes } from "../../../lib/run/mask_summary.ts";
import type { OriginFile } from "../../../lib/slice/export_options.ts";

/** The files as they are called and how large they are; what is undefined is left out. */
export async function originOf(
  paths: Readonly<Record<OriginFile["role"], string | undefined>>,
): Promise<OriginFile[]> {
  const found: OriginFile[] = [];
  for (const role of ["model", "data", "calibration"] as const) {
    const path = paths[role];
    if (path === undefined) continue;
    const [file] = await fileBytes([role === "model" ? modelPath(path) : path], disk);
    found.push({ role, name: role === "model" ? modelName(path) : basename(resolve(path)), bytes: file?.bytes ?? 0 });
  }
  return found;
}

/** The last part of a path, or `owner/name` of a model that lies in the cache of huggingface_hub. */
function modelName(path: string): string {
  if (path === DEMO) return DEMO;
  const full = resolve(path), snapshots = dirname(full), [, owner, ...name] = basename(dirname(snapshots)).split("--");
  const isCached = basename(snapshots) === "snapshots" && owner !== undefined && name.length > 0;
  return isCached ? `${owner}/${name.join("--")}` : basename(full);
}
