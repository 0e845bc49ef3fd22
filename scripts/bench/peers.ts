// Runs the other libraries: each is a separate program that reads cases and prints timings. They must be installed
// already.
import { fileURLToPath } from "node:url";
import { z } from "zod";
import type { DecoderConfig } from "./random_model.ts";
import type { Timing } from "./timing.ts";

/** One piece of work for a peer. */
export type PeerCase =
  | {
    readonly name: string;
    readonly kind: "product";
    readonly direction: "forward" | "backward";
    readonly tokens: number;
    readonly out: number;
    readonly in: number;
  }
  | {
    readonly name: string;
    readonly kind: "step";
    readonly config: DecoderConfig;
    readonly batch: number;
    readonly seq: number;
    readonly rank: number;
    readonly targets: readonly string[];
    readonly masks: boolean;
  }
  | {
    readonly name: string;
    readonly kind: "decode";
    readonly model: string;
    readonly prompt: readonly number[];
    readonly tokens: number;
    /** Default: one a core. */
    readonly threads?: number;
  };

/** Name of a peer in its own lines. */
export type PeerName = "torch" | "jax-js" | "tfjs" | "llama.cpp";

/** A peer's answer to one case. */
export interface PeerResult {
  readonly peer: string;
  readonly version: string;
  readonly case: string;
  readonly timing: Timing;
  readonly note?: string;
}

/** Runs peers, and remembers those that are not there. */
export interface Peers {
  /** Peers of these that are still thought to be there. */
  available(names: readonly PeerName[]): PeerName[];
  /** Times the cases in one peer; a peer that is not there, or fails, gives fewer results and a line in `problems`. */
  run(name: PeerName, cases: readonly PeerCase[], options: { readonly repeats: number }): Promise<PeerResult[]>;
  /** What was left out, and how to fix it; a sentence each. */
  readonly problems: readonly string[];
}

interface Program {
  readonly file: string;
  readonly command: (path: string) => readonly [string, ...string[]];
  /** How its user gets it. */
  readonly install: string;
}

const deno = (path: string): [string, ...string[]] => [Deno.execPath(), "run", "-A", "--no-lock", path];
const PROGRAMS: Readonly<Record<PeerName, Program>> = {
  "torch": { file: "torch.py", command: (path) => ["python3", path], install: "python3 -m pip install torch" },
  "jax-js": { file: "jax_js.ts", command: deno, install: "needs the npm registry once, for npm:@jax-js/jax" },
  "tfjs": {
    file: "tfjs.ts",
    command: deno,
    install: "needs the npm registry once, for npm:@tensorflow/tfjs-backend-webgpu",
  },
  "llama.cpp": {
    file: "llama_cpp.mjs",
    command: (path) => ["node", path],
    install: "Node.js and the npm registry once, for npm:node-llama-cpp",
  },
};

const LIMIT_SECONDS = 1200;

const LINE = z.object({
  peer: z.string(),
  version: z.string().optional(),
  missing: z.string().optional(),
  case: z.string().optional(),
  error: z.string().optional(),
  note: z.string().optional(),
  seconds: z.array(z.number().positive()).optional(),
  cpuSeconds: z.array(z.number().nonnegative()).optional(),
});

/** The peers; with `enabled` false none of them is there, and nothing is said of it. */
export function createPeers({ enabled, torchDevice = "cpu", only, limitSeconds = LIMIT_SECONDS }: {
  readonly enabled: boolean;
  readonly torchDevice?: "cpu" | "cuda";
  /** Default: all. */
  readonly only?: readonly PeerName[];
  /** Longest time that one peer may take for one list of cases. */
  readonly limitSeconds?: number;
}): Peers {
  const absent = new Set<PeerName>();
  const problems: string[] = [];
  return {
    problems,
    available: (names) => enabled ? names.filter((name) => !absent.has(name) && (only?.includes(name) ?? true)) : [],
    async run(name, cases, { repeats }): Promise<PeerResult[]> {
      if (cases.length === 0 || absent.has(name)) return [];
      const { file, command, install } = PROGRAMS[name];
      const leaveOut = (reason: string): void => {
        absent.add(name);
        problems.push(`${name} was left out: ${reason}; install: ${install}`);
      };
      const path = fileURLToPath(new URL(`./peers/${file}`, import.meta.url));
      const placed = name === "torch" ? cases.map((one) => ({ ...one, device: torchDevice })) : cases;
      const { lines, failure } = await converse(
        command(path),
        JSON.stringify({ cases: placed, repeats }),
        limitSeconds,
      );
      const results: PeerResult[] = [];
      for (const line of lines) {
        const { missing, error, version = "", seconds, cpuSeconds, note } = line;
        if (missing !== undefined) leaveOut(missing);
        else if (error !== undefined) problems.push(`${name}, ${line.case}: ${error}`);
        else if (line.case !== undefined && seconds && cpuSeconds) {
          const timing = { seconds, cpuSeconds };
          results.push({ peer: name, version, case: line.case, timing, ...(note === undefined ? {} : { note }) });
        }
      }
      if (lines.length === 0) leaveOut(failure ?? "it printed nothing");
      else if (failure !== null) problems.push(`${name} stopped early: ${failure}`);
      return results;
    },
  };
}

async function converse(
  [program, ...args]: readonly [string, ...string[]],
  request: string,
  limitSeconds: number,
): Promise<{ lines: z.infer<typeof LINE>[]; failure: string | null }> {
  let child: Deno.ChildProcess;
  try {
    const pipes = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    child = new Deno.Command(program, { args, ...pipes }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { lines: [], failure: `${program} is not installed` };
  }
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, 1000 * limitSeconds);
  const [, { code, stdout, stderr }] = await Promise.all([send(child, request), child.output()]);
  clearTimeout(timer);
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  const lines = text(stdout).split("\n").flatMap((line) => {
    if (!line.startsWith("{")) return [];
    const parsed = LINE.safeParse(JSON.parse(line));
    return parsed.success ? [parsed.data] : [];
  });
  const last = text(stderr).trim().split("\n").at(-1) ?? "";
  const failure = isLate ? `it took more than ${limitSeconds} s` : code === 0 ? null : `exit status ${code} ${last}`;
  return { lines, failure };
}

async function send(child: Deno.ChildProcess, text: string): Promise<void> {
  const writer = child.stdin.getWriter();
  try {
    await writer.write(new TextEncoder().encode(text));
    await writer.close();
  } catch (error) {
    // A program that ends without reading says why on its own.
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}
