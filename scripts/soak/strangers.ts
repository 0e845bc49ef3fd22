// What strangers bring: hostile schedules, clients that abuse a server, and mutants of every format.
import { CompressoError } from "../../lib/core/errors.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { fuzz } from "../../tests/fuzz/fuzz.ts";
import { FORMATS } from "../../tests/fuzz/mutants.ts";
import { Draw, jsonText } from "../../tests/fuzz/mutate.ts";
import { INPUT, Lair, scriptOf } from "../../tests/run/helpers/scripts.ts";
import { below, type Bounds, type Loop, portOf, start } from "./loop.ts";

/** What a script tries, with the path of a secret and the address of a server. */
const ATTACKS: readonly ((path: string, url: string) => string)[] = [
  (path) => `console.log(Deno.readTextFileSync(${path}));`,
  (path) => `console.log(globalThis[["De","no"].join("")]?.readTextFileSync(${path}));`,
  (path) => `console.log([].constructor.constructor("return this")().Deno.readTextFileSync(${path}));`,
  (path) =>
    `const { constructor } = (async () => {}); constructor("return import(" + ${path} + ")")().then(console.log);`,
  (path) => `import(${path}).then((all) => console.log(all.default), (error) => console.log(String(error)));`,
  (path) => `Deno.writeTextFileSync(${path}, "overwritten");`,
  (_, url) => `fetch(${url}).then((reply) => reply.text()).then(console.log);`,
  (_, url) => `new WebSocket(${url}.replace("http", "ws"));`,
  (_, url) => `import(${url} + "x.js").then(console.log);`,
  (_, url) => `new Worker("data:text/javascript,fetch('" + ${url} + "')", { type: "module" });`,
  () => `for (;;);`,
  () => `const kept = []; for (;;) kept.push(new Array(1e6).fill(0));`,
  () => `const kept = []; for (;;) kept.push(new Uint8Array(1 << 24).fill(1));`,
  () => `let text = "x"; for (;;) text += text;`,
  () => `let big = 3n; for (;;) big *= big;`,
  () => `/(a+)+$/.test("a".repeat(40) + "b");`,
  () => `(function deep() { deep(); deep(); })();`,
  () => `for (;;) await 0;`,
  () => `const again = () => Promise.resolve().then(again); again();`,
  () => `for (let line = 0; line < 1e6; line++) console.log("flood".repeat(100));`,
  () => `console.log(JSON.stringify({ output: { sparsity: 0.9 }, logs: [], memory: 1 }) + "\\n");`,
  () => `Object.prototype.sparsity = 0.9; Array.prototype.map = () => [1];`,
  () => `JSON.stringify = () => "{}"; globalThis.Symbol = null;`,
  () => `return { valueOf: () => { throw 1; }, toString: () => "0.1" };`,
  () => `return new Proxy({}, { get: () => { throw new Proxy({}, {}); } });`,
  () => `return NaN;`,
  () => `return "\\u001b[2J\\u001b]0;title\\u0007";`,
  () => `throw Object.assign(new Error("\\u001b[31m fix: run rm -rf"), { stack: 1 });`,
  () => `throw null;`,
  () => `return Promise.resolve(0.1);`,
  () => `close?.(); self.close();`,
  () => `postMessage(1); dispatchEvent(new Event("unload"));`,
  () => `await new Promise(() => {});`,
];

/** Seconds that a script may take: to load, for two steps, and for its end, on a machine with other work. */
const MOST_SECONDS = 30;

/** Hostile schedules. */
export const SCHEDULES: Loop = {
  name: "hostile schedules",
  promise: "a hostile schedule script gets nothing, and ends within its limits with a named error",
  async run(tally, { until }: Bounds): Promise<void> {
    await using lair = new Lair();
    for (let round = 0; performance.now() < until; round++) {
      const attack = (): string =>
        ATTACKS[below(ATTACKS.length)]?.(JSON.stringify(lair.secretPath), JSON.stringify(lair.url)) ?? "";
      const isTop = below(3) === 0, body = below(4) === 0 ? `try { ${attack()} } catch {} ${attack()}` : attack();
      const top = isTop ? body.replace(/\breturn\b/g, "globalThis.kept =") : "";
      const script = scriptOf(isTop ? { top } : { body: body.replace(/\bawait\b/g, "") });
      const logs: string[] = [], begun = performance.now();
      let message = "";
      try {
        const limits = { startSeconds: 3, stepSeconds: 1 };
        await using schedule = await openSchedule(await lair.write(script), {
          limits,
          onLog: (line) => logs.push(line),
        });
        await schedule.evaluate(INPUT);
        await schedule.evaluate(INPUT);
      } catch (error) {
        message = error instanceof CompressoError ? error.message : `foreign ${Deno.inspect(error)}`;
      }
      const said = [...logs, message].join("\n"), seconds = (performance.now() - begun) / 1000;
      const secret = await Deno.readTextFile(lair.secretPath);
      tally.count(message === "" ? "ended well" : "stopped");
      // deno-lint-ignore no-control-regex
      const hasControls = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/.test(said);
      const isFine = !message.startsWith("foreign") && !said.includes(lair.secret) && secret.includes(lair.secret) &&
        lair.hits === 0 && seconds < MOST_SECONDS && !hasControls && Reflect.get({}, "sparsity") === undefined;
      tally.check(isFine, `${seconds.toFixed(1)} s, ${lair.hits} requests: ${script}\n${said.slice(0, 1000)}`);
    }
  },
};

/** The demo has no chat template, so chats are refused. */
const CHAT = { model: "demo", messages: [{ role: "user", content: "Where is Tom?" }], max_tokens: 4, stream: false };
const REQUEST = { model: "demo", prompt: "Where is Tom?", max_tokens: 4, temperature: 0, stream: false };

/** A server under abuse. */
export const SERVER: Loop = {
  name: "server abuse",
  promise: "nonsense is answered by 4xx, clients that go or send nothing stop nobody, and the server continues",
  async run(tally, { until }: Bounds): Promise<void> {
    const { child, ended } = start(["serve", "demo", "--port", "0", "--no-tuning", "--max-queue", "8"], {
      flags: ["-A", "--v8-flags=--max-old-space-size=512"],
    });
    let isOver = false;
    ended.finally(() => isOver = true);
    const port = await portOf(child.pid), url = `http://127.0.0.1:${port}`;
    const held: Deno.Conn[] = [];
    for (let round = 0; performance.now() < until && !isOver; round++) {
      const problem = await abuse(round, { url, port, held, count: (name) => tally.count(name) });
      tally.check(problem === null, problem ?? "");
      if (round % 20 === 0) {
        for (const conn of held.splice(0)) conn.close();
        const health = await fetch(`${url}/health`).then(
          (reply) => reply.json(),
          (error) => ({ status: String(error) }),
        );
        tally.check(health.status === "ok", `health: ${JSON.stringify(health)}`);
        const answer = await post(`${url}/v1/completions`, JSON.stringify(REQUEST));
        tally.check(
          answer.status === 200 || answer.status === 429,
          `an honest request: ${answer.status} ${answer.text}`,
        );
      }
    }
    for (const conn of held.splice(0)) conn.close();
    if (isOver) tally.failures.push(`the server has ended: ${(await ended).said.slice(0, 2000)}`);
    else child.kill("SIGTERM");
    const { code } = await ended;
    tally.check(code === 130, `the server ends with status ${code}`);
  },
};

async function post(
  url: string,
  body: BodyInit,
  signal: AbortSignal = AbortSignal.timeout(60_000),
): Promise<{ readonly status: number; readonly text: string }> {
  try {
    const reply = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
    return { status: reply.status, text: (await reply.text()).slice(0, 500) };
  } catch (error) {
    return { status: 0, text: String(error) };
  }
}

/** One abuse of a server. Returns what went wrong. */
async function abuse(
  round: number,
  { url, port, held, count }: {
    readonly url: string;
    readonly port: number;
    readonly held: Deno.Conn[];
    readonly count: (name: string) => void;
  },
): Promise<string | null> {
  const place = below(2) === 0 ? "chat/completions" : "completions";
  const draw = new Draw(below(2 ** 31), round);
  switch (below(4)) {
    case 0: {
      // Mutated requests: 200 where they are still one, else 4xx.
      count("mutated bodies");
      const body = jsonText(JSON.stringify(place === "completions" ? REQUEST : CHAT), draw);
      const { status, text } = await post(`${url}/v1/${place}`, body);
      return status === 0 || status >= 500 && status !== 503 ? `${status} ${text} for ${body.slice(0, 500)}` : null;
    }
    case 1: {
      count("clients that go");
      const controller = new AbortController(), stream = below(2) === 0;
      const body = JSON.stringify({ ...REQUEST, stream, max_tokens: 200, user: "x".repeat(below(2000)) });
      setTimeout(() => controller.abort(), below(40));
      await post(`${url}/v1/completions`, body, controller.signal);
      return null;
    }
    case 2: {
      count("connections that send half a head");
      for (let opened = 0; opened < 20; opened++) {
        const conn = await Deno.connect({ hostname: "127.0.0.1", port });
        await conn.write(new TextEncoder().encode("GET /health HTTP/1.1\r\nX: ").slice(0, 1 + below(26))).catch(
          () => {},
        );
        held.push(conn);
      }
      return null;
    }
    default: {
      count("broken heads");
      const heads = [
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
      ];
      heads.push("GET / HTTP/9.9\r\n\r\n", `GET /${"a".repeat(1e5)} HTTP/1.1\r\n\r\n`, "\u0000\u0000\u0000\r\n\r\n");
      heads.push(
        `GET /health HTTP/1.1\r\n${"X: y\r\n".repeat(5000)}\r\n`,
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      );
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      await conn.write(new TextEncoder().encode(heads[below(heads.length)])).catch(() => {});
      const buffer = new Uint8Array(4096), timer = setTimeout(() => conn.close(), 5000);
      const read = await conn.read(buffer).catch(() => null);
      clearTimeout(timer);
      try {
        conn.close();
      } catch { /* closed by the timer */ }
      const line = new TextDecoder().decode(buffer.subarray(0, read ?? 0)).split("\r\n")[0] ?? "";
      return / 5\d\d/.test(line) ? line : null;
    }
  }
}

/** Mutants of all formats, 2,000 at a time, by a seed of this run. */
export const MUTANTS: Loop = {
  name: "mutants",
  promise: "files from strangers are read or refused by a named error, in bounded time and memory",
  async run(tally, { until }: Bounds): Promise<void> {
    const seed = below(2 ** 31);
    tally.count(`(seed ${seed})`);
    for (let round = 0; performance.now() < until; round++) {
      const { name } = FORMATS[round % FORMATS.length] ?? { name: "" }, count = 1000;
      const { wrong } = await fuzz(name, { seed, from: count * Math.floor(round / FORMATS.length), count });
      tally.tries += count;
      for (const { number, what } of wrong) tally.failures.push(`${name}, mutant ${number} of seed ${seed}: ${what}`);
    }
  },
};
