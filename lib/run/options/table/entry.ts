// What a row of the table of options says.
import type { ValueRule } from "../../../core/value_rule.ts";
import { METHOD_NAMES, methodsThat } from "../../methods/all.ts";
import type { Method } from "../../methods/method.ts";

/** Type of a value. `accepts` checks most types; the last three are checked where they are used. */
export type OptionType = ValueRule["type"] | "prompt" | "alarms" | "calibration";

/** Value of an option in the table. */
export type TableValue = number | boolean | string | null | readonly string[];

/** Any value that is given, but for false. */
export const GIVEN = true;

/**
 * When an option has an effect: conditions on the method and on other options. Another option must have one of the
 * listed values (if it is a list, one of its members must), or just be {@link GIVEN}.
 */
export type When = Readonly<Record<string, Condition>>;

/** The condition on an option's value; for the method, a test of its record. */
export type Condition = typeof GIVEN | readonly TableValue[] | ((method: Method) => boolean);

/** Where an option exists besides `prune` and `pruneToFolder`: experiments, sweeps, memory plans, the verb `plan`. */
export type Scope = "experiment" | "sweep" | "memory" | "plan";

/** One option. */
export interface OptionEntry extends Omit<ValueRule, "type"> {
  /** What its value is. */
  readonly type: OptionType;
  /** Default: a value, or a function of the steps of the pruning stage. */
  readonly default?: TableValue | ((steps: number) => number);
  /** The default in words, where it follows from other options. */
  readonly defaultText?: string;
  /** The same for the command line, where it has another default. */
  readonly flagDefault?: string;
  /** Value of the preset `paper`. */
  readonly paper?: TableValue | ((steps: number) => number);
  /** When it has an effect. Default: always. */
  readonly when?: When;
  /** Options that exclude it. */
  readonly excludes?: readonly string[];
  /**
   * The work that it controls: choosing units, training, or training LoRA. A run that cuts the vocabulary alone has no
   * choosing, and without steps no training.
   */
  readonly work?: "choosing" | "training" | "lora";
  /** Default: experiments and sweeps for options of `prune`, sweeps for others. */
  readonly scope?: readonly Scope[];
  /** What experiments have in its place. */
  readonly elsewhere?: string;
  /** Whether the short help shows it. */
  readonly everyday?: true;
  /** One line of help. */
  readonly help: string;
  /** The same for the flag that turns a switch off, which is on by default. */
  readonly off?: string;
  /** Name in camel case on the command line and in experiments, where it is not the path. null: for programs only. */
  readonly name?: string | null;
  /** What stands for the value in help, such as "count". Default: by type. */
  readonly placeholder?: string;
  /** Who has it. Default: `prune`, `pruneToFolder`, the command line and experiments. */
  readonly of?: "pruneToFolder" | "readRows" | "loadModel" | "openDevice" | "command";
  /** Whether a resumed run may have another value. Default: false for options of `prune`. */
  readonly mayChange?: true;
}

/** Rows by path. */
export type OptionTable = Readonly<Record<string, OptionEntry>>;

/** Options of learned masks. */
export const LEARNED = { method: ({ kind }: Method) => kind === "learned" } satisfies When;
/** Options of methods that cut step by step. */
export const STEPWISE = { method: ({ kind }: Method) => kind !== "one-shot" } satisfies When;
/** Options of learned masks that start from saliency. */
export const FROM_SALIENCY = { ...LEARNED, start: ["saliency"] } as const;
/** Options that say how small the model becomes. */
export const TARGETS = ["sparsity", "size.parameters", "size.bytes"] as const;
/** Scope of options that memory depends on. */
export const IN_MEMORY = ["experiment", "sweep", "memory"] as const satisfies readonly Scope[];
/** The same, if the verb `plan` has them too. */
export const PLANNED = [...IN_MEMORY, "plan"] as const;

/** The methods that take an option. */
export function methodsOf({ when }: Pick<OptionEntry, "when">): readonly string[] {
  const takes = when?.["method"];
  return typeof takes === "function" ? methodsThat(takes) : METHOD_NAMES;
}
