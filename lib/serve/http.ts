// HTTP/1.1 by node:http, on connections that this file accepts: node:http would accept none after the system has once
// run out of file descriptors. Request heads have a time limit, connections a largest number, and clients that read
// nothing are disconnected.
import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import { Duplex, Readable } from "node:stream";
import { finished, pipeline } from "node:stream/promises";
import { badRequest } from "./api_error.ts";

/** What a handler sees of a request. */
export type HttpRequest = Pick<Request, "method" | "url" | "headers" | "body" | "signal">;

/** Limits of connections. */
export interface HttpLimits {
  /**
   * Connections at once. A further connection replaces the one waiting longest for its client, of the network that has
   * most connections; if none waits, it is closed.
   */
  readonly connections: number;
  /** Seconds that a connection gets for its first or next head. */
  readonly headSeconds: number;
}

/** A listening server. */
export interface HttpListener {
  readonly addr: Deno.NetAddr;
  /** Takes no more connections and requests; resolves when those under way are answered. */
  shutdown(): Promise<void>;
  /** Ends all connections. */
  close(): void;
}

/** Bytes of a head. */
const MOST_HEAD = 2 ** 15;
/** Most requests of a connection that wait for their answers; at this number the connection is not read further. */
const MOST_WAITING = 16;
/**
 * Bytes and milliseconds that are still read after the last answer: closing earlier would lose the answer. While there
 * are free places, a client that stays costs less than one that is closed and comes again.
 */
const LINGER_BYTES = 2 ** 20, LINGER_TIME = 5000;
/** Milliseconds after which a client that reads nothing of its answer is disconnected. */
const STALL_TIME = 60_000;
/** How many waiting connections are closed if the system has no file descriptor left. */
const MOST_GIVEN_UP = 16;
/** Milliseconds until the next try if the system has no file descriptor left. */
const RETRY_TIME = 100;
/** Milliseconds between tries to find a place for a new connection, and their number. */
const PLACE_TIME = 5, MOST_TRIES = 200;
/** Milliseconds for which a connection that has sent nothing keeps its place. */
const YOUNG_TIME = 500;

/** Listens. Throws what `Deno.listen` throws. The handler never throws. */
export function listenHttp(
  address: Deno.TcpListenOptions,
  { handler, limits }: { readonly handler: (request: HttpRequest) => Promise<Response>; readonly limits: HttpLimits },
): HttpListener {
  const listener = Deno.listen(address), open = new Set<Connection>(), ending = new AbortController();
  const ended = Promise.withResolvers<void>();
  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    const connection: unknown = request.socket;
    if (connection instanceof Connection) connection.receive({ request, response, handler, ending: ending.signal });
  };
  const http = createServer({ requireHostHeader: false, maxHeaderSize: MOST_HEAD, keepAliveTimeout: 0 }, onRequest);
  // A server that does not listen ends each connection after an answer.
  Object.defineProperty(http, "listening", { get: () => !ending.signal.aborted });
  http.on("checkContinue", onRequest).on("checkExpectation", onRequest);
  http.on("clientError", (error: Error & { readonly code?: string }, connection: unknown) => {
    if (connection instanceof Connection) connection.refuse(error.code === "HPE_HEADER_OVERFLOW" ? 431 : 400);
  });
  const accept = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      try {
        const conn = await listener.accept();
        if (
          !await hasRoom(open, { most: limits.connections, network: networkOf(conn.remoteAddr.hostname) }) ||
          ending.signal.aborted
        ) {
          conn.close();
          continue;
        }
        const connection = new Connection(conn, limits.headSeconds);
        open.add(connection);
        connection.on("close", () => {
          open.delete(connection);
          if (ending.signal.aborted && open.size === 0) ended.resolve();
        });
        http.emit("connection", connection);
      } catch (error) {
        if (ending.signal.aborted) break;
        if (hasLeft(error)) continue;
        closeLongest(open, { most: MOST_GIVEN_UP });
        await new Promise((resolve) => setTimeout(resolve, RETRY_TIME));
      }
    }
  };
  const accepting = accept();
  return {
    addr: listener.addr,
    async shutdown(): Promise<void> {
      if (!ending.signal.aborted) {
        ending.abort();
        listener.close();
        for (const connection of open) if (connection.isIdle) connection.destroy();
        if (open.size === 0) ended.resolve();
      }
      await Promise.all([ended.promise, accepting]);
    },
    close(): void {
      for (const connection of open) connection.destroy();
    },
  };
}

/** Whether a client reset its connection before it was accepted, which says nothing of the others. */
function hasLeft(error: unknown): boolean {
  const { NotConnected, ConnectionReset, ConnectionAborted, BrokenPipe } = Deno.errors;
  return [NotConnected, ConnectionReset, ConnectionAborted, BrokenPipe].some((kind) => error instanceof kind);
}

/**
 * Whether there is room for one more connection of a network. Tries several times: a busy connection may soon wait for
 * its client, and can then be closed.
 */
async function hasRoom(
  open: ReadonlySet<Connection>,
  { most, network }: { readonly most: number; readonly network: string },
): Promise<boolean> {
  for (let tries = 0; open.size >= most && !closeLongest(open, { most: 1, network }); tries++) {
    if (tries === MOST_TRIES) return false;
    await new Promise((resolve) => setTimeout(resolve, PLACE_TIME));
  }
  return true;
}

/**
 * Closes connections that wait for their clients, and returns whether there were any. First go those of the network that
 * has most connections; for a new connection, none goes of a network that has fewer than its own, so that a crowd takes
 * no place from others. Then go connections with all requests answered, and then the longest wait. A connection that
 * has sent nothing yet keeps its place for a time: its request may be on its way while a crowd comes.
 */
function closeLongest(
  open: ReadonlySet<Connection>,
  { most, network: own }: { readonly most: number; readonly network?: string },
): boolean {
  const crowds = new Map<string, number>(), latest = performance.now() - YOUNG_TIME;
  for (const { network } of open) crowds.set(network, (crowds.get(network) ?? 0) + 1);
  const least = own === undefined ? 0 : crowds.get(own) ?? 0;
  const waiting = [...open].flatMap((connection) => {
    const { since, network, isAnswered, isUnread } = connection, crowd = crowds.get(network) ?? 0;
    if (since === null || crowd < least || (isUnread && since > latest)) return [];
    return [{ connection, since, crowd, rank: isAnswered ? 0 : 1 }];
  });
  const longest = waiting.sort((a, b) => b.crowd - a.crowd || a.rank - b.rank || a.since - b.since).slice(0, most);
  for (const { connection } of longest) connection.destroy();
  return longest.length > 0;
}

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly handler: (request: HttpRequest) => Promise<Response>;
  readonly ending: AbortSignal;
}

/** A connection as node:http reads and writes it. */
class Connection extends Duplex {
  /** Network of its client: an IPv4 address, or the first 64 bits of an IPv6 address. */
  readonly network: string;
  readonly #conn: Deno.TcpConn;
  readonly #headSeconds: number;
  /** Fires when the client has gone. */
  readonly #gone = new AbortController();
  /** Ends with the last answer so far. */
  #turn = Promise.resolve();
  /** Whether bytes have come. */
  #wasRead = false;
  /** Requests under way. */
  #waiting = 0;
  /** Whether bytes of a head have come. */
  #hasBegun = false;
  /** Whether reading waits for answers. */
  #isHeld = false;
  /** Whether nothing more is answered. */
  #isLast = false;
  /** Bytes that may still be read. */
  #left = Infinity;
  /** When it began to wait for a head, for the rest of a request or, after the last answer, for the client's end. */
  #since = 0;
  /** When the write under way began. */
  #writing: number | null = null;
  /** Time of a head, or of what is read after the last answer. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Time of a write. */
  #stall: ReturnType<typeof setTimeout> | undefined;
  /** Status to refuse with once all answers are sent: the client sent something invalid meanwhile. */
  #wrong: number | null = null;
  /** The body under way. */
  #body: { readonly request: IncomingMessage; end(): void } | null = null;

  constructor(conn: Deno.TcpConn, headSeconds: number) {
    super();
    this.#conn = conn;
    this.#headSeconds = headSeconds;
    this.network = networkOf(conn.remoteAddr.hostname);
    try {
      conn.setNoDelay(true);
    } catch { /* it has gone already, as the first read says */ }
    this.#awaitHead();
  }

  /** Since when it waits for its client, which sends no head or body, or reads nothing. Null while the server works. */
  get since(): number | null {
    if (this.destroyed) return null;
    if (this.#waiting === 0 || this.#isLast || this.#body?.request.complete === false) return this.#since;
    return this.#writing;
  }

  /** Whether nothing was read of it yet. */
  get isUnread(): boolean {
    return !this.#wasRead;
  }

  /** Whether its last answer is sent, and it waits for the client's end. */
  get isAnswered(): boolean {
    return this.#isLast && this.#waiting === 0;
  }

  /** Whether it waits for a head and no byte of it has come. */
  get isIdle(): boolean {
    return this.#waiting === 0 && !this.#isLast && !this.destroyed && !this.#hasBegun;
  }

  /** Answers a request when those before it are answered. */
  receive(exchange: Exchange): void {
    if (this.#isLast) return;
    clearTimeout(this.#timer);
    this.#waiting++;
    this.#turn = this.#turn.then(() => this.#answer(exchange)).catch(() => void this.destroy()).finally(() => {
      if (--this.#waiting === 0) this.#awaitHead();
      if (this.#waiting === 0 && this.#wrong !== null) this.refuse(this.#wrong);
      if (this.#waiting === 0 && exchange.ending.aborted) this.destroySoon();
      if (this.#isHeld) this._read();
    });
  }

  /** Answers invalid data. The answer waits for requests under way; a body that is not complete fails. */
  refuse(status: number): void {
    this.#leaveParser();
    if (this.#isLast) return;
    if (!this.writable) return void this.destroy();
    if (this.#waiting > 0) {
      this.#wrong ??= status;
      if (this.#body?.request.complete === false) this.#body.end();
      return;
    }
    const body = JSON.stringify(refusal(status));
    const fields = `content-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close`;
    this.write(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${fields}\r\n\r\n${body}`);
    this.destroySoon();
  }

  /** Ends the connection once all is written, when the client ends it or five seconds later. node:http calls it after the last answer. */
  destroySoon(): void {
    if (this.#isLast) return;
    this.#isLast = true;
    this.#since = performance.now();
    clearTimeout(this.#timer);
    this.#left = LINGER_BYTES;
    this.end(() => {
      if (!this.destroyed) this.#timer = setTimeout(() => this.destroy(), LINGER_TIME);
    });
    if (this.#isHeld) this._read();
  }

  /**
   * Keeps all further bytes from node:http. Deno's gives the parser of invalid data to the next connection, but leaves
   * its listeners here: bytes of this client would be read as that connection's.
   */
  #leaveParser(): void {
    this.removeAllListeners("data").removeAllListeners("end").resume();
  }

  override _read(): void {
    this.#isHeld = this.#waiting >= MOST_WAITING && !this.#isLast;
    if (this.#isHeld) return;
    const piece = new Uint8Array(2 ** 14);
    this.#conn.read(piece).then((count) => {
      this.#wasRead = true;
      this.#hasBegun ||= count !== null && this.#waiting === 0;
      this.#left -= count ?? 0;
      if (count === null) this.#gone.abort();
      if (this.#left < 0) this.destroy();
      else this.push(count === null ? null : piece.subarray(0, count));
    }).catch(() => this.destroy());
  }

  override _write(bytes: Uint8Array, _encoding: string, callback: (error?: Error) => void): void {
    const all = async (): Promise<void> => {
      for (let done = 0; done < bytes.length;) {
        this.#stall = setTimeout(() => this.destroy(), STALL_TIME);
        this.#writing = performance.now();
        try {
          done += await this.#conn.write(bytes.subarray(done));
        } finally {
          clearTimeout(this.#stall);
          this.#writing = null;
        }
      }
    };
    all().then(() => callback(), callback);
  }

  override _final(callback: () => void): void {
    this.#conn.closeWrite().then(callback, callback);
  }

  override _destroy(_error: Error | null, callback: () => void): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#stall);
    this.#gone.abort();
    try {
      this.#conn.close();
    } catch { /* it has gone by itself */ }
    callback();
  }

  #awaitHead(): void {
    // After the last answer the timer is that of `destroySoon`.
    if (this.#isLast || this.destroyed) return;
    this.#hasBegun = false;
    this.#since = performance.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#hasBegun ? this.refuse(408) : this.destroy(), 1000 * this.#headSeconds);
  }

  async #answer({ request, response, handler, ending }: Exchange): Promise<void> {
    const { signal } = this.#gone, { method = "", url = "", httpVersion } = request;
    if (signal.aborted || this.#isLast) return;
    this.#since = performance.now();
    const isOld = httpVersion === "1.0", headers = new Headers(), status = wrongIn(request, headers);
    const address = url.startsWith("/") ? `http://${headers.get("host") ?? "localhost"}${url}` : url;
    const hasBody = headers.has("transfer-encoding") || Number(headers.get("content-length") ?? 0) > 0;
    const body = hasBody ? this.#open(request, response) : null;
    const answer = status === null
      ? await handler({ method, url: address, headers, body, signal })
      : Response.json(refusal(status), { status });
    const isStream = answer.headers.get("content-type")?.startsWith("text/event-stream") === true;
    const whole = isStream ? null : new Uint8Array(await answer.arrayBuffer());
    const isLast = isOld || ending.aborted || status !== null || !request.complete;
    this.#body?.end();
    this.#body = null;
    response.writeHead(answer.status, {
      ...Object.fromEntries(answer.headers),
      ...(whole && answer.status !== 204 ? { "content-length": whole.length } : {}),
      ...(isLast ? { connection: "close" } : {}),
    });
    if (whole || !answer.body) response.end(method === "HEAD" ? null : whole);
    else await pipeline(Readable.from(answer.body), response);
    await finished(response);
    request.resume(); // what is left of a body that was not wanted
  }

  /** The body of a request, read as it is asked for. */
  #open(request: IncomingMessage, response: ServerResponse): ReadableStream<Uint8Array<ArrayBuffer>> {
    let isOver = false, isAsked = request.headers.expect === undefined || request.httpVersion === "1.0";
    const over = (end: () => void): void => {
      if (!isOver) end();
      isOver = true;
    };
    return new ReadableStream<Uint8Array<ArrayBuffer>>({
      start: (controller): void => {
        const gone = (): void => over(() => controller.error(new Error("the client has gone")));
        request.on("data", (piece: Uint8Array) => {
          if (isOver) return;
          controller.enqueue(new Uint8Array(piece));
          request.pause();
        });
        request.on("end", () => over(() => controller.close())).on("error", gone).on("close", gone).pause();
        const end = (): void => over(() => controller.error(badRequest("the body is not in chunks as it says")));
        this.#body = { request, end };
        if (this.#wrong !== null && !request.complete) end();
      },
      pull(): void {
        if (!isAsked) response.writeContinue();
        isAsked = true;
        request.resume();
      },
      cancel: () => over(() => {}),
    }, { highWaterMark: 0 });
  }
}

/** The network of an address: of IPv6 its first 64 bits, which one client has for itself. */
function networkOf(address: string): string {
  // Also an IPv4 address as IPv6 writes it, ::ffff:10.0.0.1.
  if (!address.includes(":") || address.includes(".")) return address.slice(address.lastIndexOf(":") + 1);
  const [head = "", tail] = address.split("::"), first = head.split(":"), last = (tail ?? "").split(":");
  const zeros = tail === undefined ? [] : Array<string>(Math.max(0, 8 - first.length - last.length)).fill("0");
  return [...first, ...zeros, ...last].slice(0, 4).join(":");
}

/** Fills in the headers of a request; a status for an invalid one. Ambiguous headers are refused. */
function wrongIn({ rawHeaders, httpVersion }: IncomingMessage, headers: Headers): number | null {
  let hosts = 0;
  try {
    for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
      headers.append(rawHeaders[i] ?? "", rawHeaders[i + 1] ?? "");
      if (rawHeaders[i]?.toLowerCase() === "host") hosts++;
    }
  } catch {
    return 400;
  }
  const isOld = httpVersion === "1.0", coding = headers.get("transfer-encoding");
  if ((!isOld && httpVersion !== "1.1") || hosts > 1 || (hosts === 0 && !isOld) || (coding !== null && isOld)) {
    return 400;
  }
  return coding === null || coding.toLowerCase() === "chunked" ? null : 501;
}

/** The answer to invalid data. */
function refusal(status: number): { readonly error: Readonly<Record<string, string | null>> } {
  const message = { 408: "the head of the request did not come in time", 431: "the head of the request is too long" };
  const text = status === 408 || status === 431 ? message[status] : "this is no request of HTTP/1.1";
  return { error: { message: text, type: "invalid_request_error", param: null, code: null } };
}
