// The one error type of the toolkit. Owns the wording rule (what, rule, value, fix), the code and the exit status; refuses to print.

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
}

/**
 * An error that says what cannot be done, the rule, the present value and the fix.
 *
 * @example
 * ```ts
 * import { CompressoError } from "../../mod.ts";
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

  /** Makes the message from its parts. */
  constructor(code: ErrorCode, parts: ErrorParts, options?: ErrorOptions) {
    super(sentence(parts), options);
    this.code = code;
    this.parts = parts;
  }

  /** Exit status that the command line ends with. */
  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

function sentence({ what, rule, value, fix }: ErrorParts): string {
  return [what, rule && `expected: ${rule}`, value && `got: ${value}`, fix && `fix: ${fix}`].filter(Boolean).join("; ");
}
