// Jinja templates of strangers within a budget: time, lengths of lists and texts, and ranges as transformers bounds them.
import { Environment, Interpreter, Template } from "../core/packages.ts";

/** A template's program. */
export type ParsedTemplate = Template["parsed"];

/** Items of a `range`, as in transformers' sandbox. */
const MOST_RANGE = 100_000;
/** Items of a list. */
const MOST_ITEMS = 2 ** 20;
/** Characters of a text. */
const MOST_CHARS = 2 ** 26;
/** Milliseconds of one text. That of a long conversation takes some ten. */
const MOST_TIME = 10_000;

/** Parses a template. Throws an `Error` for a malformed one. */
export function parseTemplate(source: string): ParsedTemplate {
  return new Template(source).parsed;
}

/** Renders a template. Throws an `Error` if it throws, or takes more than its budget. */
export function render(template: ParsedTemplate, variables: Readonly<Record<string, unknown>>): string {
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
  const { value } = new BudgetedInterpreter(environment).run(template);
  return String(value);
}

/** What the library defines, but for `strftime_now`, which it knows with few letters. */
const GLOBALS = {
  ...{ true: true, false: false, none: null, True: true, False: false, None: null },
  range,
  raise_exception(message: string): never {
    throw new Error(message);
  },
};

/** Python's `range`. */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (step === 0) throw new Error("range() step must not be zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (!(count <= MOST_RANGE)) throw new Error(`a range has at most ${MOST_RANGE} items, not ${count}`);
  return Array.from({ length: count }, (_, index) => start + index * step);
}

class BudgetedInterpreter extends Interpreter {
  readonly #start = performance.now();

  override evaluate(...given: Parameters<Interpreter["evaluate"]>): ReturnType<Interpreter["evaluate"]> {
    if (performance.now() - this.#start > MOST_TIME) throw new Error(`it takes longer than ${MOST_TIME / 1000} s`);
    const result = super.evaluate(...given), { value } = result;
    if (typeof value === "string" && value.length > MOST_CHARS) {
      throw new Error(`a text has at most ${MOST_CHARS} characters, not ${value.length}`);
    }
    if (Array.isArray(value) && value.length > MOST_ITEMS) {
      throw new Error(`a list has at most ${MOST_ITEMS} items, not ${value.length}`);
    }
    return result;
  }
}
