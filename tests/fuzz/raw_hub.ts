// A Hub whose answers are bytes: each answer, from its status line to its end, may be anything. Time is faster there.
import { answerParts } from "./answers.ts";
import { type Files, utf8 } from "./format.ts";
import { join } from "./mutate.ts";

/** How many times faster than the clock time is for the client: a silence of 40 s takes half a second. */
const HASTE = 80;
/** Most bytes of a request's head. */
const MOST_HEAD = 1 << 16;
/** Milliseconds between single bytes, by the real clock. */
const DRIP_MS = 10;
const PIECE = new Uint8Array(1 << 20).fill(0x20);

const realTimeout = setTimeout;

/** Makes the time of this process faster, for good. */
function hurry(): void {
  const timeout = setTimeout, interval = setInterval, now = performance.now.bind(performance);
  Object.assign(globalThis, {
    setTimeout: (work: () => void, ms = 0) => timeout(work, ms / HASTE),
    setInterval: (work: () => void, ms = 0) => interval(work, ms / HASTE),
  });
  performance.now = () => HASTE * now();
}

/** What a request asks for, by which its answer is found. */
function keyOf(head: string): string {
  const [method = "", target = ""] = head.split(" "), path = target.split("?")[0] ?? "";
  const [, file] = /\/resolve\/[^/]+\/(.+)$/.exec(path) ?? [], range = /\r\nrange: (\S+)/i.exec(head)?.[1];
  const [, api] = /\/(revision|tree|refs|preupload|commit)\//.exec(path) ?? [];
  const what = api ?? (/^\/api\/models\/[^/]+\/[^/]+$/.test(path) ? "model" : path.slice(1));
  return `${file ?? `${method} ${what}`}${range === undefined ? "" : ` ${range}`}`;
}

/** A server of raw answers. It does not keep the process alive. */
export class RawHub {
  /** Answers by what is asked: `GET tree`, `config.json`, `config.json bytes=0-9`, `PUT part`. */
  answers: Files = new Map();
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });

  constructor() {
    hurry();
    this.#listener.unref();
    void this.#accept();
  }

  /** Address of the Hub. */
  get url(): string {
    return `http://127.0.0.1:${this.#listener.addr.port}`;
  }

  /** Another origin. */
  get store(): string {
    return `http://localhost:${this.#listener.addr.port}`;
  }

  async #accept(): Promise<void> {
    for (;;) {
      const conn = await this.#listener.accept().catch(() => null);
      if (conn) void this.#answer(conn).catch(() => {}).finally(() => conn.close());
    }
  }

  async #answer(conn: Deno.TcpConn): Promise<void> {
    conn.unref();
    const buffer = new Uint8Array(MOST_HEAD);
    let request = new Uint8Array(0), head = "", end = -1;
    while (end < 0 && request.length < MOST_HEAD) {
      const count = await conn.read(buffer);
      if (count === null) return;
      request = join(request, buffer.subarray(0, count));
      head = new TextDecoder().decode(request);
      end = head.indexOf("\r\n\r\n");
    }
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
    for (let left = length + end + 4 - request.length; left > 0;) {
      const count = await conn.read(buffer);
      if (count === null) return;
      left -= count;
    }
    const key = keyOf(head), [short = ""] = key.split(" bytes=");
    await deliver(conn, this.answers.get(key) ?? this.answers.get(short) ?? NOTHING);
  }
}

const NOTHING = utf8("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nx-error-code: EntryNotFound\r\n\r\n");

/** Sends an answer as its first line says. */
async function deliver(conn: Deno.TcpConn, answer: Uint8Array): Promise<void> {
  const { how, bytes, body } = answerParts(answer);
  const all = async (piece: Uint8Array): Promise<void> => {
    for (let at = 0; at < piece.length;) at += await conn.write(piece.subarray(at));
  };
  if (how === "half") return await all(bytes.subarray(0, bytes.length >> 1));
  if (how === "silent") {
    await all(bytes.subarray(0, Math.min(bytes.length, body + 3)));
    return void await conn.read(new Uint8Array(1));
  }
  if (how === "drip") {
    for (let at = 0; at < bytes.length; at++) {
      await all(bytes.subarray(at, at + 1));
      await new Promise((resolve) => realTimeout(resolve, DRIP_MS));
    }
    return;
  }
  await all(bytes);
  while (how === "endless") await all(PIECE);
}
