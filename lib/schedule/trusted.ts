// Imports a trusted schedule script into this process, so that the text which was read is the code that runs.
//
// Deno caches an import of the script's own URL: within this process, and for http even across processes. So a file is
// imported with a number as its query (`?1`), and read once more. The text is imported as a data: URL instead if an
// import means something else than in Deno, if the file's name does not show its language, and for http and https. A
// data: module has no folder: its imports are rewritten in the text, and imports with computed names are not found.
import * as modules from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { refuse } from "../core/errors.ts";
import { oneLine } from "./output.ts";
import { asSchedule, type Schedule } from "./definition.ts";
import { dataUrl } from "./sandbox/sandbox.ts";
import { findImports, isToolkit, readScript, type ScriptImport, type ScriptSource } from "./source.ts";

/** A script that was run. */
export interface TrustedScript {
  readonly schedule: Schedule;
  /** Whether it imports anything but this toolkit, so that its text is not all of its code. */
  readonly importsOthers: boolean;
}

/** Names of modules whose language Deno knows by them. */
const MODULE_NAME = /\.(?:m?[jt]s|[jt]sx)$/;
/** Files that were imported. */
let openings = 0;

const RELATIVE = /^\.{0,2}\//;
const TOOLKIT = new URL("./mod.ts", import.meta.url).href;

/**
 * Runs a script's text, as it was read. Imports of the toolkit give this toolkit. Relative imports start at the
 * script's folder; a missing mod.ts there is the toolkit. `import.meta` is that of the script. Modules that it imports
 * stay cached in this process, and for http and https also in later ones. Throws `CompressoError("input")` if Deno
 * cannot import it, or it exports no schedule.
 */
export async function importTrusted(
  { url, text, isJavaScript }: Omit<ScriptSource, "toolkitImports">,
): Promise<TrustedScript> {
  const found = findImports(text), targets = found.map(({ specifier }) => targetOf(specifier, url));
  const isPlain = url.protocol === "file:" && MODULE_NAME.test(url.pathname) &&
    found.every(({ specifier }, index) => meaning(specifier, url) === targets[index]);
  let module: unknown;
  try {
    if (isPlain) {
      module = await import(`${url.href}?opening=${++openings}`);
      if ((await readScript(url, { name: url.href })).text !== text) {
        throw new Error("it was saved while it was opened");
      }
    } else {
      const code = metaOf(url) + placed(text, found, targets).replace(/^#!/, "//");
      module = await import(dataUrl(code, isJavaScript ? "javascript" : "typescript"));
    }
  } catch (error) {
    refuse("input", `cannot load the schedule ${url.href}`, {
      rule: "it is a module that Deno can import",
      value: oneLine(
        stripVTControlCharacters(error instanceof Error ? `${error.name}: ${error.message}` : String(error)),
      )
        .replaceAll(
          /data:application\/\w+;base64,[A-Za-z\d+/=.…]*|\?opening=\d+/g,
          (found) => found.startsWith("?") ? "" : url.href,
        ),
      fix: "fix the script, or put back what it imports",
      cause: error,
    });
  }
  const exported = typeof module === "object" && module !== null && "default" in module ? module.default : undefined;
  return { schedule: asSchedule(exported), importsOthers: targets.some((target) => target !== TOOLKIT) };
}

/** The URL of an import in a script at `url`, or its specifier if it means the same everywhere. */
function targetOf(specifier: string, url: URL): string {
  const isMod = specifier.endsWith("mod.ts"), own = meaning(specifier, url);
  if (!RELATIVE.test(specifier)) return isToolkit(specifier) && !isMod ? TOOLKIT : own;
  return isToolkit(specifier) && !isThere(new URL(own)) ? TOOLKIT : own;
}

/** The same as Deno has it. */
function meaning(specifier: string, url: URL): string {
  return RELATIVE.test(specifier) ? new URL(specifier, url).href : specifier;
}

/** Whether such a file exists; servers are not asked. */
function isThere(url: URL): boolean {
  try {
    return url.protocol === "file:" && Deno.statSync(url).isFile;
  } catch {
    return false;
  }
}

/** Sets `import.meta` to that of the script's URL. It stays on the first line, so that lines keep their numbers. */
function metaOf(url: URL): string {
  const path = url.protocol === "file:" ? fileURLToPath(url) : null;
  const own = { url: url.href, ...(path === null ? {} : { filename: path, dirname: dirname(path) }) };
  return `((meta, own, resolve) => Object.assign(meta, own, { resolve: (specifier) => ` +
    `${RELATIVE}.test(specifier) ? new URL(specifier, own.url).href : resolve(specifier) }))` +
    `(import.meta, ${JSON.stringify(own)}, import.meta.resolve); `;
}

/** The text with its imports replaced by their targets. */
function placed(text: string, found: readonly ScriptImport[], targets: readonly string[]): string {
  let result = "", done = 0;
  for (const [index, { specifier, from, end }] of found.entries()) {
    const target = targets[index] ?? specifier;
    if (target === specifier || !isCode(text, { from, end })) continue;
    result += text.slice(done, from) + JSON.stringify(target);
    done = end;
  }
  return result + text.slice(done);
}

/** Whether a match is code, not part of a comment or text: in code, replacing it by `@` is a syntax error. */
function isCode(text: string, { from, end }: Pick<ScriptImport, "from" | "end">): boolean {
  try {
    modules.stripTypeScriptTypes(`${text.slice(0, from)}@${text.slice(end)}`, { mode: "transform" });
    return false;
  } catch {
    return true;
  }
}
