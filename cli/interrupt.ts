// Ctrl-C and SIGTERM as an AbortSignal. Owns the two signals and the second Ctrl-C; refuses to know what is stopped.
//
// No Worker is needed for this: the library splits GPU work into submits of at most 50 ms and awaits each, so the event loop of the main
// thread sees a signal between two of them.
import { CompressoError } from "../lib/errors.ts";
import { note } from "./output.ts";

/** A signal that fires on the first Ctrl-C, with `CompressoError("aborted")` as its reason. Dispose it to stop listening. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/** Starts listening. The first signal aborts, the second ends the process at once. */
export function watchInterrupt(said = "stopping; once more ends at once"): Interrupt {
  const controller = new AbortController();
  const names: readonly Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  const listeners = names.map((name) => {
    const listener = (): void => {
      if (controller.signal.aborted) Deno.exit(130);
      // The terminal has echoed ^C behind the line of progress.
      if (Deno.stderr.isTerminal()) note("");
      note(`compresso: ${said}`);
      controller.abort(new CompressoError("aborted", { what: `stopped by ${name === "SIGINT" ? "Ctrl-C" : name}` }));
    };
    Deno.addSignalListener(name, listener);
    return { name, listener };
  });
  return {
    signal: controller.signal,
    [Symbol.dispose](): void {
      for (const { name, listener } of listeners) Deno.removeSignalListener(name, listener);
    },
  };
}
