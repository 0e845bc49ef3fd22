// Fetches a model of the Hugging Face Hub in a browser: without a token, in ranges, into blobs.
import { CompressoError, refusal } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { chooseFiles, type HubList } from "../hub/choose.ts";
import { type HubName, hubText, isHubName, isSafePath, parseHubName } from "../hub/name.ts";
import { visible } from "../hub/visible.ts";

/** Options of {@link fetchHubModel}. */
export interface FetchHubOptions {
  /** Address of the Hub, without a slash at its end. Default "https://huggingface.co". */
  readonly endpoint?: string | undefined;
  /** Aborts the fetching. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes that have come, and the bytes of all files. */
  readonly onProgress?: ((done: number, whole: number) => void) | undefined;
}

const ENDPOINT = "https://huggingface.co";
/** Bytes of a request. */
const PIECE = 1 << 24;
/** Tries of a request, and milliseconds before the second one; they double with each further one. */
const TRIES = 4, FIRST_WAIT_MS = 500;
/** Pages of a list of files, of up to 1,000 each. */
const MOST_PAGES = 200;

/**
 * Fetches the files of a public model for `openModel`: a GGUF as one blob, or the files of a folder by their names.
 * Files are fetched in ranges of 16 MiB. A range that fails for a time is asked for again. A browser keeps large blobs
 * on the disk. Their hashes are not checked, only their sizes.
 *
 * @param name - `owner/name`, with `@revision` and `:file` if needed.
 * @throws CompressoError("usage") for another form of name.
 * @throws CompressoError("input") if there is no such public model, if the user must name one of several files, or if
 * the Hub does not answer.
 * @throws the signal's reason once it fires.
 */
export async function fetchHubModel(
  name: string,
  { endpoint = ENDPOINT, signal, onProgress }: FetchHubOptions = {},
): Promise<Blob | Readonly<Record<string, Blob>>> {
  const known = parseHubName(isHubName(name) ? name : `hf:${name}`, "model"),
    hub: Hub = { endpoint, name: known, signal };
  const repo: HubList = { name: known, files: await listed(hub), isOffline: false };
  const { files, place } = await chooseFiles(repo, "model", {
    read: async (path) => await (await fileOf(hub, { path, size: repo.files.get(path)?.size ?? 0 }, () => {})).text(),
  });
  const sizes = files.map((path) => ({ path, size: repo.files.get(path)?.size ?? 0 }));
  const whole = sizes.reduce((sum, { size }) => sum + size, 0), fetched = new Map<string, Blob>();
  let done = 0;
  for (const file of sizes) {
    const blob = await fileOf(hub, file, (bytes) => onProgress?.(done += bytes, whole));
    fetched.set(place === "" ? file.path : file.path.slice(place.length + 1), blob);
    if (file.path === place) return blob;
  }
  return Object.fromEntries(fetched);
}

interface Hub {
  readonly endpoint: string;
  readonly name: HubName;
  readonly signal: AbortSignal | undefined;
}

/** The files of the model by their paths. */
async function listed(hub: Hub): Promise<HubList["files"]> {
  const { endpoint, name: { repo, revision } } = hub, files = new Map<string, { path: string; size: number }>();
  let next: string | null = `${endpoint}/api/models/${repo}/tree/${
    encodeURIComponent(revision ?? "main")
  }?recursive=true`;
  for (let page = 0; next !== null; page++) {
    const response: Response = await answered(hub, next), json: unknown = await response.json().catch(() => null);
    if (!Array.isArray(json) || page === MOST_PAGES) {
      throw strange(hub, Array.isArray(json) ? "a list without end" : "no list");
    }
    for (const entry of json) {
      if (!isObject(entry) || entry["type"] !== "file") continue;
      const { path, size } = entry;
      if (typeof path !== "string" || !isSafePath(path) || !Number.isSafeInteger(size) || Number(size) < 0) continue;
      files.set(path, { path, size: Number(size) });
    }
    const [, link = null] = /<([^>]+)>;\s*rel="?next"?/.exec(response.headers.get("link") ?? "") ?? [];
    if (link !== null && !link.startsWith(`${endpoint}/`)) throw strange(hub, `a next page at ${link.slice(0, 100)}`);
    next = link;
  }
  return new Map([...files].map(([path, file]) => [path, { ...file, sha256: null, blobId: null }]));
}

/** A file, fetched in ranges. */
async function fileOf(
  hub: Hub,
  { path, size }: { readonly path: string; readonly size: number },
  onBytes: (bytes: number) => void,
): Promise<Blob> {
  const { endpoint, name: { repo, revision } } = hub, address = path.split("/").map(encodeURIComponent).join("/");
  const url = `${endpoint}/${repo}/resolve/${encodeURIComponent(revision ?? "main")}/${address}`, pieces: Blob[] = [];
  for (let at = 0; at < size; at += PIECE) {
    const end = Math.min(size, at + PIECE);
    pieces.push(await pieceOf(hub, { url, at, end, size }, onBytes));
  }
  return new Blob(pieces);
}

/** Bytes from `at` to `end` of a file. If the connection breaks, the bytes are asked for again. */
async function pieceOf(
  hub: Hub,
  { url, at, end, size }: { readonly url: string; readonly at: number; readonly end: number; readonly size: number },
  onBytes: (bytes: number) => void,
): Promise<Blob> {
  for (let left = TRIES - 1, wait = FIRST_WAIT_MS;; left--, wait *= 2) {
    let come = 0;
    try {
      const response = await answered(hub, url, { range: `bytes=${at}-${end - 1}` });
      if (response.status !== 206 && (at > 0 || end < size)) {
        await response.body?.cancel();
        throw strange(hub, "a whole file where a range was asked for");
      }
      const parts: Uint8Array<ArrayBuffer>[] = [];
      const reader = response.body?.getReader();
      for (let part = await reader?.read(); part?.value; part = await reader?.read()) {
        parts.push(part.value);
        onBytes(part.value.length);
        come += part.value.length;
      }
      if (come === end - at) return new Blob(parts);
      throw strange(hub, `${come} bytes where ${end - at} were asked for`);
    } catch (error) {
      onBytes(-come);
      if (left === 0 || hub.signal?.aborted || error instanceof CompressoError) throw error;
      await paused(wait, hub.signal);
    }
  }
}

/** An answer that is no refusal. Temporary failures are tried again. */
async function answered({ endpoint, name, signal }: Hub, url: string, headers: HeadersInit = {}): Promise<Response> {
  const { host } = new URL(endpoint);
  for (let left = TRIES - 1, wait = FIRST_WAIT_MS;; left--, wait *= 2) {
    let status: number | string;
    try {
      const response = await fetch(url, { headers, credentials: "omit", ...signal ? { signal } : {} });
      if (response.ok) return response;
      await response.body?.cancel();
      ({ status } = response);
    } catch (error) {
      signal?.throwIfAborted();
      status = visible(error instanceof Error ? error.message : String(error));
    }
    if (status === 401 || status === 403 || status === 404) {
      throw refusal("input", `cannot read ${hubText(name)}`, {
        rule: "it is a public model that asks for no terms",
        value: `status ${status}`,
        fix: "check the name; on the command line a token gives private models and those with terms",
      });
    }
    const isPassing = typeof status === "string" || status === 408 || status === 429 || status >= 500;
    if (left === 0 || !isPassing) {
      const fix = "check the connection, and try again";
      throw refusal("input", `cannot reach ${host}`, { rule: "it answers", value: status, fix });
    }
    await paused(wait, signal);
  }
}

function strange({ endpoint }: Hub, value: string): CompressoError {
  const rule = "it answers as the Hugging Face Hub does";
  return refusal("input", `cannot read the answer of ${new URL(endpoint).host}`, { rule, value: visible(value) });
}

async function paused(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
  signal?.throwIfAborted();
}
