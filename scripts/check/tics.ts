// Counts the tics of our English (docs/design, "How it speaks") in code and pages: deno run --allow-read scripts/check/tics.ts [--files]
import { parseArgs } from "node:util";

/** Words and phrases to write out. Most have a shorter sentence: a subject, a verb, one case. */
const TICS = [
  "beside",
  "behind",
  "anew",
  "whatever",
  "of its own",
  "none of",
  "that which",
  "of which",
  "one that",
  "those that",
  "so is",
  "so are",
  "has none",
  "goes on",
  "go on",
  "wants",
  "told",
  "mend",
] as const;
const FOLDERS = ["lib", "cli", "kernels", "docs", "README.md"];
const ROOT = new URL("../../", import.meta.url);
/** Measurements that were written down on a day stay as they were. */
const LEFT_OUT = ["docs/evidence/"];

interface Found {
  readonly tic: string;
  readonly folder: string;
  readonly place: string;
  readonly line: string;
}

async function* texts(path: string): AsyncGenerator<string> {
  if (!(await Deno.stat(new URL(path, ROOT))).isDirectory) return yield path;
  for await (const { name, isDirectory } of Deno.readDir(new URL(`${path}/`, ROOT))) {
    const inner = `${path}/${name}`;
    if (LEFT_OUT.some((left) => `${inner}/`.startsWith(left))) continue;
    if (isDirectory) yield* texts(inner);
    else if (/\.(ts|wgsl|md)$/.test(name)) yield inner;
  }
}

async function search(): Promise<Found[]> {
  const pattern = new RegExp(`\\b(?:${TICS.map((tic) => tic.replaceAll(" ", "\\s+")).join("|")})\\b`, "gi");
  const found: Found[] = [];
  for (const folder of FOLDERS) {
    for await (const path of texts(folder)) {
      const lines = (await Deno.readTextFile(new URL(path, ROOT))).split("\n");
      for (const [index, line] of lines.entries()) {
        for (const [tic] of line.matchAll(pattern)) {
          found.push({ tic: tic.toLowerCase(), folder, place: `${path}:${index + 1}`, line: line.trim() });
        }
      }
    }
  }
  return found;
}

const { values } = parseArgs({ options: { files: { type: "boolean", default: false } } });
const found = await search();
const count = (tic: string, folder?: string): number =>
  found.filter((one) => one.tic === tic && (folder === undefined || one.folder === folder)).length;
const row = (cells: readonly (string | number)[]): string =>
  cells.map((cell, index) => index === 0 ? String(cell).padEnd(12) : String(cell).padStart(10)).join("");

if (values.files) { for (const { tic, place, line } of found) console.log(`${place}: ${tic}: ${line.slice(0, 160)}`); }
console.log(row(["", ...FOLDERS, "all"]));
for (const tic of TICS.toSorted((a, b) => count(b) - count(a))) {
  console.log(row([tic, ...FOLDERS.map((folder) => count(tic, folder)), count(tic)]));
}
const inFolder = (folder: string): number => found.filter((one) => one.folder === folder).length;
console.log(row(["all", ...FOLDERS.map(inFolder), found.length]));
