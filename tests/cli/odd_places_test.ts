// The command line in odd places: streams that nobody reads, names that are not there, folders of another shape. Each ends with its own status.
import assert from "node:assert/strict";
import { clearRunFolder } from "../../cli/verbs/prune/run_folder.ts";
import { cli, command, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const isLinux = Deno.build.os === "linux";

Deno.test({
  name: "an error keeps its status where stderr takes nothing, and Ctrl-C its checkpoint",
  ignore: !isLinux,
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const shell = async (script: string, ...args: string[]): Promise<number> => {
      const all = ["run", "-A", "cli/main.ts", ...args];
      return (await new Deno.Command("sh", { args: ["-c", script, Deno.execPath(), ...all], cwd: ROOT }).output()).code;
    };
    assert.equal(await shell(`"$0" "$@" 2>/dev/full`, "inspect", folder.at("nope")), 3);
    for (const help of [["prune", "--help"], ["help", "plan"], ["--version"]]) {
      assert.equal(await shell(`"$0" "$@" >/dev/full`, ...help), 3, help.join(" "));
    }
    assert.equal(await shell(`"$0" "$@" 2>/dev/full`), 2);
    const out = folder.at("run");
    const args = ["prune", "demo", "--data", "fixtures/demo_data/train.jsonl", "--sparsity", "0.3", "--steps", "300"];
    const child = command([...args, "--calibration", "none", "--out", out, "--no-tuning"]).spawn();
    await child.stderr.cancel();
    const lines = async (): Promise<number> =>
      (await Deno.readTextFile(`${out}/records.jsonl`).catch(() => "")).split("\n").length - 1;
    let ended: Deno.CommandStatus | null = null;
    const end = child.status.then((status) => ended = status);
    while (await lines() < 3 && !ended) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(ended, null, "it goes on");
    child.kill("SIGINT");
    const [{ code }] = await Promise.all([end, child.stdout.cancel()]);
    assert.equal(code, 130);
    assert.ok(folder.has("run", "checkpoint.safetensors"));
  },
});

Deno.test("models and adapters that are not there are refused with --out as without", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Tom went to Rome. ".repeat(60));
  const text = ["--text", folder.at("text.txt"), "--window", "32", "--out", folder.at("scores.jsonl")];
  for (
    const args of [["eval", folder.at("nope"), ...text], ["eval", "demo", "--adapter", folder.at("nope"), ...text]]
  ) {
    const { code, stderr } = await cli(args);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /^compresso: cannot read .*nope/);
  }
  assert.ok(!folder.has("scores.jsonl"));
});

Deno.test("serve refuses an empty address, which would be all of them", async () => {
  const { code, stderr } = await cli(["serve", "demo", "--host", "", "--port", "0"]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /the address is that of a network interface.*\n.*an empty one/);
});

Deno.test("a run.json that cannot be read as one is refused on resuming", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("run"));
  await Deno.writeTextFile(folder.at("run", "model.gguf"), "as a finished run has one");
  for (const text of ["", "{}", "[1]"]) {
    await Deno.writeTextFile(folder.at("run", "run.json"), text);
    const { code, stderr } = await cli([
      ...["prune", "demo", "--data", "fixtures/demo_data/train.jsonl", "--sparsity", "0.3", "--steps", "2"],
      ...["--out", folder.at("run"), "--resume"],
    ]);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /run\.json\n.*got: .*fix: /s);
  }
});

Deno.test("a whole number that is too large is told its bound", async () => {
  const { code, stderr } = await cli(["prune", "demo", "--sparsity", "0.3", "--seed", "4294967296", "--out", "x"]);
  assert.equal(code, 2);
  assert.match(stderr, /--seed .*a whole number from 0 to 4294967295/s);
});

Deno.test({
  name: "the demo takes a folder and nothing else",
  ignore: Deno.build.os === "windows",
  async fn(): Promise<void> {
    for (const words of [["--help"], ["a", "b"]]) {
      const args = ["scripts/demo.sh", ...words],
        { code, stderr } = await new Deno.Command("bash", { args, cwd: ROOT }).output();
      assert.equal(code, 2);
      assert.match(new TextDecoder().decode(stderr), /^usage: bash scripts\/demo\.sh \[FOLDER\]/);
    }
  },
});

Deno.test("the demo refuses a folder with an earlier run, or a file in its place, before it begins, in words for its user", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("earlier", "model"), { recursive: true });
  await Deno.mkdir(folder.at("texts"));
  for (const path of [folder.at("file"), folder.at("texts", "calibration.jsonl")]) await Deno.writeTextFile(path, "");
  for (
    const [name, value] of [["earlier", "it holds model"], ["texts", "it holds calibration.jsonl"], [
      "file",
      "a file",
    ]] as const
  ) {
    const args = ["task", "demo", folder.at(name)], env = { NO_COLOR: "1" };
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT, env }).output();
    const said = new TextDecoder().decode(stderr);
    assert.deepEqual([code, new TextDecoder().decode(stdout)], [2, ""], said);
    assert.ok(said.includes(`cannot run the demo in ${folder.at(name)}; expected: `), said);
    assert.ok(said.includes(`got: ${value}; fix: name a new folder`), said);
    assert.doesNotMatch(said, /Uncaught|--overwrite/);
  }
});

Deno.test("--overwrite removes a model where a link leads to it, and the link stays", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("disk", "big"), { recursive: true });
  await Deno.mkdir(folder.at("run"));
  await Deno.writeTextFile(folder.at("disk", "big", "x"), "");
  await Deno.writeTextFile(folder.at("run", "run.json"), "{}");
  await Deno.symlink("../disk/big", folder.at("run", "model"));
  await clearRunFolder(folder.at("run"), { files: [] });
  assert.deepEqual([...Deno.readDirSync(folder.at("disk"))], []);
  assert.deepEqual([...Deno.readDirSync(folder.at("run"))].map(({ name, isSymlink }) => [name, isSymlink]), [[
    "model",
    true,
  ]]);
});
