// Builds the studio, the page that prunes in a browser, into files for any static host.
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { refuse } from "../lib/core/errors.ts";
import { demoData, modelPath } from "../lib/local/open_model.ts";
import { FIGURE_STYLE } from "../lib/report/svg.ts";

const SOURCE = new URL(".", import.meta.url);

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
};

/** The files of a page by their paths within its folder. */
export type PageFiles = ReadonlyMap<string, Uint8Array<ArrayBuffer>>;

/**
 * The files of the studio: page, script, worker, style, and the demo. The scripts are bundled by `deno bundle`, which
 * downloads its bundler when it is first used.
 *
 * @throws CompressoError("input") if they cannot be bundled.
 */
export async function buildStudio(): Promise<PageFiles> {
  if (SOURCE.protocol !== "file:") {
    const fix = "clone the repository, or install the package from npm";
    refuse("input", "cannot build the studio", { rule: "its source lies on this disk", value: SOURCE.href, fix });
  }
  const source = fileURLToPath(SOURCE);
  const [page, script, worker, style] = await Promise.all([
    Deno.readTextFile(join(source, "index.html")),
    bundle(source, "page/main.ts"),
    bundle(source, "worker/main.ts"),
    Deno.readTextFile(join(source, "studio.css")),
  ]);
  const css = bytesOf(`${style}${FIGURE_STYLE}\n`);
  const hashes: Readonly<Record<string, string>> = {
    STYLE: integrity(css),
    SCRIPT: integrity(script),
    WORKER: integrity(worker),
  };
  const files = new Map([
    ["index.html", bytesOf(page.replace(/\{\{(\w+)\}\}/g, (_, name: string) => hashes[name] ?? ""))],
    ["studio.js", script],
    ["worker.js", worker],
    ["studio.css", css],
  ]);
  const model = await modelPath("demo");
  for await (const { name } of Deno.readDir(model)) files.set(`demo/${name}`, await Deno.readFile(join(model, name)));
  for (const split of ["train", "heldout"] as const) {
    files.set(`demo_data/${split}.jsonl`, await Deno.readFile(demoData(split)));
  }
  return files;
}

/** Writes the files into a folder. */
export async function writePage(files: PageFiles, folder: string): Promise<void> {
  for (const [path, bytes] of files) {
    await Deno.mkdir(dirname(join(folder, path)), { recursive: true });
    await Deno.writeFile(join(folder, path), bytes);
  }
}

/** Answers a request for one of the files, which lie below `base`. */
export function answerFrom(files: PageFiles, { url }: Pick<Request, "url">, base = "/"): Response {
  const { pathname } = new URL(url), path = pathname.slice(base.length) || "index.html", bytes = files.get(path);
  if (!pathname.startsWith(base) || !bytes) return new Response("no such page\n", { status: 404 });
  const type = TYPES[path.split(".").at(-1) ?? ""] ?? "application/octet-stream";
  return new Response(bytes, { headers: { "content-type": type, "cache-control": "no-cache" } });
}

/** A script with all that it imports. */
async function bundle(source: string, entry: string): Promise<Uint8Array<ArrayBuffer>> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--minify", "--platform", "browser", join(source, entry)],
    cwd: source,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  if (code === 0) return stdout;
  const value = new TextDecoder().decode(stderr).trim();
  refuse("input", `cannot bundle the studio's ${entry}`, { rule: "deno bundle does", value });
}

function integrity(bytes: Uint8Array): string {
  return `sha384-${createHash("sha384").update(bytes).digest("base64")}`;
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}
