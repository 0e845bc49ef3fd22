// Completion for bash, 3.2 and later, without the package bash-completion.
import { nodesOf, type Values, type VerbNode } from "./tree.ts";

/** The script. */
export function bashScript(program: VerbNode): string {
  const nodes = [...nodesOf(program)];
  return `# Completion of compresso for bash.
_compresso() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} verb= word i
  # Bash splits "=" off as a separate word.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "$verb $word" in
${
    nodes.filter(({ path }) => path.length > 0).map(({ path }) =>
      `      "${path.slice(0, -1).join(" ")} ${path.at(-1)}") verb="${path.join(" ")}" ;;`
    ).join("\n")
  }
    esac
  done
  COMPREPLY=()
  case "$verb" in
${nodes.map(caseOf).join("\n")}
  esac
}

_compresso_words() {
  local IFS=$' \\t\\n'
  COMPREPLY+=($(compgen -W "$1" -- "$cur"))
}

_compresso_list() {
  local IFS=$' \\t\\n' before=
  if [[ $cur == *,* ]]; then before=\${cur%,*},; fi
  COMPREPLY+=($(compgen -P "$before" -W "$1" -- "\${cur##*,}"))
}

_compresso_files() {
  local IFS=$'\\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY+=($(compgen -f -- "$cur"))
}

complete -F _compresso compresso
`;
}

function caseOf({ path, verbs, options, argument }: VerbNode): string {
  const valued = Map.groupBy(
    options.filter(({ values }) => values !== null),
    ({ values }) => values ? callOf(values) : "",
  );
  const cases = [...valued].map(([call, some]) =>
    `        ${some.flatMap(({ flags }) => flags).join("|")}) ${call}return ;;`
  );
  const words = verbs.map((verb) => verb.path.at(-1) ?? "");
  const flags = options.flatMap((option) => option.flags);
  const own = argument ? callOf(argument) : words.length > 0 ? `_compresso_words "${words.join(" ")}"; ` : "";
  return [
    `    "${path.join(" ")}")`,
    ...(cases.length > 0 ? ['      case "$prev" in', ...cases, "      esac"] : []),
    `      if [[ $cur == -* ]]; then _compresso_words "${flags.join(" ")}"; return; fi`,
    ...(own === "" ? [] : [`      ${own.replace(/; $/, "")}`]),
    "      ;;",
  ].join("\n");
}

/** Commands that add a place's completions, each followed by "; ". */
function callOf({ words, isPath, isList }: Values): string {
  return [
    ...(words.length > 0 ? [`_compresso_${isList ? "list" : "words"} "${words.join(" ")}"; `] : []),
    ...(isPath ? ["_compresso_files; "] : []),
  ].join("");
}
