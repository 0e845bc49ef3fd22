// Ctrl-C, SIGTERM, SIGHUP (a terminal that is closed) and SIGQUIT as an AbortSignal.
//
// This needs no Worker: the library splits GPU work into submits of about 40 ms and awaits each, so the event loop of
// the main thread sees a signal between two submits. Work that blocks the loop for long, such as encoding a large data
// set, comes before anything is written: until `start` a signal ends the process at once.
import { stopped } from "../../lib/core/errors.ts";
import { isSilenced, writeError } from "./output.ts";

/** A signal that fires on the first Ctrl-C, with `CompressoError("aborted")` as its reason. Dispose it to stop listening. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
  /** Begins to listen; before, Ctrl-C ends the process at once. */
  start(): void;
}

/** Whether nohup started this process; null if that cannot be known. */
function isHangupIgnored(): boolean | null {
  try {
    const [, mask] = /^SigIgn:\s*([0-9a-f]+)$/m.exec(Deno.readTextFileSync("/proc/self/status")) ?? [];
    if (mask !== undefined) return (parseInt(mask.slice(-1), 16) & 1) === 1;
  } catch { /* another system, or no right to read it */ }
  return Deno.stderr.isTerminal() ? false : null;
}

/**
 * Prepares to listen. The first signal aborts, the second ends the process at once. With `ctrlCOnly` the others keep the system's own way, for
 * work that is one of several.
 */
export function watchInterrupt(
  said = "stopping; press Ctrl-C again to end at once",
  { ctrlCOnly = false }: { readonly ctrlCOnly?: boolean } = {},
): Interrupt {
  const controller = new AbortController();
  const isNohup = isHangupIgnored();
  const others: readonly Deno.Signal[] = ["SIGTERM", "SIGQUIT", ...isNohup === null ? [] : ["SIGHUP"] as const];
  const names: readonly Deno.Signal[] = ["SIGINT", ...ctrlCOnly || Deno.build.os === "windows" ? [] : others];
  const listeners: { readonly name: Deno.Signal; readonly listener: () => void }[] = [];
  const start = (): void => {
    if (listeners.length > 0) return;
    for (const name of names) {
      const listener = (): void => {
        // Under nohup a SIGHUP ends Deno all the same, unless it listens.
        if (isNohup && name === "SIGHUP") return;
        // A terminal that is closed may say so twice, by itself and by its shell.
        if (controller.signal.aborted && name === "SIGHUP") return;
        if (controller.signal.aborted) Deno.exit(130);
        // First, as what listens may write over the ^C that the terminal has echoed.
        controller.abort(stopped(`stopped by ${name === "SIGINT" ? "Ctrl-C" : name}`));
        // The echo is after the line of progress.
        if (!isSilenced()) writeError(`${Deno.stderr.isTerminal() ? "\n" : ""}compresso: ${said}\n`);
      };
      Deno.addSignalListener(name, listener);
      listeners.push({ name, listener });
    }
  };
  return {
    signal: controller.signal,
    start,
    [Symbol.dispose](): void {
      for (const { name, listener } of listeners.splice(0)) Deno.removeSignalListener(name, listener);
    },
  };
}
