// Inputs that are names on the Hugging Face Hub: fetched with progress before a verb begins, and how models are called.
import { basename, dirname, resolve } from "node:path";
import { type CompressoError, refusal } from "../lib/core/errors.ts";
import { lastPart } from "../lib/files/path.ts";
import { snapshotOf } from "../lib/hub/cache.ts";
import { fetchedBefore, fetchFromHub, type HubFetchOptions } from "../lib/hub/fetch.ts";
import { type HubUse, isHubName, parseHubName } from "../lib/hub/name.ts";
import { formatBytes } from "./terminal/output.ts";
import { type Progress, stderrProgress } from "./terminal/progress.ts";

/** Inputs of a verb as they were typed. */
export type TypedInputs = { readonly [use in HubUse]?: readonly (string | undefined)[] };

/** Declaration of the option, for the whole program. */
export const VERIFY_OPTION = [
  "--verify",
  "compute the hash of each file of the Hub that is in the cache, and stop at a damaged one",
] as const;

let verifying = false;

/** Sets whether this process verifies files of the cache: `--verify`. */
export function setVerify(value: boolean): void {
  verifying = value;
}

/** Whether files of the cache are verified. */
export function verifies(): boolean {
  return verifying;
}

/** Refuses `--verify` without a name on the Hub that is read. */
export function checkVerify(verb: string, words: readonly string[]): void {
  const isNamed = words.some((word) => /^(--[\w-]+=)?hf:/.test(word));
  if (verifying && verb !== "experiment" && (verb === "push" || !isNamed)) throw nothingToVerify(verb);
}

function nothingToVerify(verb: string): CompressoError {
  return refusal("usage", "cannot use --verify", {
    rule: "a model, data or an adapter is read from the Hub: hf:owner/name",
    value: `${verb} reads none`,
    option: "--verify",
  });
}

/** Fetches what names on the Hub stand for; where a name is used later, it is there. Paths are left alone. */
export async function fetchInputs(
  inputs: TypedInputs,
  { signal, resumes }: {
    readonly signal?: AbortSignal | undefined;
    /** Whether earlier work is resumed, with the revisions that it was begun with. */
    readonly resumes?: boolean;
  } = {},
): Promise<void> {
  const uses = Object.entries(inputs) as readonly [HubUse, readonly (string | undefined)[]][];
  const names = uses.flatMap(([use, list]) => list.flatMap((name) => name && isHubName(name) ? [{ use, name }] : []));
  if (names.length === 0 && verifying) throw nothingToVerify("this command");
  if (names.length === 0) return;
  using progress = stderrProgress();
  for (const { use, name } of names) await fetchWithProgress(name, use, { progress, signal, resumes });
}

async function fetchWithProgress(
  name: string,
  use: HubUse,
  { progress, ...how }: Pick<HubFetchOptions, "signal" | "resumes"> & { readonly progress: Progress },
): Promise<void> {
  const { source } = await fetchFromHub(name, {
    ...how,
    use,
    verify: verifying,
    onNote: progress.note,
    onProgress: ({ bytes, total }) => {
      const detail = `${formatBytes(bytes)} of ${formatBytes(total)}`;
      progress.phase(`${verifying ? "verifying" : "fetching"} ${name}`, total === 0 ? 1 : bytes / total, detail);
    },
  });
  progress.detail(`${name} is ${source}`);
}

/** Words with the names on the Hub among them pinned to the commits that they stand for. */
export async function pinned(words: readonly string[]): Promise<string[]> {
  return await Promise.all(words.map(async (word) => {
    const [, flag = "", name = ""] = /^(--[\w-]+=)?(hf:.+)$/.exec(word) ?? [];
    const uses = await Promise.all((["model", "data", "adapter"] as const).map((use) => fetchedBefore(name, use)));
    const source = uses.find((use) => use !== null)?.source;
    return source === undefined ? word : flag + source;
  }));
}

/**
 * The name by which a model is served: "SmolLM2-135M" of "models/SmolLM2-135M.gguf". What a run wrote is named by the
 * run's folder: "mine" of "runs/mine/model", "mine-gguf" of "runs/mine/model.gguf".
 */
export function servedName(model: string): string {
  const name = modelName(model), written = /^model(\.gguf)?$/i.exec(name);
  if (!written) return name.replace(/\.gguf$/i, "") || "model";
  const run = isHubName(model) ? lastPart(parseHubName(model, "model").repo) : basename(dirname(resolve(model)));
  return run === "" ? "model" : written[1] === undefined ? run : `${run}-gguf`;
}

/** What a model is called: the last part of its path, or of its name on the Hub. */
export function modelName(model: string): string {
  if (!isHubName(model)) return lastPart(snapshotOf(resolve(model))?.repo ?? basename(resolve(model)));
  const { repo, file } = parseHubName(model, "model");
  return lastPart(file ?? repo);
}
