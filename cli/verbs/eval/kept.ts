// Work of `compresso eval` that resumes from the file of `--out`, and what has to be the same for that.
import { dirname, join } from "node:path";
import { CompressoError } from "../../../lib/core/errors.ts";
import { type EntryKind, type EvaluationFile, openEvaluationFile } from "../../../lib/eval/evaluation_file.ts";
import { exists } from "../../../lib/files/exists.ts";
import { modelDigest } from "../../../lib/files/fingerprint.ts";
import { adapterPath } from "../../../lib/local/adapter.ts";
import { modelPath } from "../../../lib/local/open_model.ts";
import type { RunIdentity } from "../../../lib/core/identity.ts";
import { type EvalSettings, type EvalWork, type Measurement, plainWork } from "./work.ts";
import { note } from "../../terminal/output.ts";
import type { Loaded } from "../../with_model.ts";

/** Work whose measure gets the open file, or null without `--out`. To continue a file, models and `identity` must be as in the first run. */
export async function keptWork<Known, Added>(
  paths: readonly string[],
  { out, baseDtype = "f16", adapter }: EvalSettings,
  { kind, identity, measure }: {
    readonly kind: EntryKind<Known, Added>;
    readonly identity: RunIdentity;
    readonly measure: (
      path: string,
      loaded: Loaded,
      file: EvaluationFile<Known, Added> | null,
    ) => Promise<Measurement>;
  },
): Promise<EvalWork> {
  if (out === undefined) return plainWork((path, loaded) => measure(path, loaded, null));
  const whole: Record<string, RunIdentity[string]> = { baseDtype, ...identity };
  for (const path of paths) whole[`model ${path}`] = await modelDigest(await modelPath(path));
  if (adapter !== undefined) whole["adapter"] = await adapterDigest(adapter);
  const file = await openEvaluationFile(out, whole, { kind });
  if (file.found > 0) note(`resuming with ${file.found} ${kind.noun}s of ${out}`);
  const kept = `results so far are kept in ${out}; the same command resumes from them`;
  return {
    interrupt: { onInterrupt: `stopping; ${kept}; press Ctrl-C again to end at once` },
    async measure(path, loaded): Promise<Measurement> {
      try {
        return await measure(path, loaded, file);
      } catch (error) {
        if (!(error instanceof CompressoError) || error.code !== "aborted") throw error;
        throw error.with({ fix: kept });
      }
    },
    [Symbol.dispose]: () => file[Symbol.dispose](),
  };
}

/** Digest of an adapter. For a file of weights, it includes the config in the same folder, which gives the scale. */
async function adapterDigest(named: string): Promise<string> {
  const path = await adapterPath(named),
    digest = await modelDigest(path),
    config = join(dirname(path), "adapter_config.json");
  return (await Deno.stat(path)).isFile && await exists(config) ? `${digest} ${await modelDigest(config)}` : digest;
}
