// The models of `compresso eval` before the first one is measured. Owns what is looked at of each, and that an error names its model; refuses to load
// weights.
import { CompressoError } from "../../../lib/core/errors.ts";
import { type ModelFiles } from "../../../lib/formats/open.ts";
import { openModelFiles } from "../../../lib/disk/open_model.ts";

/**
 * Looks at each of several models, so that none is measured for nothing where a later one cannot be. One alone is refused as it is loaded, unless
 * what is kept of it is looked for before (`out`).
 */
export async function checkEach(
  paths: readonly string[],
  { out }: { readonly out?: string | undefined },
  check: (files: ModelFiles) => Promise<void> | void,
): Promise<void> {
  if (paths.length < 2 && out === undefined) return;
  for (const path of paths) {
    const files = await openModelFiles(path);
    try {
      await check(files);
    } catch (error) {
      if (!(error instanceof CompressoError)) throw error;
      const what = `${error.parts.what}, model ${path}`;
      throw new CompressoError(error.code, { ...error.parts, what }, { cause: error });
    }
  }
}
