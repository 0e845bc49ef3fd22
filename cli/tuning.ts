// Tuned kernels for the verbs that run a model: where the table is kept and when products are measured. Without a table, kernels run with their
// defaults; only a named file that is no table is refused.
import { createHash } from "node:crypto";
import { isAbsolute, join } from "node:path";
import { cpuUsage } from "node:process";
import { refuse } from "../lib/core/errors.ts";
import type { Device } from "../lib/gpu/device.ts";
import { adapterIdentity } from "../lib/gpu/tuning.ts";
import { type TuneOptions, tuneProducts } from "../lib/nn/products/tune.ts";
import { parameterCount } from "../lib/spec/decoder.ts";
import type { Model } from "../lib/model/model.ts";
import { loadTuning, saveTuning } from "../lib/local/tuning_cache.ts";
import type { Progress } from "./terminal/progress.ts";

/** Value of `--tuning FILE` and `--no-tuning`: a path, false, or true for the default place. */
export type TuningSetting = string | boolean;

/** What a verb is about to run. */
export interface TuneRequest extends Pick<TuneOptions, "rows" | "directions" | "rank"> {
  /** Tokens of all passes together. */
  readonly tokens: number;
}

/** Floating-point operations of a run below which measuring takes longer than it saves; an existing table is used all the same. */
const LEAST_WORK = 1e13;

/** Devices for which it was already said that the named file cannot be written, as each model and each run of an experiment would repeat it. */
const reported = new WeakSet<Device>();

/**
 * Uses the table; before a long run, measures what is missing in it, a few seconds at most, and saves it. Says so if a named file cannot be written.
 * Throws `CompressoError("usage")` for a named file that is no table, as it would be overwritten.
 */
export async function tuneFor(
  { device, spec, source, weights }: Model,
  request: TuneRequest,
  { setting, progress, signal }: {
    readonly setting: TuningSetting;
    readonly progress: Progress;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  if (setting === false) return;
  const path = setting === true ? tuningPlace(device) : setting;
  const file = path === null ? null : await loadTuning(device, path);
  if (setting !== true && file?.state === "ignored" && file.isForeign) {
    refuse("usage", `cannot keep kernel speeds in ${setting}`, {
      rule: "--tuning is a table that compresso wrote, or a new file",
      value: file.reason,
      fix: "name another file",
    });
  }
  const { tokens, directions = ["forward", "backward"] } = request;
  if (2 * parameterCount(spec) * tokens * directions.length < LEAST_WORK) return;
  const { measured } = await tuneProducts(device, spec, {
    ...request,
    baseDtype: weights.baseDtype,
    storedDtype: (name) => source.storedDtype(name),
    cpuTime,
    signal,
    onProgress: (share) => progress.phase("measuring kernels", share),
  });
  if (path === null || measured === 0 || await saveTuning(device, path)) return;
  // The user's cache is a convenience; a file that was named is expected to be there.
  if (setting === true || reported.has(device)) return;
  reported.add(device);
  progress.note(`compresso: cannot write ${path}; the measured kernel speeds are used for this command only`);
}

/**
 * The file for this adapter in the user's cache folder; null if that folder is not known or may not be used. It asks
 * for no permission: a question in the middle of a run would be worse than no cache.
 */
export function tuningPlace(device: Device): string | null {
  const folder = cacheFolder();
  if (folder === null) return null;
  const name = createHash("sha256").update(adapterIdentity(device)).digest("hex").slice(0, 12);
  const path = join(folder, "compresso", `tuning-${name}.json`);
  return isGranted({ name: "read", path }) && isGranted({ name: "write", path }) ? path : null;
}

function cpuTime(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1e6;
}

function cacheFolder(): string | null {
  const { os } = Deno.build;
  if (os === "windows") return variable("LOCALAPPDATA");
  const home = variable("HOME");
  if (os === "darwin") return home && join(home, "Library", "Caches");
  return variable("XDG_CACHE_HOME") ?? (home && join(home, ".cache"));
}

/** An environment variable that holds an absolute path: others are ignored, as the XDG specification says. */
function variable(name: string): string | null {
  if (!isGranted({ name: "env", variable: name })) return null;
  const value = Deno.env.get(name);
  return value !== undefined && isAbsolute(value) ? value : null;
}

function isGranted(descriptor: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(descriptor).state === "granted";
}
