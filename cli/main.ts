#!/usr/bin/env -S deno run -A
/**
 * Import this entry to run the command line from a program; run it to start `compresso`.
 *
 * @module
 */
import { CommanderError, type CommandUnknownOpts } from "./packages.ts";
import { refuse } from "../lib/core/errors.ts";
import config from "../deno.json" with { type: "json" };
import { setWords, verb } from "./command.ts";
import { checkVerify, setVerify, VERIFY_OPTION } from "./hub.ts";
import { HELP_ALL, helpCommand, showAllOptions } from "./terminal/help.ts";
import { benchVerb } from "./verbs/bench.ts";
import { completionVerb } from "./verbs/completion/completion.ts";
import { chatVerb } from "./verbs/chat/chat.ts";
import { data } from "./verbs/data/data.ts";
import { doctor } from "./verbs/doctor.ts";
import { fitVerb } from "./verbs/fit/fit.ts";
import { evaluate } from "./verbs/eval/eval.ts";
import { experimentVerb } from "./verbs/experiment/experiment.ts";
import { exportVerb } from "./verbs/export.ts";
import { generateVerb } from "./verbs/generate.ts";
import { inspect } from "./verbs/inspect/inspect.ts";
import { leaveToFirst } from "./ranks.ts";
import { reportError } from "./terminal/error.ts";
import { setVerbosity, type Verbosity } from "./terminal/output.ts";
import { planVerb } from "./verbs/plan/plan.ts";
import { pruneVerb } from "./verbs/prune/prune.ts";
import { pushVerb } from "./verbs/push.ts";
import { reportVerb } from "./verbs/report.ts";
import { scheduleVerb } from "./verbs/schedule/schedule.ts";
import { serveVerb } from "./verbs/serve.ts";
import { studioVerb } from "./verbs/studio.ts";
import { sweepVerb } from "./verbs/sweep.ts";
import { tuneVerb } from "./verbs/tune.ts";
import { setWebgpu, WEBGPU_OPTION } from "./webgpu.ts";

/**
 * Runs a verb of the command line. Results go to stdout, messages and errors to stderr. It does not throw for wrong
 * use.
 *
 * @param args - Words after the program's name, such as `["inspect", "demo"]`.
 * @returns The exit status: 0 for success, otherwise as docs/reference/exit_codes.md says.
 * @example
 * ```ts
 * import { main } from "@compresso/compresso/cli";
 * if (await main(["inspect", "demo", "--json"]) !== 0) throw new Error("it failed");
 * ```
 */
export async function main(args: readonly string[]): Promise<number> {
  setWords(args);
  const program = verb("compresso", {
    description: "Make large language models smaller by structural pruning, on WebGPU.",
    examples: ["prune demo --sparsity 0.3 --steps 200 --out runs/demo"],
  })
    .version(config.version, "-V, --version", "print the version")
    .helpCommand("help [verb]", "Show the help of a verb.")
    .option("-q, --quiet", "show results and errors only")
    .option("-v, --verbose", "say more about the work")
    .option(...WEBGPU_OPTION)
    .option(...VERIFY_OPTION)
    .hook("preAction", (command, called) => {
      setVerbosity(verbosityOf(command.opts()));
      setWebgpu(command.opts().webgpu);
      setVerify(command.opts().verify === true);
      checkVerify(called.name(), args);
    });
  for (
    const make of [
      doctor,
      inspect,
      planVerb,
      pruneVerb,
      tuneVerb,
      fitVerb,
      sweepVerb,
      scheduleVerb,
      data,
      evaluate,
      generateVerb,
      chatVerb,
      serveVerb,
      studioVerb,
      benchVerb,
      exportVerb,
      pushVerb,
      reportVerb,
    ]
  ) {
    program.addCommand(make());
  }
  program.addCommand(experimentVerb());
  program.addCommand(completionVerb(program));
  const end = args.indexOf("--"), flags = end < 0 ? args : args.slice(0, end);
  if (flags.includes(HELP_ALL)) showAllOptions(program);
  const words = args.map((word, index) => word === HELP_ALL && index < flags.length ? "--help" : word);
  // Commander shows the whole help for an unknown verb, without saying that it is unknown.
  const [first, second] = words;
  const isVerb = (word: string): boolean => word === "help" || program.commands.some((one) => one.name() === word);
  const isLost = first === "help" && second !== undefined && !isVerb(second);
  const isNone = first !== undefined && !first.startsWith("-") && !isVerb(first);
  try {
    await program.parseAsync(isNone ? [first] : isLost ? words.slice(1) : words, { from: "user" });
    return 0;
  } catch (error) {
    // Help and the version are no errors; without a verb, the help has been shown.
    if (error instanceof CommanderError && (error.exitCode === 0 || error.code === "commander.help")) {
      return error.exitCode === 0 ? 0 : 2;
    }
    // The reader of our output has gone, as `head` does: the status is that of a process ended by SIGPIPE.
    if (error instanceof Deno.errors.BrokenPipe) return 141;
    if (error instanceof CommanderError) await leaveToFirst(2);
    const help = helpCommand(commandOf(program, words)), owners = ownersOf(program, error);
    return reportError(error, { help: `${help}${owners}`, asJson: flags.includes("--json") });
  }
}

function verbosityOf({ quiet, verbose }: { readonly quiet?: true; readonly verbose?: true }): Verbosity {
  if (quiet && verbose) {
    refuse("usage", "cannot use these options together", {
      rule: "either --quiet or --verbose",
      value: "both were given",
    });
  }
  return quiet ? "quiet" : verbose ? "verbose" : "normal";
}

/** Names the verbs that have an unknown option, such as an option of `prune` given to `plan`. Nothing if no verb has it. */
function ownersOf(program: CommandUnknownOpts, error: unknown): string {
  const [, flag] = error instanceof CommanderError ? /unknown option '([^'=]+)/.exec(error.message) ?? [] : [];
  const verbs = program.commands.filter(({ options }) => options.some(({ long }) => long === flag));
  return flag === undefined || verbs.length === 0 ? "" : `; ${flag} is of ${verbs.map((one) => one.name()).join(", ")}`;
}

/** The command that words call. */
function commandOf(program: CommandUnknownOpts, words: readonly string[]): CommandUnknownOpts {
  const [first, ...others] = words.filter((word) => !word.startsWith("-"));
  const found = program.commands.find((command) => command.name() === first);
  return found ? commandOf(found, others) : program;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
