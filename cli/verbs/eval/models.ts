// Checks the models of `compresso eval` before the first one is measured; errors name their model.
import { CompressoError } from "../../../lib/core/errors.ts";
import { type ModelFiles } from "../../../lib/formats/open.ts";
import { openModelFiles } from "../../../lib/local/open_model.ts";

/**
 * Checks each of several models, so that no work is wasted if a later one cannot be measured. A single model is checked
 * when it is loaded or, with `out`, before the earlier results are read.
 */
export async function checkEach(
  paths: readonly string[],
  { out }: { readonly out?: string | undefined },
  check: (files: ModelFiles, path: string) => Promise<void> | void,
): Promise<void> {
  if (paths.length < 2 && out === undefined) return;
  for (const path of paths) {
    const files = await openModelFiles(path);
    try {
      await check(files, path);
    } catch (error) {
      if (!(error instanceof CompressoError)) throw error;
      throw error.with({ at: `model ${path}` });
    }
  }
}
