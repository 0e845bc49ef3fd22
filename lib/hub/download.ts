// Downloads of a file into the cache: resumed by ranges, checked by size and hash, one process at a time.
import type { Hash } from "node:crypto";
import { CompressoError, refusal } from "../core/errors.ts";
import { isMissing } from "../files/held_file.ts";
import { unwritable } from "../files/atomic.ts";
import type { HubFile } from "./cache.ts";
import { hubFetch, type HubListener, LEAST_BYTES, paused, piecesOfBody, UnreachableError } from "./http.ts";
import { visible } from "./visible.ts";
import { hashOf, isIntact, verifyIntact } from "./intact.ts";
import { hubText } from "./name.ts";
import { hubRefusal } from "./refusal.ts";
import { noSuchFile } from "./near.ts";
import { type HubRepo, notKept } from "./repo.ts";

/** A download and who watches it. */
export interface DownloadOptions extends HubListener {
  /** Whether the hash of a file in the cache is computed again, and other bytes are an error. Default false. */
  readonly verify?: boolean | undefined;
  /** Called with the bytes of this file that are there; at first those of an earlier try. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

/**
 * Connections in a row that may break before the file has grown by {@link LEAST_BYTES}, and connections of a file in
 * all.
 */
const TRIES = 3, MOST_TRIES = 100;
/** Milliseconds before the next try, for each connection that broke without a byte. */
const PAUSE_MS = 300;
/** Milliseconds between two checks whether another process is done. */
const LOCK_MS = 200;
/** Bytes of a part that are hashed at a time. */
const PIECE = 1 << 20;

/** Address of a file at the commit of its repository. */
export function addressOf({ settings: { endpoint }, name: { type, repo }, commit }: HubRepo, path: string): string {
  const kind = type === "datasets" ? "datasets/" : "";
  return `${endpoint}/${kind}${repo}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

/**
 * Path of a file in the cache; fetches the file if it is not there. Bytes that an interrupted download fetched are
 * kept.
 *
 * @throws CompressoError("input") if the file may not be read, has other bytes than the Hub lists or cannot be written,
 * or if the Hub cannot be reached.
 */
export async function download(repo: HubRepo, path: string, options: DownloadOptions = {}): Promise<string> {
  const { cache, commit } = repo, file = repo.files.get(path);
  if (!file) throw noSuchFile({ ...repo.name, file: path }, repo.files.keys());
  const there = await cache.place(commit, file), hash = file.sha256 ?? file.blobId;
  if (there !== null && options.verify) {
    await verifyIntact(there, { repo, file, onBytes: options.onBytes });
    return there;
  }
  if (there !== null && (hash === null || await isIntact(there, { repo, file, hash }))) return there;
  if (hash === null) throw notKept(hubText(repo.name, { file: path }), repo.settings);
  const blob = cache.blob(hash);
  await cache.prepare(blob);
  await cache.prepare(cache.lock(hash));
  using _lock = await lockOf(cache.lock(hash), { ...options, what: path });
  // Another process may have fetched it meanwhile, or another revision has it too.
  const info = await Deno.stat(blob).catch(() => null);
  if (options.verify) await cache.forgetStamp(hash);
  const isNew = info?.size !== file.size || !await isIntact(blob, { repo, file, hash });
  if (isNew) {
    if (repo.isOffline && there !== null) throw otherBytes(repo, file, "other bytes in the cache");
    if (repo.isOffline) throw notKept(hubText(repo.name, { file: path }), repo.settings);
    await fetchBlob(repo, file, { ...options, blob });
  }
  const at = await cache.link(commit, path, { hash, isNew });
  await cache.keepStamp(at, hash);
  return at;
}

/** Fetches a blob to its place. */
async function fetchBlob(
  repo: HubRepo,
  file: HubFile,
  { blob, ...options }: DownloadOptions & { readonly blob: string },
): Promise<void> {
  const part = `${blob}.incomplete`;
  try {
    using out = await Part.open(part, file);
    // Bytes of an earlier try may be of a file system that lost some.
    for (let isResumed = out.length > 0;; isResumed = false) {
      await fill(out, repo, file, options);
      const found = out.digest();
      if (found === (file.sha256 ?? file.blobId)) break;
      await out.clear();
      if (!isResumed) throw otherBytes(repo, file, found);
    }
    await out.sync();
  } catch (error) {
    if (error instanceof CompressoError || error instanceof Deno.errors.NotCapable) throw error;
    options.signal?.throwIfAborted();
    throw unwritable(part, error);
  }
  await Deno.rename(part, blob).catch((error) => {
    throw unwritable(blob, error);
  });
}

/** Fetches the bytes that are lacking. */
async function fill(out: Part, repo: HubRepo, file: HubFile, options: DownloadOptions): Promise<void> {
  options.onBytes?.(out.length);
  for (let left = TRIES, tries = 1, most = out.length; out.length < file.size; tries++) {
    const failure = await fillOnce(out, repo, file, options);
    if (out.length >= file.size) break;
    left = out.length >= most + LEAST_BYTES ? TRIES - 1 : left - 1;
    most = Math.max(most, out.length);
    if (left === 0 || tries === MOST_TRIES) {
      throw new UnreachableError("input", {
        what: visible(`cannot fetch ${hubText(repo.name, { file: file.path })}`),
        rule: `the server sends ${file.size} bytes`,
        value: `it ends after ${out.length}, ${tries} times: ${visible(failure)}`,
        fix: "try again: what was fetched is kept",
      });
    }
    await paused(PAUSE_MS * (TRIES - left), options.signal);
  }
}

/** Fetches until all is there or the connection breaks; returns why it broke. */
async function fillOnce(
  out: Part,
  repo: HubRepo,
  file: HubFile,
  { signal, onNote, onBytes }: DownloadOptions,
): Promise<string> {
  const { settings, name } = repo, start = out.length;
  const response = await hubFetch(addressOf(repo, file.path), settings, {
    signal,
    onNote,
    ...(start > 0 ? { headers: { range: `bytes=${start}-` } } : {}),
    onHeaders: (headers) => checkHeaders(headers, repo, file),
  });
  if (response.status === 416) {
    await response.body?.cancel();
    await out.clear();
    return "the part that is there was refused";
  }
  if (!response.ok) throw await hubRefusal(response, { settings, name: { ...name, file: file.path }, signal });
  const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  if (start > 0 && (response.status !== 206 || Number(range?.[1]) !== start)) await out.clear();
  try {
    for await (const value of piecesOfBody(response)) {
      signal?.throwIfAborted();
      if (out.length + value.length > file.size) {
        await out.clear();
        return "more bytes came than the file has";
      }
      await out.append(value);
      onBytes?.(out.length);
    }
    return "it ended early";
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof CompressoError) throw error;
    return error instanceof Error ? error.message : String(error);
  }
}

/** Refuses a file whose hash or size differs from the list, before its bytes are fetched. */
function checkHeaders(headers: Headers, repo: HubRepo, file: HubFile): void {
  const tag = headers.get("x-linked-etag")?.replace(/^W\//, "").replaceAll('"', ""),
    size = headers.get("x-linked-size");
  if (file.sha256 === null) return;
  if ((tag === undefined || tag === file.sha256) && (size === null || Number(size) === file.size)) return;
  throw otherBytes(repo, file, `${tag ?? "unknown"}, ${size ?? "unknown"} bytes`);
}

function otherBytes(repo: HubRepo, file: HubFile, found: string): CompressoError {
  const hash = file.sha256 === null ? `Git's SHA-1 ${file.blobId}` : `SHA-256 ${file.sha256}`;
  return refusal("input", visible(`cannot fetch ${hubText(repo.name, { file: file.path })}`), {
    rule: `it has the bytes that the Hub lists: ${hash}, ${file.size} bytes`,
    value: found,
    fix: "try again; if it stays, a proxy or mirror changes the file: check HF_ENDPOINT",
  });
}

/** A file that is fetched in parts, and the hash of its bytes so far. */
class Part implements Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #of: HubFile;
  #hash: Hash;
  #length = 0;

  private constructor(path: string, file: Deno.FsFile, of: HubFile) {
    this.#path = path;
    this.#file = file;
    this.#of = of;
    this.#hash = hashOf(of);
  }

  /** Opens the file, with what is there of it. */
  static async open(path: string, of: HubFile): Promise<Part> {
    // A link there would be written through.
    const info = await Deno.lstat(path).catch((error) => {
      if (isMissing(error)) return null;
      throw error;
    });
    if (info && !info.isFile) await Deno.remove(path);
    const part = new Part(path, await Deno.open(path, { read: true, write: true, create: true }), of);
    try {
      const { size } = await part.#file.stat();
      if (size > of.size) await part.clear();
      else await part.#readAll();
      return part;
    } catch (error) {
      part[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes that are there. */
  get length(): number {
    return this.#length;
  }

  /** Appends bytes. Throws `CompressoError("input")` if the disk refuses them; those before stay. */
  async append(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        const count = await this.#file.write(bytes.subarray(done));
        this.#hash.update(bytes.subarray(done, done + count));
        this.#length += count;
        done += count;
      }
    } catch (error) {
      throw unwritable(this.#path, error);
    }
  }

  /** Drops all bytes. */
  async clear(): Promise<void> {
    await this.#file.truncate(0);
    await this.#file.seek(0, Deno.SeekMode.Start);
    this.#hash = hashOf(this.#of);
    this.#length = 0;
  }

  /** The hash of all bytes. */
  digest(): string {
    return this.#hash.copy().digest("hex");
  }

  async sync(): Promise<void> {
    await this.#file.sync();
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }

  async #readAll(): Promise<void> {
    const buffer = new Uint8Array(PIECE);
    for (let count = await this.#file.read(buffer); count !== null; count = await this.#file.read(buffer)) {
      this.#hash.update(buffer.subarray(0, count));
      this.#length += count;
    }
  }
}

/** Waits until no other process fetches a blob, and locks it. On a file system without locks nothing is locked. */
async function lockOf(
  path: string,
  { what, signal, onNote }: HubListener & { readonly what: string },
): Promise<Disposable> {
  const file = await Deno.open(path, { read: true, write: true, create: true }).catch((error) => {
    throw unwritable(path, error);
  });
  try {
    for (let isFirst = true; !(await file.tryLock(true).catch(() => true)); isFirst = false) {
      if (isFirst) onNote?.(`another process fetches ${what}: waiting for it`);
      await paused(LOCK_MS, signal);
    }
    return { [Symbol.dispose]: () => file.close() };
  } catch (error) {
    file.close();
    throw error;
  }
}
