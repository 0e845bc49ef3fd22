// Answers of a Hub as bytes, and their mutators: heads, bodies, and how they are sent.
import { gzipSync } from "node:zlib";
import { utf8 } from "./format.ts";
import { bytes, type Draw, join, json, type Mutate, oneOf, text } from "./mutate.ts";

/** An answer in its parts. */
export interface AnswerParts {
  /** How it is sent; "" for whole. */
  readonly how: string;
  /** From the status line on. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where the body begins in them. */
  readonly body: number;
}

/** An undamaged answer. A body that is no text or bytes is sent as JSON. */
export function answer(
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const isJson = !(body instanceof Uint8Array), sent = isJson ? utf8(JSON.stringify(body)) : body;
  const type = isJson ? "application/json" : "application/octet-stream";
  const all = { "content-type": type, "content-length": `${sent.length}`, connection: "close", ...headers };
  const lines = Object.entries(all).map(([key, value]) => `${key}: ${value}\r\n`).join("");
  return join(utf8(`HTTP/1.1 ${status} Any\r\n${lines}\r\n`), sent);
}

/** Takes an answer apart. A line `~how` before its status line says how it is sent. */
export function answerParts(file: Uint8Array): AnswerParts {
  const latin = new TextDecoder("latin1"), line = /^~([a-z]+)\n/.exec(latin.decode(file.subarray(0, 16)));
  const sent = new Uint8Array(file.subarray(line?.[0].length ?? 0)), end = latin.decode(sent).indexOf("\r\n\r\n");
  return { how: line?.[1] ?? "", bytes: sent, body: end < 0 ? sent.length : end + 4 };
}

const HEADERS = [
  ...["link", "location", "content-range", "content-length", "content-encoding", "transfer-encoding", "content-type"],
  ...["x-linked-etag", "x-linked-size", "x-error-code", "x-error-message", "retry-after", "ratelimit", "etag"],
];
const ORIGINS = ["", "/", "//x", "http://[bad", "file:///etc/passwd", "data:,x", "http://127.0.0.1:1/x", "gopher://x"];
const VALUES = [
  ...["", "0", "-1", "1", "7", "1.5", "1e99", "9007199254740993", "NaN", "bytes 0-1/2", "bytes 5-9/10", "bytes */0"],
  ...[
    "gzip",
    "br",
    "chunked",
    "identity",
    "text/html",
    "application/json; charset=utf-16",
    "\u00e9",
    "a".repeat(20_000),
  ],
  ...[
    "GatedRepo",
    "RevisionNotFound",
    "EntryNotFound",
    "RepoNotFound",
    "\u009b31m \u202e",
    "Wed, 21 Oct 2099 07:28:00 GMT",
  ],
  ...['limit";r=0;t=3', "3", '"0000000000000000000000000000000000000000000000000000000000000000"'],
];
const STATUSES = [
  100,
  199,
  200,
  201,
  204,
  206,
  301,
  302,
  304,
  307,
  400,
  401,
  403,
  404,
  409,
  416,
  418,
  429,
  500,
  503,
  999,
];

let bomb: Uint8Array | null = null;

/** The answer with another head. */
function withHead({ bytes: all, body }: AnswerParts, change: (head: string) => string): Uint8Array<ArrayBuffer> {
  return join(utf8(change(new TextDecoder().decode(all.subarray(0, body)))), all.subarray(body));
}

function withHeader(parts: AnswerParts, name: string, value: string): Uint8Array<ArrayBuffer> {
  const line = new RegExp(`\r\n${name}: [^\r]*`, "i");
  return withHead(parts, (head) => head.replace(line, "").replace("\r\n\r\n", () => `\r\n${name}: ${value}\r\n\r\n`));
}

/** The answer with another body, and its length. */
function withBody(parts: AnswerParts, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const head = { ...parts, bytes: parts.bytes.slice(0, parts.body) };
  return join(withHeader(head, "content-length", `${body.length}`), body);
}

/** Address that a header may name: of no use, or within the Hub. */
function place(draw: Draw): string {
  const path = draw.pick(["/api/models/maker/x/tree/x?cursor=1", "/api/models/maker/x/revision/main", "?a=1", "#"]);
  return draw.onceIn(2) ? draw.pick(ORIGINS) : path;
}

/** Changes one to three things of an answer. */
export const answerMutant: Mutate = (file, draw) => {
  let out = file;
  for (let left = 1 + draw.below(3); left > 0; left--) out = changed(out, draw);
  return out;
};

function changed(file: Uint8Array<ArrayBuffer>, draw: Draw): Uint8Array<ArrayBuffer> {
  const parts = answerParts(file), { bytes: all, body } = parts;
  switch (draw.below(10)) {
    case 0:
      return bytes(() => [9, 12, 15, body - 2, body])(all, draw);
    case 1:
      return withHead(parts, (head) => new TextDecoder().decode(text(utf8(head), draw)));
    case 2:
      return withHeader(parts, draw.pick(HEADERS), draw.pick(VALUES));
    case 3: {
      if (draw.onceIn(2)) return withHeader(parts, "location", place(draw));
      return withHeader(parts, "link", `<${place(draw)}>; rel="next"`);
    }
    case 4:
      return withHead(parts, (head) => head.replace(/^\S+ \d+/, `HTTP/1.1 ${draw.pick(STATUSES)}`));
    case 5: {
      // Silence takes the most time of all.
      const how = draw.onceIn(8) ? draw.pick(["silent", "drip"]) : draw.pick(["half", "half", "endless"]);
      return join(utf8(`~${how}\n`), how === "endless" ? withoutLength(parts) : all);
    }
    case 6: {
      if (!draw.onceIn(5)) return withBody(parts, all.subarray(draw.below(all.length)));
      bomb ??= gzipSync(new Uint8Array(1 << 28), { level: 1 });
      return withHeader(answerParts(withBody(parts, bomb)), "content-encoding", "gzip");
    }
    default:
      return withBody(parts, oneOf(json, json, json, text, bytes())(all.slice(body), draw));
  }
}

function withoutLength(parts: AnswerParts): Uint8Array<ArrayBuffer> {
  return withHead(parts, (head) => head.replace(/\r\ncontent-length: [^\r]*/i, ""));
}
