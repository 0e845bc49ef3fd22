// Completion for zsh, by its function _arguments.
import { nodesOf, type OptionNode, type Values, type VerbNode } from "./tree.ts";

/** The script: a file on `fpath`, or text to source. */
export function zshScript(program: VerbNode): string {
  return `#compdef compresso
# Completion of compresso for zsh.
${[...nodesOf(program)].map(functionOf).join("\n\n")}

if [[ $funcstack[1] == _compresso ]]; then
  _compresso "$@"
else
  compdef _compresso compresso
fi
`;
}

function functionOf({ path, verbs, options, argument }: VerbNode): string {
  const specs = options.flatMap(optionSpecs);
  if (verbs.length === 0) {
    const rest = argument ? [quoted(`*:${actionOf(argument, "argument")}`)] : [];
    return `${nameOf(path)}() {\n  _arguments -S -s ${[...specs, ...rest].join(" \\\n    ")}\n}`;
  }
  return `${nameOf(path)}() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C ${[...specs, quoted("1:verb:->verb"), quoted("*::argument:->argument")].join(" \\\n    ")}
  case $state in
    verb)
      local -a verbs=(
${verbs.map((verb) => `        ${quoted(`${verb.path.at(-1)}:${verb.summary}`)}`).join("\n")}
      )
      _describe verb verbs
      ;;
    argument)
      case $line[1] in
${verbs.map((verb) => `        ${verb.path.at(-1)}) ${nameOf(verb.path)} ;;`).join("\n")}
      esac
      ;;
  esac
}`;
}

function nameOf(path: readonly string[]): string {
  return ["_compresso", ...path].join("_");
}

function optionSpecs({ flags, summary, values }: OptionNode): string[] {
  const text = summary.replaceAll(/[[\]:]/g, (sign) => `\\${sign}`);
  return flags.map((flag) => quoted(`${flag}[${text}]${values ? `:${actionOf(values, "value")}` : ""}`));
}

function actionOf({ words, isPath, isList }: Values, message: string): string {
  const listed = words.join(" ");
  if (words.length > 0 && isPath) return `${message}:{ _alternative "words:word:(${listed})" "files:file:_files" }`;
  if (isPath) return `${message}:_files`;
  if (words.length === 0) return `${message}: `;
  return isList ? `${message}:_values -s , ${message} ${listed}` : `${message}:(${listed})`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
