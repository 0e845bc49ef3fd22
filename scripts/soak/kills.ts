// Kills runs while they write, and stops them by every signal: the same command line ends with the same bits.
import { below, type Bounds, type Loop, outputs, pruneArgs, start, type Tally } from "./loop.ts";

/** Names of what is being written. */
const WRITING = /\.(?:tmp|old)-/;

/** Runs the command until it has ended by itself, killed up to five times, each within or shortly after a write. Returns how it ended. */
async function killed(out: string, tally: Tally): ReturnType<typeof start>["ended"] {
  for (let kill = 0; kill < 5; kill++) {
    const { child, ended } = start(pruneArgs(out, "--resume=auto"));
    let isOver = false, wasWriting = false;
    const watching = (async () => {
      await Deno.mkdir(out, { recursive: true });
      const watcher = Deno.watchFs(out, { recursive: true });
      const stop = ended.then(() => watcher.close()).catch(() => {});
      let left = 1 + below(24);
      for await (const { paths } of watcher) {
        if (isOver || !paths.some((path) => WRITING.test(path)) || --left > 0) continue;
        wasWriting = true;
        await new Promise((resolve) => setTimeout(resolve, below(9)));
        child.kill("SIGKILL");
        break;
      }
      await stop;
    })().catch(() => {});
    const end = await ended;
    isOver = true;
    await watching;
    if (end.signal !== "SIGKILL") return end;
    tally.count(wasWriting ? "kills within a write" : "kills");
  }
  return await start(pruneArgs(out, "--resume=auto")).ended;
}

/** SIGKILL within writes. */
export const KILLS: Loop = {
  name: "kills",
  promise: "killed at any time, the same command line ends with the same bits",
  async run(tally, { until, folder }: Bounds): Promise<void> {
    const whole = await unbroken(folder);
    for (let round = 0; performance.now() < until; round++) {
      const out = `${folder}/${round}`, { code, said } = await killed(out, tally);
      const now = code === 0 ? await outputs(out) : said;
      tally.check(now === whole, `run ${round}: status ${code}\n${now.slice(0, 2000)}`);
      await Deno.remove(out, { recursive: true });
    }
  },
};

/** The outputs of a run that was never stopped. */
async function unbroken(folder: string): Promise<string> {
  const { code, said } = await start(pruneArgs(`${folder}/whole`)).ended;
  if (code !== 0) throw new Error(said);
  return await outputs(`${folder}/whole`);
}

const SIGNALS = ["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"] as const;

/** Signals that stop a run in order. SIGHUP comes as from a closed terminal. */
export const STOPS: Loop = {
  name: "signals",
  promise:
    "SIGTERM, SIGINT, SIGQUIT and SIGHUP of a terminal leave a checkpoint, from which the run ends with the same bits",
  async run(tally, { until, folder }: Bounds): Promise<void> {
    const whole = await unbroken(folder);
    for (let round = 0; performance.now() < until; round++) {
      const signal = SIGNALS[round % SIGNALS.length] ?? "SIGTERM", out = `${folder}/${round}`;
      const { child, ended } = start(pruneArgs(out), { inTerminal: signal === "SIGHUP" });
      const records = 1 + below(4);
      const reaches = (): boolean => {
        try {
          return Deno.readTextFileSync(`${out}/records.jsonl`).split("\n").length > records;
        } catch {
          return false;
        }
      };
      let isOver = false;
      ended.finally(() => isOver = true);
      while (!isOver && !reaches()) await new Promise((resolve) => setTimeout(resolve, 5));
      if (!isOver) Deno.kill(signal === "SIGHUP" ? childOf(child.pid) : child.pid, signal);
      const { code, said } = await ended, hasCheckpoint = isThere(`${out}/checkpoint.safetensors`);
      // A run that was about to end when the signal came has ended.
      if (code !== 0) {
        tally.count(signal);
        tally.check(code === 130 && hasCheckpoint, `${signal}: status ${code}, checkpoint ${hasCheckpoint}\n${said}`);
      }
      const again = await start(pruneArgs(out, "--resume")).ended;
      tally.check(
        again.code === 0 && await outputs(out) === whole,
        `after ${signal}: status ${again.code}\n${again.said}`,
      );
      await Deno.remove(out, { recursive: true });
    }
  },
};

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** The process that `script` has started, below its shell where there is one. */
function childOf(pid: number): number {
  const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim().split(" ").filter(Boolean);
  const [child] = children;
  return child === undefined ? pid : childOf(Number(child));
}
