// Errors of verbs with --json: one object on stderr, an empty stdout, the exit status as ever.
import assert from "node:assert/strict";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

/** The last line of stderr, parsed. */
function errorOf(stderr: string): Record<string, unknown> {
  return JSON.parse(stderr.trimEnd().split("\n").at(-1) ?? "").error;
}

Deno.test("with --json an error is one line of JSON on stderr, of every verb that has --json", async () => {
  using folder = new TemporaryFolder();
  const nowhere = folder.at("nowhere");
  const cases: string[][] = [
    ["inspect", nowhere],
    ["plan", nowhere],
    ["prune", nowhere, "--sparsity", "0.3", "--out", folder.at("run")],
    ["schedule", "preview", `${nowhere}.ts`],
    ["data", "inspect", nowhere],
    ["data", "generate", nowhere, "--out", folder.at("texts.jsonl")],
    ["eval", nowhere, "--text", nowhere],
    ["generate", nowhere, "--prompt", "a"],
    ["chat", nowhere],
    ["bench", nowhere],
    ["export", nowhere, "--out", folder.at("out")],
    ["experiment", nowhere],
  ];
  for (const args of cases) {
    const plain = await cli(args), { code, stdout, stderr } = await cli([...args, "--json"]);
    assert.equal(code, plain.code, args.join(" "));
    assert.equal(stdout, "", args.join(" "));
    const error = errorOf(stderr);
    assert.deepEqual(Object.keys(error), ["code", "what", "expected", "got", "fix", "option", "exitStatus"]);
    assert.equal(error["exitStatus"], code);
    assert.ok(plain.stderr.includes(String(error["what"])), plain.stderr);
  }
});

Deno.test("a wrong value, a mistyped option and a missing argument are JSON too", async () => {
  const value = errorOf((await cli(["prune", "demo", "--sparsity", "30", "--json"])).stderr);
  assert.deepEqual(value, {
    code: "usage",
    what: "cannot use --sparsity 30",
    expected: "--sparsity is a number of at least 0 and below 1",
    got: "30",
    fix: "did you mean 0.3?",
    option: "--sparsity",
    exitStatus: 2,
  });
  const typo = errorOf((await cli(["eval", "demo", "--windo", "12", "--json"])).stderr);
  assert.deepEqual([typo["what"], typo["fix"]], ["unknown option '--windo'", "did you mean --window?"]);
  const missing = errorOf((await cli(["inspect", "--json"])).stderr);
  assert.deepEqual([missing["code"], missing["exitStatus"]], ["usage", 2]);
});

Deno.test("the code tells causes apart", async () => {
  const backend = Deno.build.os === "windows" ? "metal" : "dx12"; // one that this system does not have
  const { code, stderr } = await cli(["doctor", "--json"], { env: { DENO_WEBGPU_BACKEND: backend } });
  assert.deepEqual([errorOf(stderr)["code"], code], ["gpu", 4]);
});
