// Runs programs in Python that a model wrote, each in a process of its own without rights.
//
// The process gives up its rights by itself before the program is read, see guard.py. It starts twice, so that the program's process has no
// variable of this one: a launcher of Python, such as pyenv's, needs some of them.
import { type CompressoError, option, refusal, refuse } from "../../core/errors.ts";
import { checkNames, count, type NamesOf } from "../../core/check_options.ts";
import type { CodeRunner, CodeVerdict } from "./runner.ts";
import guard from "./guard.py" with { type: "text" };

/** Limits of a program. */
export interface CodeLimits {
  /** Seconds of processor time, whole. Default 3. */
  readonly processorSeconds?: number | undefined;
  /** Seconds in all, sleep included, whole. Default 10. */
  readonly seconds?: number | undefined;
  /** Memory in MiB, Python included. Default 512. */
  readonly memoryMiB?: number | undefined;
  /** Programs that run at once. Default: the processors of this machine, at most 4. */
  readonly atOnce?: number | undefined;
}

const NAMES: NamesOf<CodeLimits> = {
  processorSeconds: count(1, 3600),
  seconds: count(1, 3600),
  memoryMiB: count(64, 1 << 20),
  atOnce: count(1, 64),
};

/** Starts Python once more, without any variable. */
const LAUNCH = "import os,sys;a=sys.executable;os.execve(a,[a,*sys.argv[2:],sys.argv[1]],{})";
const FLAGS = ["-I", "-S", "-B", "-c"];
/** Time for Python to start, on a machine at work. */
const START_MS = 60_000;
/** Bytes of a reply at most. */
const MOST_REPLY = 1 << 16;

/**
 * Prepares to run programs in Python on this machine. A program has no network, no files but Python's own library, no
 * other processes and no environment, and its time and memory are limited. This needs Linux on x86_64 or aarch64 with
 * seccomp, `python3` (3.8 or later), and the permission to start it. Network namespaces and Landlock are used where the
 * system has them.
 *
 * The tests of an answer run in one process with it, so the verdict holds for models, not for somebody who writes a
 * program against this check.
 *
 * @throws CompressoError("usage") for limits out of range, another system, and a missing permission.
 * @throws CompressoError("input") if there is no Python, or it cannot be isolated.
 * @example
 * ```ts
 * import { openPython } from "compresso/evaluate";
 * if (Deno.build.os === "linux") {
 *   const python = await openPython();
 *   const { isPassed, reason } = await python.run("assert 1 + 1 == 3");
 *   if (isPassed || !reason.startsWith("failed: AssertionError")) throw new Error(reason);
 * }
 * ```
 */
export async function openPython(limits: CodeLimits = {}): Promise<CodeRunner> {
  checkNames(limits, NAMES, { whose: "openPython" });
  if (Deno.build.os !== "linux") {
    throw noIsolation({
      rule: "a program is isolated by Linux's seccomp",
      value: Deno.build.os,
      fix: "evaluate on Linux, or leave the task out",
    });
  }
  const { processorSeconds = 3, seconds = 10, memoryMiB = 512 } = limits;
  const { atOnce = Math.max(1, Math.min(4, navigator.hardwareConcurrency)) } = limits;
  const asked = { seconds: processorSeconds, memory: memoryMiB * 2 ** 20 };
  const [, first = ""] = await start("pass", { ...asked, milliseconds: 1000 * seconds });
  const layers = layersOf(first);
  if (!layers) {
    throw noIsolation({
      rule:
        "python3 gives up all rights before it runs a program: Linux on x86_64 or aarch64 with seccomp, Python 3.8 or later",
      value: first.trim().slice(0, 300) || "it did not start",
      fix: "evaluate on another machine, or leave the task out",
    });
  }
  let free = atOnce;
  const waiting: (() => void)[] = [];
  return {
    isolation: layers,
    async run(program, { signal } = {}): Promise<CodeVerdict> {
      if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve));
      else free--;
      try {
        signal?.throwIfAborted();
        return verdictOf(await start(program, { ...asked, milliseconds: 1000 * seconds, signal }));
      } finally {
        const next = waiting.shift();
        if (next) next();
        else free++;
      }
    },
  };
}

/** How a process is started. */
interface Started {
  /** Seconds of processor time. */
  readonly seconds: number;
  /** Bytes. */
  readonly memory: number;
  readonly milliseconds: number;
  readonly signal?: AbortSignal | undefined;
}

/** What a process wrote, the word that a passed program writes, and why it ended. */
type Ended = readonly [end: "over" | "limit" | "signal", text: string, word: string];

async function start(program: string, { seconds, memory, milliseconds, signal }: Started): Promise<Ended> {
  const word = crypto.randomUUID(), child = spawn();
  let isLate = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const kill = (): void => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  const endIn = (time: number): void => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      isLate = true;
      kill();
    }, time);
  };
  endIn(START_MS);
  signal?.addEventListener("abort", kill);
  try {
    const writer = child.stdin.getWriter(), text = JSON.stringify({ word, program, seconds, memory });
    const written = writer.write(new TextEncoder().encode(text)).then(() => writer.close()).catch(() => {});
    // The program's own time begins when its process has given up its rights.
    const reply = await startOf(child.stdout, { kill, onLine: () => endIn(milliseconds) });
    await written;
    const { signal: killedBy } = await child.status;
    signal?.throwIfAborted();
    return [isLate || killedBy === "SIGXCPU" ? "limit" : killedBy === null ? "over" : "signal", reply, word];
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", kill);
    kill();
  }
}

function spawn(): Deno.ChildProcess {
  try {
    return new Deno.Command("python3", {
      args: [...FLAGS, LAUNCH, guard, ...FLAGS],
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      refuse("input", WHAT, { rule: "there is a python3", value: "none in PATH", cause: error });
    }
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    refuse("usage", WHAT, {
      rule: "programs run in a process of their own, which needs permission to start Python",
      value: "no right to run python3",
      fix: "add --allow-run=python3 to `deno run`",
      cause: error,
    });
  }
}

/**
 * The start of a stream, which is read to its end. `onLine` is called after its first line; `kill` ends a program that
 * writes without end.
 */
async function startOf(
  stream: ReadableStream<Uint8Array>,
  { kill, onLine }: { readonly kill: () => void; readonly onLine: () => void },
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "", bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes > MOST_REPLY) {
      kill();
      continue;
    }
    const isBegun = text.includes("\n");
    text += decoder.decode(chunk, { stream: true });
    if (!isBegun && text.includes("\n")) onLine();
  }
  return text;
}

/** By what the process was isolated; null if it was not. */
function layersOf(text: string): readonly string[] | null {
  try {
    const { layers }: { readonly layers?: unknown } = JSON.parse(text.split("\n")[0] ?? "");
    return Array.isArray(layers) ? layers.map(String) : null;
  } catch {
    return null;
  }
}

function verdictOf([end, text, word]: Ended): CodeVerdict {
  const [head = "", ...lines] = text.split("\n"), rest = lines.join("\n");
  if (!layersOf(head)) {
    throw noIsolation({ rule: "each program is isolated", value: text.trim().slice(0, 300) || "it did not start" });
  }
  if (rest === `${word}\n`) return { isPassed: true, reason: "passed" };
  if (end === "limit") return { isPassed: false, reason: "timed out" };
  if (rest.startsWith("failed: ")) return { isPassed: false, reason: rest };
  return {
    isPassed: false,
    reason: end === "signal" ? "failed: it was killed" : "failed: it ended before its last line",
  };
}

const WHAT = "cannot run the programs that a model writes";

function noIsolation(
  reasons: { readonly rule: string; readonly value: string; readonly fix?: string },
): CompressoError {
  return refusal("input", WHAT, { ...reasons, option: option("runCode") });
}
