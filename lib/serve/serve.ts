// Serves a model by an OpenAI-compatible HTTP API: the socket and the shutdown.
import { option, refusal, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { checkPromptText } from "../data/prompts/format.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Adapters, Model } from "../model/model.ts";
import { checkOrigin } from "./cors.ts";
import { createHandler, type RequestRecord, type Serving } from "./handler.ts";
import { type HttpListener, type HttpRequest, listenHttp } from "./http.ts";
import { createTextBatch } from "../generate/text_batch.ts";
import { createLabels } from "./labels.ts";
import { resolveLimits, type ServeLimits } from "./limits.ts";
import { createQueue } from "./queue.ts";

/** Options of {@link serveModel}. */
export interface ServeOptions {
  /** Name or address of the network interface. Default "127.0.0.1", which other machines cannot reach. */
  readonly host?: string | undefined;
  /** Port, 0 for any that is free. Default 8000. */
  readonly port?: number | undefined;
  /** Name of the model in requests and answers. Default "model". */
  readonly name?: string | undefined;
  /** What clients must send as `Authorization: Bearer KEY`; null for none. Default null. */
  readonly apiKey?: string | null | undefined;
  /** Limits that are not the default. */
  readonly limits?: Partial<ServeLimits> | undefined;
  /**
   * Origin of web pages that may use the server, such as "http://localhost:5173", or "*" for every page. Default null:
   * browsers let only pages of the server's own origin read its answers.
   */
  readonly cors?: string | null | undefined;
  /** Temperature of requests that give none, from 0 to 2. Default 1, as of OpenAI's API; 0 takes the likeliest token. */
  readonly temperature?: number | undefined;
  /** Text before every chat, such as the collaborative prompt, as or in its system turn. Default null: none. Completions get none. */
  readonly prompt?: string | null | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Stops the server as {@link ModelServer.shutdown} does. */
  readonly signal?: AbortSignal | undefined;
  /** Called for each request once its answer is made. */
  readonly onRequest?: ((record: RequestRecord) => void) | undefined;
}

const SERVE_NAMES: NamesOf<ServeOptions> = {
  ...{ host: "text", port: "number", name: "text", apiKey: true, cors: true, temperature: "number" },
  ...{ limits: true, prompt: true },
  ...{ adapters: true, signal: true, onRequest: true },
};

/** A server under way. */
export interface ModelServer extends AsyncDisposable {
  /** Address where it listens. */
  readonly host: string;
  /** Port where it listens; with 0 in the options the port that was free. */
  readonly port: number;
  /** `http://host:port`; OpenAI's clients need it with `/v1` appended. */
  readonly url: string;
  /**
   * Resolves when the server has ended and the GPU is idle. It does not wait for clients that do not read their
   * answers. If the GPU fails permanently, the server shuts down and this rejects with `CompressoError("gpu")`.
   */
  readonly finished: Promise<void>;
  /** Takes no more requests, refuses waiting requests, gives running ones `graceSeconds`, and then stops them. */
  shutdown(): Promise<void>;
}

/** Milliseconds that clients have to read finished answers when the server stops. */
const LAST_WORDS = 1000;

/**
 * Serves a model over HTTP as OpenAI's API does: `/v1/completions` (with `echo` and `logprobs`; 16 tokens by default),
 * `/v1/chat/completions` (of a model with a chat template; 1,024 tokens by default), both also as a stream,
 * `/v1/models` and `/health`, whose status is 503 once the GPU has failed. Several requests are answered at once: their
 * texts share the steps of the model, and each text is the same as alone. Do not use the model for anything else until
 * the server has ended. Work for a client that disconnects is stopped. Without a key, a server that listens at loopback
 * answers only requests for this machine's names and `host`.
 *
 * @throws CompressoError("input") for a model without tokenizer
 * @throws CompressoError("usage") for options out of range, and an address where it cannot listen, such as a busy port
 *
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { serveModel } from "compresso/serve";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * await using server = serveModel(model, { port: 0, name: "demo" });
 * const response = await fetch(`${server.url}/v1/completions`, {
 *   method: "POST",
 *   headers: { "content-type": "application/json" },
 *   body: JSON.stringify({ model: "demo", prompt: "Tom went", max_tokens: 4 }),
 * });
 * const { choices } = await response.json();
 * if (typeof choices[0].text !== "string") throw new Error("no text");
 * ```
 */
export function serveModel(model: Model, options: ServeOptions = {}): ModelServer {
  const { host = "127.0.0.1", port = 8000, name = "model", apiKey = null, cors = null, temperature = 1 } = options;
  const { prompt = null, adapters = {}, signal } = options;
  checkNames(options, SERVE_NAMES, { whose: "serveModel" });
  checkPromptText(prompt);
  const limits = resolveLimits(options.limits);
  const { tokenizer } = model;
  if (!tokenizer) throw noTokenizer("cannot serve the model");
  checkHost(host);
  checkAddress({ port, name, apiKey });
  checkOrigin(cors);
  checkTemperature(temperature);
  const { parallel } = limits;
  const queue = createQueue({ most: limits.queue, turns: parallel }), ending = new AbortController();
  const capacity = Math.min(model.spec.maxPosition, limits.tokens);
  const texts = createTextBatch(model, { sequences: parallel, capacity, adapters });
  const bench = { model, tokenizer, adapters, texts, parallel, labels: createLabels(tokenizer), prompt, temperature };
  // No request comes before the handler below: the first one is taken in a later turn.
  const server = listen({ host, port }, { handler: (request) => handler(request), limits });
  const { hostname, port: chosen } = server.addr;
  const serving: Serving = {
    bench,
    name,
    created: Math.floor(Date.now() / 1000),
    limits,
    queue,
    apiKey,
    cors,
    localNames: apiKey === null && isLoopback(hostname) ? [host, hostname] : null,
    ending: ending.signal,
    onRequest: options.onRequest ?? null,
    onBroken: () => void shutdown(),
  };
  const handler = createHandler(serving);

  let stopping: Promise<void> | null = null;
  const stopped = Promise.withResolvers<void>();
  const shutdown = (): Promise<void> => stopping ??= stop().finally(stopped.resolve);
  const stop = async (): Promise<void> => {
    signal?.removeEventListener("abort", onAbort);
    queue.close();
    const late = Promise.withResolvers<void>();
    const timers = [
      setTimeout(() => ending.abort(), 1000 * limits.graceSeconds),
      setTimeout(late.resolve, 1000 * limits.graceSeconds + LAST_WORDS),
    ];
    // A client that does not read its answer holds its connection, but nothing else any more.
    await Promise.race([server.shutdown(), late.promise]);
    ending.abort(); // work whose client has gone may still be under way
    server.close();
    await queue.idle();
    await texts[Symbol.asyncDispose]();
    timers.forEach(clearTimeout);
  };
  const onAbort = (): void => void shutdown();
  signal?.addEventListener("abort", onAbort);
  if (signal?.aborted) onAbort();
  const finished = stopped.promise.then(shutdown).then(() => model.device.check());
  finished.catch(() => {}); // those who wait for it still see the error
  return {
    host: hostname,
    port: chosen,
    url: `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${chosen}`,
    finished,
    shutdown,
    [Symbol.asyncDispose]: shutdown,
  };
}

/** Whether only this machine reaches an address that is listened at: a name says nothing of where it leads. */
export function isLoopback(address: string): boolean {
  return address === "::1" || /^(::ffff:)?127(\.\d+){3}$/i.test(address);
}

/**
 * Throws `CompressoError("usage")` if an address cannot be listened at: loading a model takes long, and need not come first.
 */
export function checkListen(address: { readonly host: string; readonly port: number }): void {
  checkHost(address.host);
  try {
    Deno.listen({ hostname: address.host, port: address.port }).close();
  } catch (error) {
    throw notListening(address, error);
  }
}

function checkTemperature(temperature: number): void {
  if (temperature >= 0 && temperature <= 2) return;
  refuse("usage", `cannot use ${option("temperature", temperature)}`, {
    rule: "a temperature lies in [0, 2]",
    value: temperature,
    fix: "change it, or leave it out for 1",
  });
}

/** Refuses an empty address, which the system takes for all of them. */
function checkHost(host: string): void {
  if (host.trim() !== "") return;
  refuse("usage", "cannot serve the model", {
    rule: "the address is that of a network interface, such as 127.0.0.1; 0.0.0.0 is all of them",
    value: "an empty one",
    fix: "give an address, or leave it out for 127.0.0.1",
    option: "host",
  });
}

function listen(
  address: { readonly host: string; readonly port: number },
  { handler, limits }: {
    readonly handler: (request: HttpRequest) => Promise<Response>;
    readonly limits: ServeLimits;
  },
): HttpListener {
  try {
    const { host: hostname, port } = address;
    return listenHttp({ hostname, port }, { handler, limits });
  } catch (error) {
    throw notListening(address, error);
  }
}

function notListening({ host, port }: { readonly host: string; readonly port: number }, error: unknown): unknown {
  const what = `cannot listen at ${host}:${port}`;
  if (error instanceof Deno.errors.AddrInUse) {
    return refusal("usage", what, {
      rule: "a port serves one program at a time",
      value: "another program has it",
      fix: "stop that program, or take another port; 0 takes any that is free",
      cause: error,
    });
  }
  if (error instanceof Deno.errors.NotCapable) return error;
  const value = error instanceof Error ? error.message : String(error);
  const rule = "host is an address of this machine, and the port may be used";
  return refusal("usage", what, { rule, value, fix: "take another host or port", cause: error });
}

function checkAddress(
  { port, name, apiKey }: { readonly port: number; readonly name: string; readonly apiKey: string | null },
): void {
  const fail = (rule: string, value: string): never => {
    const fix = "change it, or leave it out for the default";
    refuse("usage", "cannot serve the model", { rule, value, fix });
  };
  if (!Number.isInteger(port) || port < 0 || port > 65535) fail("port is a whole number from 0 to 65535", String(port));
  if (name === "") fail("the model has a name", "an empty one");
  // Only what fits into a header: clients could send nothing else.
  if (apiKey !== null && !/^[\x21-\x7e]+$/.test(apiKey)) {
    fail("an API key is printable ASCII without spaces, at least one character", `${apiKey.length} characters`);
  }
}
