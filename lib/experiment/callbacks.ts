// Guards the functions by which a program follows an experiment: an error of theirs stops the work and is thrown
// unchanged.
import { CompressoError } from "../core/errors.ts";
import type { RunExperimentOptions } from "./types.ts";

/** Options whose functions stop the work instead of throwing. */
export interface Guarded {
  /** The options. Their signal also fires once a function has thrown; from then on none is called. */
  readonly options: RunExperimentOptions & { readonly signal: AbortSignal };
  /** Throws what the first one has thrown, if any has. */
  readonly rethrow: () => void;
}

/** Guards the functions of a program: an error of theirs is no failure of a cell. */
export function guardCallbacks(options: RunExperimentOptions): Guarded {
  const stop = new AbortController(), thrown: { readonly error: unknown }[] = [];
  const end = (error: unknown): void => {
    thrown.push({ error });
    stop.abort(error);
  };
  const guard = <Given extends readonly unknown[]>(
    call: ((...given: Given) => void | Promise<void>) | undefined,
  ): ((...given: Given) => Promise<void>) | undefined =>
    call && (async (...given) => {
      if (thrown.length > 0) return;
      try {
        await call(...given);
      } catch (error) {
        end(error);
      }
    });
  const { signal, onCell, onFailure, onNote, onRecord, onAlarm, onPhase, onModel } = options;
  return {
    options: {
      ...options,
      signal: signal ? AbortSignal.any([signal, stop.signal]) : stop.signal,
      onCell: guard(onCell),
      onFailure: guard(onFailure),
      onNote: guard(onNote),
      onRecord: guard(onRecord),
      onAlarm: guard(onAlarm),
      onPhase: guard(onPhase),
      onModel: onModel && (async (model, cell) => {
        if (thrown.length > 0) return;
        try {
          await onModel(model, cell);
        } catch (error) {
          // Errors of this toolkit, such as of a model that does not fit while kernels are tuned, are failures of that cell.
          if (!(error instanceof CompressoError)) end(error);
          // No work on the model is to begin.
          throw error;
        }
      }),
    },
    rethrow(): void {
      const [first] = thrown;
      if (first) throw first.error;
    },
  };
}
