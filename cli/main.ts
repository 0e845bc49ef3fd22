#!/usr/bin/env -S deno run -A
// The command line. Owns dispatch and exit statuses; each verb has its own file.
import { CommanderError } from "./packages.ts";
import config from "../deno.json" with { type: "json" };
import { benchVerb } from "./verbs/bench.ts";
import { quiet, verb } from "./command.ts";
import { chatVerb } from "./verbs/chat/chat.ts";
import { data } from "./verbs/data/data.ts";
import { doctor } from "./verbs/doctor.ts";
import { evaluate } from "./verbs/eval/eval.ts";
import { experimentVerb } from "./verbs/experiment/experiment.ts";
import { exportVerb } from "./verbs/export.ts";
import { generateVerb } from "./verbs/generate.ts";
import { inspect } from "./verbs/inspect.ts";
import { reportError } from "./terminal/output.ts";
import { planVerb } from "./verbs/plan.ts";
import { pruneVerb } from "./verbs/prune/prune.ts";
import { reportVerb } from "./verbs/report.ts";
import { scheduleVerb } from "./verbs/schedule/schedule.ts";
import { serveVerb } from "./verbs/serve.ts";

/** Runs the command line on arguments and returns the exit status. */
export async function main(args: readonly string[]): Promise<number> {
  const program = verb("compresso", {
    description: "Makes language models of the LLaMA family smaller by structural pruning, on WebGPU.",
    examples: ["prune demo --sparsity 0.3 --steps 200 --out runs/demo"],
  })
    .version(config.version, "--version", "print the version")
    .helpCommand("help [verb]", "show the help of a verb");
  for (
    const make of [
      doctor,
      inspect,
      planVerb,
      pruneVerb,
      scheduleVerb,
      data,
      evaluate,
      generateVerb,
      chatVerb,
      serveVerb,
      benchVerb,
      exportVerb,
      reportVerb,
    ]
  ) {
    program.addCommand(make());
  }
  program.addCommand(experimentVerb());
  quiet(program);
  // Commander shows the whole help for a verb that there is not, and says nothing of it.
  const [first, second] = args;
  const isVerb = (word: string): boolean => word === "help" || program.commands.some((one) => one.name() === word);
  const isLost = first === "help" && second !== undefined && !isVerb(second);
  const isNone = first !== undefined && !first.startsWith("-") && !isVerb(first);
  try {
    await program.parseAsync(isNone ? [first] : isLost ? args.slice(1) : [...args], { from: "user" });
    return 0;
  } catch (error) {
    // Commander has said what is wrong; asking for help or the version is no error.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    // Whoever read our output has gone, as `head` does: the status is that of a process ended by SIGPIPE.
    if (error instanceof Deno.errors.BrokenPipe) return 141;
    return reportError(error);
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
