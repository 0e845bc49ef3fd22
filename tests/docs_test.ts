// The documents: their links and the files that they name exist, and short ones stay short.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { modelsTables, tablesOfPage } from "../scripts/models_reference.ts";
import { allHelp, CLI_REFERENCE, cliReference } from "../scripts/cli_reference.ts";
import { cli } from "./cli/helpers/cli.ts";
import { EXIT_STATUS } from "../lib/core/errors.ts";
import { RECORD_FIELDS, RUN_FIELDS } from "../lib/run/run_json.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** Every document, by its path from the root. */
const DOCUMENTS = [
  ...readdirSync(ROOT).filter((name) => name.endsWith(".md")),
  ...readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" })
    .map((name) => `docs/${name.replaceAll("\\", "/")}`).filter((name) => name.endsWith(".md")),
];

/** A record of trials as they were made: files that it names may have moved since. Its links are checked. */
const ARCHIVE = "docs/evidence/trials.md";

/** The help of all verbs, printed within this process. */
const HELP = allHelp(async (args) => {
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  return stdout;
});

function textOf(document: string): string {
  return readFileSync(join(ROOT, document), "utf8");
}

/** GitHub's anchor of each heading: lower case, spaces as hyphens, other punctuation dropped. */
function anchorsOf(document: string): Set<string> {
  const headings = textOf(document).replaceAll(/```[\s\S]*?```/g, "").matchAll(/^#+ (.+)$/gm);
  return new Set(
    [...headings].map(([, heading = ""]) =>
      heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-")
    ),
  );
}

Deno.test("every relative link of the documents leads to a file, and to a heading where it names one", () => {
  const wrong: string[] = [];
  let count = 0;
  for (const document of DOCUMENTS) {
    const text = textOf(document).replaceAll(/```[\s\S]*?```/g, "");
    for (const [, target = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      count += 1;
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? document : join(dirname(document), path);
      if (!existsSync(join(ROOT, file))) wrong.push(`${document}: ${target}`);
      else if (anchor !== undefined && !anchorsOf(file).has(anchor)) wrong.push(`${document}: ${target} (no heading)`);
    }
  }
  assert.deepEqual(wrong, []);
  assert.ok(count > 30, `only ${count} links found`);
});

Deno.test("every file of the repository that a document names exists", () => {
  const wrong: string[] = [];
  let count = 0;
  for (const document of DOCUMENTS) {
    if (document === ARCHIVE) continue;
    const named = textOf(document).matchAll(
      /(?<![\w./-])(?:kernels|lib|cli|tests|scripts|docs|fixtures|\.ci)\/[\w./*-]*\w\/?/g,
    );
    for (const [path] of named) {
      count += 1;
      if (!isThere(path)) wrong.push(`${document}: ${path}`);
    }
  }
  assert.deepEqual(wrong, []);
  assert.ok(count > 100, `only ${count} files found`);
});

/** Whether a path exists; a star in its last part stands for any letters. */
function isThere(path: string): boolean {
  if (!path.includes("*")) return existsSync(join(ROOT, path));
  const folder = join(ROOT, dirname(path));
  const last = new RegExp(`^${path.slice(dirname(path).length + 1).replaceAll(".", "\\.").replaceAll("*", ".*")}$`);
  return existsSync(folder) && readdirSync(folder).some((name) => last.test(name));
}

for (const [document, most] of [["README.md", 6144], ["CHANGELOG.md", 8192]] as const) {
  Deno.test(`${document} has at most ${most} bytes`, () => {
    assert.ok(statSync(join(ROOT, document)).size <= most);
  });
}

Deno.test("the program of README runs as it is written there, but for fewer steps", async () => {
  const [, code = ""] = /```ts\n([\s\S]*?)```/.exec(textOf("README.md")) ?? [];
  const lines = code.split("\n").length;
  assert.ok(lines > 5 && lines <= 16, `${lines} lines`);
  const program = code.replace(`"./mod.ts"`, JSON.stringify(new URL("../mod.ts", import.meta.url).href))
    .replace("steps: 80, batch: 8, seq: 240", "steps: 2, batch: 1, seq: 64");
  assert.notEqual(program.indexOf("steps: 2"), -1);
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "program.ts"), program);
    const config = join(ROOT, "deno.json");
    const args = ["run", "-A", "--config", config, "program.ts"];
    const { code: status, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: folder }).output();
    assert.equal(status, 0, new TextDecoder().decode(stderr));
    assert.match(new TextDecoder().decode(stdout), /before: 979008/);
    const files = [...Deno.readDirSync(join(folder, "runs/library"))].map(({ name }) => name).sort();
    assert.deepEqual(files, ["model", "model.gguf", "records.jsonl", "run.json"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Rows of the first table below a heading, or of the document's first, as cells. */
function tableOf(document: string, heading = ""): string[][] {
  const text = textOf(document);
  const lines = text.slice(heading === "" ? 0 : text.indexOf(heading)).split("\n");
  const start = lines.findIndex((line) => line.startsWith("|"));
  const end = lines.findIndex((line, index) => index > start && !line.startsWith("|"));
  return lines.slice(start + 2, end < 0 ? undefined : end)
    .map((line) => line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim()));
}

/** Names in backquotes in the first cells of a table. */
function firstNames(rows: readonly string[][]): string[] {
  return rows.flatMap(([cell = ""]) => [...cell.matchAll(/`([\w-]+)`/g)].map(([, name = ""]) => name));
}

Deno.test("the exit statuses in the reference are those of the program", () => {
  const rows = tableOf("docs/reference/exit_codes.md");
  const listed = rows.flatMap(([status = "", code = ""]) =>
    code === "" ? [] : [[code.replaceAll("`", ""), Number(status)]]
  );
  assert.deepEqual(Object.fromEntries(listed), EXIT_STATUS);
});

Deno.test("the reference lists every field of run.json and of records.jsonl", () => {
  const page = "docs/reference/run_json.md";
  assert.deepEqual(firstNames(tableOf(page, "## run.json")), RUN_FIELDS);
  assert.deepEqual(firstNames(tableOf(page, "## records.jsonl")), RECORD_FIELDS);
});

Deno.test("the reference of the command line is what the program prints: deno run -A scripts/cli_reference.ts", async () => {
  assert.equal(readFileSync(CLI_REFERENCE, "utf8"), cliReference(await HELP));
});

/** Flags of other programs that the documents name. */
const OTHER_FLAGS =
  /^--(?:allow-[\w-]+|dry-run|copy|no-prompt|no-lock|lock|frozen|local-dir|parallel|lint|global|html|quiet|requeue|signal|open-mode)$/;

Deno.test("every option that a document names is one of the program's", async () => {
  const known = new Set([...(await HELP).values()].flatMap((text) => text.match(/--[a-z][\w-]*/g) ?? []));
  const wrong: string[] = [];
  let count = 0;
  for (const document of DOCUMENTS) {
    if (document.startsWith("docs/evidence/") || document === "CHANGELOG.md") continue;
    for (const [flag] of textOf(document).matchAll(/(?<![\w-])--[a-z][\w-]*/g)) {
      count += 1;
      if (!known.has(flag) && !OTHER_FLAGS.test(flag)) wrong.push(`${document}: ${flag}`);
    }
  }
  assert.deepEqual(wrong, []);
  assert.ok(count > 50, `only ${count} options found`);
});

Deno.test("the architecture page lists the folders of source in the order that the structure test holds", () => {
  const [, list = ""] = /^const ORDER = \[([^\]]*)\]/m.exec(textOf("tests/structure_test.ts")) ?? [];
  const order = [...list.matchAll(/"([^"]+)"/g)].map(([, folder = ""]) => folder);
  const listed = tableOf("docs/design/architecture.md", "## The folders, in order")
    .map(([folder = ""]) => folder.replaceAll("`", "").replace(/\/$/, ""));
  assert.deepEqual(listed, order);
});

Deno.test("the tables of models are those of the records: deno run -A scripts/models_reference.ts", async () => {
  const tables = tablesOfPage(textOf("docs/guide/models.md"));
  // Columns are padded by the formatter.
  const plain = (text: string): string => text.replace(/ +/g, " ").replace(/-+/g, "-").trim();
  assert.deepEqual(tables.map(plain), (await modelsTables()).map(plain));
});
