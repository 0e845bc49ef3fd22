// Files and folders that appear whole or not at all: written under another name in the same folder, synced, then renamed. Links are followed.
import { dirname, resolve, sep } from "node:path";
import { CompressoError, refusal } from "../core/errors.ts";
import { PIECE_BYTES } from "./bytes.ts";
import { exists, namesIn } from "./exists.ts";
import { type FolderOptions, occupied, type Staged, type StagedFile, writeFile } from "./system.ts";

/**
 * A file that is written under another name in its folder; {@link AtomicFile.commit} moves it to its path. Disposed without commit, it leaves
 * nothing. What is not a regular file, such as a pipe, is written to directly.
 */
export class AtomicFile implements StagedFile {
  readonly path: string;
  /** Null if there is nothing to move. */
  readonly #move: { readonly from: string; readonly to: string } | null;
  readonly #file: Deno.FsFile;
  #written = 0;
  #state: "open" | "done" = "open";

  private constructor(path: string, file: Deno.FsFile, move: { readonly from: string; readonly to: string } | null) {
    this.path = path;
    this.#file = file;
    this.#move = move;
  }

  /** Opens a new file for `path`; makes the folders above it. Throws `CompressoError("input")` if that is not allowed. */
  static async open(path: string): Promise<AtomicFile> {
    try {
      const info = await Deno.stat(path).catch(() => null);
      if (info?.isDirectory) throw new Error("the path is a folder");
      if (info && !info.isFile) return new AtomicFile(path, await Deno.open(path, { write: true }), null);
      const to = await destination(path), from = siblingName(to, "tmp");
      await Deno.mkdir(dirname(to), { recursive: true });
      return new AtomicFile(path, await createLike(from, info), { from, to });
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  /** Bytes written so far. */
  get written(): number {
    return this.#written;
  }

  /** Appends bytes. Throws `CompressoError("input")` if the disk refuses them. */
  async write(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        done += await this.#file.write(bytes.subarray(done, done + PIECE_BYTES));
      }
    } catch (error) {
      throw unwritable(this.path, error);
    }
    this.#written += bytes.length;
  }

  /** Brings the bytes to the disk, so that little of {@link AtomicFile.commit} can fail. */
  async sync(): Promise<void> {
    if (!this.#move) return;
    try {
      await this.#file.sync();
    } catch (error) {
      throw unwritable(this.path, error);
    }
  }

  /** Brings the bytes to the disk, moves the file to its path and brings that to the disk too. */
  async commit(): Promise<void> {
    const move = this.#move;
    try {
      if (move) await this.#file.sync();
      this.#file.close();
      this.#state = "done";
      if (!move) return;
      await Deno.rename(move.from, move.to);
      await syncFolder(dirname(move.to));
    } catch (error) {
      if (move) await Deno.remove(move.from).catch(() => {});
      throw unwritable(this.path, error);
    }
  }

  /** Removes what was written, unless committed. */
  [Symbol.dispose](): void {
    if (this.#state === "done") return;
    this.#state = "done";
    this.#file.close();
    if (!this.#move) return;
    try {
      Deno.removeSync(this.#move.from);
    } catch { /* already gone */ }
  }
}

/** A new file with the permissions of the file that it will replace; Windows has no such modes. */
async function createLike(path: string, replaced: Deno.FileInfo | null): Promise<Deno.FsFile> {
  const options = { write: true, createNew: true };
  if (!replaced || replaced.mode === null) return await Deno.open(path, options);
  const mode = replaced.mode & 0o777, file = await Deno.open(path, { ...options, mode });
  const own = ((await file.stat()).mode ?? 0) & 0o777;
  try {
    // A mask may have taken something away.
    if (own !== mode) await Deno.chmod(path, mode);
    return file;
  } catch (error) {
    // Shares whose files are another user's refuse any change. That does no harm where nobody may read more than before.
    if ((own & ~mode) === 0) return file;
    file.close();
    await Deno.remove(path).catch(() => {});
    throw error;
  }
}

/** Writes a whole small file atomically: bytes, or a string as UTF-8. */
export async function writeFileAtomically(path: string, content: Uint8Array | string): Promise<void> {
  await writeFile({ stageFile: AtomicFile.open }, path, content);
}

/** Makes a folder and those above it, where they are missing. Throws `CompressoError("input")` if that is not allowed. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await Deno.mkdir(path, { recursive: true });
  } catch (error) {
    throw unwritable(path, error);
  }
}

/** Tries whether a folder can be made and written to, and leaves nothing of the trial. Throws as {@link makeFolder}. */
export async function checkFolder(path: string): Promise<void> {
  const missing: string[] = [];
  // A link to nowhere and what may not be looked at are there.
  const isMissing = (at: string): Promise<boolean> =>
    Deno.lstat(at).then(() => false, (error) => error instanceof Deno.errors.NotFound);
  for (let at = resolve(path); await isMissing(at) && at !== dirname(at); at = dirname(at)) missing.push(at);
  try {
    await Deno.mkdir(path, { recursive: true });
    await Deno.remove(await Deno.makeTempFile({ dir: path, prefix: ".tmp-" }));
  } catch (error) {
    throw unwritable(path, error);
  } finally {
    // What another process has put there meanwhile keeps its folder.
    for (const folder of missing) await Deno.remove(folder).catch(() => {});
  }
}

/**
 * Lets `fill` write into a new folder next to `path`, which commit moves to `path`. After a failure nothing of it is left.
 * With `replace`, a folder that is there is put aside first and removed last; a crash between leaves it as
 * `PATH.old-…`, which the next call, or {@link recoverFolder}, puts back.
 * It and commit throw `CompressoError("input")` where `path` is a file, or a folder with content and not `replace`.
 */
export async function stageFolder(
  path: string,
  fill: (folder: string) => Promise<void>,
  options: FolderOptions = {},
): Promise<Staged> {
  const target = await destination(path);
  const tmp = siblingName(target, "tmp"), old = siblingName(target, "old");
  const discard = (): void => {
    try {
      Deno.removeSync(tmp, { recursive: true });
    } catch { /* moved or gone */ }
  };
  try {
    await Deno.mkdir(dirname(target), { recursive: true });
    await recoverFolder(target);
    await countReplaced(target, options);
    // As private as what it replaces.
    const mode = (await Deno.stat(target).catch(() => null))?.mode ?? null;
    await Deno.mkdir(tmp, mode === null ? {} : { mode: 0o700 | mode & 0o777 });
  } catch (error) {
    throw unwritable(target, error);
  }
  try {
    await fill(tmp);
    await syncTree(tmp).catch((error) => {
      throw unwritable(target, error);
    });
  } catch (error) {
    discard();
    throw isRefusal(error) ? unwritable(target, error) : error;
  }
  const commit = async (): Promise<void> => {
    try {
      const isReplaced = await countReplaced(target, options) >= 0;
      if (isReplaced) await Deno.rename(target, old);
      try {
        await Deno.rename(tmp, target);
      } catch (error) {
        if (isReplaced) await Deno.rename(old, target);
        throw error;
      }
      await syncFolder(dirname(target));
      // What cannot be removed stays next to the new folder, which is complete.
      if (isReplaced) await Deno.remove(old, { recursive: true }).catch(() => {});
    } catch (error) {
      throw unwritable(target, error);
    }
  };
  return { commit, [Symbol.dispose]: discard };
}

/** Puts back the folder that a crash within the commit of {@link stageFolder} left aside. Returns whether there was one. */
export async function recoverFolder(path: string): Promise<boolean> {
  const target = await destination(path);
  if (await contentCount(target) >= 0) return false;
  const base = baseName(target), aside: string[] = [];
  try {
    for await (const entry of Deno.readDir(dirname(target))) {
      // A folder of the user's own may have a name like it.
      const [, of] = SIBLING.exec(entry.name) ?? [];
      if (entry.isDirectory && of === base && entry.name.startsWith(`${base}.old-`)) aside.push(entry.name);
    }
    const [name] = aside;
    if (name === undefined || aside.length > 1) return false;
    await Deno.rename(`${dirname(target)}/${name}`, target);
    await syncFolder(dirname(target));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw unwritable(target, error);
  }
}

/** As {@link contentCount}; throws where a folder with content may not be replaced. */
async function countReplaced(path: string, { replace = false }: FolderOptions): Promise<number> {
  const count = await contentCount(path);
  if (count > 0 && !replace) throw occupied(path, count);
  return count;
}

/** Number of entries of a folder; −1 if the folder does not exist. Throws if the path is a file. */
async function contentCount(path: string): Promise<number> {
  try {
    let count = 0;
    for await (const _entry of Deno.readDir(path)) count++;
    return count;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return -1;
    throw unwritable(path, error);
  }
}

async function syncTree(folder: string): Promise<void> {
  for await (const entry of Deno.readDir(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) await syncTree(path);
    else if (entry.isFile) {
      // Windows requires the right to write for a flush.
      using file = await Deno.open(path, { read: true, write: true });
      await file.sync();
    }
  }
  await syncFolder(folder);
}

/** Makes a rename within a folder last through a power cut, where the file system can. Windows has no such call and needs none. */
async function syncFolder(folder: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  try {
    using handle = await Deno.open(folder, { read: true });
    await handle.sync();
  } catch {
    // Some file systems refuse it (EINVAL, ENOTSUP), and a folder that may be written need not be readable. The files in it have been brought to the
    // disk by themselves, and after a rename are whole at their place: only a power cut at this moment could undo it.
  }
}

/** Where a path leads through links, whether or not something is there. */
export async function destination(path: string): Promise<string> {
  let at = path.replace(/[/\\]+$/, "");
  for (let left = MOST_LINKS; left > 0; left--) {
    const link = await Deno.readLink(at).catch(() => null);
    if (link === null) return at;
    const folder = dirname(at); // may be reached through a link itself; `..` is then relative to the link's target
    at = resolve(await Deno.realPath(folder).catch(() => folder), link);
  }
  throw unwritable(path, new Error("its links lead in a circle"));
}

/** What Linux follows before it takes links for a circle. */
const MOST_LINKS = 40;

/**
 * Removes what killed processes have left of files and folders of these names in a folder, or where links of these names lead, and of folders that
 * were replaced. Only for the process that holds the folder's lock: what another process writes looks the same. What cannot be removed stays, and what was put aside and has
 * nothing in its place, and the path `read` with all that contains it.
 */
export async function removeLeftovers(
  folder: string,
  names: readonly string[],
  { read }: { readonly read?: string } = {},
): Promise<void> {
  const found: string[] = [], inUse = read === undefined ? "" : await Deno.realPath(read).catch(() => "");
  const ends = await Promise.all(names.map((name) => destination(`${folder}/${name}`)));
  for (const [place, own] of Map.groupBy(ends, (end) => dirname(end))) {
    for (const name of await namesIn(place)) {
      const [, of = "", kind] = SIBLING.exec(name) ?? [], path = `${place}/${of}`;
      if (own.some((end) => baseName(end) === of) && (kind === "tmp" || await exists(path))) {
        found.push(`${place}/${name}`);
      }
    }
  }
  for (const path of found) {
    const real = await Deno.realPath(path).catch(() => path);
    if (inUse !== real && !inUse.startsWith(real + sep)) await Deno.remove(path, { recursive: true }).catch(() => {});
  }
}

/** Names that {@link siblingName} makes: the name of the final file, and the kind. */
const SIBLING = /^(.+)\.(tmp|old)-[0-9a-f]{8}$/;

function siblingName(path: string, kind: "tmp" | "old"): string {
  return `${path}.${kind}-${crypto.randomUUID().slice(0, 8)}`;
}

function baseName(path: string): string {
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
}

/** Whether the system refused it, such as a full disk: its errors have a code, or a class of Deno's. */
function isRefusal(error: unknown): boolean {
  return error instanceof Error &&
    (("code" in error && typeof error.code === "string" && /^E[A-Z]+$/.test(error.code)) ||
      Object.values(Deno.errors).some((kind) => error instanceof kind));
}

/** The error of a path that cannot be written, for any reason. */
export function unwritable(path: string, error: unknown): CompressoError {
  if (error instanceof CompressoError) return error;
  return refusal("input", `cannot write ${path}`, {
    rule: "the system lets it be written",
    value: error instanceof Error ? error.message : String(error),
    fix: "check the path, the permissions and the free space",
    cause: error,
  });
}
