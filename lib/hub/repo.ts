// A repository on the Hub at one commit: which files it has, from the Hub or, without it, from the cache.
import { CompressoError, refusal } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { type HubFile, hubFile, RepoCache } from "./cache.ts";
import { hubFetch, type HubListener, jsonOf, strange, UnreachableError } from "./http.ts";
import { visible } from "./visible.ts";
import { type HubName, hubText, isCommit } from "./name.ts";
import { hubRefusal } from "./refusal.ts";
import type { HubSettings } from "./settings.ts";

/** The revision that is taken where none is named. */
export const MAIN = "main";

/** A repository at a commit. */
export interface HubRepo {
  readonly name: HubName;
  readonly settings: HubSettings;
  readonly cache: RepoCache;
  readonly commit: string;
  /** All files by their paths; without the Hub, only known ones. */
  readonly files: ReadonlyMap<string, HubFile>;
  /** Whether the Hub is left alone: it is switched off, or cannot be reached. */
  readonly isOffline: boolean;
}

/** Pages of a list of files, of up to 1,000 each. */
const MOST_PAGES = 200, MOST_FILES = 1000 * MOST_PAGES;
/** Characters of all paths of a list. */
const MOST_CHARACTERS = 1 << 26;

/**
 * Looks up the commit and the files of a repository. A commit whose list of files is kept is not asked for; where the Hub cannot be reached, what the
 * cache knows is taken.
 *
 * @throws CompressoError("input") if there is no such repository or revision, it may not be read, or the Hub cannot be reached and the cache does not
 * have it.
 */
export async function openRepo(
  name: HubName,
  settings: HubSettings,
  { keeps, resumes = false, ...listener }: HubListener & {
    /** Whether commit and list are written to the cache. */
    readonly keeps: boolean;
    /** Whether a branch stands for the commit that the cache knows, if it does. Default false. */
    readonly resumes?: boolean | undefined;
  },
): Promise<HubRepo> {
  const cache = new RepoCache(settings.cache, name), revision = name.revision ?? MAIN;
  const whole = (commit: string, files: readonly HubFile[], isOffline: boolean): HubRepo => {
    return { name, settings, cache, commit, isOffline, files: new Map(files.map((file) => [file.path, file])) };
  };
  const kept = async (commit: string): Promise<HubFile[]> => await cache.files(commit) ?? await cache.present(commit);
  if (!settings.isOffline) {
    try {
      const before = resumes ? await cache.commitOf(revision) : null;
      const commit = isCommit(revision) ? revision : before ?? await commitOf(name, settings, listener);
      const known = await cache.files(commit), files = known ?? await filesOf(name, commit, settings, listener);
      // A cache that may not be written to serves what it has.
      if (keeps && known === null) await cache.keepFiles(commit, files).catch(ignored);
      if (keeps && revision !== commit) await cache.keepRef(revision, commit).catch(ignored);
      return whole(commit, files, false);
    } catch (error) {
      const commit = isCommit(revision) ? revision : await cache.commitOf(revision);
      if (!(error instanceof UnreachableError) || commit === null) throw error;
      const files = await kept(commit);
      if (files.length === 0) throw error;
      listener.onNote?.(`${error.parts.what}; ${hubText(name)} is taken from the cache, at ${commit.slice(0, 12)}`);
      return whole(commit, files, true);
    }
  }
  const commit = isCommit(revision) ? revision : await cache.commitOf(revision);
  const files = commit === null ? [] : await kept(commit);
  if (commit !== null && files.length > 0) return whole(commit, files, true);
  throw notKept(hubText(name), { cache: settings.cache });
}

/** The error of something that is not in the cache while the Hub is not asked. */
export function notKept(what: string, { cache }: { readonly cache: string }): CompressoError {
  return refusal("input", `cannot read ${what}`, {
    rule: "it is in the cache, as the Hub is not asked",
    value: `it is not in ${cache}`,
    fix: "remove HF_HUB_OFFLINE, check the connection, or set HF_HOME to where it is",
  });
}

/** Ignores a failure to write; any other failure is a defect of the program. */
function ignored(error: unknown): void {
  if (!(error instanceof CompressoError)) throw error;
}

/** The commit that a revision stands for. */
async function commitOf(name: HubName, settings: HubSettings, listener: HubListener): Promise<string> {
  const revision = encodeURIComponent(name.revision ?? MAIN);
  const info = await answerOf(`/api/${name.type}/${name.repo}/revision/${revision}`, name, settings, listener);
  const { sha } = isObject(info.json) ? info.json : {};
  if (typeof sha === "string" && isCommit(sha)) return sha;
  throw strange(settings.endpoint, { value: `no commit of ${hubText(name)}` });
}

/** The list of files of a commit. */
async function filesOf(
  name: HubName,
  commit: string,
  settings: HubSettings,
  listener: HubListener,
): Promise<HubFile[]> {
  const found: HubFile[] = [];
  let next: string | null = `/api/${name.type}/${name.repo}/tree/${commit}?recursive=true`;
  for (let page = 0, listed = 0, characters = 0; next !== null; page++) {
    if (page === MOST_PAGES) throw strange(settings.endpoint, { value: `more than ${MOST_PAGES} pages of files` });
    const answer: Answer = await answerOf(next, name, settings, listener);
    if (!Array.isArray(answer.json)) throw strange(settings.endpoint, { value: `no files of ${hubText(name)}` });
    listed += answer.json.length;
    if (listed > MOST_FILES) throw strange(settings.endpoint, { value: `more than ${MOST_FILES} files` });
    for (const entry of answer.json) {
      if (!isObject(entry) || entry["type"] !== "file") continue;
      const { path, size, oid: blobId, lfs, xetHash } = entry;
      const large = isObject(lfs) ? lfs : null;
      const file = hubFile({ path, size: large?.["size"] ?? size, sha256: large?.["oid"] ?? null, blobId, xetHash });
      if (!file) continue;
      found.push(file);
      characters += file.path.length;
    }
    if (characters > MOST_CHARACTERS) {
      throw strange(settings.endpoint, { value: `more than ${MOST_CHARACTERS} characters of paths` });
    }
    next = answer.next;
  }
  const both = fileAndFolder(found);
  if (both !== null) throw strange(settings.endpoint, { value: `${both} of ${hubText(name)} as a file and a folder` });
  return found;
}

/** A path that a list has as a file and as a folder of files; null if there is none. */
function fileAndFolder(files: readonly HubFile[]): string | null {
  // With a separator that sorts before all others, the files of a folder follow its path.
  const paths = [...new Set(files.map(({ path }) => path))].map((path) => path.replaceAll("/", "\0")).sort();
  const both = paths.find((path, index) => paths[index + 1]?.startsWith(`${path}\0`));
  return both?.replaceAll("\0", "/") ?? null;
}

interface Answer {
  readonly json: unknown;
  /** Path of the next page; null for the last. */
  readonly next: string | null;
}

/** What the Hub answers. Throws `CompressoError("input")` for a refusal. */
async function answerOf(
  path: string,
  name: HubName,
  settings: HubSettings,
  listener: HubListener,
): Promise<Answer> {
  const response = await hubFetch(settings.endpoint + path, settings, listener);
  if (!response.ok) throw await hubRefusal(response, { settings, name, ...listener });
  const [, link = null] = /<([^>]+)>;\s*rel="?next"?/.exec(response.headers.get("link") ?? "") ?? [];
  if (link !== null && !URL.canParse(link, settings.endpoint)) {
    await response.body?.cancel();
    throw strange(settings.endpoint, { value: `a next page at ${visible(link).slice(0, 100)}` });
  }
  const url = link === null ? null : new URL(link, settings.endpoint),
    { origin, pathname } = new URL(settings.endpoint);
  const base = origin + pathname.replace(/\/+$/, "");
  const there = url === null ? "" : url.origin + url.pathname + url.search;
  if (link !== null && !there.startsWith(`${base}/`)) {
    await response.body?.cancel();
    throw strange(settings.endpoint, { value: `a next page at ${visible(there).slice(0, 100)}` });
  }
  const next = link === null ? null : there.slice(base.length);
  return { json: await jsonOf(response), next };
}
