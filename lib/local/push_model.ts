// Pushes a model to the Hugging Face Hub: the folder of a run, a Hugging Face folder, or a GGUF.
import { refuse } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { lastPart, within } from "../files/path.ts";
import { infoOf, isThere } from "../files/system.ts";
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
 * @throws CompressoError("input") for a path without a model, where the token does not allow it, or the Hub cannot be reached.
 */
export async function pushToHub(path: string, name: string, options: PushOptions = {}): Promise<Uploaded> {
  return await uploadToHub(name, await filesOf(path), {
    message: `Upload ${lastPart(path)} with Compresso`,
    ...options,
  });
}

/** The files, and where they go. */
async function filesOf(path: string): Promise<UploadFile[]> {
  const { isFolder } = await infoOf(disk, path);
  if (!isFolder && path.endsWith(".gguf")) return [{ path: lastPart(path), from: path }];
  if (isFolder && await isThere(disk, within(path, "config.json"))) return await filesBelow(path);
  const isRun = isFolder && await isThere(disk, within(path, "run.json"));
  if (!isRun) {
    refuse("input", `cannot push ${path}`, {
      rule: "it is the folder of a finished run, a Hugging Face folder, or a .gguf file",
      value: isFolder ? "a folder without run.json and config.json" : "another file",
      fix: "name the folder that a run was written to",
    });
  }
  const model = within(path, "model"), found = await isThere(disk, model) ? await filesBelow(model) : [];
  for (const name of (await disk.names(path)).filter((name) => OF_RUN.test(name))) {
    const from = within(path, name);
    if ((await infoOf(disk, from)).isFolder) found.push(...await filesBelow(from, `${name}/`));
    else found.push({ path: name, from });
  }
  return found;
}

/** Files of a folder and its subfolders, without checkpoints and names that begin with a dot. */
async function filesBelow(folder: string, prefix = ""): Promise<UploadFile[]> {
  const found: UploadFile[] = [];
  for (const name of await disk.names(folder)) {
    const from = within(folder, name);
    if (name.startsWith(".") || name === "checkpoint.safetensors") continue;
    if ((await infoOf(disk, from)).isFolder) found.push(...await filesBelow(from, `${prefix}${name}/`));
    else found.push({ path: prefix + name, from });
  }
  return found;
}
