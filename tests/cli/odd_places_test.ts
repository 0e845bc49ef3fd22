// The command line in odd places: streams that nobody reads, names that are not there, folders of another shape. Each ends with its own status.
import assert from "node:assert/strict";
import { clearRunFolder } from "../../cli/verbs/prune/run_folder.ts";
import { assertNames } from "../refuses.ts";
import { command, refused, ROOT, TemporaryFolder } from "./helpers/cli.ts";

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
    const args = ["prune", "demo", "--data", "fixtures/demo_data/train.jsonl", "--sparsity", "0.3", "--steps", "300"]
      .concat([
        ...["--limit-rows", "60", "--batch", "1", "--seq", "32", "--prefinetune", "5", "--no-prompt"],
      ]);
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
    await refused(args, "input", { names: folder.at("nope") });
  }
  assert.ok(!folder.has("scores.jsonl"));
});

Deno.test("serve refuses an empty address, which would be all of them", async () => {
  await refused(["serve", "demo", "--host", "", "--port", "0"], "usage", { option: "--host" });
});

Deno.test("a run.json that cannot be read as one is refused on resuming", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("run"));
  await Deno.writeTextFile(folder.at("run", "model.gguf"), "as a finished run has one");
  for (const text of ["", "{}", "[1]"]) {
    await Deno.writeTextFile(folder.at("run", "run.json"), text);
    const args = ["prune", "demo", "--data", "fixtures/demo_data/train.jsonl", "--sparsity", "0.3", "--steps", "2"];
    const error = await refused([...args, "--out", folder.at("run"), "--resume"], "input", {
      names: folder.at("run", "run.json"),
    });
    assert.ok(error.got && error.fix, JSON.stringify(error));
  }
});

Deno.test("a whole number that is too large is told its bound", async () => {
  await refused(["prune", "demo", "--sparsity", "0.3", "--seed", "4294967296", "--out", "x"], "usage", {
    option: "--seed",
    value: 4294967296,
    names: [0, 4294967295],
  });
});

Deno.test({
  name: "the demo takes a folder and nothing else",
  ignore: Deno.build.os === "windows",
  async fn(): Promise<void> {
    for (const words of [["--help"], ["a", "b"]]) {
      const args = ["scripts/demo.sh", ...words],
        { code, stderr } = await new Deno.Command("bash", { args, cwd: ROOT }).output();
      assert.equal(code, 2);
      assertNames(new TextDecoder().decode(stderr), "bash scripts/demo.sh [FOLDER]");
    }
  },
});

Deno.test("the demo refuses a folder with an earlier run, or a file in its place, before it begins, in words for its user", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("earlier", "model"), { recursive: true });
  await Deno.mkdir(folder.at("texts"));
  for (const path of [folder.at("file"), folder.at("texts", "calibration.jsonl")]) await Deno.writeTextFile(path, "");
  for (
    const [name, value] of [["earlier", "model"], ["texts", "calibration.jsonl"], [
      "file",
      "a file",
    ]] as const
  ) {
    const args = ["task", "demo", folder.at(name)], env = { NO_COLOR: "1" };
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT, env }).output();
    const said = new TextDecoder().decode(stderr);
    assert.deepEqual([code, new TextDecoder().decode(stdout)], [2, ""], said);
    assertNames(said, [folder.at(name), value]);
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
