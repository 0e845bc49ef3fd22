// Help: groups, the short view, the width of the terminal, defaults, colours.
import assert from "node:assert/strict";
import { Command, Option } from "../../cli/packages.ts";
import { placeOption, showAllOptions, VerbHelp } from "../../cli/terminal/help.ts";
import { hanging, wrapText } from "../../cli/terminal/wrap.ts";
import { assertNames } from "../refuses.ts";
import { cli, refused } from "./helpers/cli.ts";
import { screenOf } from "./helpers/screen.ts";

const VERBS = [
  ...["doctor", "inspect", "plan", "prune", "schedule", "schedule preview", "data", "data inspect", "data generate"],
  ...["eval", "generate", "chat", "serve", "studio", "bench", "export", "report", "experiment"],
];

/** A program with one verb, whose options stand in two groups. */
function sample(): { readonly program: Command; readonly help: (width: number) => string } {
  const run = new Command("run");
  run.createHelp = () => new VerbHelp();
  run
    .addOption(placeOption(new Option("--depth <count>", "how deep").default(3), { group: "Method" }))
    .addOption(placeOption(new Option("--out <dir>", "where to write"), { group: "Files", isEveryday: true }))
    .addOption(placeOption(new Option("--kinds <list>", "kinds").default(["a", "b"]), { group: "Method" }))
    .addOption(placeOption(new Option("--none <list>", "none at first").default([]), { group: "Method" }))
    .addOption(placeOption(new Option("--name <text>", "a name").default("x"), { group: "Method", isEveryday: true }));
  const program = new Command("compresso");
  program.addCommand(run);
  return {
    program,
    help: (width) => {
      run.configureOutput({ getOutHelpWidth: () => width });
      return run.helpInformation();
    },
  };
}

Deno.test("the short help has the everyday options alone, and says how to see all", () => {
  const { program, help } = sample();
  const short = help(80);
  assert.match(short, /--out/);
  assert.match(short, /--name/);
  assert.doesNotMatch(short, /--depth|--kinds/);
  assertNames(short, ["5", "compresso run --help=all"]);
  showAllOptions(program);
  const full = help(80);
  for (const option of ["--depth", "--out", "--kinds", "--none", "--name"]) assert.ok(full.includes(option), full);
  assert.doesNotMatch(full, /--help=all/);
  // Groups in the order of their first option; everyday options first in each.
  assert.match(full, /Method:\n +--name[^]*--depth[^]*--kinds[^]*--none[^]*Files:\n +--out/);
});

Deno.test("defaults are written alike, whatever their type, and an empty list is none", () => {
  const { program, help } = sample();
  showAllOptions(program);
  const text = help(110);
  assert.match(text, /how deep \(default: 3\)/);
  assert.match(text, /kinds \(default: a,b\)/);
  assert.match(text, /a name \(default: x\)/);
  assert.match(text, /none at first$/m);
});

Deno.test("wrapText() breaks at spaces, and leaves a word whole that is too long", () => {
  assert.deepEqual(wrapText("one two three", 7), ["one two", "three"]);
  assert.deepEqual(wrapText("a verylongword b", 5), ["a", "verylongword", "b"]);
});

Deno.test("defaults of all verbs are without quotes and brackets", async () => {
  for (const verb of VERBS) {
    const { stdout } = await cli([...verb.split(" "), "--help=all"]);
    const text = stdout.replace(/\s+/g, " ");
    assert.doesNotMatch(text, /default: ["[]/, verb);
    assert.match(text, new RegExp(`Usage: compresso ${verb}`));
  }
});

for (const columns of [40, 80, 160]) {
  Deno.test({
    name: `on a terminal of ${columns} columns no line of help is wider, and none than 110`,
    ignore: Deno.build.os !== "linux",
    async fn(): Promise<void> {
      const most = Math.min(columns, 110);
      const verbs = ["", "prune", "plan", "schedule preview", "experiment"];
      const all = verbs.map((verb) => JSON.stringify([...verb.split(" "), "--help=all"].filter((word) => word !== "")));
      // One process for all.
      const program = `import { main } from "./cli/main.ts"; for (const words of [${all.join()}]) await main(words);`;
      const { text } = await screenOf(`deno eval --quiet '${program}'`, { columns });
      const words = text.replaceAll(/\s+/g, " ");
      for (const verb of verbs) assert.ok(words.includes(`Usage: compresso${verb && ` ${verb}`} `), text);
      for (const line of text.split("\n")) {
        // Code and a word of its own are not broken.
        if (/^ {4,}.*[=,;{}]$|^ *(\S+ )?\S+( \\)?$/.test(line)) continue;
        assert.ok([...line].length <= most, `${[...line].length} columns: ${line}`);
      }
    },
  });
}

Deno.test({
  name: "headings are bold on a terminal, not with NO_COLOR, not in a pipe; FORCE_COLOR makes them so anywhere",
  ignore: Deno.build.os !== "linux",
  async fn(): Promise<void> {
    const bold = "\x1b[1mOptions:", command = "deno run -A cli/main.ts doctor --help";
    const shown = async (line: string): Promise<string> => (await screenOf(line, { columns: 80 })).raw;
    assert.ok((await shown(command)).includes(bold));
    assert.ok(!(await shown(`NO_COLOR=1 ${command}`)).includes("\x1b[1m"));
    assert.ok(!(await shown(`${command} | cat`)).includes("\x1b[1m"));
    assert.ok((await shown(`FORCE_COLOR=1 ${command} | cat`)).includes(bold));
  },
});

Deno.test("the label of an error is red where colours are shown, and lines of --verbose are dim", async () => {
  const args = ["inspect", "nowhere"], label = "\x1b[31mcompresso:\x1b[0m cannot read";
  assert.ok(!(await cli(args, { env: { FORCE_COLOR: "1" } })).stderr.includes("\x1b"), "NO_COLOR is set and wins");
  const forced = { NO_COLOR: "", FORCE_COLOR: "1" };
  assert.ok((await cli(args, { env: forced })).stderr.startsWith(label));
  assert.ok(!(await cli(args, { env: { NO_COLOR: "" } })).stderr.includes("\x1b"), "a pipe has no colours");
  const { stderr } = await cli(["generate", "demo", "--prompt", "a", "--max-tokens", "1", "--no-tuning", "-v"], {
    env: forced,
  });
  assert.ok(stderr.includes("\x1b[2mdevice "), stderr);
});

Deno.test("a wrong option names the help of its verb", async () => {
  const cases = [
    ["eval", "eval", "demo", "--xqzv"],
    ["data inspect", "data", "inspect", "x.json", "--limit", "no"],
    ["plan", "plan", "demo", "--batch", "0"],
    ["export", "export", "demo"],
  ];
  for (const [verb = "", ...args] of cases) {
    const { fix } = await refused(args, "usage");
    assertNames(fix ?? "", `compresso ${verb} --help`);
  }
});

Deno.test("-V and --version print the version", async () => {
  const { version } = JSON.parse(await Deno.readTextFile("deno.json"));
  for (const flag of ["-V", "--version"]) {
    assert.deepEqual(await cli([flag]), { code: 0, stdout: `${version}\n`, stderr: "" });
  }
});

Deno.test("hanging() puts the rest of a long line below its beginning", () => {
  assert.equal(hanging("time  one two three", { columns: 14, indent: 6 }), "time  one two\n      three");
  assert.equal(hanging("time  one", { columns: 14, indent: 6 }), "time  one");
});
