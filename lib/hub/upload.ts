// Uploads of files to a model's repository as one commit: small ones in git, large ones in large file storage, which takes them in parts.
import { type CompressoError, refusal } from "../core/errors.ts";
import { isObject, type Json } from "../core/guards.ts";
import { openDiskFile } from "../files/bytes.ts";
import { firstBytes } from "../files/system.ts";
import { hashOf } from "./intact.ts";
import { hubFetch, type HubListener, jsonOf, strange } from "./http.ts";
import { visible } from "./visible.ts";
import { type HubName, hubText, parseHubName } from "./name.ts";
import { hubRefusal } from "./refusal.ts";
import { MAIN } from "./repo.ts";
import { type HubSettings, hubSettings } from "./settings.ts";
import { piecesOf, put } from "./storage.ts";

/** A file to upload. */
export interface UploadFile {
  /** Path within the repository. */
  readonly path: string;
  /** Path on this machine. */
  readonly from: string;
}

/** Options of an upload. */
export interface UploadOptions extends HubListener {
  /** Whether a repository that is made is private. Default false. */
  readonly isPrivate?: boolean;
  /** Message of the commit. */
  readonly message: string;
  /** Called as bytes of large files go out. */
  readonly onProgress?:
    | ((progress: { readonly file: string; readonly bytes: number; readonly total: number }) => void)
    | undefined;
}

/** What was uploaded. */
export interface Uploaded {
  /** Page of the repository. */
  readonly url: string;
  /** The name with the new commit: `hf:owner/name@commit`. */
  readonly source: string;
  /** Files of the commit; none where the repository has them all already. */
  readonly files: readonly string[];
  /** Bytes of all files. */
  readonly bytes: number;
}

/** Bytes of a file by which the Hub decides whether it belongs into large file storage. */
const SAMPLE = 512;
/** Files that are asked about at a time. */
const AT_ONCE = 256;
/** Bytes of a file that goes into git, and of all of them: a commit carries them in its text. */
const MOST_REGULAR = 10 << 20, MOST_REGULAR_ALL = 64 << 20;

const LFS_HEADERS = { accept: "application/vnd.git-lfs+json", "content-type": "application/vnd.git-lfs+json" };

/** A file with what is known of it. */
interface Outgoing extends UploadFile {
  readonly size: number;
  readonly isLarge: boolean;
  /** SHA-256 of a large file, Git's SHA-1 of another one. */
  readonly hash: string;
  /** Whether the repository has the same already. */
  readonly isThere: boolean;
}

/** What is common to the requests of an upload. */
interface Upload extends UploadOptions {
  readonly name: HubName;
  readonly settings: HubSettings;
  readonly revision: string;
}

/**
 * Uploads files as one commit, and creates the repository if it does not exist. Large files that the Hub already has
 * are not sent again, so an interrupted upload continues with the next file.
 *
 * @throws CompressoError("usage") for a name of another form, and without a token.
 * @throws CompressoError("input") if the token does not allow it, a file cannot be read, or the Hub cannot be reached.
 */
export async function uploadToHub(
  text: string,
  files: readonly UploadFile[],
  options: UploadOptions,
): Promise<Uploaded> {
  const name = parseHubName(text, "model"), settings = await hubSettings();
  if (settings.token === null || settings.isOffline || name.file !== null) throw notReady(text, settings, name);
  const upload: Upload = { ...options, name, settings, revision: encodeURIComponent(name.revision ?? MAIN) };
  await makeRepo(upload);
  const outgoing: Outgoing[] = [];
  for (let at = 0; at < files.length; at += AT_ONCE) {
    const regular = outgoing.reduce((sum, { size, isLarge }) => isLarge ? sum : sum + size, 0);
    outgoing.push(...await known(files.slice(at, at + AT_ONCE), { ...upload, regular }));
  }
  const changed = outgoing.filter(({ isThere }) => !isThere);
  await sendLarge(changed.filter(({ isLarge }) => isLarge), upload);
  const commit = changed.length > 0 ? await commitAll(changed, upload) : await presentCommit(upload);
  return {
    url: `${settings.page}/${name.repo}`,
    source: hubText(name, { revision: commit }),
    files: changed.map(({ path }) => path),
    bytes: outgoing.reduce((sum, { size }) => sum + size, 0),
  };
}

function notReady(text: string, { page, token }: HubSettings, { file }: HubName): CompressoError {
  const reasons = file !== null
    ? { rule: "a push is to a whole repository: hf:owner/name[@branch]", value: `the file ${file}` }
    : token === null
    ? {
      rule: "a token allows it",
      value: "no token",
      fix: `set HF_TOKEN to a token with the right to write: ${page}/settings/tokens`,
    }
    : { rule: "the Hub may be asked", value: "HF_HUB_OFFLINE is set" };
  return refusal("usage", `cannot push to ${text}`, reasons);
}

/** Makes the repository, if there is none. */
async function makeRepo({ name, settings, isPrivate = false, ...listener }: Upload): Promise<void> {
  const { endpoint } = settings, there = await hubFetch(`${endpoint}/api/models/${name.repo}`, settings, listener);
  await there.body?.cancel();
  if (there.ok) return;
  const [organization, own] = name.repo.split("/");
  await posted("/api/repos/create", { name: own, organization, private: isPrivate }, { name, settings, ...listener }, {
    allowed: [409],
  });
}

/** Asks which files belong where, and which of them are there already. */
async function known(
  files: readonly UploadFile[],
  { regular, ...upload }: Upload & {
    /** Bytes of files before them that go into git. */
    readonly regular: number;
  },
): Promise<Outgoing[]> {
  const asked = [];
  for (const { path, from } of files) {
    const source = await openDiskFile(from), sample = base64(await firstBytes(source, SAMPLE));
    asked.push({ path, sample, size: source.size });
  }
  const { name: { repo }, revision } = upload;
  const answer = await posted(`/api/models/${repo}/preupload/${revision}`, { files: asked }, upload);
  const answers = new Map(
    (Array.isArray(answer["files"]) ? answer["files"] : []).filter(isObject).map((one) => [one["path"], one]),
  );
  const found: Outgoing[] = [];
  let sum = regular;
  for (const [index, { path, from }] of files.entries()) {
    const one = answers.get(path), size = asked[index]?.size ?? 0;
    if (!one) throw strange(upload.settings.endpoint, { value: `nothing about ${path}` });
    if (one["shouldIgnore"] === true) continue;
    // Storage takes no empty files.
    const isTooMuch = size > MOST_REGULAR || sum + size > MOST_REGULAR_ALL;
    const isLarge = (one["uploadMode"] === "lfs" || isTooMuch) && size > 0;
    if (!isLarge) sum += size;
    const hash = hashOf({ sha256: isLarge ? "" : null, size });
    for await (const piece of piecesOf(from, 0, size)) hash.update(piece);
    const digest = hash.digest("hex");
    found.push({ path, from, size, isLarge, hash: digest, isThere: one["oid"] === digest });
  }
  return found;
}

/** Sends the large files that the storage lacks. */
async function sendLarge(files: readonly Outgoing[], upload: Upload): Promise<void> {
  if (files.length === 0) return;
  const { name: { repo, revision }, settings: { endpoint }, onProgress } = upload;
  const answer = await posted(
    `/${repo}.git/info/lfs/objects/batch`,
    {
      operation: "upload",
      transfers: ["basic", "multipart"],
      objects: files.map(({ hash, size }) => ({ oid: hash, size })),
      hash_algo: "sha256",
      ref: { name: revision ?? MAIN },
    },
    upload,
    { headers: LFS_HEADERS },
  );
  const actions = new Map(
    (Array.isArray(answer["objects"]) ? answer["objects"] : []).filter(isObject).map((one) => [one["oid"], one]),
  );
  const total = files.reduce((sum, { size }) => sum + size, 0);
  let before = 0;
  for (const file of files) {
    const action = actions.get(file.hash), own = isObject(action?.["actions"]) ? action["actions"] : null;
    if (!action || isObject(action["error"])) {
      const message = isObject(action?.["error"]) ? String(action["error"]["message"]) : `nothing about ${file.path}`;
      throw strange(endpoint, { value: message });
    }
    const onBytes = (bytes: number): void => onProgress?.({ file: file.path, bytes: before + bytes, total });
    if (own !== null) await sendOne(file, own, { ...upload, onBytes });
    before += file.size;
    onBytes(0);
  }
}

/** Sends a large file as the storage asks for it: whole, or in parts. */
async function sendOne(
  file: Outgoing,
  { upload: action, verify }: Json,
  { onBytes, ...upload }: Upload & { readonly onBytes: (bytes: number) => void },
): Promise<void> {
  const { settings: { endpoint }, signal } = upload;
  if (!isObject(action)) throw strange(endpoint, { value: "no place for the file" });
  const href = addressIn(action["href"], endpoint);
  const header = isObject(action["header"]) ? action["header"] : {}, size = Number(header["chunk_size"]);
  if (header["chunk_size"] === undefined) {
    const headers = Object.fromEntries(Object.entries(header).map(([key, value]) => [key, String(value)]));
    await put(href, { ...file, start: 0, end: file.size, headers, signal, onBytes });
  } else {
    const urls = Object.entries(header).filter(([key]) => /^\d+$/.test(key)).sort(([a], [b]) => Number(a) - Number(b));
    if (!(size > 0) || urls.length !== Math.ceil(file.size / size)) {
      throw strange(endpoint, { value: "other parts than the file has" });
    }
    const parts = [];
    for (const [index, [, url]] of urls.entries()) {
      const start = index * size, end = Math.min(file.size, start + size);
      const tell = (bytes: number): void => onBytes(start + bytes);
      const address = addressIn(url, endpoint),
        etag = await put(address, { ...file, start, end, signal, onBytes: tell });
      if (!etag) throw strange(new URL(address).origin, { value: "a part without an etag" });
      parts.push({ partNumber: index + 1, etag });
    }
    await posted(href, { oid: file.hash, parts }, upload, { headers: LFS_HEADERS });
  }
  if (isObject(verify)) {
    await posted(addressIn(verify["href"], endpoint), { oid: file.hash, size: file.size }, upload);
  }
}

/** An address that the Hub gives. */
function addressIn(value: unknown, endpoint: string): string {
  const url = typeof value === "string" && URL.canParse(value) ? new URL(value) : null;
  if (url !== null && /^https?:$/.test(url.protocol)) return url.href;
  throw strange(endpoint, { value: `an upload to ${visible(JSON.stringify(value) ?? "").slice(0, 100)}` });
}

/** Makes the commit and returns its name. */
async function commitAll(files: readonly Outgoing[], upload: Upload): Promise<string> {
  const { name: { repo }, revision, message, settings: { endpoint } } = upload;
  const lines: unknown[] = [{ key: "header", value: { summary: message, description: "" } }];
  for (const { path, from, size, isLarge, hash } of files) {
    if (isLarge) lines.push({ key: "lfsFile", value: { path, algo: "sha256", oid: hash, size } });
    else lines.push({ key: "file", value: { path, encoding: "base64", content: base64(await Deno.readFile(from)) } });
  }
  const answer = await posted(`/api/models/${repo}/commit/${revision}`, lines, upload, {
    headers: { "content-type": "application/x-ndjson" },
  });
  if (typeof answer["commitOid"] === "string") return answer["commitOid"];
  throw strange(endpoint, { value: "no commit" });
}

async function presentCommit({ name, settings, revision, ...listener }: Upload): Promise<string> {
  const url = `${settings.endpoint}/api/models/${name.repo}/revision/${revision}`;
  const answer = await jsonOf(await hubFetch(url, settings, listener));
  return isObject(answer) && typeof answer["sha"] === "string" ? answer["sha"] : revision;
}

/** Posts JSON to a path of the Hub, or to an address that it gave; a list goes as lines. */
async function posted(
  place: string,
  content: object,
  { name, settings, signal, onNote }: Pick<Upload, "name" | "settings" | "signal" | "onNote">,
  { headers = {}, allowed = [] }: {
    readonly headers?: Readonly<Record<string, string>>;
    /** Statuses that count as success. */
    readonly allowed?: readonly number[];
  } = {},
): Promise<Json> {
  const response = await hubFetch(place.startsWith("/") ? settings.endpoint + place : place, settings, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: Array.isArray(content)
      ? content.map((line) => `${JSON.stringify(line)}\n`).join("")
      : JSON.stringify(content),
    signal,
    onNote,
  });
  if (!response.ok && !allowed.includes(response.status)) {
    throw await hubRefusal(response, { settings, name, signal, doing: "push to" });
  }
  const type = response.headers.get("content-type") ?? "";
  if (/json/.test(type)) {
    const json = await jsonOf(response);
    return isObject(json) ? json : {};
  }
  await response.body?.cancel();
  return {};
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x6000) {
    text += btoa(String.fromCharCode(...bytes.subarray(at, at + 0x6000)));
  }
  return text;
}
