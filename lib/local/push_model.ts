// Pushes a model to the Hugging Face Hub: the folder of a run, a Hugging Face folder, or a GGUF.
import { join, sep } from "node:path";
import { refuse } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { lastPart, within } from "../files/path.ts";
import { infoOf, isThere } from "../files/system.ts";
import { snapshotOf } from "../hub/cache.ts";
import { type Uploaded, type UploadFile, type UploadOptions, uploadToHub } from "../hub/upload.ts";

/** Entries of a run's folder that are uploaded with its model. Checkpoint and calibration texts are not. */
const OF_RUN = /^(?:model\.gguf|run\.json|records\.jsonl|report\.html|adapter|unmerged)$/;

/** Options of {@link pushToHub}. */
export type PushOptions = Partial<UploadOptions>;

/**
 * Uploads a model as one commit. The repository is created if it does not exist. The path is one of:
 *
 * - the folder of a run: the files of `model/` go to the top level, with model.gguf, run.json, records.jsonl and
 *   adapters;
 * - a Hugging Face folder;
 * - a GGUF.
 *
 * The token is read from `HF_TOKEN`, or from the file that `hf auth login` writes. Large files that the Hub already has
 * are not sent again.
 *
 * @throws CompressoError("usage") for a name of another form than `hf:owner/name[@branch]`, and without a token.
 * @throws CompressoError("input") for a path without a model, if the token does not allow it, or the Hub cannot be reached.
 */
export async function pushToHub(path: string, name: string, options: PushOptions = {}): Promise<Uploaded> {
  return await uploadToHub(name, await filesOf(path, options), {
    message: `Upload ${lastPart(path)} with Compresso`,
    ...options,
  });
}

/** The files, and where they go. */
async function filesOf(path: string, { onNote }: PushOptions): Promise<UploadFile[]> {
  const { isFolder } = await infoOf(disk, path);
  if (!isFolder && path.endsWith(".gguf")) {
    if ((await Deno.stat(path)).isFile) return [{ path: lastPart(path), from: path }];
  }
  const root = await Deno.realPath(path);
  if (isFolder && await isThere(disk, within(path, "config.json"))) return await filesBelow(path, { root, onNote });
  const isRun = isFolder && await isThere(disk, within(path, "run.json"));
  if (!isRun) {
    refuse("input", `cannot push ${path}`, {
      rule: "it is the folder of a finished run, a Hugging Face folder, or a .gguf file",
      value: isFolder ? "a folder without run.json and config.json" : "another file",
      fix: "name the folder that a run was written to",
    });
  }
  const names = await disk.names(path), found: UploadFile[] = [];
  if (names.includes("model")) found.push(...await filesAt(within(path, "model"), "", { root, onNote }));
  for (const name of names.filter((name) => OF_RUN.test(name))) {
    found.push(...await filesAt(within(path, name), name, { root, onNote }));
  }
  return found;
}

/** The folder that files have to be in, and a listener for files that are elsewhere. */
interface Walk extends Pick<PushOptions, "onNote"> {
  /** The folder that is pushed, without links. */
  readonly root: string;
}

/** Files of a folder and its subfolders, without checkpoints and names that begin with a dot. */
async function filesBelow(folder: string, walk: Walk, prefix = ""): Promise<UploadFile[]> {
  const found: UploadFile[] = [];
  for (const name of await disk.names(folder)) {
    if (name.startsWith(".") || name === "checkpoint.safetensors") continue;
    found.push(...await filesAt(within(folder, name), prefix + name, walk));
  }
  return found;
}

/** A file, or those of a folder. Links that leave the pushed folder or lead to folders are left out, and what is no regular file. */
async function filesAt(from: string, path: string, walk: Walk): Promise<UploadFile[]> {
  const { isDirectory } = await Deno.lstat(from);
  if (isDirectory) return await filesBelow(from, walk, path === "" ? "" : `${path}/`);
  const real = await Deno.realPath(from).catch(() => null);
  if (real !== null && (await Deno.stat(real)).isFile && rootsOf(walk.root).some((root) => real.startsWith(root))) {
    return [{ path, from: real }];
  }
  walk.onNote?.(`${from} is left out: it is no regular file within the folder`);
  return [];
}

/** Beginnings of paths that may be pushed; files of the Hub's cache are links to its blobs. */
function rootsOf(root: string): string[] {
  return [root + sep, ...snapshotOf(root) === null ? [] : [join(root, "..", "..", "blobs") + sep]];
}
