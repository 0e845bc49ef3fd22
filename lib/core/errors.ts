// The error type of the toolkit: what failed, the rule, the value, the fix, a code and an exit status.

/** Machine-readable reason of a {@link CompressoError}; each maps to one exit status of the command line. */
export type ErrorCode =
  | "usage" // an option or argument is wrong
  | "input" // a file is missing, truncated, mislabelled, unsupported, or its data are broken
  | "gpu" // no adapter, a limit, a lost device, out of memory budget
  | "numeric" // NaN or infinity where a number must be
  | "mismatch" // two things that must agree do not: checkpoint and options, masked and sliced model
  | "aborted"; // the user stopped the run

/** Exit status of the process for each {@link ErrorCode}. */
export const EXIT_STATUS: Readonly<Record<ErrorCode, number>> = {
  usage: 2,
  input: 3,
  gpu: 4,
  numeric: 5,
  mismatch: 6,
  aborted: 130,
};

/** The parts of an error message, in the order in which they are shown. */
export interface ErrorParts {
  /** What cannot be done, as a sentence without its full stop. */
  readonly what: string;
  /** The rule that was broken. */
  readonly rule?: string | undefined;
  /** The value that breaks the rule. */
  readonly value?: string | undefined;
  /** What the user can do. */
  readonly fix?: string | undefined;
  /** Path of the wrong option in the options object, such as "rates.lora". Default: the first option in `what`. */
  readonly option?: string | undefined;
}

/**
 * How an interface spells an option, with its value if one is given: `rates.lora` in programs, `--lora-rate` on the
 * command line.
 */
export type SpellOption = (path: string, value?: string) => string;

/** An option in a text inside the library. */
const MARK = /\u27e8([\w.]+)(?:=([^\u27e9]*))?\u27e9/g;

/**
 * Names an option in the text of an error, by its path in the options object. Each front spells it: `rates.lora` in programs, `--lora-rate` on
 * the command line, `loraRate` in an experiment.
 */
export function option(path: string, value?: string | number | boolean): string {
  return `\u27e8${path}${value === undefined ? "" : `=${value}`}\u27e9`;
}

/** The text of an error with its options spelled. Texts hold marks of {@link option} inside the library only. */
export function spelled(text: string, spell: SpellOption): string {
  return text.replaceAll(MARK, (_, path: string, value?: string) => spell(path, value));
}

/** An option that a text names. */
export interface NamedOption {
  /** Path of the option in the options object, such as "rates.mask". */
  readonly option: string;
  /** The value that is advised, where there is one. */
  readonly value?: string | undefined;
  /** Character of the text at which it stands, as programs write it: `rates.mask`, `rates.tracking: 1`. */
  readonly at: number;
}

/** A text with its options as programs write them, and where they stand in it. */
export function plainText(text: string): { readonly text: string; readonly options: readonly NamedOption[] } {
  const options: NamedOption[] = [];
  let plain = "";
  for (const [index, part] of text.split(MARK).entries()) {
    if (index % 3 === 0) plain += part ?? "";
    if (index % 3 === 1) options.push({ option: part ?? "", at: plain.length });
    if (index % 3 !== 2) continue;
    const { option = "", at = 0 } = options.pop() ?? {};
    options.push(part === undefined ? { option, at } : { option, value: part, at });
    plain += spellPath(option, part);
  }
  return { text: plain, options };
}

/** A plain text with its options spelled as a front does. */
export function respelled(text: string, options: readonly NamedOption[], spell: SpellOption): string {
  let result = "", from = 0;
  for (const { option, value, at } of options) {
    result += text.slice(from, at) + spell(option, value);
    from = at + spellPath(option, value).length;
  }
  return result + text.slice(from);
}

/** Options as programs write them: `rates.lora: 0.001`. */
export function spellPath(path: string, value?: string): string {
  if (value === undefined) return path;
  return `${path}: ${/^(-?\d[\d.e+-]*|true|false|null)$/.test(value) ? value : JSON.stringify(value)}`;
}

/** The parts of an error with their options spelled. */
function spelledParts({ option, ...texts }: ErrorParts, spell: SpellOption): ErrorParts {
  return { ...eachText(texts, (text) => spelled(text, spell)), option };
}

/**
 * An error that says what cannot be done, the rule, the value that breaks it and, where it is not obvious, the fix.
 *
 * @example
 * ```ts
 * import { CompressoError } from "compresso";
 * const error = new CompressoError("usage", { what: "cannot prune to 120 %", rule: "sparsity lies in (0, 1)", fix: "try 0.2" });
 * if (error.exitStatus !== 2) throw error;
 * ```
 */
export class CompressoError extends Error {
  /** Always "CompressoError". */
  override readonly name = "CompressoError";
  /** Reason, for programs. */
  readonly code: ErrorCode;
  /** The parts of the message, with options as programs write them: `rates.lora`. */
  readonly parts: ErrorParts;
  readonly #marked: ErrorParts;

  /**
   * Makes the message from its parts; an undefined part counts as absent. If the message has more than 2,048
   * characters, its long parts are cut in their middle.
   */
  constructor(code: ErrorCode, given: ErrorParts, options?: ErrorOptions) {
    const marked = present(bounded(given));
    super(spelled(sentence(marked), spellPath), options);
    this.code = code;
    this.#marked = marked;
    this.parts = this.partsAs(spellPath);
  }

  /** The parts with options as a front writes them, such as `--lora-rate` on the command line. */
  partsAs(spell: SpellOption): ErrorParts {
    return present(spelledParts(this.#marked, spell));
  }

  /**
   * A copy of this error with another code, `what` or `fix`, with the place `at` appended to `what`, or with its options
   * spelled by `spell`. This error is its cause.
   */
  with(
    { at, code = this.code, spell, ...parts }: Pick<Partial<ErrorParts>, "what" | "fix"> & {
      readonly at?: string | undefined;
      readonly code?: ErrorCode | undefined;
      readonly spell?: SpellOption | undefined;
    },
  ): CompressoError {
    const all = { ...spell ? this.partsAs(spell) : this.#marked, ...parts };
    const what = at === undefined ? all.what : `${all.what}, ${at}`;
    return new CompressoError(code, { ...all, what }, { cause: this });
  }

  /** Exit status that the command line ends with. */
  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

/** Why something is refused. */
export interface Reasons {
  /** The rule that was broken. */
  readonly rule: string;
  /** The value that breaks the rule. */
  readonly value: string | number | bigint | boolean | null | undefined;
  /** What the user can do, where rule and value do not make it obvious. */
  readonly fix?: string | undefined;
  /** Path of the option at fault, see {@link ErrorParts}. */
  readonly option?: string | undefined;
  /** The error that led to this one. */
  readonly cause?: unknown;
}

/** The error of a refusal, to throw or to return: `refusal("input", "cannot read the header", { rule: "it is JSON", value: path, cause: error })`. */
export function refusal(code: ErrorCode, what: string, { value, cause, ...reasons }: Reasons): CompressoError {
  const parts = { what, ...reasons, value: value === undefined ? undefined : String(value) };
  return new CompressoError(code, parts, cause === undefined ? undefined : { cause });
}

/**
 * Refuses what cannot be done, by throwing a {@link refusal}.
 *
 * @throws CompressoError always: `refuse("usage", "cannot serve the model", { rule: "a port is at most 65535", value: port, option: "port" })`
 */
export function refuse(code: ErrorCode, what: string, reasons: Reasons): never {
  throw refusal(code, what, reasons);
}

/** The reason of a signal that stops work on purpose: `stopped("stopped by Ctrl-C")`. */
export function stopped(what: string): CompressoError {
  return new CompressoError("aborted", { what });
}

/** Characters of a message. */
const MOST = 2048;
/** Characters of a part of a longer one: four parts and the words between them take no more than {@link MOST}. */
const MOST_OF_PART = 500;

/** What a file holds may be long, and stands in errors. */
function bounded({ option, ...texts }: ErrorParts): ErrorParts {
  if (sentence(texts).length <= MOST) return { ...texts, option };
  const cut = (text: string): string => {
    if (text.length <= MOST_OF_PART) return text;
    return `${text.slice(0, MOST_OF_PART - 101)} … ${text.slice(-98)}`;
  };
  return { ...eachText(texts, cut), option };
}

type Texts = Omit<ErrorParts, "option">;

function eachText({ what, rule, value, fix }: Texts, change: (text: string) => string): Texts {
  const changed = (text?: string): string | undefined => text === undefined ? undefined : change(text);
  return { what: change(what), rule: changed(rule), value: changed(value), fix: changed(fix) };
}

/** The parts that there are, with the option that `what` names first where none is given. */
function present({ what, option = /\u27e8([\w.]+)/.exec(what)?.[1], ...others }: ErrorParts): ErrorParts {
  const known = Object.entries({ ...others, option }).filter(([, part]) => part !== undefined);
  return { what, ...Object.fromEntries(known) };
}

function sentence({ what, rule, value, fix }: ErrorParts): string {
  return [what, rule && `expected: ${rule}`, value && `got: ${value}`, fix && `fix: ${fix}`].filter(Boolean).join("; ");
}
