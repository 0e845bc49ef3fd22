// Requests to the Hub: redirects that never take the token to another host, retries, and answers that ask to wait.
import { CompressoError, type ErrorParts, refusal } from "../core/errors.ts";
import type { HubSettings } from "./settings.ts";
import { hideToken, visible } from "./visible.ts";

/** Signal and notes of work with the Hub. */
export interface HubListener {
  /** Aborts the work. */
  readonly signal?: AbortSignal | undefined;
  /** A line about the work, such as that the Hub asks to wait. */
  readonly onNote?: ((line: string) => void) | undefined;
}

/** A request. */
export interface HubRequest extends HubListener {
  readonly method?: "GET" | "HEAD" | "POST";
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Called with the headers of every answer of the Hub itself, redirects included. */
  readonly onHeaders?: (headers: Headers) => void;
}

/** The Hub cannot be reached, or does not answer; its files may be in the cache all the same. */
export class UnreachableError extends CompressoError {}

/**
 * Tries of a request that fails temporarily, and milliseconds before the second try; they double with each further one.
 */
const TRIES = 4, FIRST_WAIT_MS = 500;
/** Seconds without an answer or a byte after which a connection counts as lost. */
export const SILENT_SECONDS = 40;
/** Seconds that the Hub may ask to wait. */
const MOST_WAIT_SECONDS = 300;
/** Redirects that are followed. */
const MOST_REDIRECTS = 8;
/** Fewest bytes that a working connection gives in that time. */
export const LEAST_BYTES = 1 << 16;
/** Most bytes of an answer of the Hub's API. */
const MOST_ANSWER = 1 << 25;

/** Statuses of temporary failures. */
const PASSING: readonly number[] = [408, 429, 500, 502, 503, 504];

/**
 * Sends a request and returns the answer of any status. Temporary failures are tried again. The token goes only to the
 * origin of the endpoint, and never along with a redirect to another origin.
 *
 * @throws UnreachableError if no answer comes.
 * @throws CompressoError("input") for a redirect that may not be followed.
 */
export async function hubFetch(url: string, settings: HubSettings, request: HubRequest = {}): Promise<Response> {
  const { signal, onNote } = request;
  for (let left = TRIES - 1, wait = FIRST_WAIT_MS;; left--, wait *= 2) {
    let failure: string, asked: number | null = null;
    try {
      const response = await followed(url, settings, request);
      if (!PASSING.includes(response.status)) return response;
      asked = secondsAsked(response.headers);
      await response.body?.cancel();
      failure = `status ${response.status}${response.status === 429 ? " (too many requests)" : ""}`;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof CompressoError || error instanceof Deno.errors.NotCapable) throw error;
      failure = visible(error instanceof Error ? error.message : String(error));
    }
    const tooLong = asked !== null && asked > MOST_WAIT_SECONDS;
    if (left <= 0 || tooLong) {
      throw new UnreachableError("input", {
        what: `cannot reach ${new URL(url).origin}`,
        rule: "it answers",
        value: asked === null ? failure : `${failure}, and asks to wait ${asked} seconds`,
        fix: asked === null ? "check the connection, and try again: what was fetched is kept" : "try again later",
      });
    }
    if (asked !== null) onNote?.(`${new URL(url).host} asks to wait ${asked} s`);
    await paused(asked === null ? wait : 1000 * asked, signal);
  }
}

/**
 * The JSON of an answer.
 *
 * @throws CompressoError("input") if the answer is not JSON, or too long.
 * @throws UnreachableError if the connection breaks before its end.
 */
export async function jsonOf(response: Response): Promise<unknown> {
  const origin = new URL(response.url).origin, text = await textOf(response);
  try {
    return JSON.parse(text);
  } catch {
    throw strange(origin, { value: JSON.stringify(visible(text.slice(0, 4096)).slice(0, 60)) });
  }
}

/** The error of an answer that a Hub never gives. */
export function strange(origin: string, { value }: Pick<ErrorParts, "value">): CompressoError {
  return refusal("input", `cannot read the answer of ${new URL(origin).origin}`, {
    rule: "it answers as the Hugging Face Hub does",
    value: value === undefined ? undefined : visible(value),
    fix: "check HF_ENDPOINT, and that no proxy answers in its place",
  });
}

/** A text of bounded length. */
async function textOf(response: Response): Promise<string> {
  const decoder = new TextDecoder(), { origin } = new URL(response.url);
  let text = "", bytes = 0;
  try {
    for await (const piece of piecesOfBody(response)) {
      bytes += piece.length;
      if (bytes > MOST_ANSWER) throw strange(origin, { value: `more than ${MOST_ANSWER} bytes` });
      text += decoder.decode(piece, { stream: true });
    }
  } catch (error) {
    // What `fetch` rejects with for a connection that breaks, and for a body that cannot be unpacked.
    if (!(error instanceof TypeError)) throw error;
    throw new UnreachableError("input", {
      what: `cannot reach ${origin}`,
      rule: "it sends the whole answer",
      value: `${bytes} bytes, then ${visible(error.message)}`,
      fix: "check the connection, and try again: what was fetched is kept",
    });
  }
  return text + decoder.decode();
}

/** The body of an answer in pieces. Throws `UnreachableError` if fewer than {@link LEAST_BYTES} come in {@link SILENT_SECONDS}. */
export async function* piecesOfBody(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  const until = (): number => performance.now() + 1000 * SILENT_SECONDS;
  try {
    for (let end = until(), bytes = 0;;) {
      const { done, value } = await before(end, reader.read(), response);
      if (done) return;
      bytes += value.length;
      if (bytes >= LEAST_BYTES) [end, bytes] = [until(), 0];
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The result if it comes in time. */
async function before<T>(end: number, work: Promise<T>, { url }: Response): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(silent(new URL(url).origin)), end - performance.now());
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** The error of a connection that is silent. */
export function silent(origin: string): UnreachableError {
  return new UnreachableError("input", {
    what: `cannot reach ${origin}`,
    rule: `it sends ${LEAST_BYTES} bytes, or the end of its answer, in ${SILENT_SECONDS} s`,
    value: "less",
    fix: "check the connection, and try again: what was fetched is kept",
  });
}

/** Sends a request and follows its redirects. */
async function followed(
  url: string,
  { endpoint, token }: HubSettings,
  { method = "GET", headers = {}, body, signal, onHeaders }: HubRequest,
): Promise<Response> {
  const own = new URL(endpoint).origin;
  if (token !== null) hideToken(token);
  let at = new URL(url);
  for (let left = MOST_REDIRECTS; left >= 0; left--) {
    const response = await answered(at, {
      method,
      headers: {
        "user-agent": "compresso",
        "accept-encoding": "identity",
        ...headers,
        ...(token !== null && at.origin === own ? { authorization: `Bearer ${token}` } : {}),
      },
      redirect: "manual",
      ...(body === undefined ? {} : { body }),
    }, signal);
    try {
      if (at.origin === own) onHeaders?.(response.headers);
    } catch (error) {
      await response.body?.cancel();
      throw error;
    }
    const place = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || place === null) return response;
    await response.body?.cancel();
    const next = URL.canParse(place, at.href) ? new URL(place, at) : null;
    if (next === null) throw strange(at.origin, { value: `a redirect to ${visible(place).slice(0, 100)}` });
    if (!/^https?:$/.test(next.protocol) || (at.protocol === "https:" && next.protocol === "http:")) {
      throw strange(at.origin, { value: `a redirect to ${next.protocol}//${next.host}` });
    }
    at = next;
  }
  throw strange(own, { value: `more than ${MOST_REDIRECTS} redirects` });
}

/** The answer, once its head is there. */
async function answered(url: URL, init: RequestInit, signal: AbortSignal | undefined): Promise<Response> {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(silent(url.origin)), 1000 * SILENT_SECONDS);
  try {
    return await fetch(url, { ...init, signal: signal ? AbortSignal.any([signal, silence.signal]) : silence.signal });
  } finally {
    clearTimeout(timer);
  }
}

/** Seconds of Retry-After (a number or a date), or until an exhausted rate limit ends; null for neither. */
function secondsAsked(headers: Headers): number | null {
  const [, limit] = /;\s*r=0\s*;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "") ?? [];
  const text = headers.get("retry-after") ?? limit;
  if (text === undefined) return null;
  const seconds = /^\d+$/.test(text.trim()) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

/** Waits; throws the signal's reason as soon as it fires. */
export async function paused(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
  signal?.throwIfAborted();
}
