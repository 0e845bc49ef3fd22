// The process of an isolated schedule script: its limits, the exchange of lines with it, and its end.
import { type CompressoError, option, refusal, refuse, stopped } from "../../core/errors.ts";
import { oneLine } from "../output.ts";
import { z } from "../../core/packages.ts";
import { spawnSandbox } from "./sandbox.ts";

/** Limits of an isolated script: above 0, and 2,000,000 at most. */
export interface IsolationLimits {
  /** Seconds for the script to load. Default 10. */
  readonly startSeconds?: number;
  /** Seconds for each step. Default 2. */
  readonly stepSeconds?: number;
  /** Its JavaScript heap, whole MiB. Default 64. */
  readonly heapMiB?: number;
  /**
   * Total processor time, whole seconds, rounded up. Not limited on Windows, nor without permission to run /bin/sh. A
   * resumed run starts at 0 again. Default 900.
   */
  readonly processorSeconds?: number;
}

/** Options of {@link startIsolated}. */
export interface IsolationOptions {
  readonly limits?: IsolationLimits | undefined;
  /** Name of the script in messages. */
  readonly name: string;
  /** URL of the trusted code, which checks and evaluates the script. */
  readonly kit: string;
  /** URL of the script's code. */
  readonly script: string;
  /** Names that the script's import of the toolkit gives. */
  readonly kitNames: readonly string[];
  /** Specifiers that mean the toolkit. */
  readonly toolkitImports: readonly string[];
  /** Ends the process. */
  readonly signal?: AbortSignal | undefined;
  /** Takes lines that the script logs. */
  readonly onLog?: ((line: string) => void) | undefined;
}

/** A script that is loaded. */
export interface IsolatedScript extends AsyncDisposable {
  /** What it replied to being loaded. */
  readonly loaded: unknown;
  /** Sends one value and takes the reply. One at a time; `at` names the moment in messages. */
  request(value: unknown, at: string): Promise<unknown>;
}

/** Most bytes of a reply; unit numbers of all layers of a large model may be long. */
const MAX_REPLY = 16 << 20;
const MAX_STDERR = 1 << 16;
/** Memory for Deno itself and outside the heap, in addition to the heap, MiB. */
const BESIDE_HEAP_MIB = 192;
const MEMORY_POLL_MS = 50;
/** Extra time after the limit, for a reply that waits while this process is busy. */
const GRACE_MS = 200;

const REPLY = z.union([
  z.strictObject({ output: z.unknown(), logs: z.array(z.string()).max(100), memory: z.number() }),
  z.strictObject({
    error: z.string(),
    blame: z.enum(["sandbox", "script", "either"]),
    /** A refusal by the toolkit's own code. */
    fault: z.strictObject({ rule: z.string(), value: z.string() }).optional(),
    logs: z.array(z.string()).max(100),
    memory: z.number(),
  }),
]);

/** Rule and fix of a message, by whether the sandbox stopped the script or the script itself failed. */
const BLAME = {
  sandbox: {
    rule:
      "an isolated script has the language, and compresso/schedule; no files, network, other imports, clock or random numbers",
    fix: `fix the script, or run it as your own code, with all permissions of this process: ${option("trustSchedule")}`,
  },
  script: { rule: "it is a script that loads and returns values", fix: "fix the script" },
  either: {
    rule: "it is a script that loads and returns values",
    fix:
      `fix the script; if it needs files, network or a clock, run it as your own code, with all permissions of this process: ${
        option("trustSchedule")
      }`,
  },
} as const;

/**
 * Starts the process and loads the script.
 *
 * @throws CompressoError("input") with what the script did, if it breaks a rule
 * @throws CompressoError("usage") for limits out of range, and if Deno may not be started
 */
export async function startIsolated(options: IsolationOptions): Promise<IsolatedScript> {
  options.signal?.throwIfAborted();
  const script = new Isolated(options);
  try {
    await script.load();
    return script;
  } catch (error) {
    await script[Symbol.asyncDispose]();
    throw error;
  }
}

/** Timers hold no more than 2³¹ − 1 ms. */
const MOST = 2_000_000;

function checkedLimits(
  { startSeconds = 10, stepSeconds = 2, heapMiB = 64, processorSeconds = 900 }: IsolationLimits = {},
): Required<IsolationLimits> {
  const limits = { startSeconds, stepSeconds, heapMiB, processorSeconds };
  for (const [name, value] of Object.entries(limits)) {
    const isWhole = name === "heapMiB";
    if (value > 0 && value <= MOST && (!isWhole || Number.isInteger(value))) continue;
    refuse("usage", `cannot use the limit ${name} of an isolated script`, {
      rule: `it is ${isWhole ? "a whole number" : "a number"} above 0, at most ${MOST}`,
      value,
    });
  }
  return limits;
}

class Isolated implements IsolatedScript {
  readonly #options: IsolationOptions;
  readonly #limits: Required<IsolationLimits>;
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  readonly #decoder = new TextDecoder();
  readonly #watch: ReturnType<typeof setInterval>;
  readonly #abort = (): void => this.#kill();
  /** The start of its stderr, which is read to its end so that the process never blocks on it. */
  readonly #stderr: Promise<string>;
  #text = "";
  /** Why the process was killed. */
  #breach: { readonly value: string; readonly rule?: string | undefined } | null = null;
  #ended = false;
  /** Why it ended; later requests throw it again. */
  #failure: Error | null = null;
  #busy = false;
  #loaded: unknown = null;

  constructor(options: IsolationOptions) {
    this.#options = options;
    this.#limits = checkedLimits(options.limits);
    this.#child = spawnSandbox({ ...options, ...this.#limits });
    // A run that is never disposed must not keep its process alive.
    this.#holdProgram(false);
    this.#writer = this.#child.stdin.getWriter();
    this.#reader = this.#child.stdout.getReader();
    this.#stderr = startOf(this.#child.stderr);
    this.#watch = setInterval(() => this.#checkMemory(), MEMORY_POLL_MS);
    Deno.unrefTimer(this.#watch);
    options.signal?.addEventListener("abort", this.#abort);
  }

  async load(): Promise<void> {
    const { kit, script } = this.#options, { startSeconds: seconds } = this.#limits;
    this.#loaded = await this.#exchange({ kit, script }, { at: "while it was loaded", seconds });
  }

  get loaded(): unknown {
    return this.#loaded;
  }

  async request(value: unknown, at: string): Promise<unknown> {
    return await this.#exchange(value, { at, seconds: this.#limits.stepSeconds });
  }

  async #exchange(
    value: unknown,
    { at, seconds }: { readonly at: string; readonly seconds: number },
  ): Promise<unknown> {
    const { signal, onLog } = this.#options;
    signal?.throwIfAborted();
    if (this.#failure) throw this.#failure;
    if (this.#busy) {
      throw misused(this.#options, "it is asked for one step at a time", "the step before is not decided yet");
    }
    this.#busy = true;
    // Keeps this program alive until the reply arrives or the process ends.
    this.#holdProgram(true);
    const reply = await this.#withinTime(seconds, async () => {
      // If the process has ended, writing fails; reading reports it too.
      await this.#writer.write(new TextEncoder().encode(`${JSON.stringify(value)}\n`)).catch(() => {});
      return await this.#readLine();
    });
    this.#busy = false;
    this.#holdProgram(false);
    if (reply === null) throw this.#failure = await this.#whyEnded(at);
    const { data } = REPLY.safeParse(parsed(reply));
    if (!data) throw this.#failure = await this.#stopFor(at, "its reply is not what the protocol asks for");
    for (const line of data.logs) onLog?.(printable(line));
    if (data.memory > this.#memoryLimit) throw this.#failure = await this.#stopFor(at, this.#tooMuchMemory);
    if ("error" in data) {
      const { error, blame, fault } = data, refused = refusedImport(error);
      if (refused !== null) throw this.#refusal(at, refused);
      throw this.#refusal(at, fault?.value ?? error, { blame, ...(fault ? { rule: fault.rule } : {}) });
    }
    return data.output;
  }

  /** The next line of stdout; null at its end. */
  async #readLine(): Promise<string | null> {
    let end = this.#text.indexOf("\n");
    while (end < 0) {
      const from = this.#text.length, most = `${MAX_REPLY >> 20} MiB`;
      if (from > MAX_REPLY) {
        return this.#stop(`it wrote more than ${most}`, `what it decides at a step takes ${most} at most`);
      }
      const { value, done } = await this.#reader.read();
      if (done) return null;
      this.#text += this.#decoder.decode(value, { stream: true });
      end = this.#text.indexOf("\n", from);
    }
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 1);
    // One reply to one request: nothing may follow it.
    return this.#text === "" ? line : this.#stop("it wrote more than it was asked for");
  }

  async #withinTime(seconds: number, work: () => Promise<string | null>): Promise<string | null> {
    let timer = setTimeout(() => {
      // If this process was busy, the reply may have arrived already, so it is read first.
      timer = setTimeout(() => this.#stop(`it took longer than ${seconds} s`), GRACE_MS);
    }, seconds * 1000);
    try {
      return await work();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Bytes of memory that the process may take, code and memory outside the heap included. */
  get #memoryLimit(): number {
    return (this.#limits.heapMiB + BESIDE_HEAP_MIB) * 2 ** 20;
  }

  get #tooMuchMemory(): string {
    return `it took more than ${this.#memoryLimit / 2 ** 20} MiB of memory`;
  }

  /**
   * Checks the memory of the process between its replies, which report it too. Only on Linux, and with all permissions.
   */
  #checkMemory(): void {
    if (Deno.build.os !== "linux" || this.#ended) return;
    try {
      const [, resident] = /VmRSS:\s+(\d+) kB/.exec(Deno.readTextFileSync(`/proc/${this.#child.pid}/status`)) ?? [];
      if (1024 * Number(resident) > this.#memoryLimit) this.#stop(this.#tooMuchMemory);
    } catch {
      // It has ended, or the right to look is missing.
    }
  }

  #stop(value: string, rule?: string): null {
    this.#breach ??= { value, rule };
    this.#kill();
    return null;
  }

  #kill(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  }

  /** Whether a program that has nothing else to do waits for the process. */
  #holdProgram(isHeld: boolean): void {
    try {
      if (isHeld) this.#child.ref();
      else this.#child.unref();
    } catch {
      // It has ended, and Deno has seen that already.
    }
  }

  async #stopFor(at: string, breach: string): Promise<Error> {
    this.#stop(breach);
    return await this.#whyEnded(at);
  }

  async #whyEnded(at: string): Promise<Error> {
    const { signal } = this.#options;
    this.#holdProgram(true);
    // Its output has ended, so it is about to end; its status says why.
    const timer = setTimeout(() => this.#kill(), this.#breach === null ? GRACE_MS * 5 : 0);
    const { code, signal: died } = await this.#child.status;
    clearTimeout(timer);
    const stderr = await this.#finish();
    // Ctrl-C reaches every process of the terminal, and this one perhaps later.
    if (died === "SIGINT" || died === "SIGTERM") await new Promise((resolve) => setTimeout(resolve, GRACE_MS));
    if (signal?.aborted) return asError(signal.reason);
    if (this.#breach !== null) return this.#refusal(at, this.#breach.value, this.#breach);
    if (died === "SIGXCPU") {
      return this.#refusal(at, `it took more than ${this.#limits.processorSeconds} s of processor time in all`, {
        // A harmless script reaches the limit in a run that is long enough.
        first: `resume the run from its last checkpoint with ${
          option("resume")
        }, which gives it as much time again; or `,
      });
    }
    if (/heap (?:limit|out of memory)|out of memory/i.test(stderr)) {
      return this.#refusal(at, `it took more than its heap of ${this.#limits.heapMiB} MiB`);
    }
    const said = /^error: .*/m.exec(stderr)?.[0] ?? stderr.trim().split("\n")[0] ?? "";
    return this.#refusal(at, `its process ended (${died ?? `status ${code}`})${said ? `: ${said}` : ""}`, {
      blame: "either",
    });
  }

  /** Words of the script reach rule and value only; the fix is always ours. */
  #refusal(
    at: string,
    value: string,
    { first = "", blame = "sandbox", rule = BLAME[blame].rule }: {
      readonly first?: string;
      readonly blame?: keyof typeof BLAME;
      readonly rule?: string | undefined;
    } = {},
  ): CompressoError {
    return refusal("input", `cannot use the schedule ${this.#options.name}`, {
      rule: printable(rule),
      value: `${at}: ${printable(value)}`,
      fix: first + BLAME[blame].fix,
    });
  }

  /** Ends the process and returns the start of its stderr. */
  async #finish(): Promise<string> {
    if (this.#ended) return "";
    this.#ended = true;
    clearInterval(this.#watch);
    this.#options.signal?.removeEventListener("abort", this.#abort);
    // Where it ended by itself, this does nothing.
    this.#kill();
    this.#holdProgram(true);
    const stderr = await this.#stderr;
    await this.#reader.cancel();
    await this.#writer.abort().catch(() => {});
    await this.#child.status;
    return stderr;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#failure ??= misused(this.#options, "it is asked before it is disposed", "its process was ended");
    await this.#finish();
  }
}

/** The error of a program that misuses an open script. */
function misused({ name }: IsolationOptions, rule: string, value: string): CompressoError {
  return refusal("usage", `cannot ask the schedule ${name}`, {
    rule,
    value,
    fix: "await each step, and dispose the schedule after the last one",
  });
}

/** The start of a stream of text that is read to its end. */
async function startOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) if (text.length < MAX_STDERR) text += decoder.decode(chunk, { stream: true });
  return text;
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : stopped("the run was stopped");
}

/** What a script imports, from Deno's message of a refused import; null for other messages. */
function refusedImport(error: string): string | null {
  const [, specifier] = /(?:Blocked by null entry for "|Import |specifier was requested: )"([^"]+)"/.exec(error) ??
    /(npm) specifiers were requested/.exec(error) ?? [];
  if (specifier === undefined) return null;
  return `it imports ${specifier}${/, line \d+$/.exec(error)?.[0] ?? ""}`;
}

/** Untrusted text for a terminal: one line, no control characters, no code in URLs. */
function printable(text: string): string {
  return oneLine(text.replace(/data:application\/\w+;base64,[A-Za-z\d+/=.…]*/g, "the script")).slice(0, 400);
}
