// Completion for fish.
import { nodesOf, type OptionNode, type Values, type VerbNode } from "./tree.ts";

/** The script. */
export function fishScript(program: VerbNode): string {
  const nodes = [...nodesOf(program)];
  return `# Completion of compresso for fish.
function __compresso_verb
    set -l verb ''
    for word in (commandline -opc)[2..-1]
        switch "$verb $word"
${
    nodes.filter(({ path }) => path.length > 0).map(({ path }) =>
      `            case ${quoted(`${path.slice(0, -1).join(" ")} ${path.at(-1)}`)}\n                set verb ${
        quoted(path.join(" "))
      }`
    ).join("\n")
  }
        end
    end
    echo $verb
end

function __compresso_list
    set -l token (commandline -ct)
    set -l before (string match -r '^.*,' -- $token)
    for word in $argv
        echo $before$word
    end
end

complete -c compresso -f
${nodes.flatMap(linesOf).join("\n")}
`;
}

function linesOf({ path, verbs, options, argument }: VerbNode): string[] {
  const start = `complete -c compresso -n ${quoted(`test (__compresso_verb) = "${path.join(" ")}"`)}`;
  return [
    ...verbs.map((verb) => `${start} -a ${verb.path.at(-1)} -d ${quoted(verb.summary)}`),
    ...(argument ? [`${start}${valuesPart(argument, { isOption: false })}`] : []),
    ...options.flatMap((option) => optionLine(option, start)),
  ];
}

function optionLine({ flags, summary, values }: OptionNode, start: string): string[] {
  // "--help=all" is no name of an option here, but a word that begins with a dash.
  if (flags.some((flag) => flag.includes("="))) {
    return [
      `${start} -n ${quoted("string match -q -- '-*' (commandline -ct)")} -a ${flags.join(" ")} -d ${quoted(summary)}`,
    ];
  }
  const names = flags.map((flag) => flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`).join(" ");
  return [`${start} ${names}${values ? valuesPart(values, { isOption: true }) : ""} -d ${quoted(summary)}`];
}

function valuesPart({ words, isPath, isList }: Values, { isOption }: { readonly isOption: boolean }): string {
  const listed = words.join(" "), suggested = isList ? `(__compresso_list ${listed})` : listed;
  return [
    isOption ? ` -r${isPath ? " -F" : " -f"}` : isPath ? " -F" : "",
    words.length > 0 ? ` -a ${quoted(suggested)}` : "",
  ].join("");
}

function quoted(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
