// The order of the folders, and how many files may import each other.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { GGUF_ARCHS, MODEL_TYPES } from "../lib/families/all.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** A folder imports only from itself and from folders above it in this list. docs/design/architecture.md shows the same list. */
const ORDER = [
  "kernels",
  "lib/core",
  "lib/ranks",
  "lib/compat",
  "lib/files",
  "lib/text",
  "lib/spec",
  "lib/families",
  "lib/formats",
  "lib/data",
  "lib/gpu",
  "lib/nn",
  "lib/units",
  "lib/masks",
  "lib/model",
  "lib/slice",
  "lib/hub",
  "lib/local",
  "lib/generate",
  "lib/eval",
  "lib/schedule",
  "lib/run",
  "lib/fit",
  "lib/browser",
  "lib/report",
  "lib/experiment",
  "lib/serve",
  "lib/bench",
  "mod.ts",
  "studio",
  "cli",
];

/** The library's entries, one a room; deno.json names them. */
const ENTRY = /^(?:lib\/[^/]+\/)?mod\.ts$/;

/** Most files that may import each other in a circle, type imports included. */
const MOST_IN_RING = 3;

/** Files of the library that may name the runtime: `Deno` or modules of `node:`. All others run wherever there is JavaScript and WebGPU. */
const OF_THE_RUNTIME: readonly string[] = [
  "lib/eval/code/python.ts",
  "lib/experiment/open.ts",
  "lib/experiment/store.ts",
  "lib/experiment/sweep.ts",
  "lib/files/atomic.ts",
  "lib/files/bytes.ts",
  "lib/files/disk.ts",
  "lib/files/exists.ts",
  "lib/files/fingerprint.ts",
  "lib/files/held_file.ts",
  "lib/files/lease.ts",
  "lib/files/lock.ts",
  "lib/files/platform.ts",
  "lib/files/text_file.ts",
  "lib/files/url.ts",
  "lib/hub/cache.ts",
  "lib/hub/download.ts",
  "lib/hub/fetch.ts",
  "lib/hub/http.ts",
  "lib/hub/intact.ts",
  "lib/hub/settings.ts",
  "lib/hub/storage.ts",
  "lib/hub/upload.ts",
  "lib/local/push_model.ts",
  "lib/ranks/mpi.ts",

  "lib/run/record_file.ts",
  "lib/run/sink/folder.ts",
  "lib/schedule/sandbox/process.ts",
  "lib/schedule/sandbox/sandbox.ts",
  "lib/schedule/source.ts",
  "lib/schedule/trusted.ts",
  "lib/serve/handler.ts",
  "lib/serve/http.ts",
  "lib/serve/serve.ts",
];

/** What each source file imports, by paths from the root. */
const IMPORTS = new Map(sources().map((file) => [file, importsOf(file)]));

function sources(): string[] {
  const below = ["kernels", "lib", "studio", "cli"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" }).map((name) => `${folder}/${name}`)
  );
  return ["mod.ts", ...below].map((name) => name.replaceAll("\\", "/")).filter((name) => name.endsWith(".ts"));
}

/** Imports and re-exports of a file, without those in comments and template strings of generated code. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), "utf8");
  const found = text.matchAll(/^(?:import|export) (?:type )?(?:[\w*][^;"`]*|\{[^}]*\}) from "(\.[^"]+\.ts)"/gm);
  return [...found].map(([, path = ""]) =>
    relative(ROOT, normalize(join(ROOT, dirname(file), path))).replaceAll("\\", "/")
  );
}

/** A file without lines that are comments. */
function codeOf(file: string): string {
  return readFileSync(join(ROOT, file), "utf8").replace(/^\s*(\/\/|\/\*|\*).*$/gm, "");
}

function roomOf(file: string): string {
  // The entries of the library stand above all of it.
  if (ENTRY.test(file)) return "mod.ts";
  const [top = "", second = ""] = file.split("/");
  return top === "lib" ? `lib/${second}` : top;
}

/** Groups of files of which each reaches every other by imports (Tarjan 1972), largest first; single files are left out. */
function rings(): string[][] {
  const index = new Map<string, number>(),
    low = new Map<string, number>(),
    stack: string[] = [],
    found: string[][] = [];
  const visit = (file: string): void => {
    index.set(file, index.size);
    low.set(file, index.get(file) ?? 0);
    stack.push(file);
    for (const next of IMPORTS.get(file) ?? []) {
      if (!index.has(next)) visit(next);
      else if (!stack.includes(next)) continue;
      low.set(file, Math.min(low.get(file) ?? 0, low.get(next) ?? 0));
    }
    if (low.get(file) !== index.get(file)) return;
    const ring = stack.splice(stack.indexOf(file));
    if (ring.length > 1) found.push(ring.sort());
  };
  for (const file of IMPORTS.keys()) if (!index.has(file)) visit(file);
  return found.sort((a, b) => b.length - a.length);
}

Deno.test("every folder of source stands in the order, and imports only folders above it", () => {
  const wrong = [...IMPORTS].flatMap(([file, targets]) => {
    const own = ORDER.indexOf(roomOf(file));
    if (own < 0) return [`${file}: its folder has no place in the order`];
    return targets.filter((target) => ORDER.indexOf(roomOf(target)) > own).map((target) => `${file} imports ${target}`);
  });
  assert.deepEqual(wrong, []);
});

Deno.test("imports are found: the command line reaches the library, and the library its kernels", () => {
  const rooms = (from: string): Set<string> =>
    new Set([...IMPORTS].filter(([file]) => roomOf(file) === from).flatMap(([, targets]) => targets.map(roomOf)));
  assert.ok(rooms("cli").has("lib/run") && rooms("lib/nn").has("kernels"));
});

Deno.test("no large ring of files imports each other, by types either", () => {
  const large = rings().filter((ring) => ring.length > MOST_IN_RING);
  assert.deepEqual(large, []);
});

Deno.test("the library names the runtime only in the files that are listed", () => {
  const naming = [...IMPORTS.keys()].filter((file) =>
    /^(lib|kernels)\//.test(file) && /\bDeno\.|"node:/.test(codeOf(file))
  );
  assert.deepEqual(naming.sort(), OF_THE_RUNTIME);
});

/** Files with names that are a tokenizer's too. */
const TOKENIZERS = /^lib\/(text\/pre_tokenizers|formats\/gguf\/tokenizer(_export)?)\.ts$/;

Deno.test("the name of a family or architecture stands in its record alone", () => {
  // Our own class is also a method and a program.
  const names = [...MODEL_TYPES, ...GGUF_ARCHS.map(({ arch }) => arch)].filter((name) => name !== "compresso");
  const quoted = new RegExp(`"(${names.join("|")})"`);
  const wrong = [...IMPORTS.keys()].filter((file) =>
    !file.startsWith("lib/families/") && !TOKENIZERS.test(file) && quoted.test(codeOf(file))
  );
  assert.deepEqual(wrong, []);
});
