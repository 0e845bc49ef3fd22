// Fuzzes formats, each in a process of its own whose time and memory are watched: deno run -A tests/fuzz/fuzz.ts [--mutants N] [--seed S] [--jobs N] [NAME…]
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MARK, type Said } from "./child.ts";
import { FORMATS } from "./mutants.ts";

/** Seconds that a mutant may take. A chat template has 10 s, and the machine may have other work. */
const MOST_SECONDS = 30;
/** MiB that the process may take, with the runtime, the undamaged files and the garbage of many mutants. */
const MOST_MIB = 1024;
const POLL_MS = 100;

/** What became of the mutants of a format. */
export interface Fuzzed {
  readonly tried: number;
  readonly accepted: number;
  readonly refused: number;
  /** Largest memory of the process; 0 where the system does not show it. */
  readonly peakMib: number;
  /** The longest that one mutant took. */
  readonly seconds: number;
  readonly wrong: readonly { readonly number: number; readonly what: string }[];
}

/** Which mutants are read. */
interface Asked {
  readonly seed: number;
  readonly from?: number;
  readonly count: number;
  /** Seconds that one may take. Default {@link MOST_SECONDS}. */
  readonly seconds?: number;
  /** MiB that the process may take. Default {@link MOST_MIB}. */
  readonly mib?: number;
}

/** Reads mutants `from` … `from + count − 1` of a format. A mutant that hangs, ends the process or fills memory is wrong, and the next process goes on behind it. */
export async function fuzz(
  name: string,
  { seed, from = 0, count, seconds: most = MOST_SECONDS, mib = mibOf(name) }: Asked,
): Promise<Fuzzed> {
  let next = from, accepted = 0, refused = 0, peakMib = 0, seconds = 0;
  const wrong: { number: number; what: string }[] = [];
  while (next < from + count) {
    const part = await process(name, { seed, from: next, count: from + count - next, seconds: most, mib });
    accepted += part.accepted;
    refused += part.refused;
    peakMib = Math.max(peakMib, part.peakMib);
    seconds = Math.max(seconds, part.seconds);
    wrong.push(...part.wrong);
    next = part.next;
  }
  return { tried: count, accepted, refused, peakMib, seconds, wrong };
}

function mibOf(name: string): number {
  return FORMATS.find((format) => format.name === name)?.mib ?? MOST_MIB;
}

interface Part extends Omit<Fuzzed, "tried"> {
  /** The mutant behind the last one that was read. */
  readonly next: number;
}

async function process(
  name: string,
  { seed, from, count, seconds: most, mib: mostMib }: Required<Asked>,
): Promise<Part> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--quiet", fileURLToPath(new URL("child.ts", import.meta.url))],
      ...[name, `${seed}`, `${from}`, `${count}`],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stderr = new Response(child.stderr).text(), wrong: { number: number; what: string }[] = [];
  let now = from - 1, began = performance.now(), seconds = 0, peakMib = 0, breach: string | null = null;
  let end: { readonly accepted: number; readonly refused: number } | null = null;
  const watch = setInterval(() => {
    const mib = memoryOf(child.pid);
    peakMib = Math.max(peakMib, mib);
    const isSlow = now >= from && performance.now() - began > 1000 * most;
    if (!isSlow && mib <= mostMib) return;
    breach ??= isSlow ? `it takes longer than ${most} s` : `it takes more than ${mostMib} MiB`;
    child.kill("SIGKILL");
  }, POLL_MS);
  const take = (said: Said): void => {
    if (said.kind === "wrong") wrong.push(said);
    if (said.kind === "end") end = said;
    if (said.kind !== "begin") return;
    if (now >= from) seconds = Math.max(seconds, (performance.now() - began) / 1000);
    [now, began] = [said.number, performance.now()];
  };
  let text = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith(MARK)) take(JSON.parse(line.slice(MARK.length)));
  }
  const { code } = await child.status;
  clearInterval(watch);
  const { accepted, refused } = end ?? { accepted: 0, refused: now - from };
  if (end) return { accepted, refused, peakMib, seconds, wrong, next: from + count };
  const last = (await stderr).trim().slice(0, 2000);
  if (now < from) throw new Error(`the undamaged files of ${name}: ${breach ?? `status ${code}`}\n${last}`);
  wrong.push({ number: now, what: breach ?? `the process ends with status ${code}\n${last}` });
  return { accepted, refused, peakMib, seconds, wrong, next: now + 1 };
}

/** Memory of a process in MiB; 0 where the system does not show it. */
function memoryOf(pid: number): number {
  try {
    const [, kib = 0] = /VmRSS:\s+(\d+) kB/.exec(Deno.readTextFileSync(`/proc/${pid}/status`)) ?? [];
    return Number(kib) / 1024;
  } catch {
    return 0;
  }
}

/** {@link fuzz} in several processes at a time, a range of the mutants each. */
async function fuzzSideBySide(
  name: string,
  { seed, count, jobs }: { readonly seed: number; readonly count: number; readonly jobs: number },
): Promise<Fuzzed> {
  const share = Math.ceil(count / jobs), starts = Array.from({ length: jobs }, (_, job) => job * share);
  const parts = await Promise.all(
    starts.filter((from) => from < count).map((from) =>
      fuzz(name, { seed, from, count: Math.min(share, count - from) })
    ),
  );
  const most = (of: (part: Fuzzed) => number): number => Math.max(...parts.map(of));
  const sum = (of: (part: Fuzzed) => number): number => parts.reduce((total, part) => total + of(part), 0);
  return {
    ...{ tried: count, accepted: sum(({ accepted }) => accepted), refused: sum(({ refused }) => refused) },
    ...{ peakMib: most(({ peakMib }) => peakMib), seconds: most(({ seconds }) => seconds) },
    wrong: parts.flatMap(({ wrong }) => wrong),
  };
}

if (import.meta.main) {
  const { values: { mutants, seed, jobs }, positionals } = parseArgs({
    options: {
      mutants: { type: "string", default: "100000" },
      seed: { type: "string", default: "1" },
      jobs: { type: "string", default: "1" },
    },
    allowPositionals: true,
  });
  let failures = 0;
  for (const { name } of FORMATS.filter(({ name }) => positionals.length === 0 || positionals.includes(name))) {
    const start = performance.now();
    const asked = { seed: Number(seed), count: Number(mutants), jobs: Number(jobs) };
    const { tried, accepted, peakMib, seconds, wrong } = await fuzzSideBySide(name, asked);
    failures += wrong.length;
    const took = ((performance.now() - start) / 1000).toFixed(0);
    console.log(
      `${name.padEnd(38)} ${tried} mutants, ${accepted} accepted, ${wrong.length} wrong, ${took} s, longest ` +
        `${seconds.toFixed(2)} s, ${peakMib.toFixed(0)} MiB`,
    );
    for (const { number, what } of wrong.slice(0, 20)) console.log(`  mutant ${number} of seed ${seed}: ${what}`);
  }
  Deno.exit(failures > 0 ? 1 : 0);
}
