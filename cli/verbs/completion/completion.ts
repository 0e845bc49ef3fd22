// `compresso completion SHELL`: a script that completes verbs, options, their words and paths.
import { Argument, type CommandUnknownOpts } from "../../packages.ts";
import { verb } from "../../command.ts";
import { writeResult } from "../../terminal/output.ts";
import { bashScript } from "./bash.ts";
import { fishScript } from "./fish.ts";
import { treeOf } from "./tree.ts";
import { zshScript } from "./zsh.ts";

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript } as const;

/** Declares the verb for a program, whose verbs are read when the script is written. */
export function completionVerb(program: CommandUnknownOpts): CommandUnknownOpts {
  return verb("completion", {
    description: "Print a script for bash, zsh or fish that completes verbs, options and their values.",
    examples: ["completion bash"],
    notes: `Install it once for the command compresso, then start a new shell:

    bash:  compresso completion bash > ~/.local/share/bash-completion/completions/compresso
           (without the package bash-completion: add  source <(compresso completion bash)  to ~/.bashrc)
    zsh:   compresso completion zsh > "\${fpath[1]}/_compresso"
    fish:  compresso completion fish > ~/.config/fish/completions/compresso.fish`,
  })
    .addArgument(new Argument("<shell>", "bash, zsh or fish").choices(["bash", "zsh", "fish"] as const))
    .action((shell) => writeResult(SCRIPTS[shell](treeOf(program))));
}
