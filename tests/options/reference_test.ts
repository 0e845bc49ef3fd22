// docs/reference/options.md is what the table says, and no text of the library names a flag of the command line.
import assert from "node:assert/strict";
import { OPTIONS_REFERENCE, optionsReference } from "../../scripts/options_reference.ts";

Deno.test("the reference of options is what the table says: deno run -A scripts/options_reference.ts", async () => {
  // Line breaks are the formatter's.
  const plain = (text: string): string => text.replaceAll(/\s+/g, " ").trim();
  assert.equal(plain(await Deno.readTextFile(OPTIONS_REFERENCE)), plain(optionsReference()));
});

/** Flags of other programs. */
const FOREIGN =
  /DENO_V8_FLAGS|--allow-run|llama-gguf-split|--local-dir|--v8-flags|"--(quiet|no-prompt|no-remote|no-npm|cached-only|no-config|no-lock|no-code-cache|import-map)"/;

Deno.test("no text of the library names a flag of the command line", async () => {
  const found: string[] = [];
  for await (const path of sources("lib")) {
    const lines = (await Deno.readTextFile(path)).split("\n");
    lines.forEach((line, index) => {
      const isComment = /^\s*(\/\/|\/?\*)/.test(line);
      if (isComment || FOREIGN.test(line) || !/["'`}][^"'`]*(?<![\w-])--[a-z]/.test(line)) return;
      if (!/var\(--|: --|\{ --|--\w+:/.test(line)) found.push(`${path}:${index + 1}: ${line.trim()}`);
    });
  }
  assert.deepEqual(found, []);
});

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) yield* sources(path);
    else if (name.endsWith(".ts")) yield path;
  }
}
