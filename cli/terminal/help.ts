// Help of the verbs: options in groups, a short view of the everyday ones, and text that fits the terminal.
import { type Argument, type Command, type CommandUnknownOpts, Help, type Option } from "../packages.ts";
import { styleOf, textColumns } from "./style.ts";
import { wrapText } from "./wrap.ts";

/** Where an option is listed in the help of its verb. */
export interface HelpPlace {
  /** Heading of its group, such as "Target". Default: "Options". */
  readonly group?: string | undefined;
  /** Whether the short help shows it. A verb without everyday options has one help, with all of them. Default false. */
  readonly isEveryday?: boolean | undefined;
}

/** Shows all options of a verb. */
export const HELP_ALL = "--help=all";

/** Indent of a description that is printed below its term. */
const BELOW_INDENT = 6;
/** Minimum width of a description on the line of its term; a narrower one is printed below. */
const LEAST_ROOM = 40;
/** Longer terms get a separate line. */
const MOST_TERM = 28;

const everyday = new WeakSet<object>();
const shownWhole = new WeakSet<CommandUnknownOpts>();

/** Says where the help lists an option. Returns the option. */
export function placeOption<T extends Pick<Option, "helpGroup">>(option: T, { group, isEveryday }: HelpPlace): T {
  if (group !== undefined) option.helpGroup(`${group}:`);
  if (isEveryday) everyday.add(option);
  return option;
}

/** Makes the help of all verbs of a program show all options. */
export function showAllOptions(program: CommandUnknownOpts): void {
  shownWhole.add(program);
}

/** The words that call a command, without the program: "data inspect". */
function verbPath(command: CommandUnknownOpts): string {
  return command.parent ? `${verbPath(command.parent)} ${command.name()}`.trimStart() : "";
}

/** The command that shows the help of a command. */
export function helpCommand(command: CommandUnknownOpts, flag = "--help"): string {
  return ["compresso", verbPath(command), flag].filter((word) => word !== "").join(" ");
}

/** The help of one command. */
export class VerbHelp extends Help {
  override minWidthToWrap = 1;
  override showGlobalOptions = true;
  #isFormatting = false;

  /** The options that the help shows; outside of it all, from which commander says what a misspelt one was meant to be. */
  override visibleOptions(command: CommandUnknownOpts): Option[] {
    const options = super.visibleOptions(command);
    return this.#isFormatting && isShort(command)
      ? options.filter((option) => everyday.has(option) || option.long === "--help")
      : options;
  }

  override visibleGlobalOptions(command: CommandUnknownOpts): Option[] {
    return super.visibleGlobalOptions(command).filter(({ long }) => long !== "--version");
  }

  /** Everyday options stand first in their group. */
  override groupItems<T extends Command | Option>(
    unsorted: T[],
    visible: T[],
    getGroup: (item: T) => string,
  ): Map<string, T[]> {
    const groups = super.groupItems(unsorted, visible, getGroup);
    for (const [group, items] of groups) {
      groups.set(group, items.toSorted((a, b) => Number(everyday.has(b)) - Number(everyday.has(a))));
    }
    return groups;
  }

  override commandUsage(command: CommandUnknownOpts): string {
    const before = "Usage: ".length;
    return wrapText(super.commandUsage(command), (this.helpWidth ?? 80) - before).join(`\n${" ".repeat(before)}`);
  }

  override subcommandTerm(command: CommandUnknownOpts): string {
    return super.subcommandTerm(command).replace(" [options]", "");
  }

  override optionDescription({ description, defaultValue, argChoices, required, optional }: Option): string {
    const extra = [
      // As in the help of `prune`: not where the description has them all.
      ...(argChoices && !argChoices.every((word) => description.includes(word))
        ? [`one of ${argChoices.join(", ")}`]
        : []),
      ...(required || optional ? defaultText(defaultValue) : []),
    ];
    return extra.length === 0 ? description : `${description} (${extra.join("; ")})`;
  }

  override argumentDescription({ description }: Argument): string {
    return description;
  }

  override padWidth(command: CommandUnknownOpts, helper: Help): number {
    return Math.min(MOST_TERM, super.padWidth(command, helper));
  }

  override formatItem(term: string, termWidth: number, description: string): string {
    const width = this.helpWidth ?? 80, room = width - termWidth - 4;
    if (description === "") return `  ${term}`;
    if (room < LEAST_ROOM) {
      return [`  ${term}`, ...wrapText(description, width - BELOW_INDENT).map(indented(BELOW_INDENT))].join("\n");
    }
    const lines = wrapText(description, room).map(indented(termWidth + 4));
    const isLong = this.displayWidth(term) > termWidth, [first = "", ...others] = lines;
    const head = `  ${term}`;
    return (isLong ? [head, ...lines] : [head + first.slice(this.displayWidth(head)), ...others]).join("\n");
  }

  override styleTitle(title: string): string {
    return styleOf(Deno.stdout).bold(title);
  }

  override formatHelp(command: CommandUnknownOpts, helper: Help): string {
    this.#isFormatting = true;
    const text = super.formatHelp(command, helper);
    this.#isFormatting = false;
    if (!isShort(command)) return text;
    return `${text}\nAll ${command.options.length} options: ${helpCommand(command, HELP_ALL)}\n`;
  }
}

/** Text below the options: commands to copy, then paragraphs. */
export function textBelow({ program, examples, notes = "" }: {
  readonly program: string;
  readonly examples: readonly string[];
  readonly notes?: string | undefined;
}): string {
  const width = textColumns(), heading = styleOf(Deno.stdout).bold(examples.length === 1 ? "Example:" : "Examples:");
  const commands = examples.flatMap((example) => wrapCommand(`${program} ${example}`, width - 2)).map(indented(2));
  return ["", heading, ...commands, ...(notes === "" ? [] : ["", ...wrapNotes(notes, width)])].join("\n");
}

/** A command in lines that a shell takes as one; an option and its value stay together. */
function wrapCommand(command: string, width: number): string[] {
  const parts = command.match(/--\S+(?: (?!--)(?:"[^"]*"|\S+))?|"[^"]*"|\S+/g) ?? [];
  const lines: string[] = [];
  for (const part of parts) {
    const last = lines.at(-1);
    if (last === undefined) lines.push(part);
    else if (last.length + 1 + part.length + 2 <= width) lines[lines.length - 1] = `${last} ${part}`;
    else lines.push(`    ${part}`);
  }
  return lines.map((line, index) => index === lines.length - 1 ? line : `${line} \\`);
}

/** Paragraphs, wrapped. Lines that are indented by four or more are code and stay as they are; an indentation of two is kept. */
function wrapNotes(notes: string, width: number): string[] {
  return notes.split("\n\n").flatMap((paragraph, index) => {
    const lines: string[] = [];
    let open: { readonly indent: number; readonly words: string[] } | null = null;
    const close = (): void => {
      if (open) lines.push(...wrapText(open.words.join(" "), width - open.indent).map(indented(open.indent)));
      open = null;
    };
    for (const line of paragraph.split("\n")) {
      const indent = line.length - line.trimStart().length;
      if (indent >= 4) {
        close();
        lines.push(line);
      } else {
        if (open && open.indent !== indent) close();
        open ??= { indent, words: [] };
        open.words.push(line.trim());
      }
    }
    close();
    return index === 0 ? lines : ["", ...lines];
  });
}

function isShort(command: CommandUnknownOpts): boolean {
  let root = command;
  while (root.parent) root = root.parent;
  return !shownWhole.has(root) && command.options.some((option) => everyday.has(option));
}

/** The default as a user would type it; nothing for an empty list. */
function defaultText(value: unknown): string[] {
  if (value === undefined || value === null || value === false) return [];
  const text = Array.isArray(value) ? value.join(",") : String(value);
  return text === "" ? [] : [`default: ${text}`];
}

function indented(columns: number): (line: string) => string {
  return (line) => " ".repeat(columns) + line;
}
