// The storage of large files: ranges of files are put to addresses that the Hub has signed, without the token.
import * as http from "node:http";
import * as https from "node:https";
import { CompressoError, refuse } from "../core/errors.ts";
import { openDiskFile } from "../files/bytes.ts";
import { streamBytes } from "../files/system.ts";
import { LEAST_BYTES, paused, silent, SILENT_SECONDS, strange } from "./http.ts";
import { visible } from "./visible.ts";

/** Tries of a request to the storage, and milliseconds before the second try; they double with each further one. */
const TRIES = 4, FIRST_WAIT_MS = 500;
/** Bytes that are hashed at a time. */
const PIECE = 1 << 20;
/** Bytes of an answer of the storage. */
const MOST_ANSWER = 1 << 20;

/** A range of a file that is put. */
export interface Put {
  /** Path of the file on this machine. */
  readonly from: string;
  /** Its name in errors. */
  readonly path: string;
  readonly start: number;
  readonly end: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  readonly onBytes: (bytes: number) => void;
}

/** Puts a range of a file to an address of the storage, which gets no token; returns the etag. */
export async function put(url: string, options: Put): Promise<string | null> {
  const { path, signal } = options;
  for (let left = TRIES - 1, wait = FIRST_WAIT_MS;; left--, wait *= 2) {
    signal?.throwIfAborted();
    let value: string;
    try {
      const { status, etag } = await putOnce(url, options);
      if (status >= 200 && status < 300) return etag;
      value = `status ${status}`;
      // 400 is also S3's answer to a connection that stalled.
      if (status < 500 && ![400, 408, 429].includes(status)) left = 0;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof CompressoError || error instanceof Deno.errors.NotCapable) throw error;
      // Node's client has another error for a missing right.
      if (error instanceof Error && "code" in error && error.code === "EPERM") {
        throw new Deno.errors.NotCapable(`Requires net access to "${new URL(url).host}"`);
      }
      value = visible(error instanceof Error ? error.message : String(error));
    }
    if (left <= 0) {
      refuse("input", `cannot upload ${path} to ${new URL(url).host}`, {
        rule: "the storage takes it",
        value,
        fix: "try again: files that are there are not sent again",
      });
    }
    await paused(wait, signal);
  }
}

/** By Node's client: the storage asks for a length, which `fetch` does not send with a stream. */
async function putOnce(
  url: string,
  { from, start, end, headers = {}, signal, onBytes }: Put,
): Promise<{ readonly status: number; readonly etag: string | null }> {
  const { promise, resolve, reject } = Promise.withResolvers<
    { readonly status: number; readonly etag: string | null }
  >();
  const { request } = url.startsWith("https:") ? https : http;
  const outgoing = request(url, {
    method: "PUT",
    headers: { ...headers, "content-length": end - start },
    signal,
  });
  let sent = 0, before = 0;
  // Only bytes that go out count: a server may answer byte by byte for hours.
  const watch = setInterval(() => {
    if (sent < before + LEAST_BYTES) outgoing.destroy(silent(new URL(url).origin));
    before = sent;
  }, 1000 * SILENT_SECONDS);
  outgoing.on("error", reject);
  outgoing.on("response", (response) => {
    let bytes = 0;
    response.on("data", (piece: Uint8Array) => {
      bytes += piece.length;
      if (bytes > MOST_ANSWER) {
        outgoing.destroy(strange(new URL(url).origin, { value: `more than ${MOST_ANSWER} bytes` }));
      }
    });
    response.on("error", reject);
    response.on("close", () => reject(new Error("the connection was closed")));
    response.on("end", () => resolve({ status: response.statusCode ?? 0, etag: response.headers.etag ?? null }));
  });
  const send = async (): Promise<void> => {
    // A piece of 1 MiB would take a slow line longer than the watch waits.
    for await (const piece of piecesOf(from, start, end, LEAST_BYTES)) {
      const written = Promise.withResolvers<void>();
      outgoing.write(piece.slice(), () => written.resolve());
      await Promise.race([written.promise, promise]);
      sent += piece.length;
      onBytes(sent);
    }
    outgoing.end();
  };
  try {
    const [result] = await Promise.all([
      promise,
      send().catch((error) => {
        outgoing.destroy(error);
        throw error;
      }),
    ]);
    return result;
  } finally {
    clearInterval(watch);
  }
}

/** A range of a file in pieces. */
export async function* piecesOf(
  path: string,
  start: number,
  end: number,
  pieceBytes: number = PIECE,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  yield* streamBytes(await openDiskFile(path), start, { length: end - start, pieceBytes });
}
