// The text of the source: an error that a user can meet says the rule, the present value and the fix.
import assert from "node:assert/strict";
import { textProblem } from "../../lib/files/text_file.ts";

const ROOT = new URL("../../", import.meta.url);

/** What users do not come to: programs that call parts of the library with arrays of other shapes. */
const INTERNAL = [
  ["lib/formats/gguf/export.ts", "its keys start with tokenizer."],
  ["lib/masks/baselines_bias.ts", "the statistics are those of this model's layers"],
  ["cli/verbs/eval/report.ts", "both were measured alike"],
] as const;
/** What the system refuses in words of its own, which say its rule too. */
const OF_SYSTEM = [
  ["cli/terminal/output.ts", "cannot write the result to stdout"],
  ["cli/terminal/error.ts", "Deno does not permit an operation"],
] as const;
const KNOWN = [...INTERNAL, ...OF_SYSTEM];

/** Calls of a constructor, without their brackets. */
function callsOf(text: string): string[] {
  return [...text.matchAll(/(?<!\* .*)new CompressoError\(/g)].map(({ index, 0: { length } }) => {
    let end = index + length;
    for (let depth = 1; depth > 0; end++) {
      depth += "([{".includes(text[end] ?? "") ? 1 : ")]}".includes(text[end] ?? "") ? -1 : 0;
    }
    return text.slice(index + length, end - 1);
  });
}

/** Parts that an error needs; for wrong options of a verb the command line names its help as the fix. */
function partsOf(path: string, call: string): readonly string[] {
  return path.startsWith("cli/") && call.trimStart().startsWith('"usage"')
    ? ["rule", "value"]
    : ["rule", "value", "fix"];
}

async function* sources(folder: URL): AsyncGenerator<URL> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (isDirectory) yield* sources(new URL(`${name}/`, folder));
    else if (name.endsWith(".ts")) yield new URL(name, folder);
  }
}

Deno.test("every error of library and command line has rule, present value and fix, but those of ends on purpose and of the inside", async () => {
  let count = 0;
  const lacking: string[] = [], used = new Set<string>();
  for (const folder of ["lib/", "cli/"]) {
    for await (const url of sources(new URL(folder, ROOT))) {
      const path = url.pathname.slice(ROOT.pathname.length);
      for (const call of callsOf(await Deno.readTextFile(url))) {
        count++;
        // Parts that are handed on are whole where they are made.
        const isWhole = call.includes("...") || !call.includes("{") ||
          partsOf(path, call).every((part) => RegExp(`\\b${part}\\b`).test(call));
        if (isWhole || call.includes('"aborted"')) continue;
        const known = KNOWN.find(([file, words]) => file === path && call.includes(words));
        if (known) used.add(known.join());
        else lacking.push(`${path}: ${call.replaceAll(/\s+/g, " ").slice(0, 120)}`);
      }
    }
  }
  assert.ok(count > 300, `${count} errors were found`);
  assert.deepEqual(lacking, []);
  assert.equal(used.size, KNOWN.length, "each of those is there");
});

Deno.test("a text that is too long for one is told from one that is not UTF-8", () => {
  assert.match(textProblem(new TypeError("buffer exceeds maximum length")), /longer than a text may be/);
  assert.throws(
    () => new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.of(0xff)),
    (error) => textProblem(error) === "it is not UTF-8",
  );
});
