// The cache of huggingface_hub, shared with Python's library: blobs by their hash, refs of revisions, and snapshots,
// which are links to blobs.
import { dirname, join, relative, resolve, sep } from "node:path";
import { CompressoError, refuse } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { makeFolder, unwritable, writeFileAtomically } from "../files/atomic.ts";
import { namesIn } from "../files/exists.ts";
import { isMissing } from "../files/held_file.ts";
import { textIfThere } from "../files/text_file.ts";
import { type HubName, isCommit, isSafePath } from "./name.ts";

/** A file of a repository. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** SHA-256 of a file in large file storage; null for one in git. */
  readonly sha256: string | null;
  /**
   * Git's SHA-1 of the file, or of its pointer if the file is in large file storage; null if only the cache knows the
   * file.
   */
  readonly blobId: string | null;
  /** Hash of the file in the Hub's chunk storage; Python's library notes it too. */
  readonly xetHash?: string;
}

/** The folder of a repository within the cache. */
export class RepoCache {
  /** `models--owner--name`. */
  readonly folder: string;
  readonly #cache: string;

  /** The folder of a repository; nothing is made. */
  constructor(cache: string, { type, repo }: Pick<HubName, "type" | "repo">) {
    this.#cache = resolve(cache);
    this.folder = join(this.#cache, `${type}--${repo.replace("/", "--")}`);
  }

  /** Folder of the files of a commit. */
  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** Where a blob is kept. */
  blob(hash: string): string {
    return join(this.folder, "blobs", hash);
  }

  /** The lock of a blob, the same as Python's. */
  lock(hash: string): string {
    return join(this.#cache, ".locks", relative(this.#cache, this.folder), `${hash}.lock`);
  }

  /** Size and time of change of a blob when its hash was checked last, in a file next to its lock. */
  stamp(hash: string): string {
    return this.lock(hash).replace(/lock$/, "checked");
  }

  /** Whether a file in the cache is as it was when its hash was checked. */
  async isStamped(path: string, hash: string): Promise<boolean> {
    return await textIfThere(this.stamp(hash)) === await stampOf(path);
  }

  /** Notes that the hash of a file was checked. Where the cache cannot be written, the next use checks it again. */
  async keepStamp(path: string, hash: string): Promise<void> {
    try {
      await this.#write(this.stamp(hash), await stampOf(path));
    } catch (error) {
      if (!(error instanceof CompressoError)) throw error;
    }
  }

  /** Removes that note, so that the next use computes the hash again. A cache that cannot be written keeps it. */
  async forgetStamp(hash: string): Promise<void> {
    await Deno.remove(this.stamp(hash)).catch(() => {});
  }

  /** The commit that a branch or tag stood for when it was last looked up; null if that never was. */
  async commitOf(revision: string): Promise<string | null> {
    const text = (await textIfThere(join(this.folder, "refs", revision)))?.trim() ?? "";
    return isCommit(text) ? text : null;
  }

  /** Keeps the commit that a branch or tag stands for. */
  async keepRef(revision: string, commit: string): Promise<void> {
    if (await this.commitOf(revision) === commit) return;
    await this.#write(join(this.folder, "refs", revision), commit);
  }

  /** All files of a commit, where a list with a valid file was kept; null otherwise. */
  async files(commit: string): Promise<HubFile[] | null> {
    const text = await textIfThere(join(this.folder, "trees", `${commit}.json`)).catch(() => null);
    if (text === null) return null;
    try {
      const tree: unknown = JSON.parse(text);
      if (!isObject(tree) || tree["format_version"] !== 1 || !isObject(tree["files"])) return null;
      const files = Object.entries(tree["files"]).flatMap(([path, entry]) => storedFile(path, entry) ?? []);
      return files.length > 0 ? files : null;
    } catch {
      return null;
    }
  }

  /** Keeps the list of all files of a commit, as Python's library does. */
  async keepFiles(commit: string, files: readonly HubFile[]): Promise<void> {
    const entries = files.map(({ path, size, sha256, blobId, xetHash }) => [path, {
      size,
      blob_id: blobId,
      ...(sha256 === null ? {} : { lfs_sha256: sha256, lfs_size: size }),
      ...(xetHash === undefined ? {} : { xet_hash: xetHash }),
    }]);
    const tree = { format_version: 1, files: Object.fromEntries(entries) };
    await this.#write(join(this.folder, "trees", `${commit}.json`), JSON.stringify(tree, null, 1));
  }

  /** Files of a commit that are in the cache: what is known of it without the Hub. */
  async present(commit: string, below = ""): Promise<HubFile[]> {
    const found: HubFile[] = [];
    for (const name of await namesIn(join(this.snapshot(commit), below))) {
      const path = below === "" ? name : `${below}/${name}`, at = join(this.snapshot(commit), path);
      const info = await Deno.lstat(at);
      if (info.isDirectory) found.push(...await this.present(commit, path));
      else if (await this.place(commit, { path, size: null }) !== null) {
        found.push({ path, size: (await Deno.stat(at)).size, sha256: null, blobId: null });
      }
    }
    return found;
  }

  /** Path of a file of a commit; null if it is not in the cache. Throws `CompressoError("input")` for a link that leaves the cache. */
  async place(
    commit: string,
    { path, size }: { readonly path: string; readonly size: number | null },
  ): Promise<string | null> {
    const at = join(this.snapshot(commit), path), info = await Deno.stat(at).catch(() => null);
    if (!info?.isFile || (size !== null && info.size !== size)) return null;
    await this.#checkWithin(at);
    return at;
  }

  /** Puts a blob into the snapshot of a commit: as a link or, if links are not possible, as the file itself. */
  async link(
    commit: string,
    path: string,
    { hash, isNew }: {
      readonly hash: string;
      /** Whether no other snapshot can have the blob yet. */
      readonly isNew: boolean;
    },
  ): Promise<string> {
    const at = join(this.snapshot(commit), path), blob = this.blob(hash);
    await this.prepare(at);
    try {
      await Deno.remove(at).catch((error) => {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
      try {
        await Deno.symlink(relative(dirname(at), blob), at);
      } catch (error) {
        if (error instanceof Deno.errors.AlreadyExists) return at; // another process was as fast
        // On Windows only some users may make links, and Deno makes none with the right to write to some folders only.
        if (isNew) await Deno.rename(blob, at);
        else await Deno.copyFile(blob, at);
      }
      return at;
    } catch (error) {
      throw unwritable(at, error);
    }
  }

  /** Makes the folder of a file. Throws `CompressoError("input")` if it is not within the cache, through links. */
  async prepare(path: string): Promise<void> {
    await makeFolder(this.#cache);
    let there = dirname(path);
    while (await Deno.lstat(there).then(() => false, isNotThere)) there = dirname(there);
    await this.#checkWithin(there);
    await makeFolder(dirname(path));
  }

  async #write(path: string, text: string): Promise<void> {
    await this.prepare(path);
    await writeFileAtomically(path, text);
  }

  async #checkWithin(path: string): Promise<void> {
    const real = await Deno.realPath(path), cache = await Deno.realPath(this.#cache);
    if (real === cache || real.startsWith(cache.endsWith(sep) ? cache : cache + sep)) return;
    refuse("input", `cannot use ${path}`, {
      rule: `no link leads out of the cache ${this.#cache}`,
      value: `it leads to ${real}`,
      fix: "remove the link, or set HF_HUB_CACHE to where the files are",
    });
  }
}

/** The repository, commit and path of a file or folder in a cache, by its path; null for other paths. */
export function snapshotOf(
  path: string,
): (Pick<HubName, "type" | "repo" | "file"> & { readonly commit: string }) | null {
  const parts = path.split(/[/\\]/).filter((part, index) => part !== "" || index === 0);
  const at = parts.lastIndexOf("snapshots"), commit = parts[at + 1] ?? "";
  const [type, owner, ...rest] = (parts[at - 1] ?? "").split("--");
  if (!isCommit(commit) || (type !== "models" && type !== "datasets") || owner === undefined) return null;
  const file = parts.slice(at + 2).join("/");
  return { type, repo: [owner, ...rest].join("/"), commit, file: file === "" ? null : file };
}

/** A file in the list that is kept. */
function storedFile(path: string, entry: unknown): HubFile | null {
  if (!isObject(entry)) return null;
  const { size, blob_id: blobId, lfs_sha256: sha256 = null, lfs_size: lfsSize, xet_hash: xetHash } = entry;
  return hubFile({ path, size: lfsSize ?? size, sha256, blobId, xetHash });
}

/** A file of the list; null if a field is invalid, or if its path would leave the folder. */
export function hubFile(
  { path, size, sha256, blobId, xetHash }: { readonly [part in keyof HubFile]?: unknown },
): HubFile | null {
  if (typeof path !== "string" || !isSafePath(path)) return null;
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) return null;
  if (sha256 !== null && !isHash(sha256, 64)) return null;
  if (!isHash(blobId, 40)) return null;
  return { path, size, sha256, blobId, ...(isHash(xetHash, 64) ? { xetHash } : {}) };
}

/** Whether nothing is at a path, or a file where one of its folders would be. */
function isNotThere(error: unknown): boolean {
  return isMissing(error) || error instanceof Deno.errors.NotADirectory;
}

async function stampOf(path: string): Promise<string> {
  const { size, mtime } = await Deno.stat(path);
  return `${size} ${mtime?.getTime() ?? 0}`;
}

function isHash(value: unknown, digits: number): value is string {
  return typeof value === "string" && value.length === digits && /^[0-9a-f]+$/.test(value);
}
