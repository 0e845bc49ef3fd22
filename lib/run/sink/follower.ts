// The sink of a rank that is not the first: it reads the folder of the run, and writes nothing.
import { exists } from "../../files/exists.ts";
import { withoutWrites } from "../../files/system.ts";
import { CALIBRATION_FILE } from "../folder.ts";
import { ON_DISK } from "../prune.ts";
import type { FolderOptions } from "../prune_to_folder.ts";
import { resumingOf, textsIn } from "./folder.ts";
import type { RunSink } from "./sink.ts";

/** Opens the folder of a run to follow it. The first rank writes the run's files and its summary. */
export async function followerSink(
  options: Pick<FolderOptions, "out" | "resume" | "mayDiffer">,
): Promise<RunSink<null>> {
  const { out } = options, checkpoint = await resumingOf(options);
  const hasTexts = await exists(`${out}/${CALIBRATION_FILE}`), done = (): Promise<void> => Promise.resolve();
  return {
    platform: { ...ON_DISK, files: withoutWrites(ON_DISK.files) },
    checkpoint: { ...checkpoint, every: Infinity },
    hasTexts,
    texts: async () => checkpoint.resume && hasTexts ? await textsIn(out) : null,
    begin: done,
    add: done,
    end: () => Promise.resolve(null),
    [Symbol.dispose]: () => {},
  };
}
