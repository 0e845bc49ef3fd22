// From a request to its response: routes, the key, time limits, and turns on the GPU.
import { createHash, timingSafeEqual } from "node:crypto";
import type { z } from "../core/packages.ts";
import { CompressoError } from "../core/errors.ts";
import { ApiError, badRequest, errorResponse, toApiError } from "./api_error.ts";
import { parseFields, readJsonBody } from "./body.ts";
import { preflight, withOrigin } from "./cors.ts";
import { chatBody, chatChunk, chatOpenings } from "./chat.ts";
import { type AnswerHead, completionBody, completionChunk, usageBody } from "./completions.ts";
import { eventStream } from "./event_stream.ts";
import { chatFields, type CommonFields, completionFields } from "./fields.ts";
import { type Job, type Piece, runJob, type Usage, type Workbench } from "./job.ts";
import type { ServeLimits } from "./limits.ts";
import { chatPage } from "./page.ts";
import { prepareChat, prepareCompletion, type PrepareOptions } from "./prepare.ts";
import type { HttpRequest } from "./http.ts";
import { closing, type Queue } from "./queue.ts";

/** What was done for a request, once its answer is made. */
export interface RequestRecord {
  /** HTTP method. */
  readonly method: string;
  /** Path of the address, or all of it where it is no URL. */
  readonly path: string;
  /** HTTP status; 499 where the client went before its answer was whole. */
  readonly status: number;
  /** From its first byte until the answer was made, waiting included. */
  readonly seconds: number;
  /** Tokens read. */
  readonly promptTokens: number;
  /** Tokens written. */
  readonly completionTokens: number;
}

/** What a handler works with. */
export interface Serving {
  readonly bench: Workbench;
  /** Name of the model in requests and answers. */
  readonly name: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly limits: ServeLimits;
  readonly queue: Queue;
  readonly apiKey: string | null;
  /** Origin of web pages that may use the server, "*" for all; null for none. */
  readonly cors: string | null;
  /** Host names that are answered in addition to {@link LOCAL_HOSTS}; null for all. */
  readonly localNames: readonly string[] | null;
  /** Fires when running requests have to end because the server stops. */
  readonly ending: AbortSignal;
  readonly onRequest: ((record: RequestRecord) => void) | null;
  /** Called when the GPU refuses all work from here on. */
  readonly onBroken: () => void;
}

/** Two kinds of requests: their fields, their job, their answers. */
interface Endpoint<Fields extends CommonFields> {
  readonly schema: z.ZodType<Fields>;
  readonly idPrefix: string;
  prepare(fields: Fields, options: PrepareOptions): Job;
  /** Events before the first piece. */
  openings(head: AnswerHead, answers: number): readonly Record<string, unknown>[];
  chunk(head: AnswerHead, piece: Piece, options: Pick<Workbench, "labels"> & Pick<Job, "top">): Record<string, unknown>;
  body(
    head: AnswerHead,
    pieces: readonly Piece[],
    options: Pick<Workbench, "labels"> & Pick<Job, "top"> & { readonly usage: Usage },
  ): Record<string, unknown>;
}

/** A request under way. */
interface Call {
  readonly request: HttpRequest;
  readonly usage: Usage;
  /** Fires when the work is to stop. */
  readonly signal: AbortSignal;
  /** Stops it. */
  stop(reason: unknown): void;
  /** Records how it ended; the first call counts. */
  end(status: number): void;
}

/** The reason of a signal that fires because the client has gone. */
const GONE = new ApiError({ status: 499, message: "the client has gone" });

const COMPLETIONS: Endpoint<z.infer<typeof completionFields>> = {
  schema: completionFields,
  idPrefix: "cmpl",
  prepare: prepareCompletion,
  openings: () => [],
  chunk: completionChunk,
  body: completionBody,
};

const CHAT: Endpoint<z.infer<typeof chatFields>> = {
  schema: chatFields,
  idPrefix: "chatcmpl",
  prepare: prepareChat,
  openings: chatOpenings,
  chunk: chatChunk,
  body: chatBody,
};

/** Makes the function that answers requests. It never throws. */
export function createHandler(serving: Serving): (request: HttpRequest) => Promise<Response> {
  return async (request) => withOrigin(await respond(request), serving.cors);

  async function respond(request: HttpRequest): Promise<Response> {
    const call = openCall(serving, request);
    try {
      const response = await route(serving, call);
      // A stream ends later, and says so itself.
      if (response.headers.get("content-type")?.startsWith("text/event-stream") !== true) call.end(response.status);
      return response;
    } catch (error) {
      const shown = toApiError(reasonOf(error, call));
      call.end(shown.parts.status);
      return errorResponse(shown);
    }
  }
}

async function route(serving: Serving, call: Call): Promise<Response> {
  const { request } = call, { pathname } = addressOf(request);
  checkHostName(request, serving.localNames);
  const preflown = serving.cors === null ? null : preflight(request);
  if (preflown) return preflown;
  if (pathname === "/health") {
    allow(request, "GET");
    return health(serving);
  }
  if (pathname === "/") {
    allow(request, "GET");
    return chatPage();
  }
  checkKey(request, serving.apiKey);
  switch (pathname) {
    case "/v1/models":
      allow(request, "GET");
      return Response.json({ object: "list", data: [modelBody(serving)] });
    case "/v1/completions":
      allow(request, "POST");
      return await answer(COMPLETIONS, serving, call);
    case "/v1/chat/completions":
      allow(request, "POST");
      return await answer(CHAT, serving, call);
  }
  const named = /^\/v1\/models\/(.+)$/.exec(pathname)?.[1];
  if (named === undefined) {
    throw new ApiError({ status: 404, message: `unknown URL: ${pathname}`, code: "unknown_url" });
  }
  allow(request, "GET");
  checkModel(decode(named), serving);
  return Response.json(modelBody(serving));
}

async function answer<Fields extends CommonFields>(
  endpoint: Endpoint<Fields>,
  serving: Serving,
  call: Call,
): Promise<Response> {
  const { bench, limits, name } = serving, { usage, signal } = call;
  const body = await readJsonBody(call.request, { most: limits.bodyBytes, signal });
  const fields = parseFields(endpoint.schema, body);
  checkModel(fields.model, serving);
  if (fields.stream_options && !fields.stream) {
    throw badRequest("stream_options goes with stream: true", { param: "stream_options" });
  }
  const job = endpoint.prepare(fields, { bench, limits });
  const { top } = job, { labels } = bench;
  const head = { id: `${endpoint.idPrefix}-${crypto.randomUUID()}`, created: seconds(), model: name };
  const pieces = inTurn(serving, call, job);
  if (!fields.stream) {
    const all: Piece[] = [];
    for await (const piece of pieces) all.push(piece);
    return Response.json(endpoint.body(head, all, { labels, top, usage }));
  }
  const withUsage = fields.stream_options?.include_usage === true;
  // With the first piece at hand all that can be wrong with a request is known, and its status can still say so.
  const first = await pieces.next();
  return eventStream(events(), {
    onGone: () => call.stop(GONE),
    describe(error): unknown {
      const reason = reasonOf(error, call);
      call.end(toApiError(reason).parts.status);
      return reason;
    },
  });

  async function* events(): AsyncGenerator<unknown, void, undefined> {
    const usageField = withUsage ? { usage: null } : {};
    for (const opening of endpoint.openings(head, job.prompts.length)) yield { ...opening, ...usageField };
    for (let next = first; !next.done; next = await pieces.next()) {
      yield { ...endpoint.chunk(head, next.value, { labels, top }), ...usageField };
    }
    if (withUsage) {
      const { object } = endpoint.chunk(head, EMPTY, { labels, top });
      yield { ...head, object, choices: [], usage: usageBody(usage) };
    }
    call.end(200);
  }
}

const EMPTY: Piece = { index: 0, text: "", tokens: [], finish: null };

/** The pieces of a job, made while the request has a turn. */
async function* inTurn(
  { queue, bench, onBroken }: Serving,
  { usage, signal }: Call,
  job: Job,
): AsyncGenerator<Piece, void, undefined> {
  using _turn = await queue.enter(signal);
  const { device } = bench.model;
  try {
    yield* runJob(bench, job, { usage, signal });
  } catch (error) {
    // The request is too large for the free memory. Status 500 would make clients send it again.
    const isTooLarge = error instanceof CompressoError && error.code === "gpu" && !device.isBroken;
    throw isTooLarge
      ? new ApiError({ status: 400, message: error.message, code: error.code }, { cause: error })
      : error;
  } finally {
    if (device.isBroken) onBroken();
  }
}

function openCall({ limits, ending, onRequest }: Serving, request: HttpRequest): Call {
  const start = performance.now(), own = new AbortController();
  const usage = { promptTokens: 0, completionTokens: 0 };
  const stop = (reason: unknown): void => own.abort(reason);
  const onGone = (): void => stop(GONE), onEnding = (): void => stop(closing());
  const timer = setTimeout(() => stop(late(limits.seconds)), limits.seconds * 1000);
  request.signal.addEventListener("abort", onGone);
  ending.addEventListener("abort", onEnding);
  let isOver = false;
  return {
    request,
    usage,
    signal: own.signal,
    stop,
    end(status): void {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      request.signal.removeEventListener("abort", onGone);
      ending.removeEventListener("abort", onEnding);
      try {
        onRequest?.({
          method: request.method,
          path: URL.parse(request.url)?.pathname ?? request.url,
          status,
          seconds: (performance.now() - start) / 1000,
          ...usage,
        });
      } catch { /* a failing log must not fail the answer */ }
    },
  };
}

/** The reason of a signal that stopped the work, in place of the error that stopped work threw. */
function reasonOf(error: unknown, { signal }: Call): unknown {
  return signal.aborted ? signal.reason : error;
}

function health({ name, bench, queue, ending }: Serving): Response {
  const { isBroken } = bench.model.device;
  const status = isBroken ? "failed" : ending.aborted || queue.isClosed ? "stopping" : "ok";
  const body = { status, model: name, busy: queue.isBusy, waiting: queue.waiting };
  return Response.json(body, { status: isBroken ? 503 : 200 });
}

function modelBody({ name, created }: Serving): Record<string, unknown> {
  return { id: name, object: "model", created, owned_by: "compresso" };
}

function allow({ method }: HttpRequest, wanted: "GET" | "POST"): void {
  if (method === wanted || (wanted === "GET" && method === "HEAD")) return;
  throw new ApiError({
    status: 405,
    message: `this address takes ${wanted}, not ${method}`,
    code: "method_not_allowed",
    allow: wanted === "GET" ? "GET, HEAD" : wanted,
  });
}

/** Names under which this machine reaches itself, also from containers: nobody else can own such a name. In networks others own names of `.internal`. */
export const LOCAL_HOSTS =
  /^(127(?:\.\d+){3}|(?:[\w.-]+\.)?localhost|host\.(?:docker|containers)\.internal|\[::1\])(:\d+)?$/i;

/** Refuses other host names, because a web page may point its own name at this machine (DNS rebinding). */
function checkHostName({ headers }: HttpRequest, names: readonly string[] | null): void {
  const host = headers.get("host");
  if (names === null || host === null || LOCAL_HOSTS.test(host)) return; // a page is never without
  const asked = nameIn(host);
  if (asked !== null && names.some((name) => nameIn(name.includes(":") ? `[${name}]` : name) === asked)) return;
  throw new ApiError({
    status: 403,
    message:
      `this server is for this machine alone, not for '${host}': start it with an API key, or at another address`,
    code: "forbidden_host",
  });
}

/** The name in a Host header as browsers write it, without the port: in lower case, addresses in their shortest form. */
function nameIn(host: string): string | null {
  return URL.parse(`http://${host}`)?.hostname ?? null;
}

/** The address of a request. A Host header may be anything, and so may the address that Deno makes of it. */
function addressOf({ url }: HttpRequest): URL {
  const address = URL.parse(url);
  if (address) return address;
  throw new ApiError({ status: 400, message: `the address is no URL: ${url}`, code: "invalid_url" });
}

function checkKey({ headers }: HttpRequest, key: string | null): void {
  if (key === null) return;
  const given = /^Bearer\s+(.*)$/i.exec(headers.get("authorization") ?? "")?.[1]?.trim() ?? "";
  // Digests are of one length, which a comparison in constant time needs.
  const digest = (text: string): Uint8Array => createHash("sha256").update(text).digest();
  if (timingSafeEqual(digest(given), digest(key))) return;
  const message = given === "" ? "this server asks for an API key: Authorization: Bearer KEY" : "the API key is wrong";
  throw new ApiError({ status: 401, message, code: "invalid_api_key" });
}

function checkModel(model: string, { name }: Serving): void {
  if (model === name) return;
  throw new ApiError({
    status: 404,
    message: `there is no model '${model}' here; this server has '${name}'`,
    param: "model",
    code: "model_not_found",
  });
}

function late(limit: number): ApiError {
  return new ApiError({
    status: 408,
    message: `the answer was not ready within ${limit} s, waiting included`,
    type: "timeout_error",
    code: "timeout",
  });
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new ApiError({ status: 400, message: "the address is not well encoded" });
  }
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
