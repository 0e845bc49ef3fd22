// What can be completed: verbs, options, and the words or files that follow them, read from the commands as they are declared.
import type { CommandUnknownOpts, Option } from "../../packages.ts";
import { SCHEDULE_NAMES } from "../../../lib/schedule/builtin.ts";
import { DEMO } from "../../../lib/local/open_model.ts";
import { HELP_ALL } from "../../terminal/help.ts";

/** What may stand in one place. */
export interface Values {
  readonly words: readonly string[];
  /** Whether paths are taken too. */
  readonly isPath: boolean;
  /** Whether it is a comma-separated list. */
  readonly isList: boolean;
}

/** An option of a verb. */
export interface OptionNode {
  /** Its flags with their dashes, the short one first. */
  readonly flags: readonly string[];
  /** The first clause of its description. */
  readonly summary: string;
  /** Its value; null for a switch. */
  readonly values: Values | null;
}

/** A verb, or the program itself. */
export interface VerbNode {
  /** Words that call it, without the program: empty for the program. */
  readonly path: readonly string[];
  readonly summary: string;
  readonly verbs: readonly VerbNode[];
  readonly options: readonly OptionNode[];
  /** What its arguments may be, the same for all; null for a verb without arguments. */
  readonly argument: Values | null;
}

/** Placeholders that stand for a path. */
const PATHS = /^(file|dir|folder|path|model|run|name\|file\|url|schedule)$/;

/** Reads a program and its verbs. */
export function treeOf(program: CommandUnknownOpts): VerbNode {
  const everywhere = program.options.filter(({ long }) => long !== "--version").map(optionNode);
  const help: OptionNode = { flags: ["-h", "--help"], summary: "show this help", values: null };
  const all: OptionNode = { flags: [HELP_ALL], summary: "show the help with all options", values: null };
  const node = (command: CommandUnknownOpts, path: readonly string[]): VerbNode => {
    const verbs = command.commands.map((one) => node(one, [...path, one.name()]));
    const own = command.options.map(optionNode), [argument] = command.registeredArguments;
    const more = path.length === 0 ? [help] : [...everywhere, help, ...(verbs.length === 0 ? [all] : [])];
    return {
      path,
      summary: firstClause(command.description()),
      verbs,
      options: [...own, ...more],
      argument: argument ? valuesOf(argument.name(), { words: argument.argChoices }) : null,
    };
  };
  const root = node(program, []), words = root.verbs.map(({ path }) => path.join(" "));
  const helpVerb: VerbNode = {
    path: ["help"],
    summary: "show the help of a verb",
    verbs: [],
    options: [],
    argument: { words, isPath: false, isList: false },
  };
  return { ...root, verbs: [...root.verbs, helpVerb] };
}

/** The verb and all below it. */
export function* nodesOf(node: VerbNode): Generator<VerbNode, void, undefined> {
  yield node;
  for (const verb of node.verbs) yield* nodesOf(verb);
}

function optionNode({ flags, short, long, description, required, optional, argChoices, parseArg }: Option): OptionNode {
  const [, placeholder = ""] = /[<[](.+?)(?:\.\.\.)?[>\]]$/.exec(flags) ?? [];
  return {
    flags: [short, long].filter((flag) => flag !== undefined),
    summary: firstClause(description),
    values: required || optional ? valuesOf(placeholder, { words: argChoices, parse: parseArg }) : null,
  };
}

function valuesOf(
  placeholder: string,
  { words, parse }: { readonly words?: readonly string[] | undefined; readonly parse?: unknown },
): Values {
  const known = isWordParser(parse) ? parse : null;
  const named = placeholder.startsWith("model")
    ? [DEMO]
    : /schedule|name\|file\|url/.test(placeholder)
    ? SCHEDULE_NAMES
    : [];
  return {
    words: words ?? known?.words ?? named,
    isPath: PATHS.test(placeholder.replace(/^models$/, "model")),
    isList: known?.isList ?? false,
  };
}

function isWordParser(parse: unknown): parse is { readonly words: readonly string[]; readonly isList: boolean } {
  return typeof parse === "function" && "words" in parse && "isList" in parse;
}

function firstClause(description: string): string {
  const [clause = ""] = description.split(/[:;(]|\. |, (?=such|which|as )/);
  return clause.trim().replace(/\.$/, "");
}
