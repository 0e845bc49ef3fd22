// Files of a repository on the Hub as they are read in place: headers by ranges, small files whole. Nothing is written.
import { CompressoError, refuse } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { type ByteSource, endsEarly, type FileInfo, type FileSystem, readBytes } from "../files/system.ts";
import type { HubFile } from "./cache.ts";
import { chooseFiles } from "./choose.ts";
import { addressOf } from "./download.ts";
import { hubFetch, type HubListener, piecesOfBody, strange } from "./http.ts";
import { hashOf, verifyIntact } from "./intact.ts";
import { hubText, parseHubName } from "./name.ts";
import { hubRefusal } from "./refusal.ts";
import { type HubRepo, notKept, openRepo } from "./repo.ts";
import { hubSettings } from "./settings.ts";

/** A model on the Hub that is looked at. */
export interface HubView {
  /** The model's files, under paths that only this file system knows, and the files of the disk. */
  readonly files: FileSystem;
  /** Path of the model in it. */
  readonly path: string;
  /** Bytes of the files that the model needs. */
  readonly bytes: number;
}

/** Bytes that are fetched at least; headers are read in pieces. */
const LEAST_RANGE = 1 << 16;
/** Bytes of a file that is read whole. */
const MOST_WHOLE = 1 << 28;

/**
 * Opens a model on the Hub for reading in place: only what is read is fetched, and files in the cache are read there.
 *
 * @throws CompressoError as {@link fetchFromHub} does.
 */
export async function viewHub(
  text: string,
  { use, verify = false, ...listener }: HubListener & {
    /** "shape" needs no weights. */
    readonly use: "model" | "shape";
    /** Whether the hash of each file of the cache is computed before it is read. Default false. */
    readonly verify?: boolean | undefined;
  },
): Promise<HubView> {
  const name = parseHubName(text, "model");
  const repo = await openRepo(name, await hubSettings(), { ...listener, keeps: false });
  const root = hubText(name, { revision: repo.commit, file: null });
  const files = viewOf(repo, root, { ...listener, verify });
  const read = async (path: string): Promise<string> => await files.text(`${root}/${path}`) ?? "";
  const { files: needed, place } = await chooseFiles(repo, use, { read });
  const bytes = needed.reduce((sum, path) => sum + (repo.files.get(path)?.size ?? 0), 0);
  return { files, path: place === "" ? root : `${root}/${place}`, bytes };
}

function viewOf(
  repo: HubRepo,
  root: string,
  { verify, ...listener }: HubListener & { readonly verify: boolean },
): FileSystem {
  const inner = (path: string): string | null =>
    path === root ? "" : path.startsWith(`${root}/`) ? path.slice(root.length + 1) : null;
  const namesBelow = (folder: string): string[] => {
    const below = folder === "" ? "" : `${folder}/`;
    const rests = [...repo.files.keys()].filter((path) => path.startsWith(below));
    return [...new Set(rests.map((path) => path.slice(below.length).split("/", 1)[0] ?? ""))].sort();
  };
  const opened = new Map<string, ByteSource>(), verified = new Set<string>();
  const open = async (path: string): Promise<ByteSource> => {
    const at = inner(path), file = repo.files.get(at ?? "");
    if (!file) return await disk.open(path);
    const there = await repo.cache.place(repo.commit, file);
    if (there !== null) {
      if (verify && !verified.has(path)) await verifyIntact(there, { repo, file });
      verified.add(path);
      return await disk.open(there);
    }
    const source = opened.get(path) ?? remoteFile(repo, file, { ...listener, path });
    opened.set(path, source);
    return source;
  };
  return {
    ...disk,
    async info(path): Promise<FileInfo | null> {
      const at = inner(path);
      if (at === null) return await disk.info(path);
      const file = repo.files.get(at);
      if (file) return { isFolder: false, size: file.size };
      return namesBelow(at).length > 0 ? { isFolder: true, size: 0 } : null;
    },
    async names(folder): Promise<string[]> {
      const at = inner(folder);
      return at === null ? await disk.names(folder) : namesBelow(at);
    },
    open,
    async text(path): Promise<string | null> {
      const at = inner(path);
      if (at === null) return await disk.text(path);
      const file = repo.files.get(at);
      if (!file) return null;
      const bytes = await wholeOf(await open(path), file);
      try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      } catch (cause) {
        refuse("input", `cannot read ${path}`, {
          rule: "it is a text of UTF-8",
          value: "other bytes",
          fix: "name another file or revision",
          cause,
        });
      }
    },
  };
}

/** All bytes of a file, checked by their hash. */
async function wholeOf(source: ByteSource, file: HubFile): Promise<Uint8Array> {
  if (file.size > MOST_WHOLE) {
    refuse("input", `cannot read ${source.name}`, {
      rule: `a text has at most ${MOST_WHOLE} bytes`,
      value: String(file.size),
      fix: "name another file or revision",
    });
  }
  const bytes = await readBytes(source, 0, file.size), hash = file.sha256 ?? file.blobId;
  if (hash === null || hashOf(file).update(bytes).digest("hex") === hash) return bytes;
  refuse("input", `cannot read ${source.name}`, {
    rule: `its bytes have the hash that the Hub lists, ${hash}`,
    value: "other bytes",
    fix: "try again; if it stays, a proxy or mirror changes the file: check HF_ENDPOINT",
  });
}

/** A file that is read by ranges; the last one is kept. */
function remoteFile(
  repo: HubRepo,
  file: HubFile,
  { path, ...listener }: HubListener & { readonly path: string },
): ByteSource {
  let kept = { start: 0, bytes: new Uint8Array(0) };
  return {
    name: path,
    size: file.size,
    async read(target, offset): Promise<void> {
      const end = offset + target.length;
      if (end > file.size) throw endsEarly(path, end, file.size);
      if (offset < kept.start || end > kept.start + kept.bytes.length) {
        if (repo.isOffline) throw notKept(path, repo.settings);
        // Headers are read from their beginning on, and again where they turn out to be longer.
        const before = offset === kept.start ? kept.bytes : new Uint8Array(0), start = offset + before.length;
        const last = Math.min(file.size, Math.max(end, offset + LEAST_RANGE)), bytes = new Uint8Array(last - offset);
        bytes.set(before);
        bytes.set(await rangeOf(repo, file, { ...listener, start, end: last }), before.length);
        kept = { start: offset, bytes };
      }
      target.set(kept.bytes.subarray(offset - kept.start, end - kept.start));
    },
  };
}

/** Tries of a range whose connection breaks. */
const TRIES = 3;

async function rangeOf(
  repo: HubRepo,
  { path, size }: HubFile,
  { start, end, ...listener }: HubListener & { readonly start: number; readonly end: number },
): Promise<Uint8Array<ArrayBuffer>> {
  const { settings, name } = repo;
  if (start === end) return new Uint8Array(0);
  let value = "";
  for (let left = TRIES; left > 0; left--) {
    const headers = { range: `bytes=${start}-${end - 1}` };
    const response = await hubFetch(addressOf(repo, path), settings, { ...listener, headers });
    if (!response.ok) throw await hubRefusal(response, { settings, name: { ...name, file: path }, ...listener });
    const isWhole = response.status === 200 && start === 0 && end === size;
    if (!isWhole && response.headers.get("content-range") !== `bytes ${start}-${end - 1}/${size}`) {
      await response.body?.cancel();
      throw strange(settings.endpoint, { value: `no range of ${path}` });
    }
    try {
      const bytes = new Uint8Array(end - start);
      let at = 0;
      for await (const piece of piecesOfBody(response)) {
        if (at + piece.length > bytes.length) {
          throw strange(settings.endpoint, { value: `${path}: more than ${bytes.length} bytes` });
        }
        bytes.set(piece, at);
        at += piece.length;
      }
      if (at === bytes.length) return bytes;
      value = `${at} bytes of ${bytes.length}`;
    } catch (error) {
      listener.signal?.throwIfAborted();
      if (error instanceof CompressoError) throw error;
      value = error instanceof Error ? error.message : String(error);
    }
  }
  throw strange(settings.endpoint, { value: `${path}: ${value}` });
}
