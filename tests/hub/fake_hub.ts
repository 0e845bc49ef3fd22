// A Hugging Face Hub of our own on this machine, with a second host for large files, and faults on demand.
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";

/** A repository. */
export interface FakeRepo {
  readonly files: Map<string, Uint8Array<ArrayBuffer>>;
  /** Branches and tags by name, with their commits; all have the same files. */
  readonly refs: Map<string, string>;
  /** Who may read it. */
  access: "public" | "gated" | "private";
}

/** A request as it came. */
export interface Seen {
  readonly method: string;
  /** "hub", or "store", the other host. */
  readonly host: "hub" | "store";
  /** Path with the query. */
  readonly path: string;
  readonly headers: Headers;
  /** Bytes of the body that went out. */
  sent: number;
}

/** What goes wrong with requests whose path matches, as often as `times` says. */
export interface Fault {
  readonly path: RegExp;
  readonly method?: string;
  times: number;
  /** Answers this instead. */
  readonly answer?: () => Response;
  /** Breaks the connection after so many bytes of a body. */
  readonly dropAfter?: number;
  /** Changes the bytes of a body. */
  readonly change?: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>;
  /** Ignores the range that was asked for. */
  readonly ignoresRange?: boolean;
  /** Milliseconds between pieces of 4 KiB. */
  readonly slow?: number;
}

/** The token that may read everything, and write. */
export const TOKEN = "hf_fake_token";
/** A token of an account that has accepted no terms. */
export const OTHER_TOKEN = "hf_other_token";

/** Bytes of a part of an upload in parts, and from which size on an upload is one. */
const PART = 1 << 18, MOST_BASIC = 1 << 19;

/** The Hub. Files that end in .safetensors, .gguf, .bin or .parquet are in large file storage. */
export class FakeHub implements AsyncDisposable {
  readonly repos = new Map<string, FakeRepo>();
  readonly seen: Seen[] = [];
  readonly faults: Fault[] = [];
  /** Large files by SHA-256. */
  readonly store = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly #parts = new Map<string, Map<number, Uint8Array<ArrayBuffer>>>();
  readonly #hub: Deno.HttpServer<Deno.NetAddr>;
  readonly #large: Deno.HttpServer<Deno.NetAddr>;

  /** With `forPages`, pages of any address may read the answers, as those of the real one. */
  constructor({ forPages = false }: { readonly forPages?: boolean } = {}) {
    const answer = async (host: Seen["host"], request: Request): Promise<Response> => {
      const response = await this.#answer(host, request);
      if (!forPages) return response;
      const { status, statusText } = response, headers = new Headers(response.headers);
      headers.set("access-control-allow-origin", "*");
      headers.set("access-control-expose-headers", "link");
      return new Response(response.body, { status, statusText, headers });
    };
    const quiet = {
      hostname: "127.0.0.1",
      port: 0,
      onListen: () => {},
      onError: () => new Response(null, { status: 500 }),
    };
    this.#hub = Deno.serve(quiet, (request) => answer("hub", request));
    this.#large = Deno.serve(quiet, (request) => answer("store", request));
  }

  /** Address of the Hub. */
  get url(): string {
    return `http://127.0.0.1:${this.#hub.addr.port}`;
  }

  /** Address of the other host, under another name too. */
  get storeUrl(): string {
    return `http://localhost:${this.#large.addr.port}`;
  }

  /** Adds a repository, such as models/owner/name. */
  add(
    id: string,
    files: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>,
    { access = "public", branches = ["main"] }: Partial<Pick<FakeRepo, "access">> & {
      readonly branches?: readonly string[];
    } = {},
  ): FakeRepo {
    const bytes = new Map(
      Object.entries(files).map((
        [path, file],
      ) => [path, typeof file === "string" ? new TextEncoder().encode(file) : file]),
    );
    const commit = sha("sha1", ...[...bytes].flatMap(([path, file]) => [new TextEncoder().encode(path), file]));
    const repo: FakeRepo = { files: bytes, refs: new Map(branches.map((name) => [name, commit])), access };
    this.repos.set(id, repo);
    return repo;
  }

  /** The commit of the main branch. */
  commit(id: string): string {
    return this.repos.get(id)?.refs.get("main") ?? "";
  }

  /** Requests of files, by their path within the repository, GET alone. */
  fetched(path: string): readonly Seen[] {
    return this.seen.filter((seen) => seen.method === "GET" && seen.host === "hub" && seen.path.endsWith(`/${path}`));
  }

  /** Bytes that went out as bodies of files. */
  get bytesOut(): number {
    return this.seen.reduce((sum, { sent }) => sum + sent, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#hub.shutdown(), this.#large.shutdown()]);
    await Promise.all(PAUSES);
  }

  async #answer(host: Seen["host"], request: Request): Promise<Response> {
    const url = new URL(request.url), path = url.pathname + url.search;
    const seen: Seen = { method: request.method, host, path, headers: request.headers, sent: 0 };
    this.seen.push(seen);
    const fault = this.faults.find((one) =>
      one.times > 0 && one.path.test(path) && (one.method ?? "GET") === request.method
    );
    if (fault) {
      fault.times--;
      if (fault.answer) {
        await request.body?.cancel();
        return fault.answer();
      }
    }
    if (host === "store") return await this.#ofStore(request, url, { seen, fault });
    if (url.pathname.startsWith("/api/") || url.pathname.includes(".git/")) return await this.#ofApi(request, url);
    const [, kind = "models", repo = "", revision = "", file = ""] =
      /^\/(?:(datasets)\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname) ?? [];
    return this.#file(request, { id: `${kind}/${repo}`, revision, file, seen, fault });
  }

  /** A file, or where it is. */
  #file(request: Request, { id, revision, file, seen, fault }: {
    readonly id: string;
    readonly revision: string;
    readonly file: string;
    readonly seen: Seen;
    readonly fault: Fault | undefined;
  }): Response {
    const refused = this.#refused(request, id, { isFile: true });
    if (refused) return refused;
    const commit = this.#commitOf(id, decodeURIComponent(revision));
    if (commit === null) return refusal(404, "RevisionNotFound", "Invalid rev id");
    const path = decodeURIComponent(file), bytes = this.repos.get(id)?.files.get(path);
    if (!bytes) return refusal(404, "EntryNotFound", "Entry not found", { "x-repo-commit": commit });
    const headers = { "x-repo-commit": commit };
    if (!isLarge(path)) {
      return body(request, bytes, { seen, fault, headers: { ...headers, etag: `"${gitSha(bytes)}"` } });
    }
    const hash = sha("sha256", bytes);
    return new Response(null, {
      status: 302,
      headers: {
        ...headers,
        "x-linked-etag": `"${hash}"`,
        "x-linked-size": String(bytes.length),
        location: `${this.storeUrl}/${hash}?signature=1`,
      },
    });
  }

  async #ofStore(
    request: Request,
    url: URL,
    { seen, fault }: { readonly seen: Seen; readonly fault: Fault | undefined },
  ): Promise<Response> {
    const [, hash = "", part] = url.pathname.split("/");
    if (request.method === "PUT") {
      if (!request.headers.has("content-length")) return new Response("a length is needed", { status: 501 });
      const bytes = new Uint8Array(await request.arrayBuffer());
      if (part === undefined) this.store.set(hash, bytes);
      else {
        const parts = this.#parts.get(hash) ?? new Map();
        this.#parts.set(hash, parts.set(Number(part), bytes));
      }
      return new Response(null, { headers: { etag: `"${sha("sha1", bytes)}"` } });
    }
    const bytes = this.store.get(hash) ??
      [...this.repos.values()].flatMap(({ files }) => [...files.values()]).find((one) => sha("sha256", one) === hash);
    return bytes ? body(request, bytes, { seen, fault, headers: {} }) : new Response(null, { status: 404 });
  }

  async #ofApi(request: Request, url: URL): Promise<Response> {
    const [, api, kind = "", owner = "", name = "", verb, rest = ""] = url.pathname.split("/");
    if (url.pathname.includes(".git/info/lfs")) return await this.#ofLfs(request, url);
    if (api === "api" && kind === "repos" && owner === "create") return await this.#create(request);
    if (kind !== "models" && kind !== "datasets") return refusal(404, "", "Not found");
    const id = `${kind}/${owner}/${name}`, revision = decodeURIComponent(rest);
    if (owner === "") {
      const author = url.searchParams.get("author"), search = url.searchParams.get("search")?.toLowerCase();
      const ids = [...this.repos.keys()].filter((one) => one.startsWith(`${kind}/`)).map((one) =>
        one.slice(kind.length + 1)
      );
      const found = ids.filter((one) =>
        author ? one.startsWith(`${author}/`) : one.toLowerCase().includes(search ?? "")
      );
      return Response.json(found.map((one) => ({ id: one })));
    }
    const refused = this.#refused(request, id, { isFile: false });
    if (refused) return refused;
    const repo = this.repos.get(id);
    if (verb === undefined) return Response.json({ id: `${owner}/${name}`, sha: this.commit(id) });
    if (verb === "refs") {
      return Response.json({
        branches: [...repo?.refs ?? []].map(([name, targetCommit]) => ({ name, targetCommit })),
        tags: [],
      });
    }
    if (verb === "preupload" || verb === "commit") return await this.#upload(request, { id, verb, revision });
    const commit = this.#commitOf(id, revision);
    if (commit === null) return refusal(404, "RevisionNotFound", "Invalid rev id");
    const files = [...repo?.files ?? []];
    if (verb === "revision") {
      return Response.json({
        id: `${owner}/${name}`,
        sha: commit,
        siblings: files.map(([rfilename]) => ({ rfilename })),
      });
    }
    const entries = files.map(([path, bytes]) => ({
      ...{ type: "file", path, size: bytes.length, oid: isLarge(path) ? gitSha(pointer(bytes)) : gitSha(bytes) },
      ...(isLarge(path)
        ? { lfs: { oid: sha("sha256", bytes), size: bytes.length, pointerSize: pointer(bytes).length } }
        : {}),
    }));
    // In pages of two, so that they are followed.
    const at = Number(url.searchParams.get("cursor") ?? 0), next = new URL(url);
    next.searchParams.set("cursor", String(at + 2));
    const link = at + 2 < entries.length ? { link: `<${next.href}>; rel="next"` } : undefined;
    return Response.json(entries.slice(at, at + 2), link ? { headers: link } : {});
  }

  async #create(request: Request): Promise<Response> {
    if (tokenOf(request) !== TOKEN) return refusal(401, "", "Invalid username or password.");
    const { name, organization, private: isPrivate = false } = await request.json(),
      id = `models/${organization}/${name}`;
    if (this.repos.has(id)) return refusal(409, "", "You already created this model repo");
    this.add(id, {}, { access: isPrivate ? "private" : "public" });
    return Response.json({ url: `${this.url}/${organization}/${name}` });
  }

  async #upload(
    request: Request,
    { id, verb, revision }: { readonly id: string; readonly verb: string; readonly revision: string },
  ): Promise<Response> {
    if (tokenOf(request) !== TOKEN) return refusal(403, "", "Forbidden: pass a token with write access");
    const repo = this.repos.get(id);
    if (!repo) return refusal(404, "RepoNotFound", "Repository not found");
    if (verb === "preupload") {
      const { files } = await request.json();
      return Response.json({
        files: files.map(({ path }: { path: string }) => ({
          ...{ path, uploadMode: isLarge(path) ? "lfs" : "regular", shouldIgnore: false },
        })),
      });
    }
    const lines = (await request.text()).trim().split("\n").map((line) => JSON.parse(line));
    for (const { key, value } of lines) {
      if (key === "file") repo.files.set(value.path, new Uint8Array(Buffer.from(value.content, "base64")));
      if (key !== "lfsFile") continue;
      const bytes = this.store.get(value.oid);
      if (!bytes || sha("sha256", bytes) !== value.oid || bytes.length !== value.size) {
        return refusal(400, "", `no large file ${value.oid}`);
      }
      repo.files.set(value.path, bytes);
    }
    const oid = sha("sha1", new TextEncoder().encode(JSON.stringify(lines)));
    repo.refs.set(revision, oid);
    return Response.json({ commitUrl: `${this.url}/${id}/commit/${oid}`, commitOid: oid, success: true });
  }

  async #ofLfs(request: Request, url: URL): Promise<Response> {
    const isSigned = url.pathname.endsWith("/complete") && url.search === "?signature=1";
    if (!isSigned && tokenOf(request) !== TOKEN) return refusal(401, "", "Invalid username or password.");
    if (url.pathname.endsWith("/verify")) return Response.json({});
    if (url.pathname.endsWith("/complete")) {
      const { oid, parts } = await request.json(), all = this.#parts.get(oid) ?? new Map();
      const pieces: Uint8Array[] = parts.map(({ partNumber, etag }: { partNumber: number; etag: string }) => {
        const piece = all.get(partNumber) ?? new Uint8Array();
        if (etag !== `"${sha("sha1", piece)}"`) throw new Error("another part");
        return piece;
      });
      this.store.set(oid, new Uint8Array(Buffer.concat(pieces)));
      return Response.json({});
    }
    const { objects } = await request.json(), base = `${this.url}${url.pathname.replace(/objects\/batch$/, "")}`;
    const verify = { href: `${base}verify` };
    return Response.json({
      objects: objects.map(({ oid, size }: { oid: string; size: number }) => {
        if (this.store.has(oid)) return { oid, size };
        const basic = { href: `${this.storeUrl}/${oid}?signature=1` };
        if (size < MOST_BASIC) return { oid, size, actions: { upload: basic, verify } };
        const count = Math.ceil(size / PART);
        const parts = Array.from({ length: count }, (_, index) => [
          String(index + 1).padStart(5, "0"),
          `${this.storeUrl}/${oid}/${index + 1}?signature=1`,
        ]);
        const header = { chunk_size: String(PART), ...Object.fromEntries(parts) };
        return { oid, size, actions: { upload: { href: `${base}complete?signature=1`, header }, verify } };
      }),
    });
  }

  /** Who is refused: gated repositories show their lists, not their files. */
  #refused(request: Request, id: string, { isFile }: { readonly isFile: boolean }): Response | null {
    const repo = this.repos.get(id), token = tokenOf(request);
    if (token !== null && token !== TOKEN && token !== OTHER_TOKEN) {
      return refusal(401, "", "Invalid credentials in Authorization header");
    }
    if (!repo || (repo.access === "private" && token !== TOKEN)) {
      return token === null
        ? refusal(401, "RepoNotFound", "Repository not found")
        : refusal(404, "RepoNotFound", "Repository not found");
    }
    if (repo.access !== "gated" || !isFile || token === TOKEN) return null;
    return refusal(token === null ? 401 : 403, "GatedRepo", `Access to model ${id.slice(7)} is restricted.`);
  }

  #commitOf(id: string, revision: string): string | null {
    const refs = this.repos.get(id)?.refs;
    return refs?.get(revision) ?? ([...refs?.values() ?? []].includes(revision) ? revision : null);
  }
}

/** A body, or a range of it, with what goes wrong. */
function body(request: Request, whole: Uint8Array<ArrayBuffer>, { seen, fault, headers }: {
  readonly seen: Seen;
  readonly fault: Fault | undefined;
  readonly headers: Record<string, string>;
}): Response {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.get("range") ?? "") ?? [];
  const isRange = from !== undefined && !fault?.ignoresRange, start = isRange ? Number(from) : 0;
  const end = isRange && to !== "" ? Math.min(Number(to) + 1, whole.length) : whole.length;
  if (isRange && start >= whole.length) {
    return new Response(null, { status: 416, headers: { "content-range": `bytes */${whole.length}` } });
  }
  const bytes = (fault?.change ?? ((same) => same))(whole.slice(start, end)), piece = fault ? 4096 : 65536;
  let at = 0;
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller): Promise<void> {
      if (fault?.dropAfter !== undefined && at >= fault.dropAfter) {
        // What was handed over goes out first.
        await pause(50);
        return controller.error(new Error("dropped"));
      }
      if (at >= bytes.length) return controller.close();
      if (fault?.slow) await pause(fault.slow);
      const part = bytes.subarray(at, Math.min(at + piece, fault?.dropAfter ?? Infinity));
      at += part.length;
      seen.sent += part.length;
      controller.enqueue(part);
    },
  }, { highWaterMark: 0 });
  return new Response(request.method === "HEAD" ? null : stream, {
    status: isRange ? 206 : 200,
    headers: {
      ...headers,
      "content-length": String(bytes.length),
      "accept-ranges": "bytes",
      ...(isRange ? { "content-range": `bytes ${start}-${end - 1}/${whole.length}` } : {}),
    },
  });
}

function refusal(status: number, code: string, message: string, more: Record<string, string> = {}): Response {
  const headers = { ...more, "x-error-message": message, ...(code === "" ? {} : { "x-error-code": code }) };
  return Response.json({ error: message }, { status, headers });
}

function tokenOf(request: Request): string | null {
  return request.headers.get("authorization")?.replace(/^Bearer /, "") ?? null;
}

function isLarge(path: string): boolean {
  return /\.(safetensors|gguf|bin|parquet)$/.test(path);
}

/** SHA of bytes. */
export function sha(kind: "sha1" | "sha256", ...parts: readonly Uint8Array[]): string {
  const hash = createHash(kind);
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

function gitSha(bytes: Uint8Array): string {
  return sha("sha1", new TextEncoder().encode(`blob ${bytes.length}\0`), bytes);
}

/** What git keeps of a large file. */
function pointer(bytes: Uint8Array): Uint8Array {
  return new TextEncoder().encode(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${sha("sha256", bytes)}\nsize ${bytes.length}\n`,
  );
}

/** Pauses of answers that are not over. A client may leave within one. */
const PAUSES = new Set<Promise<void>>();

async function pause(milliseconds: number): Promise<void> {
  const over = new Promise<void>((resolve) => setTimeout(resolve, milliseconds));
  PAUSES.add(over);
  await over;
  PAUSES.delete(over);
}
