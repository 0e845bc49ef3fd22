// Signals that end a program, and the one that nohup keeps from it.
import assert from "node:assert/strict";
import { TemporaryFolder } from "./helpers/cli.ts";
import { assertNames } from "../refuses.ts";

const MODULE = new URL("../../cli/terminal/interrupt.ts", import.meta.url).href;
/** Says that it listens, and what stopped it after 0.3 s, in which other signals may come. */
const PROGRAM = `import { watchInterrupt } from ${JSON.stringify(MODULE)};
const interrupt = watchInterrupt("stopping");
interrupt.signal.addEventListener("abort", () => setTimeout(() => {
  console.log(interrupt.signal.reason.parts.what);
  Deno.exit(7);
}, 300));
interrupt.start();
console.log("ready " + Deno.pid);
setTimeout(() => {}, 20_000);`;

/** How the program ends after signals; `inTerminal` gives it one, which `script` makes. */
async function endOf(
  signals: readonly Deno.Signal[],
  { inTerminal = false, withNohup = false }: { readonly inTerminal?: boolean; readonly withNohup?: boolean } = {},
): Promise<{ readonly said: string; readonly code: number }> {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("program.ts"), PROGRAM);
  const args = ["run", "-A", "--quiet", folder.at("program.ts")];
  const child = inTerminal
    ? new Deno.Command("script", {
      args: ["-qec", [Deno.execPath(), ...args].join(" "), "/dev/null"],
      ...{ stdin: "null", stdout: "piped", stderr: "null" },
    }).spawn()
    : new Deno.Command(withNohup ? "nohup" : Deno.execPath(), {
      args: withNohup ? [Deno.execPath(), ...args] : args,
      ...{ stdin: "null", stdout: "piped", stderr: "null" },
    }).spawn();
  let said = "", isSent = false;
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    said += text;
    const pid = /ready (\d+)/.exec(said)?.[1];
    if (pid === undefined || isSent) continue;
    isSent = true;
    for (const signal of signals) {
      Deno.kill(Number(pid), signal);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  const { code } = await child.status;
  return { said, code };
}

const isWindows = Deno.build.os === "windows";

Deno.test("SIGINT, SIGTERM and SIGQUIT stop a program in order", { ignore: isWindows }, async () => {
  for (const [signal, what] of [["SIGINT", "Ctrl-C"], ["SIGTERM", "SIGTERM"], ["SIGQUIT", "SIGQUIT"]] as const) {
    const { said, code } = await endOf([signal]);
    assertNames(said, what);
    assert.equal(code, 7);
  }
});

Deno.test("SIGHUP of a closed terminal stops a program in order, also when it comes twice", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  const { said, code } = await endOf(["SIGHUP", "SIGHUP"], { inTerminal: true });
  assertNames(said, "SIGHUP");
  assert.equal(code, 7);
});

Deno.test("SIGHUP stops a program whose stderr is no terminal in order, and one of nohup not at all", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  const { said, code } = await endOf(["SIGHUP"]);
  assertNames(said, "SIGHUP");
  assert.equal(code, 7);
  const kept = await endOf(["SIGHUP", "SIGTERM"], { withNohup: true });
  assertNames(kept.said, "SIGTERM");
  assert.equal(kept.code, 7);
});
