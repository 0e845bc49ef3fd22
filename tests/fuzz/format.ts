// What a fuzzer knows of a format: undamaged files, how they are mutated, and how the toolkit reads them.
import { fileURLToPath } from "node:url";
import type { Draw, Mutate } from "./mutate.ts";

/** Files by their paths. */
export type Files = ReadonlyMap<string, Uint8Array<ArrayBuffer>>;

/** Undamaged files that are read together. */
export interface Case {
  readonly files: Files;
  /** The files that are mutated, with their mutators. */
  readonly mutators: Readonly<Record<string, Mutate>>;
}

/** A format. */
export interface Format {
  readonly name: string;
  /** MiB that the process may take while it reads mutants. Default 1024. */
  readonly mib?: number;
  /** Makes the undamaged files. */
  readonly cases: () => Promise<readonly Case[]> | readonly Case[];
  /** Reads files as verbs do, and uses what it has read. Rejects with a CompressoError where they are refused. `draw` chooses among ways to read. */
  readonly read: (files: Files, draw: Draw) => Promise<void>;
}

/** A file of the repository. */
export function fixture(name: string): Uint8Array<ArrayBuffer> {
  return Deno.readFileSync(fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url)));
}

/** A text as bytes. */
export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** A value as the bytes of its JSON. */
export function jsonFile(value: unknown): Uint8Array<ArrayBuffer> {
  return utf8(JSON.stringify(value));
}

/** Values as JSON lines. */
export function linesFile(values: readonly unknown[]): Uint8Array<ArrayBuffer> {
  return utf8(values.map((value) => `${JSON.stringify(value)}\n`).join(""));
}

/** Cases of one file each. */
export function single(path: string, mutate: Mutate, ...files: readonly Uint8Array<ArrayBuffer>[]): Case[] {
  return files.map((file) => ({ files: new Map([[path, file]]), mutators: { [path]: mutate } }));
}

/** Calls `read` with a folder that holds the files, on the disk. */
export async function onDisk(files: Files, read: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "compresso-fuzz-" });
  try {
    for (const [path, file] of files) {
      const at = path.lastIndexOf("/");
      if (at > 0) await Deno.mkdir(`${folder}/${path.slice(0, at)}`, { recursive: true });
      await Deno.writeFile(`${folder}/${path}`, file);
    }
    await read(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
