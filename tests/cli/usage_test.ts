// Help, mistyped words and wrong values: what the command line says and how it ends.
import assert from "node:assert/strict";
import { required } from "../../cli/options/flags.ts";
import { assertNames, type Refusal, refuses } from "../refuses.ts";
import { cli, refused, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const VERBS = ["doctor", "inspect", "plan", "prune", "eval", "generate", "chat", "serve", "bench", "export"];

Deno.test("--help of the program names every verb, on stdout, with status 0", async () => {
  const { code, stdout, stderr } = await cli(["--help"]);
  assert.equal(code, 0);
  assert.equal(stderr, "");
  for (const verb of VERBS) assert.match(stdout, new RegExp(`^ {2}${verb} `, "m"));
});

for (const verb of VERBS) {
  Deno.test(`--help of ${verb} has an example that starts with the program`, async () => {
    const { code, stdout } = await cli([verb, "--help"]);
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`Examples?:\n {2}compresso ${verb}`));
  });
}

Deno.test("no verb at all shows the help on stderr and ends with 2", async () => {
  const { code, stdout, stderr } = await cli([]);
  assert.equal(code, 2);
  assert.equal(stdout, "");
  assert.match(stderr, /Usage: compresso/);
});

Deno.test("a mistyped verb or option is answered with the likely one and status 2", async () => {
  const cases: readonly (readonly [args: string[], wrong: string, fix: readonly string[]])[] = [
    [["prun", "demo"], "'prun'", ["prune"]],
    [["prun", "--help"], "'prun'", ["prune"]],
    [["help", "prun"], "'prun'", ["prune"]],
    [["prune", "demo", "--sparsty", "0.3"], "'--sparsty'", ["--sparsity"]],
    [["prune", "demo", "--acumulate", "2"], "'--acumulate'", ["--accumulate"]],
    [["plan", "demo", "--calibration", "own"], "'--calibration'", ["compresso plan --help", "--calibration", "prune"]],
    [["eval", "demo", "--windo", "12"], "'--windo'", ["--window"]],
    [["eval", "demo", "--xqzv"], "'--xqzv'", ["compresso eval --help"]],
    [["inspect"], "'model'", ["compresso inspect --help"]],
  ];
  for (const [args, wrong, words] of cases) {
    const { what, fix } = await refused(args, "usage");
    assertNames(what, wrong);
    assertNames(fix ?? "", words);
  }
});

Deno.test("a value out of range is refused with option, bound and value, and nothing is written", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const cases: readonly (readonly [option: string, value: string, bounds: Refusal["names"]])[] = [
    ["--sparsity", "-0.1", [0, 1]],
    ["--sparsity", "1.5", [0, 1]],
    ["--sparsity", "30%", [0, 1]],
    ["--steps", "0", 1],
    ["--steps", "2.5", 0],
    ["--batch", "-1", 1],
    ["--seq", "many", 2],
    ["--seed", "", 4294967295],
    ["--units", "heads,ears", ["heads", "kv"]],
    ["--lora-targets", "q,q", ["k", "v"]],
    ["--dropout", "1", [0, 1]],
    ["--ranking", "loose", ["all", "layer"]],
    ["--layout", "loose", ["compact", "padded", "uniform"]],
    ["--gguf-dtype", "q3_k", ["auto", "f32", "f16", "bf16", "q8_0"]],
    ["--memory-limit", "lots", ["800M", "6G"]],
  ];
  for (const [option, value, names] of cases) {
    const args = ["prune", "demo", "--sparsity", "0.3", "--out", out, option, value];
    const { expected } = await refused(args, "usage", { option, value: value === "" ? [] : value });
    assertNames(expected ?? "", names);
  }
  const { stderr } = await cli(["prune", "demo", "--sparsity", "1.5", "--out", out]);
  assert.doesNotMatch(stderr, /\n\s+at /, "no stack");
  assert.ok(!folder.has("run"));
});

Deno.test("options that are missing or exclude each other are refused", async () => {
  using folder = new TemporaryFolder();
  const run = ["--out", folder.at("run")], sparsity = ["--sparsity", "0.3"];
  const cases: readonly (readonly [string[], Refusal])[] = [
    [["prune", "demo", ...run], { option: "--sparsity" }],
    [["prune", "demo", ...sparsity], { option: "--out" }],
    [["prune"], { names: "'model'" }],
    [["generate", "demo"], { option: "--prompt", names: "--text" }],
    [["serve", "demo", "--port", "65536"], { option: "--port", value: 65536, names: 65535 }],
    [["bench", "demo", "--tokens", "1"], { option: "--tokens", value: 1, names: 2 }],
    [["generate", "demo", "--prompt", "a", "--text", "b"], { names: ["--prompt", "--text"] }],
    [["generate", "demo", "--prompt", "a", "--top-k", "4"], { names: ["--top-k", "--temperature"] }],
    [["generate", "demo", "--prompt", "a", "--top-p", "1.5"], { option: "--top-p", value: 1.5 }],
    [["generate", "demo", "--prompt", "a", "--stop", ""], { option: "--stop" }],
    [["export", "demo"], { option: "--out" }],
    [["eval", folder.path], { names: ["--text", "--data", "--tasks"] }],
    [["eval", "demo", "--window", "128"], { names: ["--window", "--text"] }],
    [["eval", "demo", "--text", "a", "--data", "b"], { names: ["--text", "--data"] }],
    [["generate", "demo", "--prompt", "a", "--raw", "--chat"], { names: ["--raw", "--chat"] }],
    [["prune", "demo", ...sparsity, "--units", "kv,rows", ...run], { option: "--units", value: "kv,rows" }],
    [["prune", "demo", ...sparsity, ...run, "--resume", "--overwrite"], { names: ["--resume", "--overwrite"] }],
    [["prune", "demo", "--data", "nowhere.jsonl", ...sparsity, ...run, "--resume"], {
      option: "--resume",
      names: "checkpoint.safetensors",
    }],
    [["prune", folder.path, ...sparsity, ...run], { names: "--data" }],
    [["prune", "demo", ...sparsity, "--seq", "4096", ...run], { option: "--seq", value: 4096, names: 512 }],
    [["prune", "demo", "--sparsity", "0.9999", ...run], { names: 0.9999 }],
  ];
  for (const [args, refusal] of cases) await refused(args, "usage", refusal);
  assert.ok(!folder.has("run"));
});

Deno.test("an empty path to write to, as of a variable that is not set, is refused by every verb that writes", async () => {
  // Nothing is there to be read, so that a path that is taken costs the root of the file system nothing.
  const cases = [
    ["prune", "nowhere", "--sparsity", "0.3", "--out", ""],
    ["export", "nowhere", "--out", ""],
    ["data", "generate", "nowhere", "--out", ""],
    ["experiment", "nowhere.ts", "--out", ""],
    ["eval", "demo", "--text", "nowhere.txt", "--out", " "],
    ["schedule", "preview", "cubic", "--svg", ""],
    ["report", "nowhere", "--out", ""],
  ];
  for (const args of cases) {
    const option = args.at(-2) ?? "";
    assert.equal((await refused(args, "usage", { option })).got, args.at(-1));
  }
  refuses(() => required("", "--out"), "usage", { option: "out" });
});

Deno.test("the help of export names lists that it takes", async () => {
  const { stdout } = await cli(["export", "--help"]), { code } = await cli(["export", "--help=all"]);
  assert.equal(code, 0);
  assertNames(stdout, ["--formats <list>", "hf,gguf"]);
});

Deno.test({
  name: "a result that its place does not take ends in a sentence",
  ignore: Deno.build.os !== "linux",
  async fn(): Promise<void> {
    const args = ["run", "-A", "cli/main.ts", "plan", "demo"];
    const shell = `NO_COLOR=1 "$0" "$@" > /dev/full`;
    const { code, stderr } = await new Deno.Command("sh", { args: ["-c", shell, Deno.execPath(), ...args], cwd: ROOT })
      .output();
    const said = new TextDecoder().decode(stderr);
    assert.equal(code, 3, said);
    assertNames(said, ["stdout", "No space left"]);
  },
});
