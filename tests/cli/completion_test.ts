// Completion, asked of the shells themselves.
import assert from "node:assert/strict";
import { assertNames } from "../refuses.ts";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

/** Whether a program is installed. */
function isInstalled(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Runs a shell's own command on a text, in a folder. */
async function shell(program: string, args: readonly string[], cwd: string): Promise<string> {
  const { stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    cwd,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  assert.equal(new TextDecoder().decode(stderr), "", `${program} complains`);
  return new TextDecoder().decode(stdout);
}

/** Writes a shell's script to a folder that also has a model and two folders. */
async function prepare(folder: TemporaryFolder, name: string): Promise<string> {
  const { code, stdout, stderr } = await cli(["completion", name]);
  assert.equal(code, 0, stderr);
  await Deno.writeTextFile(folder.at("script"), stdout);
  await Deno.writeTextFile(folder.at("model one.gguf"), "");
  await Deno.mkdir(folder.at("runs"));
  return folder.at("script");
}

/** What is completed where the words end, of which the last one is begun: the same for all shells. */
const CASES: readonly (readonly [words: readonly string[], expected: readonly string[]])[] = [
  [["pl"], ["plan"]],
  [["data", ""], ["generate", "inspect"]],
  [["plan", "--lay"], ["--layout"]],
  [["plan", "--layout", ""], ["compact", "padded", "uniform"]],
  [["plan", "demo", "--layout", "pa"], ["padded"]],
  [["prune", "--out", "ru"], ["runs/"]],
  [["inspect", "mod"], ["model one.gguf"]],
  [["inspect", "de"], ["demo"]],
  [["plan", "--batch", ""], []],
  [["schedule", "preview", "cu"], ["cubic"]],
  [["data", "inspect", "--no-p"], ["--no-packing", "--no-prompt"]],
  [["completion", ""], ["bash", "fish", "zsh"]],
  [["help", "pru"], ["prune"]],
];

Deno.test({
  name: "bash completes verbs, options, words and paths",
  ignore: !isInstalled("bash"),
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const script = await prepare(folder, "bash");
    const complete = async (words: readonly string[]): Promise<readonly string[]> => {
      const program =
        `source "$1"; shift; COMP_WORDS=(compresso "$@"); COMP_CWORD=$#; _compresso; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const out = await shell("bash", ["--norc", "-c", program, "bash", script, ...words], folder.path);
      return out.split("\n").filter((line) => line !== "").sort();
    };
    // Readline adds the slash of a folder.
    for (const [words, expected] of CASES) {
      assert.deepEqual(await complete(words), expected.map((word) => word.replace(/\/$/, "")), words.join(" "));
    }
    assert.deepEqual(await complete(["plan", "--units", "heads,f"]), ["heads,ffn"]);
    assert.deepEqual(await complete(["plan", "--layout", "=", "uni"]), ["uniform"]);
    assert.deepEqual(await complete(["plan", "--layout", "="]), ["compact", "padded", "uniform"]);
  },
});

Deno.test({
  name: "bash inserts a completion at the tab key",
  ignore: !isInstalled("bash") || !isInstalled("script") || Deno.build.os !== "linux",
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const script = await prepare(folder, "bash");
    const child = new Deno.Command("script", {
      args: ["-qec", "bash --norc --noprofile -i", "/dev/null"],
      cwd: folder.path,
      env: { TERM: "dumb" },
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(
      `source ${script}; compresso() { echo "called:$*:"; }\ncompresso pla\tmod\t--layo\tuni\t\nexit\n`,
    ));
    const { stdout } = await child.output();
    await writer.close().catch(() => {});
    assert.match(new TextDecoder().decode(stdout), /called:plan model one\.gguf --layout uniform:/);
  },
});

Deno.test({
  name: "fish completes verbs, options, words and paths",
  ignore: !isInstalled("fish"),
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const script = await prepare(folder, "fish");
    const complete = async (words: readonly string[]): Promise<readonly string[]> => {
      const line = ["compresso", ...words].join(" ");
      const out = await shell(
        "fish",
        ["--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, script, line],
        folder.path,
      );
      return out.split("\n").map((entry) => entry.split("\t")[0] ?? "").filter((word) => word !== "").sort();
    };
    for (const [words, expected] of CASES) assert.deepEqual(await complete(words), expected, words.join(" "));
    assert.ok((await complete(["plan", "--units", "heads,f"])).includes("heads,ffn"));
  },
});

Deno.test({
  name: "zsh inserts completions of verbs, options, words and paths",
  ignore: !isInstalled("zsh"),
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const script = await prepare(folder, "zsh");
    // A zsh of its own on a pseudo terminal, in which the line is typed.
    const driver = `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; autoload -Uz compinit; compinit -u -D; source $1; compresso() { print -r -- called:\\$*: }; print ready"
zpty -r z output '*ready*ready*'
zpty -w -n z $2$'\\n'
zpty -r -t z output 2>/dev/null
zpty -r z output '*called:*:*' && print -r -- $output
zpty -d z
`;
    const insert = async (keys: string): Promise<string> => {
      const { stdout } = await new Deno.Command("timeout", {
        args: ["30", "zsh", "-f", "-c", driver, "zsh", script, keys],
        cwd: folder.path,
        stdin: "null",
        stdout: "piped",
        stderr: "null",
      }).output();
      return /called:([^:]*):/.exec(new TextDecoder().decode(stdout))?.[1] ?? "";
    };
    assert.equal(await insert("compresso pla\tmod\t--layo\tuni\t"), "plan model one.gguf --layout uniform");
    assert.equal(await insert("compresso data ins\tmod\t--no-pa\t"), "data inspect model one.gguf --no-packing");
    assert.equal(await insert("compresso prune de\t--out ru\t"), "prune demo --out runs", "zsh takes the slash back");
    assert.equal(await insert("compresso schedule prev\tcub\t"), "schedule preview cubic");
  },
});

Deno.test("completion names the shells that it knows", async () => {
  const { code, stderr } = await cli(["completion", "ksh"]);
  assert.equal(code, 2);
  assertNames(stderr, ["bash", "zsh", "fish"]);
});
