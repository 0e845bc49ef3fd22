// HTTP/1.1 (RFC 9112) on a listener of its own. Deno.serve does not tell of clients that go once a body was read, and ends where no file is left:
// here each connection is read while its request is answered, heads have a time, and connections a number.
import { badRequest } from "./api_error.ts";

/** What a handler sees of a request. */
export type HttpRequest = Pick<Request, "method" | "url" | "headers" | "body" | "signal">;

/** Limits of connections. */
export interface HttpLimits {
  /** Connections at once; a further one takes the place of the oldest that waits for a head, or is closed. */
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
/** Bytes that wait to be read; behind them the connection is left alone. */
const MOST_HELD = 2 ** 17;
/** Bytes and milliseconds that are read after an answer to a request whose body was not wanted: a connection closed before loses the answer. */
const LINGER_BYTES = 2 ** 20, LINGER_TIME = 1000;
/** Milliseconds after which a client that reads nothing of its answer is given up. */
const STALL_TIME = 60_000;
/** Connections that wait for a head and are closed where the system has no file left. */
const MOST_GIVEN_UP = 16;
/** Milliseconds until the next try where the system has no file left. */
const RETRY_TIME = 100;

/** Listens. Throws what `Deno.listen` throws. The handler never throws. */
export function listenHttp(
  address: Deno.TcpListenOptions,
  { handler, limits }: { readonly handler: (request: HttpRequest) => Promise<Response>; readonly limits: HttpLimits },
): HttpListener {
  const listener = Deno.listen(address), open = new Set<Connection>();
  const ending = new AbortController(), ended = Promise.withResolvers<void>();
  const accept = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      try {
        const conn = await listener.accept();
        if (open.size >= limits.connections && !closeWaiting(open, 1)) {
          conn.close();
          continue;
        }
        const connection = openConnection(conn);
        open.add(connection);
        void serveConnection(connection, { handler, limits, ending: ending.signal }).catch(() => {}).finally(() => {
          connection.close();
          open.delete(connection);
          if (ending.signal.aborted && open.size === 0) ended.resolve();
        });
      } catch {
        if (ending.signal.aborted) break;
        closeWaiting(open, MOST_GIVEN_UP);
        await new Promise((resolve) => setTimeout(resolve, RETRY_TIME));
      }
    }
  };
  void accept();
  return {
    addr: listener.addr,
    shutdown(): Promise<void> {
      if (!ending.signal.aborted) {
        ending.abort();
        listener.close();
        if (open.size === 0) ended.resolve();
      }
      return ended.promise;
    },
    close(): void {
      for (const connection of open) connection.close();
    },
  };
}

/** Closes the oldest connections that wait for a head; returns whether there were any. */
function closeWaiting(open: ReadonlySet<Connection>, most: number): boolean {
  const waiting = [...open].filter(({ isWaiting }) => isWaiting).slice(0, most);
  for (const connection of waiting) connection.close();
  return waiting.length > 0;
}

/** A connection whose bytes are read as they come. */
interface Connection {
  /** Whether it waits for a head. */
  isWaiting: boolean;
  /** Fires when the client has gone. */
  readonly gone: AbortSignal;
  /** Bytes that are there; waits for some. Empty where the client has gone. */
  peek(): Promise<Uint8Array>;
  /** Waits for more bytes than there are; false where none come. */
  more(): Promise<boolean>;
  /** Drops the first bytes. */
  skip(count: number): void;
  write(bytes: Uint8Array): Promise<void>;
  /** Says that no more is written. */
  closeWrite(): Promise<void>;
  close(): void;
}

function openConnection(conn: Deno.TcpConn): Connection {
  let held = new Uint8Array(0), isClosed = false;
  let arrived = Promise.withResolvers<void>(), drained = Promise.withResolvers<void>();
  const gone = new AbortController();
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    gone.abort();
    arrived.resolve();
    drained.resolve();
    try {
      conn.close();
    } catch { /* it has gone by itself */ }
  };
  const pump = async (): Promise<void> => {
    const piece = new Uint8Array(2 ** 16);
    while (!isClosed) {
      const count = await conn.read(piece).catch(() => null);
      if (count === null) break;
      const all = new Uint8Array(held.length + count);
      all.set(held);
      all.set(piece.subarray(0, count), held.length);
      held = all;
      arrived.resolve();
      if (held.length > MOST_HELD) await drained.promise;
    }
    gone.abort();
    arrived.resolve();
  };
  try {
    conn.setNoDelay(true);
  } catch { /* it has gone already, as the first read says */ }
  void pump();
  const more = async (): Promise<boolean> => {
    const before = held.length;
    while (held.length === before && !gone.signal.aborted) {
      arrived = Promise.withResolvers<void>();
      await arrived.promise;
    }
    return held.length > before;
  };
  return {
    isWaiting: true,
    gone: gone.signal,
    more,
    async peek(): Promise<Uint8Array> {
      if (held.length === 0) await more();
      return held;
    },
    skip(count): void {
      held = held.slice(count);
      drained.resolve();
      drained = Promise.withResolvers<void>();
    },
    async write(bytes): Promise<void> {
      for (let done = 0; done < bytes.length;) {
        const timer = setTimeout(close, STALL_TIME);
        try {
          done += await conn.write(bytes.subarray(done));
        } finally {
          clearTimeout(timer);
        }
      }
    },
    closeWrite: () => conn.closeWrite(),
    close,
  };
}

interface Serving {
  readonly handler: (request: HttpRequest) => Promise<Response>;
  readonly limits: HttpLimits;
  readonly ending: AbortSignal;
}

/** Answers the requests of a connection, one after the other. */
async function serveConnection(connection: Connection, { handler, limits, ending }: Serving): Promise<void> {
  while (true) {
    const head = await readHead(connection, { seconds: limits.headSeconds, ending });
    if (head === null) return;
    if (typeof head === "number") {
      await writeAnswer(connection, refusal(head), { isHead: false, isLast: true, isOld: false });
      return await linger(connection);
    }
    const body = openBody(connection, head), leaving = new AbortController();
    const onGone = (): void => leaving.abort();
    connection.gone.addEventListener("abort", onGone);
    if (connection.gone.aborted) onGone();
    try {
      const { method, url, headers } = head;
      const response = await handler({ method, url, headers, body: body.stream, signal: leaving.signal });
      const isLast = head.isLast || ending.aborted || !body.isRead();
      await writeAnswer(connection, response, { isHead: method === "HEAD", isLast, isOld: head.isOld });
      if (!body.isRead()) return await linger(connection);
      if (isLast) return;
    } finally {
      connection.gone.removeEventListener("abort", onGone);
    }
  }
}

interface Head {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  /** Bytes of the body; null where it comes in chunks. */
  readonly length: number | null;
  readonly waitsForContinue: boolean;
  /** Whether the client closes the connection after the answer. */
  readonly isLast: boolean;
  /** Whether it speaks HTTP/1.0. */
  readonly isOld: boolean;
}

/** The next head; null where the client has gone or sends none in time, or the server ends; a status where it is none. */
async function readHead(
  connection: Connection,
  { seconds, ending }: { readonly seconds: number; readonly ending: AbortSignal },
): Promise<Head | number | null> {
  connection.isWaiting = true;
  // Within a head an ending server waits for the rest; without one it does not.
  let isLate = false, hasBegun = false;
  const onTime = (): void => {
    isLate = true;
    if (!hasBegun) connection.close();
    else stop.resolve(false);
  };
  const stop = Promise.withResolvers<boolean>();
  const timer = setTimeout(onTime, 1000 * seconds);
  const onEnding = (): void => {
    if (!hasBegun) connection.close();
  };
  ending.addEventListener("abort", onEnding);
  if (ending.aborted) onEnding();
  try {
    let bytes = await connection.peek();
    while (bytes.length > 0) {
      hasBegun = true;
      const end = endOfHead(bytes);
      if (end > MOST_HEAD || (end < 0 && bytes.length > MOST_HEAD)) return 431;
      if (end >= 0) {
        const head = parseHead(new TextDecoder("latin1").decode(bytes.subarray(0, end)));
        connection.skip(end + 4);
        return head;
      }
      if (!await Promise.race([connection.more(), stop.promise])) return isLate ? 408 : null;
      bytes = await connection.peek();
    }
    return null;
  } finally {
    connection.isWaiting = false;
    clearTimeout(timer);
    ending.removeEventListener("abort", onEnding);
  }
}

/** Place of the blank line; −1 where it has not come. */
function endOfHead(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(13); at >= 0 && at <= MOST_HEAD; at = bytes.indexOf(13, at + 1)) {
    if (bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) return at;
  }
  return -1;
}

const REQUEST_LINE = /^([!#$%&'*+.^_`|~\w-]+) (\S+) HTTP\/1\.([01])$/;
const FIELD = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*([^\0\r\n]*?)[ \t]*$/;

/** A head from its text; a status where it is none. What may be read in two ways is refused. */
function parseHead(text: string): Head | number {
  const [first = "", ...lines] = text.split("\r\n"), [, method, target, minor] = REQUEST_LINE.exec(first) ?? [];
  if (method === undefined || target === undefined) return 400;
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const [, name, value] = FIELD.exec(line) ?? [];
    if (name === undefined || value === undefined) return 400;
    const key = name.toLowerCase();
    fields.set(key, [...fields.get(key) ?? [], value]);
  }
  const isOld = minor === "0", hosts = fields.get("host") ?? [];
  if (hosts.length > 1 || (hosts.length === 0 && !isOld)) return 400;
  const coded = fields.get("transfer-encoding"), lengths = fields.get("content-length");
  if (coded && (lengths || isOld)) return 400;
  if (coded && coded.join().toLowerCase() !== "chunked") return 501;
  if (lengths && (lengths.length > 1 || !/^\d{1,15}$/.test(lengths[0] ?? ""))) return 400;
  const connection = (fields.get("connection") ?? []).join().toLowerCase();
  const headers = new Headers();
  try {
    for (const [name, values] of fields) for (const value of values) headers.append(name, value);
  } catch {
    return 400;
  }
  return {
    method,
    url: target.startsWith("/") ? `http://${hosts[0] ?? "localhost"}${target}` : target,
    headers,
    length: coded ? null : Number(lengths?.[0] ?? 0),
    waitsForContinue: !isOld && (fields.get("expect") ?? []).join().toLowerCase() === "100-continue",
    isLast: isOld || connection.split(",").some((one) => one.trim() === "close"),
    isOld,
  };
}

interface Body {
  readonly stream: ReadableStream<Uint8Array<ArrayBuffer>> | null;
  /** Whether all of it was read. */
  isRead(): boolean;
}

/** The body behind a head, read as it is asked for. */
function openBody(connection: Connection, { length, waitsForContinue }: Head): Body {
  if (length === 0) return { stream: null, isRead: () => true };
  let isRead = false, isAsked = !waitsForContinue;
  const bytes = length === null ? chunks(connection) : exactly(connection, length);
  const stream = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller): Promise<void> {
      if (!isAsked) await connection.write(encoder.encode("HTTP/1.1 100 Continue\r\n\r\n"));
      isAsked = true;
      const { done, value } = await bytes.next();
      if (!done) return controller.enqueue(value);
      isRead = true;
      controller.close();
    },
  }, { highWaterMark: 0 });
  return { stream, isRead: () => isRead };
}

/** So many bytes. */
async function* exactly(connection: Connection, length: number): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  for (let left = length; left > 0;) {
    const piece = (await connection.peek()).slice(0, left);
    if (piece.length === 0) throw new Error("the client has gone");
    connection.skip(piece.length);
    left -= piece.length;
    yield piece;
  }
}

/** Bytes in chunks, up to the last one and the fields behind it. */
async function* chunks(connection: Connection): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  while (true) {
    const [, digits] = /^([\da-f]{1,8})[ \t]*(?:;.*)?$/i.exec(await line(connection)) ?? [];
    if (digits === undefined) throw badRequest("a chunk has no size");
    const length = parseInt(digits, 16);
    if (length === 0) break;
    yield* exactly(connection, length);
    if (await line(connection) !== "") throw badRequest("a chunk is longer than its size");
  }
  while (await line(connection) !== "");
}

/** The next line. Throws where it is too long. */
async function line(connection: Connection): Promise<string> {
  while (true) {
    const bytes = await connection.peek(), end = bytes.indexOf(10);
    if (bytes.length === 0) throw new Error("the client has gone");
    if (end > 4096 || (end < 0 && bytes.length > 4096)) throw badRequest("a line of the body is too long");
    if (end >= 0) {
      const text = new TextDecoder("latin1").decode(bytes.subarray(0, end));
      connection.skip(end + 1);
      return text.replace(/\r$/, "");
    }
    if (!await connection.more()) throw new Error("the client has gone");
  }
}

/** Writes an answer: whole with its length, a stream of events in chunks as they come. A stream whose client goes is cancelled. */
async function writeAnswer(
  connection: Connection,
  response: Response,
  { isHead, isLast, isOld }: { readonly isHead: boolean; readonly isLast: boolean; readonly isOld: boolean },
): Promise<void> {
  const { status, headers, body } = response;
  const isStream = headers.get("content-type")?.startsWith("text/event-stream") === true && body !== null;
  const whole = isStream ? null : new Uint8Array(await response.arrayBuffer());
  const isChunked = isStream && !isOld;
  const fields = [
    ...headers,
    ["date", new Date().toUTCString()],
    ...(whole && status !== 204 ? [["content-length", String(whole.length)]] : []),
    ...(isChunked ? [["transfer-encoding", "chunked"]] : []),
    ...(isLast || (isStream && isOld) ? [["connection", "close"]] : []),
  ];
  const text = fields.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const start = encoder.encode(`HTTP/1.1 ${status} ${PHRASES[status] ?? ""}\r\n${text}\r\n`);
  const reader = isStream ? body.getReader() : null;
  const onGone = (): void => void reader?.cancel().catch(() => {});
  connection.gone.addEventListener("abort", onGone);
  if (connection.gone.aborted) onGone();
  try {
    await connection.write(start);
    if (isHead) return onGone();
    if (whole) return await connection.write(whole);
    for (let next = await reader?.read(); next && !next.done; next = await reader?.read()) {
      const { value } = next;
      if (value.length === 0) continue;
      if (isChunked) await connection.write(encoder.encode(`${value.length.toString(16)}\r\n`));
      await connection.write(value);
      if (isChunked) await connection.write(LINE_END);
    }
    if (isChunked) await connection.write(encoder.encode("0\r\n\r\n"));
  } catch (error) {
    onGone();
    throw error;
  } finally {
    connection.gone.removeEventListener("abort", onGone);
  }
}

/** Lets the client read its answer although not all that it sends is read. */
async function linger(connection: Connection): Promise<void> {
  const timer = setTimeout(() => connection.close(), LINGER_TIME);
  try {
    await connection.closeWrite();
    for (let read = 0; read < LINGER_BYTES;) {
      const { length } = await connection.peek();
      if (length === 0) break;
      read += length;
      connection.skip(length);
    }
  } catch {
    /* it has gone by itself */
  } finally {
    clearTimeout(timer);
  }
}

/** The answer to what is no request. */
function refusal(status: number): Response {
  const message = { 408: "the head of the request did not come in time", 431: "the head of the request is too long" };
  const text = status === 408 || status === 431 ? message[status] : "this is no request of HTTP/1.1";
  return Response.json({ error: { message: text, type: "invalid_request_error", param: null, code: null } }, {
    status,
  });
}

const encoder = new TextEncoder();
const LINE_END = encoder.encode("\r\n");

const PHRASES: Readonly<Record<number, string>> = {
  200: "OK",
  204: "No Content",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  503: "Service Unavailable",
};
