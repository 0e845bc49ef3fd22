// Help, mistyped words and wrong values: what the command line says and how it ends.
import assert from "node:assert/strict";
import { required } from "../../cli/options/flags.ts";
import { cli, ROOT, TemporaryFolder } from "./helpers/cli.ts";

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
  const cases: [string[], RegExp][] = [
    [["prun", "demo"], /unknown command 'prun'\n {2}fix: +did you mean prune\?$/m],
    [["prun", "--help"], /unknown command 'prun'\n {2}fix: +did you mean prune\?$/m],
    [["help", "prun"], /unknown command 'prun'\n {2}fix: +did you mean prune\?$/m],
    [["prune", "demo", "--sparsty", "0.3"], /unknown option '--sparsty'\n {2}fix: +did you mean --sparsity\?$/m],
    [["prune", "demo", "--acumulate", "2"], /unknown option '--acumulate'\n {2}fix: +did you mean --accumulate\?$/m],
    [["plan", "demo", "--sparsity", "0.2"], /fix: +see compresso plan --help; --sparsity is of prune$/m],
    [["eval", "demo", "--windo", "12"], /unknown option '--windo'\n {2}fix: +did you mean --window\?$/m],
    [["eval", "demo", "--xqzv"], /^compresso: unknown option '--xqzv'\n {2}fix: +see compresso eval --help\n$/],
    [["inspect"], /missing required argument[^]*\n {2}fix: +see compresso inspect --help\n$/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await cli(args);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, message);
  }
});

Deno.test("a value out of range is refused with option, rule and value, and nothing is written", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const cases: [string, string, RegExp][] = [
    ["--sparsity", "0", /number above 0 and below 1/],
    ["--sparsity", "1.5", /number above 0 and below 1/],
    ["--sparsity", "30%", /number above 0 and below 1/],
    ["--steps", "0", /whole number, at least 1/],
    ["--steps", "2.5", /whole number/],
    ["--batch", "-1", /whole number, at least 1/],
    ["--seq", "many", /whole number, at least 2/],
    ["--seed", "", /whole number/],
    ["--units", "heads,ears", /some of heads, kv, /],
    ["--lora-targets", "q,q", /each once/],
    ["--dropout", "1", /at least 0 and below 1/],
    ["--ranking", "loose", /one of all, layer/],
    ["--layout", "loose", /one of compact, padded, uniform/],
    ["--gguf-dtype", "q3_k", /one of auto, f32, f16, bf16, q8_0, /],
    ["--memory-limit", "lots", /such as 800M or 6G/],
  ];
  for (const [option, value, rule] of cases) {
    const { code, stdout, stderr } = await cli(["prune", "demo", "--sparsity", "0.3", "--out", out, option, value]);
    assert.equal(code, 2, `${option} ${value}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, rule);
    assert.ok(stderr.includes(option), stderr);
    assert.doesNotMatch(stderr, /\n\s+at /, "no stack");
  }
  assert.ok(!folder.has("run"));
});

Deno.test("options that are missing or exclude each other are refused", async () => {
  using folder = new TemporaryFolder();
  const cases: [string[], RegExp][] = [
    [["prune", "demo", "--out", folder.at("run")], /cannot start without --sparsity/],
    [["prune", "demo", "--sparsity", "0.3"], /cannot start without --out/],
    [["prune"], /missing required argument 'model'/],
    [["generate", "demo"], /cannot start without --prompt\n.*--prompt or --text is required/],
    [["serve", "demo", "--port", "65536"], /--port is a whole number from 0 to 65535/],
    [["bench", "demo", "--tokens", "1"], /--tokens is a whole number, at least 2/],
    [["generate", "demo", "--prompt", "a", "--text", "b"], /either --prompt or --text/],
    [["generate", "demo", "--prompt", "a", "--top-k", "4"], /--temperature above 0/],
    [["generate", "demo", "--prompt", "a", "--top-p", "1.5"], /--top-p is a number above 0 and at most 1/],
    [["generate", "demo", "--prompt", "a", "--stop", ""], /at least one character/],
    [["export", "demo"], /cannot start without --out/],
    [["eval", folder.path], /either --text, --data or --tasks/],
    [["eval", "demo", "--window", "128"], /the demo's own rows are measured\n.*or give --text alone/],
    [["eval", "demo", "--text", "a", "--data", "b"], /either --text, --data or --tasks/],
    [["generate", "demo", "--prompt", "a", "--raw", "--chat"], /either --raw or --chat/],
    [
      ["prune", "demo", "--sparsity", "0.3", "--units", "kv,rows", "--out", folder.at("run")],
      /--units .*heads, kv, /,
    ],
    [
      ["prune", "demo", "--sparsity", "0.3", "--out", folder.at("run"), "--resume", "--overwrite"],
      /--resume or --overwrite/,
    ],
    [
      ["prune", "demo", "--data", "nowhere.jsonl", "--sparsity", "0.3", "--out", folder.at("run"), "--resume"],
      /cannot resume the run in .*\n.*checkpoint\.safetensors\n.*no checkpoint/,
    ],
    [["prune", folder.path, "--sparsity", "0.3", "--out", folder.at("run")], /--data names/],
    [["prune", "demo", "--sparsity", "0.3", "--seq", "4096", "--out", folder.at("run")], /longest context is 512/],
    [["prune", "demo", "--sparsity", "0.9999", "--out", folder.at("run")], /cannot reach a sparsity of 0.9999/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await cli(args);
    assert.equal(code, 2, `${args.join(" ")}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, message);
  }
  assert.ok(!folder.has("run"));
});

Deno.test("an empty path to write to, as of a variable that is not set, is refused by every verb that writes", async () => {
  // Nothing is there to be read, so that a path that is taken costs the root of the file system nothing.
  const cases = [
    ["prune", "nowhere", "--sparsity", "0.3", "--out", ""],
    ["export", "nowhere", "--out", ""],
    ["data", "generate", "nowhere", "--out", ""],
    ["report", "nowhere", "--out", ""],
    ["experiment", "nowhere.ts", "--out", ""],
    ["eval", "demo", "--text", "nowhere.txt", "--out", " "],
    ["schedule", "preview", "cubic", "--svg", ""],
  ];
  for (const args of cases) {
    const { code, stdout, stderr } = await cli(args);
    assert.equal(code, 2, `${args.join(" ")}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, /cannot use --(out|svg) ' ?'/);
  }
  assert.throws(() => required("", "--out"), /cannot start without --out/);
});

Deno.test("the help of export names lists that it takes", async () => {
  const { stdout } = await cli(["export", "--help"]);
  assert.match(stdout, /which files: hf, gguf, or hf,gguf \(default/);
  assert.match(stdout.replace(/\s+/g, " "), /the file of a format that cannot hold the model is removed/);
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
    assert.match(said, /cannot write the result to stdout.*No space left.*fix: +check the free space/s);
  },
});
