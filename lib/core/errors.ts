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
  /** The rule that is broken. */
  readonly rule?: string;
  /** The present value. */
  readonly value?: string;
  /** What the user can do. */
  readonly fix?: string;
  /** Path of the option at fault in the options object, such as "rates.lora". */
  readonly option?: string;
}

/** How a front writes an option, with its value where one is named: `rates.lora` in programs, `--lora-rate` on the command line. */
export type SpellOption = (path: string, value?: string) => string;

/**
 * Names an option in the text of an error, by its path in the options object. Each front spells it: `rates.lora` in programs, `--lora-rate` on
 * the command line, `loraRate` in an experiment.
 */
export function option(path: string, value?: string | number | boolean): string {
  return `\u27e8${path}${value === undefined ? "" : `=${value}`}\u27e9`;
}

/** The text of an error with its options spelled. */
export function spelled(text: string, spell: SpellOption): string {
  return text.replaceAll(
    /\u27e8([\w.]+)(?:=([^\u27e9]*))?\u27e9/g,
    (_, path: string, value?: string) => spell(path, value),
  );
}

/** Options as programs write them: `rates.lora: 0.001`. */
export function spellPath(path: string, value?: string): string {
  if (value === undefined) return path;
  return `${path}: ${/^(-?\d[\d.e+-]*|true|false)$/.test(value) ? value : JSON.stringify(value)}`;
}

/** The parts of an error with their options spelled. */
export function spelledParts({ what, rule, value, fix, option }: ErrorParts, spell: SpellOption): ErrorParts {
  return {
    what: spelled(what, spell),
    ...(rule === undefined ? {} : { rule: spelled(rule, spell) }),
    ...(value === undefined ? {} : { value: spelled(value, spell) }),
    ...(fix === undefined ? {} : { fix: spelled(fix, spell) }),
    ...(option === undefined ? {} : { option }),
  };
}

/**
 * An error that says what cannot be done, the rule, the present value and the fix.
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
  /** What the message is made of. */
  readonly parts: ErrorParts;

  /** Makes the message from its parts. Those of a longer message than 2,048 characters are cut in their middle. */
  constructor(code: ErrorCode, given: ErrorParts, options?: ErrorOptions) {
    const parts = bounded(given);
    super(spelled(sentence(parts), spellPath), options);
    this.code = code;
    this.parts = parts;
  }

  /** Exit status that the command line ends with. */
  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

/** Characters of a message. */
const MOST = 2048;
/** Characters of a part of a longer one: four parts and the words between them take no more than {@link MOST}. */
const MOST_OF_PART = 500;

/** What a file holds may be long, and stands in errors. */
function bounded(parts: ErrorParts): ErrorParts {
  if (sentence(parts).length <= MOST) return parts;
  const cut = (text: string): string => {
    if (text.length <= MOST_OF_PART) return text;
    return `${text.slice(0, MOST_OF_PART - 101)} … ${text.slice(-98)}`;
  };
  const { what, rule, value, fix, option } = parts;
  return {
    what: cut(what),
    ...(rule === undefined ? {} : { rule: cut(rule) }),
    ...(value === undefined ? {} : { value: cut(value) }),
    ...(fix === undefined ? {} : { fix: cut(fix) }),
    ...(option === undefined ? {} : { option }),
  };
}

function sentence({ what, rule, value, fix }: ErrorParts): string {
  return [what, rule && `expected: ${rule}`, value && `got: ${value}`, fix && `fix: ${fix}`].filter(Boolean).join("; ");
}
