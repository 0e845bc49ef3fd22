// What the Hub's refusals mean, and what to do about each: names that are near, terms to accept, tokens.
import { type CompressoError, type Reasons, refusal } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { hubFetch, type HubListener, jsonOf } from "./http.ts";
import { visible } from "./visible.ts";
import { type HubName, hubText, isSafePath } from "./name.ts";
import { meant, nearOf, noSuchFile } from "./near.ts";
import type { HubSettings } from "./settings.ts";

/** Most repositories of an owner, or of a search, that are looked at. */
const MOST_SEEN = 200;

/** What was asked of the Hub. */
interface Asked extends HubListener {
  readonly settings: HubSettings;
  readonly name: HubName;
  /** What cannot be done, such as "read". Default "read". */
  readonly doing?: string;
  /** Files that the repository is known to have. */
  readonly files?: Iterable<string>;
}

/** The error of an answer that is a refusal. If a name is wrong, asks the Hub for similar names. */
export async function hubRefusal(response: Response, asked: Asked): Promise<CompressoError> {
  const { status, headers } = response, { settings: { page: hub, token }, name, doing = "read" } = asked;
  const code = headers.get("x-error-code") ?? "";
  const message = visible(headers.get("x-error-message") ?? await messageOf(response));
  await response.body?.cancel().catch(() => {});
  const error = (reasons: Reasons): CompressoError => refusal("input", `cannot ${doing} ${hubText(name)}`, reasons);
  if (code === "GatedRepo" || (status === 403 && /gated|access to (model|dataset) .* is restricted/i.test(message))) {
    const page = `${hub}/${name.type === "datasets" ? "datasets/" : ""}${name.repo}`;
    return error({
      rule: "its terms are accepted, as it is gated",
      value: token === null ? "no token was sent" : `the account of the token may not read it (status ${status})`,
      fix: `accept the terms at ${page}, and set HF_TOKEN to a token of that account (${hub}/settings/tokens)`,
    });
  }
  if (code === "RevisionNotFound") {
    return error({
      rule: "the revision exists",
      value: `no branch, tag or commit ${name.revision ?? "main"}`,
      fix: meant(nearOf(name.revision ?? "main", await revisionsOf(asked)), (revision) =>
        hubText(name, { revision })) ??
        `look for its revisions at ${hub}/${name.repo}`,
    });
  }
  if (code === "EntryNotFound") return noSuchFile(name, asked.files ?? []);
  if (status === 401 && token !== null) {
    return error({
      rule: "the token is valid",
      value: message || "status 401",
      fix: `make a new token at ${hub}/settings/tokens and set HF_TOKEN to it, or remove HF_TOKEN for public files`,
    });
  }
  if (code === "RepoNotFound" || status === 401 || status === 404) {
    const near = meant(await nearRepos(asked), (repo) => hubText({ ...name, repo }));
    const isPrivate = token === null ? "set HF_TOKEN if it is private" : "check that the token may read it";
    return error({
      rule: `the ${name.type === "datasets" ? "data set" : "model"} exists`,
      value: `no such repository, or a private one (status ${status})`,
      fix: near === null ? `check owner and name; ${isPrivate}` : `${near} Or ${isPrivate}`,
    });
  }
  if (status === 403) {
    const fix = `use a token that may: ${hub}/settings/tokens`;
    return error({ rule: "the token allows it", value: message || "status 403", fix });
  }
  return error({ rule: "the Hub allows it", value: `status ${status}${message === "" ? "" : `: ${message}`}` });
}

/** Repositories with a similar name: of the same owner, else found by a search for the name. */
async function nearRepos({ name, ...asked }: Asked): Promise<string[]> {
  const [owner = "", last = ""] = name.repo.split("/");
  const query = (key: string, value: string): string =>
    `/api/${name.type}?${new URLSearchParams({ [key]: value, limit: String(MOST_SEEN) })}`;
  const own = nearOf(name.repo, idsOf(await answerTo(query("author", owner), { name, ...asked })));
  return own.length > 0 ? own : nearOf(name.repo, idsOf(await answerTo(query("search", last), { name, ...asked })));
}

async function revisionsOf({ name, ...asked }: Asked): Promise<string[]> {
  const refs = await answerTo(`/api/${name.type}/${name.repo}/refs`, { name, ...asked });
  if (!isObject(refs)) return [];
  return [refs["branches"], refs["tags"]].flatMap((list) => Array.isArray(list) ? list : [])
    .flatMap((one) => isObject(one) && typeof one["name"] === "string" && isSafePath(one["name"]) ? [one["name"]] : []);
}

function idsOf(list: unknown): string[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((one) =>
    isObject(one) && typeof one["id"] === "string" && isSafePath(one["id"]) ? [one["id"]] : []
  );
}

/** The JSON that the Hub answers; null for a failure, since the offered names are only a help. */
async function answerTo(path: string, { settings, signal }: Asked): Promise<unknown> {
  try {
    const response = await hubFetch(settings.endpoint + path, settings, { signal });
    if (response.ok) return await jsonOf(response);
    await response.body?.cancel();
    return null;
  } catch {
    signal?.throwIfAborted();
    return null;
  }
}

async function messageOf(response: Response): Promise<string> {
  if (!/json/.test(response.headers.get("content-type") ?? "")) return "";
  const json = await jsonOf(response).catch(() => null);
  return isObject(json) && typeof json["error"] === "string" ? json["error"] : "";
}
