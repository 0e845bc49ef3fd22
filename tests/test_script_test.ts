// The script that runs the tests: its sums, and what it makes of a file that fails, one whose process dies, and a type error.
import assert from "node:assert/strict";
import { type CliResult, ROOT, TemporaryFolder } from "./cli/helpers/cli.ts";

/** What scripts/test.ts says about files of the given contents, and its exit status. */
async function runFiles(contents: Readonly<Record<string, string>>): Promise<CliResult> {
  using folder = new TemporaryFolder();
  for (const [name, text] of Object.entries(contents)) Deno.writeTextFileSync(folder.at(name), text);
  return await runTests(folder.path);
}

async function runTests(path: string, env: Readonly<Record<string, string>> = {}): Promise<CliResult> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "scripts/test.ts", path],
    cwd: ROOT,
    env,
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const GOOD = `Deno.test("good", () => {}); Deno.test.ignore("later", () => {});`;

Deno.test("the counts of all files are added up, and files that are no tests are not run", async () => {
  const other = `throw new Error("not a test file");`;
  const { code, stdout } = await runFiles({ "a_test.ts": GOOD, "b_test.ts": GOOD, "other.ts": other });
  assert.equal(code, 0);
  assert.match(stdout, /\nok \| 2 passed \| 0 failed \| 2 ignored \(2 files, 0m\d+s\)\n$/);
});

Deno.test("a file that fails and one whose process is ended are named, and the others are run", async () => {
  const bad = `Deno.test("bad", () => { throw new Error("no"); }); Deno.test("well", () => {});`;
  const dead = `Deno.test("well", () => {}); Deno.test("dead", () => Deno.kill(Deno.pid, "SIGKILL"));`;
  const { code, stdout } = await runFiles({ "a_test.ts": bad, "b_test.ts": dead, "c_test.ts": GOOD });
  assert.equal(code, 1);
  assert.match(
    stdout,
    /Failed:\n\s+\S+a_test\.ts\n\s+\S+b_test\.ts: its process ended with status 137 before its tests did\n/,
  );
  // The tests of the file that died are not known: it counts as one that failed.
  assert.match(stdout, /\nFAILED \| 2 passed \| 2 failed \| 1 ignored \(3 files, 0m\d+s\)\n$/);
});

Deno.test("a file whose process is ended after its tests have passed is run once more, and is none that passed where it ends so again", async () => {
  const dies = (when: string): string =>
    `const mark = new URL(import.meta.url.replace(/_test.ts$/, ".mark"));
    const isFirst = await Deno.stat(mark).then(() => false, () => true);
    Deno.writeTextFileSync(mark, "");
    Deno.test("well", async () => {
      if (!(${when})) return;
      console.log("ok | 1 passed | 0 failed (1s)");
      await new Promise((printed) => setTimeout(printed, 1000)); // the runner prints it in a thread of its own
      Deno.kill(Deno.pid, "SIGABRT");
    });`;
  const { code, stdout } = await runFiles({ "a_test.ts": dies("isFirst"), "b_test.ts": dies("true") });
  assert.equal(code, 1);
  assert.equal(stdout.match(/ended with status 134 after its tests had passed, and is run once more\n/g)?.length, 2);
  assert.match(stdout, /Failed:\n\s+\S+b_test\.ts\n/);
  assert.match(stdout, /\nFAILED \| 2 passed \| 1 failed \(2 files, 0m\d+s\)\n$/);
});

Deno.test("a type error in one file is said before a test is run", async () => {
  const { code, stdout, stderr } = await runFiles({
    "a_test.ts": GOOD,
    "b_test.ts": `export const count: number = "none";`,
  });
  assert.equal(code, 1);
  assert.match(stderr, /TS2322/);
  assert.doesNotMatch(stdout, /running|passed/);
});

Deno.test("a path that is not there and a number of jobs that is none are refused, before anything is run", async () => {
  const { code, stdout, stderr } = await runTests("tests/nowhere");
  assert.deepEqual([code, stdout], [2, ""]);
  assert.match(stderr, /^cannot run the tests of 'tests\/nowhere': there is no such file or folder/);
  for (const jobs of ["0", "two", "1.5"]) {
    const { code, stdout, stderr } = await runTests("tests/files", { DENO_JOBS: jobs });
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, new RegExp(`^cannot run so many files at once: .* now '${jobs}'`));
  }
});
