// Types that the parts of `compresso eval` share.
import type { EvaluateResult } from "../../../lib/eval/evaluate.ts";
import type { FidelityResult } from "../../../lib/eval/fidelity.ts";
import type { PerplexityResult } from "../../../lib/eval/perplexity.ts";
import type { PromptSetting } from "../../options/prompt.ts";
import type { Loaded, ModelSettings } from "../../with_model.ts";

/** Options that choose and shape the work. */
export interface EvalSettings {
  readonly text?: string | undefined;
  readonly against?: string | undefined;
  readonly window?: readonly number[] | undefined;
  readonly stride?: number | undefined;
  readonly limitChars?: number | undefined;
  readonly maxWindows?: number | undefined;
  readonly data?: string | undefined;
  readonly limitRows?: number | undefined;
  readonly exactMatch?: true | undefined;
  readonly withPrompt?: true | undefined;
  readonly prompt?: PromptSetting | undefined;
  readonly tasks?: readonly string[] | undefined;
  readonly taskData?: string | undefined;
  readonly limit?: number | undefined;
  readonly maxTokens?: number | undefined;
  readonly plain?: true | undefined;
  readonly runCode?: true | undefined;
  readonly refuseLong?: boolean | undefined;
  readonly out?: string | undefined;
  readonly baseDtype?: ModelSettings["baseDtype"];
  readonly adapter?: string | undefined;
}

/** Perplexity at one size of windows. */
export interface WindowMeasurement extends PerplexityResult {
  readonly window: number;
  readonly stride: number | null;
}

/** Results of a model. */
export type Measurement =
  | { readonly kind: "text"; readonly windows: readonly WindowMeasurement[] }
  | {
    readonly kind: "rows";
    readonly n: number;
    /** Null for rows without choices. */
    readonly choices:
      | { readonly accuracy: number; readonly correct: number; readonly right: readonly boolean[] }
      | null;
    /** Null if no answers are generated. */
    readonly answers: { readonly exactMatch: number; readonly exact: readonly boolean[] } | null;
  }
  | { readonly kind: "tasks"; readonly result: EvaluateResult }
  | {
    readonly kind: "fidelity";
    /** The dense model. */
    readonly against: string;
    /** One for each size of windows. */
    readonly windows: readonly FidelityResult[];
  };

/** Work that is ready for its models. Dispose it to close what it keeps open. */
export interface EvalWork extends Disposable {
  /** What is said at Ctrl-C. */
  readonly interrupt: Pick<ModelSettings, "onInterrupt">;
  /** Reads the dense model, before the first measure. */
  readonly readDense?: (loaded: Loaded) => Promise<void>;
  measure(path: string, loaded: Loaded): Promise<Measurement>;
}

/** Tokens of a pass: perplexity and scoring fill their batches up to about so many. */
export const BATCH_TOKENS = 2048;

/** Work that keeps nothing open. */
export function plainWork(measure: EvalWork["measure"]): EvalWork {
  return { interrupt: {}, measure, [Symbol.dispose]: () => {} };
}
