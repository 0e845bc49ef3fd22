// Tables of tuned kernels on the disk. No state of the file is an error: a table that does not fit is treated as absent.
import type { Device } from "../gpu/device.ts";
import { formatTuning, parseTuning, type ReadTuning, tuningOf } from "../gpu/tuning.ts";
import { writeFileAtomically } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { tuningIdentity } from "../nn/products/variants.ts";

/** What became of a file. */
export type TuningFile =
  /** Its entries are in use. */
  | { readonly state: "used"; readonly entries: number }
  | { readonly state: "absent" }
  /**
   * Another adapter, driver or version, or unreadable. The next save overwrites it, even if it is no tuning file
   * (`isForeign`).
   */
  | { readonly state: "ignored"; readonly reason: string; readonly isForeign: boolean };

/** No table is as long. */
const MOST_BYTES = 1 << 20;

/** Adds a file's entries to the device's table. Entries that this process has tuned stay. */
export async function loadTuning(device: Device, path: string): Promise<TuningFile> {
  const found = await readTuning(device, path);
  if (found === null) return { state: "absent" };
  if (!found.isFit) return { state: "ignored", reason: found.reason, isForeign: found.isForeign };
  const table = tuningOf(device);
  for (const [key, name] of found.tuning) if (!table.has(key)) table.set(key, name);
  return { state: "used", entries: found.tuning.size };
}

/** Writes the device's table, with further matching entries of the file. Returns whether it could be written. */
export async function saveTuning(device: Device, path: string): Promise<boolean> {
  const found = await readTuning(device, path);
  const table = new Map([...(found?.isFit ? found.tuning : []), ...tuningOf(device)]);
  try {
    await writeFileAtomically(path, formatTuning(table, tuningIdentity(device)));
    return true;
  } catch {
    return false;
  }
}

/** Null if there is no file. */
async function readTuning(device: Device, path: string): Promise<ReadTuning | null> {
  try {
    const info = await disk.info(path);
    if (info === null) return null;
    if (info.isFolder || info.size > MOST_BYTES) {
      return { isFit: false, reason: "it is not a table of tuned kernels", isForeign: true };
    }
    return parseTuning(await disk.text(path) ?? "", tuningIdentity(device));
  } catch {
    return { isFit: false, reason: "it cannot be read", isForeign: true };
  }
}
