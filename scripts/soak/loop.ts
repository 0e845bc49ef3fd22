// What the loops of the soak share: the time that they have, their count of tries and failures, random choices, and runs of the command line.
import { fileURLToPath } from "node:url";

/** Root of the repository. */
export const ROOT: string = fileURLToPath(new URL("../../", import.meta.url));

/** What a loop has tried, and what failed. */
export class Tally {
  tries = 0;
  readonly failures: string[] = [];
  /** Further counts for the table, such as kills within a save. */
  readonly counts = new Map<string, number>();

  /** Counts one of a kind. */
  count(name: string, by = 1): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + by);
  }

  /** Counts a try, and a failure where the condition does not hold. */
  check(holds: boolean, what: string): void {
    this.tries++;
    if (!holds) this.failures.push(what);
  }
}

/** Time and place of a loop. */
export interface Bounds {
  /** Ends when `performance.now()` is there; a try that was begun ends first. */
  readonly until: number;
  /** Folder of its own. */
  readonly folder: string;
}

/** One loop of the soak. */
export interface Loop {
  readonly name: string;
  /** What it holds, as the reliability page says it. */
  readonly promise: string;
  run(tally: Tally, bounds: Bounds): Promise<void>;
}

/** A whole number below `end`. */
export function below(end: number): number {
  return Math.floor(Math.random() * end);
}

/** How a command ended. */
export interface Ended {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly said: string;
}

/** Starts the command line; `inTerminal` gives it one, which `script` makes. */
export function start(
  args: readonly string[],
  { inTerminal = false, flags = ["-A"] }: { readonly inTerminal?: boolean; readonly flags?: readonly string[] } = {},
): { readonly child: Deno.ChildProcess; readonly ended: Promise<Ended> } {
  const words = [Deno.execPath(), "run", ...flags, "--no-check", "--quiet", "cli/main.ts", ...args];
  const [program = "", ...rest] = inTerminal ? ["script", "-qec", words.join(" "), "/dev/null"] : words;
  const child = new Deno.Command(program, {
    args: rest,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const ended = child.status.then(async ({ code, signal }) => ({ code, signal, said: (await output).join("") }));
  return { child, ended };
}

/** The port at which a process listens. */
export async function portOf(pid: number): Promise<number> {
  for (;;) {
    const sockets = [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
      try {
        return /socket:\[(\d+)\]/.exec(Deno.readLinkSync(`/proc/${pid}/fd/${name}`))?.[1] ?? [];
      } catch {
        return [];
      }
    });
    const lines = Deno.readTextFileSync("/proc/net/tcp").split("\n").map((line) => line.trim().split(/\s+/));
    const listening = lines.find(([, , , state, ...rest]) => state === "0A" && sockets.includes(rest[5] ?? ""));
    if (listening) return parseInt(listening[1]?.split(":")[1] ?? "", 16);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Arguments of a short run of the demo. */
export function pruneArgs(out: string, ...more: readonly string[]): string[] {
  return [
    ...["prune", "demo", "--sparsity", "0.3", "--steps", "4", "--prefinetune", "1", "--postfinetune", "1"],
    ...["--batch", "1", "--seq", "48", "--no-prompt", "--calibration", "none", "--limit-rows", "100", "--no-tuning"],
    ...["--checkpoint-every", "1", "--save-adapter", "--out", out, ...more],
  ];
}

/** SHA-256 of all models that a run wrote, by their paths; what else lies in its folder is listed. */
export async function outputs(folder: string): Promise<string> {
  const lines: string[] = [];
  const visit = async (path: string): Promise<void> => {
    for (const { name, isDirectory } of [...Deno.readDirSync(`${folder}/${path}`)].sort(byName)) {
      const inner = `${path}${name}`;
      if (isDirectory) await visit(`${inner}/`);
      else if (/\.(?:safetensors|gguf)$/.test(name)) {
        const hash = await crypto.subtle.digest("SHA-256", await Deno.readFile(`${folder}/${inner}`));
        lines.push(`${inner} ${new Uint8Array(hash).toHex()}`);
      } else if (name === "records.jsonl") lines.push(`${inner} ${losses(`${folder}/${inner}`)}`);
      else lines.push(inner);
    }
  };
  await visit("");
  return lines.join("\n");
}

function byName(a: Deno.DirEntry, b: Deno.DirEntry): number {
  return a.name < b.name ? -1 : 1;
}

/** Losses of records, which are the same in each run with the same bits. */
function losses(path: string): string {
  const lines = Deno.readTextFileSync(path).trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line).loss).join(" ");
}
