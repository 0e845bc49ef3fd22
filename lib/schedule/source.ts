// Reads the text of a schedule script from a file or URL, and finds which of its imports mean this toolkit.
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { CompressoError, refuse } from "../core/errors.ts";
import { SCHEDULE_NAMES } from "./builtin.ts";

/** A script as it was read. */
export interface ScriptSource {
  /** Its URL after redirects. */
  readonly url: URL;
  /** Its code. */
  readonly text: string;
  /** Whether it is JavaScript by its file name; otherwise it is TypeScript. */
  readonly isJavaScript: boolean;
  /** Specifiers in its text that mean this toolkit. */
  readonly toolkitImports: readonly string[];
}

/** A part of a script's text that looks like an import. */
export interface ScriptImport {
  readonly specifier: string;
  /** Start and end of the specifier in the text, quotes included. */
  readonly from: number;
  readonly end: number;
}

/** Longest script, in bytes. */
const MAX_SCRIPT_BYTES = 1 << 20;
/** Most names of the toolkit in a script: each makes the sandbox's command line longer, which systems limit. */
const MAX_TOOLKIT_NAMES = 32;
const FETCH_SECONDS = 20;

/** The absolute URL of a script; a path becomes a file URL. Throws `CompressoError("usage")` for schemes other than file, http and https. */
export function scriptUrl(source: string | URL): URL {
  const url = typeof source === "string"
    ? /^[a-z][a-z\d+.-]+:/i.test(source) ? URL.parse(source) : pathToFileURL(resolve(source))
    : source;
  if (url && ["file:", "http:", "https:"].includes(url.protocol)) return url;
  refuse("usage", `cannot read the schedule ${String(source)}`, {
    rule: "a schedule is a file, an http or https URL, or the name of a built-in schedule",
    value: url?.protocol ?? "no URL",
    fix: "give a path, such as ./mine.ts, or one of those names",
  });
}

/** Reads a script. Throws `CompressoError("input")` if it is not there, too long or not UTF-8. */
export async function readScript(
  url: URL,
  { name, signal }: { readonly name: string; readonly signal?: AbortSignal | undefined },
): Promise<ScriptSource> {
  try {
    const { bytes, at } = url.protocol === "file:"
      ? { bytes: await readFile(url), at: url }
      : await fetchBytes(url, signal);
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const specifiers = new Set(findImports(text).map(({ specifier }) => specifier));
    const toolkitImports = [...specifiers].filter(isToolkit);
    if (toolkitImports.length > MAX_TOOLKIT_NAMES) {
      refuse("input", `cannot read the schedule ${name}`, {
        rule: `it calls the toolkit by at most ${MAX_TOOLKIT_NAMES} names`,
        value: `${toolkitImports.length} such names`,
        fix: "give all its imports of it one name",
      });
    }
    return { url: at, text, isJavaScript: /\.m?js$/.test(at.pathname), toolkitImports };
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof CompressoError || error instanceof Deno.errors.NotCapable) throw error;
    refuse("input", `cannot read the schedule ${name}`, {
      rule: `it is a UTF-8 text of at most ${MAX_SCRIPT_BYTES >> 20} MiB`,
      value: valueOf(error),
      fix: fixOf(url, name),
      cause: error,
    });
  }
}

/** A word without a dot is probably meant as the name of a built-in schedule. */
function fixOf({ protocol }: URL, name: string): string {
  if (protocol !== "file:") return "check the address: it must give the script itself, not a page about it";
  return `check the path${basename(name).includes(".") ? "" : `; built-in schedules are ${SCHEDULE_NAMES.join(", ")}`}`;
}

/** What is wrong with a script's bytes. */
class Refusal extends Error {}

async function readFile(url: URL): Promise<Uint8Array> {
  const { isFile, size } = await Deno.stat(url);
  if (!isFile) throw new Refusal("not a file");
  if (size > MAX_SCRIPT_BYTES) throw new Refusal(`${size} bytes`);
  return await Deno.readFile(url);
}

async function fetchBytes(
  url: URL,
  signal: AbortSignal | undefined,
): Promise<{ readonly bytes: Uint8Array; readonly at: URL }> {
  const limit = AbortSignal.timeout(FETCH_SECONDS * 1000);
  const response = await fetch(url, { signal: signal ? AbortSignal.any([signal, limit]) : limit });
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok || type.startsWith("text/html")) {
    await response.body?.cancel();
    throw new Refusal(response.ok ? "an HTML page" : `status ${response.status} ${response.statusText}`);
  }
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > MAX_SCRIPT_BYTES) throw new Refusal(`more than ${MAX_SCRIPT_BYTES} bytes`);
    chunks.push(chunk);
  }
  return { bytes: new Uint8Array(await new Blob(chunks).arrayBuffer()), at: new URL(response.url) };
}

/**
 * Everything that looks like an import. A wrong match in a comment or text is harmless for an isolated script: it only
 * adds a name to the import map.
 */
export function findImports(text: string): ScriptImport[] {
  const found = text.matchAll(/(?<![$\w]|(?<!\.\.)\.)((?:from|import(?:\s*\()?)\s*)(["'])([^"'\n]{1,500})\2/g);
  return Array.from(found, ({ 0: whole, 1: head = "", 3: specifier = "", index }) => {
    return { specifier, from: index + head.length, end: index + whole.length };
  });
}

/** Whether a specifier is a name of this toolkit, or ends like one of its entries. */
export function isToolkit(specifier: string): boolean {
  return /^(?:compresso|(?:jsr:\/?)?@compresso\/compresso(?:@[^/]*)?)(?:\/schedule)?$/.test(specifier) ||
    /(?:^|\/)mod\.ts$/.test(specifier);
}

function valueOf(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof TypeError && /encoded data/.test(error.message)) return "it is not UTF-8";
  if (error instanceof DOMException && error.name === "TimeoutError") return `no answer within ${FETCH_SECONDS} s`;
  return error instanceof Error ? error.message : String(error);
}
