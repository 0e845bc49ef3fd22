// `compresso chat` as a pipe and a terminal drive it, and what stops it.
import assert from "node:assert/strict";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import { cli, command, copyDemo, refused, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const STORY =
  "Answer the question.\\\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Nina saw five stars.";
const QUESTION = `${STORY} Where is Tom?\n`;

Deno.test("chat answers each line of a pipe, and commands go to stderr", async () => {
  const input = `\n${QUESTION}/reset\n/help\n/nonsense\n${QUESTION}/exit\nnot read\n`;
  const { code, stdout, stderr } = await cli(["chat", "demo", "--max-tokens", "12"], { input });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, "in Rome\nin Rome\n");
  assert.match(stderr, /^\/help .*\n\/reset/m);
  const help = stderr.slice(stderr.indexOf("/help"), stderr.indexOf("unknown command")).split("\n");
  assert.ok(help.length > 6 && help.slice(0, 7).every((line) => line.length <= 80), help.join("\n"));
  assertNames(stderr, "/nonsense");
});

Deno.test("chat --json prints a line for each question, and a turn reads only what is new", async () => {
  const { code, stdout, stderr } = await cli(["chat", "demo", "--max-tokens", "12", "--json"], {
    input: QUESTION + `//slash\n${QUESTION}`.trimEnd(), // the last line has no break
  });
  assert.equal(code, 0, stderr);
  const turns = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(turns.map(({ question }) => question), [
    QUESTION.replace("\\\n", "\n").trimEnd(),
    "/slash",
    QUESTION.replace("\\\n", "\n").trimEnd(),
  ]);
  assert.deepEqual([turns[0].answer, turns[0].finish, turns[0].reusedTokens], ["in Rome", "end", 0]);
  assert.ok(turns[1].reusedTokens >= turns[0].promptTokens);
  assert.ok(turns[2].reusedTokens >= turns[1].promptTokens);
  for (const { promptTokens, reusedTokens } of turns) assert.ok(promptTokens > reusedTokens);
});

Deno.test("chat --system and --with-prompt stand before the first question, and /system takes their place", async () => {
  const tokens = async (args: readonly string[], input: string): Promise<number[]> => {
    const { code, stdout, stderr } = await cli(["chat", "demo", "--max-tokens", "4", "--json", ...args], { input });
    assert.equal(code, 0, stderr);
    return stdout.trimEnd().split("\n").map((line) => JSON.parse(line).promptTokens);
  };
  const [bare = NaN, named = NaN] = await tokens([], `${QUESTION}/system Tom is in Rome.\n${QUESTION}`);
  const [both = NaN, prompted = NaN] = await tokens(
    ["--system", "Tom is in Rome.", "--with-prompt"],
    `${QUESTION}/system\n${QUESTION}`,
  );
  assert.ok(named > bare && prompted > bare, `${bare}, ${named}, ${prompted}`);
  assert.ok(both >= named + prompted - bare, `${both}`);
});

Deno.test("chat --compare answers with both models, one after the other", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("copy"));
  const args = ["chat", "demo", "--compare", folder.at("copy"), "--max-tokens", "12"];
  const plain = await cli(args, { input: QUESTION });
  assert.equal(plain.code, 0, plain.stderr);
  const lines = plain.stdout.split("\n");
  assert.deepEqual(lines.filter((line) => !line.startsWith("(")), [
    "demo:",
    "in Rome",
    "",
    `${folder.at("copy")}:`,
    "in Rome",
    "",
  ]);
  assert.equal(plain.stdout.match(/^\(2 tokens, \d+\.\d tokens\/s\)$/gm)?.length, 2);
});

Deno.test("chat refuses a model that cannot chat, a question that is too long, and input that is no text", async () => {
  using folder = new TemporaryFolder();
  for (const [name, drop] of [["mute", "tokenizer.json"], ["base", "tokenizer_config.json"]] as const) {
    await copyDemo(folder.at(name));
    await Deno.remove(folder.at(name, drop));
  }
  const cases: readonly [string[], string | Uint8Array<ArrayBuffer>, ErrorCode, Refusal][] = [
    [[folder.at("mute")], QUESTION, "input", { names: "tokenizer" }],
    [[folder.at("base")], QUESTION, "input", { names: "template" }],
    [["demo"], "Where is Tom? ".repeat(300), "input", { names: 512 }],
    [["demo"], Uint8Array.of(0xff, 10), "input", { names: "UTF-8" }],
    [["demo", "--top-p", "0.5"], QUESTION, "usage", { option: "--top-p", names: "--temperature" }],
    [["demo", "--style", "loud"], QUESTION, "usage", {
      option: "--style",
      value: "loud",
      names: ["chat", "alpaca", "plain"],
    }],
  ];
  for (const [args, input, code, refusal] of cases) await refused(["chat", ...args], code, { input, ...refusal });
});

Deno.test(
  "Ctrl-C stops the answer and the chat goes on; SIGTERM ends it",
  { ignore: Deno.build.os === "windows" },
  async () => {
    const long = ["--max-tokens", "450", "--temperature", "3"];
    const child = command(["chat", "demo", ...long], { stdin: "piped" }).spawn();
    const writer = child.stdin.getWriter(), reader = child.stdout.getReader();
    const said = new Response(child.stderr).text();
    const ask = async (): Promise<void> => {
      await writer.write(new TextEncoder().encode("Where is Tom?\n"));
      await reader.read();
    };
    await ask();
    child.kill("SIGINT");
    await writer.write(new TextEncoder().encode("/reset\n"));
    // Until the line break behind the stopped answer.
    for (let text = ""; !text.endsWith("\n");) text = new TextDecoder().decode((await reader.read()).value);
    await ask();
    child.kill("SIGTERM");
    const { code, signal } = await child.status;
    await writer.close().catch(() => {});
    await reader.cancel();
    assert.deepEqual([code, signal], [143, "SIGTERM"]);
    const stderr = await said;
    assertNames(stderr, "Ctrl-C");
    assert.ok(stderr.trimEnd().split("\n").length >= 2, `Ctrl-C and /reset are each answered: ${stderr}`);
  },
);

const HAS_TERMINAL = hasScript();

Deno.test("on a terminal chat edits lines, shows two models in columns, and Ctrl-C stops an answer", {
  ignore: !HAS_TERMINAL,
}, async () => {
  const args = ["chat", "demo", "--compare", "demo", "--max-tokens", "400", "--temperature", "3"];
  await using terminal = openTerminal(args);
  await terminal.until(/\/help lists.*> /s);
  await terminal.type("Where is Ton\x7fm?\r");
  // The cursor goes up two rows, and what is below is drawn again.
  // deno-lint-ignore no-control-regex
  await terminal.until(/\r\x1b\[2A\x1b\[Jdemo +│ demo.*\n[^\n]+ │ [^\n]+/s);
  await terminal.type("\x03");
  // No row is drawn below.
  await terminal.until(/stopping the answer[^│]*> /);
  await terminal.type("/nonsense\r");
  await terminal.until(/unknown command \/nonsense.*> /s);
  await terminal.type("half a line\x03"); // Ctrl-C drops it, and ends at an empty one
  await terminal.until(/half a line.*\n.*> /s);
  await terminal.type("\x1b[A"); // arrow up
  await terminal.until(/\/nonsense/);
  await terminal.type("\x15\x03");
  assert.equal(await terminal.status(), 0);
});

Deno.test("on a terminal chat answers every line that is pasted at once, and a half one can be finished", {
  ignore: !HAS_TERMINAL,
}, async () => {
  await using terminal = openTerminal(["chat", "demo", "--max-tokens", "12"]);
  await terminal.until(/\/help lists.*> /s);
  await terminal.type("/first\r/second\r");
  await terminal.until(/\/first\s.*unknown command \/first;.*> .*\/second\s.*unknown command \/second;.*> /s);
  const [, story = ""] = STORY.split("\n");
  await terminal.type(`Answer the question.\\\r\n${story} Where is Ton\x7fm?\r/thi`);
  await terminal.until(/in Rome\s.*> .*\/thi/s);
  await terminal.type("rd\r");
  await terminal.until(/unknown command \/third;.*> /s);
  await terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\r"); // arrow up, past both lines of the question
  await terminal.until(/unknown command \/second;.*> /s);
  await terminal.type("/last\r\x04");
  await terminal.until(/unknown command \/last;/);
  assert.equal(await terminal.status(), 0);
});

Deno.test("on a terminal Ctrl-C drops what was typed ahead, with the answer that it stops", {
  ignore: !HAS_TERMINAL,
}, async () => {
  await using terminal = openTerminal(["chat", "demo", "--max-tokens", "400", "--temperature", "3"]);
  await terminal.until(/\/help lists.*> /s);
  await terminal.type("Where is Tom?\r/second\r");
  await terminal.until(/Tom\?\s+[^\s]/);
  await terminal.type("\x03");
  await terminal.until(/stopping the answer.*> /s);
  await terminal.type("/nonsense\r");
  await terminal.until(/^(?!.*second).*unknown command \/nonsense.*> /s);
  await terminal.type("\x03");
  assert.equal(await terminal.status(), 0);
});

Deno.test("on a terminal without a cursor to move, two models answer one after the other", {
  ignore: !HAS_TERMINAL,
}, async () => {
  await using terminal = openTerminal(["chat", "demo", "--compare", "demo", "--max-tokens", "12"], "dumb");
  await terminal.until(/\/help lists.*> /s);
  await terminal.type("Where is Tom?\r");
  await terminal.until(/demo:\s+[^\s].*\(\d+ tokens, .*demo:\s+[^\s].*> /s);
  await terminal.type("\x03");
  assert.equal(await terminal.status(), 0);
});

interface Terminal extends AsyncDisposable {
  /** Sends keys. */
  type(keys: string): Promise<void>;
  /** Waits until what came since the last wait fits. */
  until(pattern: RegExp): Promise<void>;
  /** Exit status of the command. */
  status(): Promise<number>;
}

/** Whether util-linux's script is here, which makes a pseudo-terminal; without it its tests are left out, and say so. */
function hasScript(): boolean {
  if (Deno.build.os !== "linux") return false; // others have another program of this name
  try {
    return new Deno.Command("script", { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.log("left out: util-linux's script, which gives a terminal, is absent");
    return false;
  }
}

/** The command line on a pseudo-terminal of 80 columns, which says of itself what kind it is. */
function openTerminal(args: readonly string[], kind = "xterm"): Terminal {
  // With exec, as a shell that stays beside the command (dash does) is ended by a Ctrl-C that the command outlives.
  const line = `stty cols 80 rows 40; TERM=${kind} exec "${Deno.execPath()}" run -A cli/main.ts ${args.join(" ")}`;
  const child = new Deno.Command("script", {
    args: ["--quiet", "--return", "--command", line, "/dev/null"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const writer = child.stdin.getWriter(), reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let screen = "";
  return {
    type: (keys) => writer.write(new TextEncoder().encode(keys)),
    async until(pattern): Promise<void> {
      // A line that nobody reads would be waited for without end.
      const { promise: late, reject } = Promise.withResolvers<never>();
      const timer = setTimeout(() => reject(new Error(`not in two minutes: ${pattern}, but ${screen}`)), 120_000);
      try {
        while (!pattern.test(screen)) {
          const { done, value = "" } = await Promise.race([reader.read(), late]);
          assert.ok(!done, `the command ended before ${pattern}: ${screen}`);
          screen += value;
        }
      } finally {
        clearTimeout(timer);
      }
      screen = "";
    },
    async status(): Promise<number> {
      while (!(await reader.read()).done);
      return (await child.status).code;
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await writer.close().catch(() => {});
      await reader.cancel();
      await child.status;
    },
  };
}
