// The server's HTTP on its own: what clients send in odd ways, connections that idle, and no file left.
import assert from "node:assert/strict";
import { connect as connectSocket } from "node:net";
import { ApiError } from "../../lib/serve/api_error.ts";
import { type HttpLimits, type HttpListener, type HttpRequest, listenHttp } from "../../lib/serve/http.ts";
import { until } from "./helpers/server.ts";

const LIMITS: HttpLimits = { connections: 100, headSeconds: 30 };

interface Listening extends AsyncDisposable {
  readonly server: HttpListener;
  connect(): Promise<Deno.TcpConn>;
  /** Sends a text and gives all that comes until the connection ends. */
  exchange(text: string): Promise<string>;
}

/** A server that answers with what it was asked. */
function listening(
  handler: (request: HttpRequest) => Promise<Response> = echo,
  limits: Partial<HttpLimits> = {},
): Listening {
  const address = { hostname: "127.0.0.1", port: 0 };
  const server = listenHttp(address, { handler, limits: { ...LIMITS, ...limits } });
  const connect = (): Promise<Deno.TcpConn> => Deno.connect({ hostname: "127.0.0.1", port: server.addr.port });
  return {
    server,
    connect,
    async exchange(text): Promise<string> {
      using connection = await connect();
      await connection.write(new TextEncoder().encode(text));
      return await read(connection);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      const stopped = server.shutdown();
      server.close();
      await stopped;
    },
  };
}

async function echo({ method, url, body }: HttpRequest): Promise<Response> {
  return new Response(`${method} ${url} ${body === null ? "-" : await new Response(body).text()}`);
}

async function read(connection: Deno.TcpConn): Promise<string> {
  const parts: Uint8Array[] = [], buffer = new Uint8Array(65536);
  for (let count = await connection.read(buffer); count !== null; count = await connection.read(buffer)) {
    parts.push(buffer.slice(0, count));
  }
  return await new Blob(parts as BlobPart[]).text();
}

const END = "Connection: close\r\n\r\n";

Deno.test("requests come one after the other on a connection, whole or byte by byte, with bodies of a length or in chunks", async () => {
  await using listened = listening();
  const requests = [
    "GET /a?b=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /b HTTP/1.1\r\nhost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    "POST /c HTTP/1.1\r\nhost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
    `GET http://localhost/d HTTP/1.1\r\nHost: localhost\r\n${END}`,
  ].join("");
  const bodies = (answer: string): string[] =>
    [...answer.matchAll(/\r\n\r\n((?:GET|POST) [^]*?)(?=HTTP\/1.1|$)/g)].map(([, body = ""]) => body);
  const expected = [
    "GET http://localhost/a?b=1 -",
    "POST http://localhost/b hello",
    "POST http://localhost/c abc0123456789",
    "GET http://localhost/d -",
  ];
  assert.deepEqual(bodies(await listened.exchange(requests)), expected);
  using slow = await listened.connect();
  slow.setNoDelay(true);
  for (const byte of new TextEncoder().encode(requests)) await slow.write(Uint8Array.of(byte));
  assert.deepEqual(bodies(await read(slow)), expected);
});

Deno.test("a connection stays for requests that come later, and for many at once, answered in their order one by one", async () => {
  let atOnce = 0, most = 0;
  await using listened = listening(async (request) => {
    most = Math.max(most, ++atOnce);
    await new Promise((resolve) => setTimeout(resolve, 1));
    atOnce--;
    return new Response(`<${request.url.slice("http://a/".length)}>`); // the body is not read
  });
  using connection = await listened.connect();
  const buffer = new Uint8Array(4096);
  for (const number of [1, 2, 3]) {
    const text = `POST /${number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc`;
    await connection.write(new TextEncoder().encode(text));
    const count = await connection.read(buffer) ?? 0;
    assert.match(new TextDecoder().decode(buffer.subarray(0, count)), new RegExp(`200 OK[^]*<${number}>$`));
  }
  const many = Array.from({ length: 100 }, (_, i) => `GET /${i} HTTP/1.1\r\nHost: a\r\n`);
  const answers = await listened.exchange(`${many.join("\r\n")}${END}`);
  assert.deepEqual(Array.from(answers.matchAll(/<(\d+)>/g), ([, number]) => Number(number)), [...many.keys()]);
  assert.equal(most, 1);
});

Deno.test("what may be read in two ways, or is no request, is refused, and the connection ends", async () => {
  await using listened = listening();
  const post = "POST / HTTP/1.1\r\nHost: a\r\n";
  const cases: readonly (readonly [string, number])[] = [
    ["nonsense\r\n\r\n", 400],
    ["GET / HTTP/2.0\r\n\r\n", 400],
    ["GET / HTTP/1.1\r\n\r\n", 400],
    ["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400],
    ["GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400],
    ["GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400],
    [`${post}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx`, 400],
    [`${post}Content-Length: -1\r\n\r\nx`, 400],
    [`${post}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    [`${post}Transfer-Encoding: gzip, chunked\r\n\r\n`, 501],
    [`GET / HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(40_000)}\r\n\r\n`, 431],
  ];
  for (const [text, status] of cases) {
    const answer = await listened.exchange(text);
    assert.equal(Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]), status, text.slice(0, 80));
    assert.match(answer, /"type":"invalid_request_error"/);
  }
});

Deno.test("an answer to HEAD has no body, one of HTTP/1.0 ends the connection, and 100 Continue comes when the body is read", async () => {
  await using listened = listening();
  assert.match(await listened.exchange(`HEAD / HTTP/1.1\r\nHost: a\r\n${END}`), /content-length: 16\r\n[^]*\r\n\r\n$/);
  assert.match(
    await listened.exchange("GET / HTTP/1.0\r\n\r\n"),
    /connection: close\r\n[^]*\r\n\r\nGET http:\/\/localhost\/ -$/,
  );
  const text = `POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n${END}hi`;
  assert.match(await listened.exchange(text), /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 OK[^]*hi$/);
});

Deno.test("a body in broken chunks fails in the handler as a wrong request", async () => {
  const said: string[] = [];
  await using listened = listening(async (request) => {
    try {
      return await echo(request);
    } catch (error) {
      said.push(error instanceof ApiError ? `${error.parts.status} ${error.message}` : String(error));
      return new Response("broken", { status: 400 });
    }
  });
  for (const body of ["zz\r\n", "2\r\nabc\r\n", "x".repeat(5000)]) {
    const text = `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n${body}`;
    assert.match(await listened.exchange(text), /^HTTP\/1\.1 400/);
  }
  assert.deepEqual(said, Array(3).fill("400 the body is not in chunks as it says"));
});

Deno.test("bytes after nonsense are not read as another client's request", async () => {
  await using listened = listening();
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  // In the last case the client also ends what it sends, and in the first two a request is still to be answered.
  for (const text of [`GET / HTTP/1.1\r\nHost: a\r\n${END} `, "GET / HTTP/1.0\r\n\r\n ", " GET / HTTP/1.1\r\n", " "]) {
    using bad = await listened.connect();
    await bad.write(bytes(text));
    await bad.read(new Uint8Array(1000));
    using next = await listened.connect();
    await next.write(bytes("GET /next HTTP/1.1\r\n"));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await bad.write(bytes("X: y\r\n GET /bad HTTP/1.1\r\nHost: a\r\n\r\n"));
    if (text === " ") await bad.closeWrite();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await next.write(bytes(`Host: a\r\n${END}`));
    assert.match(await read(next), /^HTTP\/1\.1 200 .*GET http:\/\/a\/next -$/s, JSON.stringify(text));
  }
});

Deno.test("a client that goes is told to the handler after any body, in one packet or two", async () => {
  let gone = 0;
  await using listened = listening(async ({ body, signal }) => {
    await new Response(body).arrayBuffer();
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    gone++;
    return new Response("for nobody");
  });
  let count = 0;
  for (const size of [20, 500, 20_000]) {
    for (const isSplit of [false, true]) {
      const connection = await listened.connect();
      const head = `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${size}\r\n\r\n`, bytes = "x".repeat(size);
      await connection.write(new TextEncoder().encode(isSplit ? head : head + bytes));
      if (isSplit) await new Promise((resolve) => setTimeout(resolve, 50));
      if (isSplit) await connection.write(new TextEncoder().encode(bytes));
      await new Promise((resolve) => setTimeout(resolve, 50));
      connection.close();
      count++;
      await until(() => gone === count);
    }
  }
});

Deno.test("a body that the handler does not want is not read on: no more than a mebibyte and what sockets hold", async () => {
  await using listened = listening(() => Promise.resolve(new Response("too large", { status: 413 })));
  using connection = await listened.connect();
  await connection.write(new TextEncoder().encode("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
  const piece = new TextEncoder().encode(`10000\r\n${"x".repeat(65536)}\r\n`);
  let sent = 0;
  const answer = read(connection).catch(() => "reset");
  try {
    while (sent < 2 ** 28) {
      for (let done = 0; done < piece.length;) done += await connection.write(piece.subarray(done));
      sent += piece.length;
    }
  } catch { /* the server has closed it */ }
  assert(sent < 2 ** 25, `${sent} bytes were taken`);
  assert.match(await answer, /^(HTTP\/1\.1 413|reset)/);
});

Deno.test("heads that do not come in time end their connections, and the oldest of them makes room for one beyond the limit", async () => {
  await using listened = listening(echo, { connections: 10, headSeconds: 1.5 });
  const slow = await Promise.all(Array.from({ length: 10 }, () => listened.connect()));
  for (const connection of slow.slice(1)) await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nX: "));
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.match(await listened.exchange(`GET / HTTP/1.1\r\nHost: a\r\n${END}`), /^HTTP\/1\.1 200/, "the eleventh");
  const answers = await Promise.all(slow.map(read));
  assert.equal(answers[0], "");
  for (const answer of answers.slice(1)) assert.match(answer, /^HTTP\/1\.1 408/);
  for (const connection of slow) connection.close();
  assert.match(await listened.exchange(`GET / HTTP/1.1\r\nHost: a\r\n${END}`), /^HTTP\/1\.1 200/);
});

/** Sends the same text on several connections, which stay. */
async function crowd(
  listened: Listening,
  { count, text }: { readonly count: number; readonly text: string },
): Promise<Deno.TcpConn[]> {
  const connections = await Promise.all(Array.from({ length: count }, () => listened.connect()));
  // Those that the server has closed already cannot be written to.
  for (const connection of connections) await connection.write(new TextEncoder().encode(text)).catch(() => 0);
  return connections;
}

const LENGTH = "Host: a\r\nContent-Length: 1000\r\n\r\n{";
const CROWDS: Readonly<Record<string, string>> = {
  "whose answer is the last one, and who stay": `GET /refused HTTP/1.1\r\nHost: a\r\n${END}`,
  "whose body never comes, and is not wanted": `POST /refused HTTP/1.1\r\n${LENGTH}`,
  "whose body never comes, and is read": `POST / HTTP/1.1\r\n${LENGTH}`,
  "of HTTP/1.0": "GET /refused HTTP/1.0\r\n\r\n",
  "who send no request": "nonsense\r\n\r\n",
  "who send nothing": "",
};

for (const [who, text] of Object.entries(CROWDS)) {
  Deno.test(`clients ${who} shut nobody out, however many and however often they come`, async () => {
    const handler = (request: HttpRequest): Promise<Response> =>
      request.url.endsWith("/refused") ? Promise.resolve(new Response("no", { status: 401 })) : echo(request);
    await using listened = listening(handler, { connections: 8 });
    for (let round = 0; round < 3; round++) {
      const connections = await crowd(listened, { count: 20, text });
      assert.match(await listened.exchange(`GET / HTTP/1.1\r\nHost: a\r\n${END}`), /^HTTP\/1\.1 200/, `round ${round}`);
      for (const connection of connections) connection.close();
    }
  });
}

/** Opens a connection from an address of this machine, and later sends a request. */
async function guest(
  listened: Listening,
  from = "127.0.0.1",
): Promise<{ ask(): Promise<string>; readonly text: () => string }> {
  const socket = connectSocket({ port: listened.server.addr.port, host: "127.0.0.1", localAddress: from });
  let text = "";
  const ended = new Promise<void>((resolve) => socket.on("close", () => resolve()));
  socket.on("data", (piece) => text += piece).on("error", () => {});
  await new Promise((resolve) => socket.on("connect", resolve));
  return {
    text: () => text,
    async ask(): Promise<string> {
      socket.write(`GET / HTTP/1.1\r\nHost: a\r\n${END}`);
      await ended;
      return text;
    },
  };
}

Deno.test("a client whose request comes a little later keeps its place while a crowd comes", async () => {
  for (const text of [`GET / HTTP/1.1\r\nHost: a\r\n${END}`, `POST / HTTP/1.1\r\n${LENGTH}`]) {
    await using listened = listening(echo, { connections: 8 });
    const late = await guest(listened), connections = await crowd(listened, { count: 40, text });
    assert.match(await late.ask(), /^HTTP\/1\.1 200/, text);
    for (const connection of connections) connection.close();
  }
});

Deno.test(
  "a crowd of one address takes no place from a client of another, however long that one waits",
  { ignore: Deno.build.os !== "linux" }, // elsewhere this machine has one address of loopback
  async () => {
    await using listened = listening(echo, { connections: 8 });
    const other = await guest(listened, "127.0.0.2"), begun = performance.now();
    const connections = await crowd(listened, { count: 40, text: `POST / HTTP/1.1\r\n${LENGTH}` });
    await new Promise((resolve) => setTimeout(resolve, 700)); // longer than a place is kept for who sends nothing
    connections.push(...await crowd(listened, { count: 40, text: `POST / HTTP/1.1\r\n${LENGTH}` }));
    assert.equal(other.text(), "");
    assert.match(await other.ask(), /^HTTP\/1\.1 200/, `after ${performance.now() - begun} ms`);
    for (const connection of connections) connection.close();
  },
);

Deno.test("a connection ends five seconds after its last answer, also if the client stays and its body never comes", async () => {
  await using listened = listening(() => Promise.resolve(new Response("no", { status: 401 })));
  using connection = await listened.connect();
  const start = performance.now();
  await connection.write(new TextEncoder().encode(`POST / HTTP/1.1\r\n${LENGTH}`));
  assert.match(await read(connection), /^HTTP\/1\.1 401/);
  // It is gone for good once writing fails.
  await until(() => connection.write(Uint8Array.of(32)).then(() => false, () => true));
  assert.ok(performance.now() - start < 10_000);
});

Deno.test("connections that are reset before they are accepted close no others", async () => {
  await using listened = listening();
  const { port } = listened.server.addr, waiting = await crowd(listened, { count: 20, text: "GET /a HTTP/1.1\r\n" });
  await Promise.all(Array.from({ length: 50 }, () =>
    new Promise<void>((resolve) => {
      const socket = connectSocket(port, "127.0.0.1", () => void socket.resetAndDestroy());
      socket.on("error", () => {}).on("close", () => resolve());
    })));
  const rest = new TextEncoder().encode(`Host: a\r\n${END}`);
  for (const connection of waiting) {
    await connection.write(rest);
    assert.match(await read(connection), /^HTTP\/1\.1 200/);
    connection.close();
  }
});

Deno.test(
  "a server that may open few files goes on when there are none left",
  { ignore: Deno.build.os === "windows" },
  async () => {
    const program = `import { listenHttp } from ${
      JSON.stringify(new URL("../../lib/serve/http.ts", import.meta.url).href)
    };
const server = listenHttp({ hostname: "127.0.0.1", port: 0 }, { handler: () => Promise.resolve(new Response("well")), limits: { connections: 1000, headSeconds: 1 } });
Deno.addSignalListener("SIGUSR1", () => {}); // Deno itself ends where it finds no file for its first one
console.log(server.addr.port);
await new Promise((resolve) => setTimeout(resolve, 20_000));`;
    const path = await Deno.makeTempFile({ suffix: ".ts" });
    await Deno.writeTextFile(path, program);
    const child = new Deno.Command("sh", {
      args: ["-c", 'ulimit -n 100; exec "$0" run -A --quiet --no-config "$1"', Deno.execPath(), path],
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const port = Number((await reader.read()).value);
    const many = await Promise.all(Array.from({ length: 150 }, () => Deno.connect({ hostname: "127.0.0.1", port })));
    for (const connection of many) {
      await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nX: ")).catch(
        () => 0,
      );
    }
    await until(async () => {
      const response = await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(3000) }).catch(() =>
        null
      );
      return await response?.text() === "well";
    });
    for (const connection of many) connection.close();
    child.kill();
    await reader.cancel();
    await child.status;
    await Deno.remove(path);
  },
);
