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
  txt: "text/plain; charset=utf-8",
  css: "text/css; charset=utf-8",
};

/** The Hub that the page may ask. */
export interface PageHub {
  /** Address without a slash at its end. */
  readonly endpoint: string;
  /** Hosts of its large files, as a content policy names them. */
  readonly stores: readonly string[];
}

const HUB: PageHub = { endpoint: "https://huggingface.co", stores: ["https://*.hf.co"] };

/** The files of a page by their paths within its folder. */
export type PageFiles = ReadonlyMap<string, Uint8Array<ArrayBuffer>>;

/**
 * The files of the studio: page, script, worker, style, and the demo. The scripts are bundled by `deno bundle`, which
 * downloads its bundler when it is first used.
 *
 * @throws CompressoError("input") if they cannot be bundled.
 */
export async function buildStudio({ hub = HUB }: { readonly hub?: PageHub } = {}): Promise<PageFiles> {
  if (SOURCE.protocol !== "file:") {
    const fix = "clone the repository, or install the package from npm";
    refuse("input", "cannot build the studio", { rule: "its source lies on this disk", value: SOURCE.href, fix });
  }
  const source = fileURLToPath(SOURCE);
  const [page, scripts, style] = await Promise.all([
    Deno.readTextFile(join(source, "index.html")),
    bundle(source),
    Deno.readTextFile(join(source, "studio.css")),
  ]);
  const css = bytesOf(`${style}${FIGURE_STYLE}\n`);
  const facts: Readonly<Record<string, string>> = {
    STYLE: integrity(css),
    HUB: hub.endpoint,
    HUB_NAME: new URL(hub.endpoint).host,
    HUB_HOSTS: [hub.endpoint, ...hub.stores].join(" "),
    SCRIPT: integrity(scripts.get("studio.js") ?? css),
    PARTS: [...scripts].map(([name, script]) => `${name} ${integrity(script)}`).join(" "),
  };
  const files = new Map([
    ["index.html", bytesOf(page.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name: string) => facts[name] ?? ""))],
    ...scripts,
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

/** The scripts by their names, as the program `bundle.ts` makes them. */
async function bundle(source: string): Promise<ReadonlyMap<string, Uint8Array<ArrayBuffer>>> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "-A", join(source, "bundle.ts")],
    cwd: source,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  if (code !== 0) {
    const value = new TextDecoder().decode(stderr).trim();
    refuse("input", "cannot bundle the studio's scripts", { rule: "deno bundle does", value });
  }
  const scripts: Readonly<Record<string, string>> = JSON.parse(new TextDecoder().decode(stdout));
  return new Map(Object.entries(scripts).map(([name, text]) => [name, bytesOf(text)]));
}

function integrity(bytes: Uint8Array): string {
  return `sha384-${createHash("sha384").update(bytes).digest("base64")}`;
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}
