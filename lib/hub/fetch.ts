// Models, adapters and data by their names on the Hub: fetched into the cache, once per process.
import { join } from "node:path";
import type { HubListener } from "./http.ts";
import { chooseFiles } from "./choose.ts";
import { download } from "./download.ts";
import { hubText, type HubUse, parseHubName } from "./name.ts";
import { type HubRepo, openRepo } from "./repo.ts";
import { hubSettings } from "./settings.ts";

/** How far a download is. */
export interface HubProgress {
  /** The file that is fetched, within its repository. */
  readonly file: string;
  /** Bytes of all files that are there; those of an earlier, interrupted download count. */
  readonly bytes: number;
  /** Bytes of all files. */
  readonly total: number;
}

/** Options of {@link fetchFromHub}. */
export interface HubFetchOptions extends HubListener {
  /** What the name is used for: "data" are rows, in a repository of a data set. Default "model". */
  readonly use?: HubUse;
  /** Whether a branch means the commit in the cache, for work that is resumed. Default false: the newest commit. */
  readonly resumes?: boolean | undefined;
  /**
   * Whether the hash of each file in the cache is computed again, and a damaged one is an error. Default false: its
   * size and time of change are compared.
   */
  readonly verify?: boolean | undefined;
  /** Called as bytes come, or are verified. */
  readonly onProgress?: ((progress: HubProgress) => void) | undefined;
}

/** What was fetched. */
export interface HubFetched {
  /** The folder or file in the cache. */
  readonly path: string;
  /** The name with the commit that it stands for: `hf:owner/name@commit[:file]`. */
  readonly source: string;
}

/** A name stands for one commit as long as the process runs. */
const fetched = new Map<string, Promise<HubFetched>>();
/** Names whose files were verified. */
const verified = new Set<string>();

/**
 * Fetches a model, an adapter or data from the Hugging Face Hub into the cache of Python's huggingface_hub, and returns
 * its path. Of a model only the needed files are fetched: the safetensors with config, tokenizer, card and licence, or
 * one GGUF. An interrupted download is resumed. Size and hash of every file are checked. `HF_ENDPOINT`, `HF_HOME`,
 * `HF_HUB_CACHE`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they do in Python.
 *
 * `loadModel`, `readRows` and other functions that take a path take such a name too. Use this function to show progress
 * or to fetch beforehand. Later uses of a name in the same process read the same commit.
 *
 * @throws CompressoError("usage") for a name of another form than `hf:owner/name[@revision][:file]`.
 * @throws CompressoError("input") if the repository or file does not exist or may not be read, if several files could
 * be meant, if a file has other bytes than the Hub lists, or with `verify` is damaged in the cache, if a file cannot be
 * written, and if the Hub cannot be reached.
 */
export async function fetchFromHub(name: string, options: HubFetchOptions = {}): Promise<HubFetched> {
  const { use = "model", verify = false } = options, key = `${use} ${name}`, before = fetched.get(key);
  const again = verify && !verified.has(key);
  const work = before && again
    ? before.then(({ source }) => fetchNow(source, { ...options, use }))
    : before ?? fetchNow(name, { ...options, use });
  fetched.set(key, work);
  try {
    const found = await work;
    if (again) verified.add(key);
    return found;
  } catch (error) {
    fetched.delete(key);
    throw error;
  }
}

/** What this process has fetched under a name; null for nothing. */
export async function fetchedBefore(name: string, use: HubUse): Promise<HubFetched | null> {
  return await fetched.get(`${use} ${name}`) ?? null;
}

async function fetchNow(
  text: string,
  { use, resumes, verify, onProgress, ...listener }: HubFetchOptions & { readonly use: HubUse },
): Promise<HubFetched> {
  const name = parseHubName(text, use);
  const repo = await openRepo(name, await hubSettings(), { ...listener, keeps: true, resumes });
  const read = async (path: string): Promise<string> =>
    await Deno.readTextFile(await download(repo, path, { ...listener, verify }));
  const { files, place } = await chooseFiles(repo, use, { read });
  const total = files.reduce((sum, path) => sum + sizeOf(repo, path), 0);
  let before = 0;
  for (const file of files) {
    const tell = (bytes: number): void => onProgress?.({ file, bytes: before + bytes, total });
    await download(repo, file, { ...listener, verify, onBytes: tell });
    before += sizeOf(repo, file);
  }
  onProgress?.({ file: files.at(-1) ?? "", bytes: total, total });
  return {
    path: join(repo.cache.snapshot(repo.commit), place),
    source: hubText(name, { revision: repo.commit, file: place === "" ? null : place }),
  };
}

function sizeOf({ files }: HubRepo, path: string): number {
  return files.get(path)?.size ?? 0;
}
