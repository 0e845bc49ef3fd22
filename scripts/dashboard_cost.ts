// Measures what a dashboard and its viewers cost a run: the demo is pruned without one, with one, and with viewers.
//
// deno run -A scripts/dashboard_cost.ts [repeats] [viewers]
import assert from "node:assert/strict";
import { join } from "node:path";
import type { RunSummary } from "../lib/run/result.ts";

const [repeats = 3, viewers = 20] = Deno.args.map(Number);
const STEPS = 100, OPTIONS = ["--sparsity", "0.3", "--batch", "2", "--seq", "64", "--no-prompt", "--seed", "3"];
/** A browser's page asks this often. */
const POLL_MS = 2000;

const WAYS = ["no dashboard", "a dashboard", `a dashboard, ${viewers} viewers`] as const;

interface Measured {
  /** Of all three stages. */
  readonly seconds: number;
  readonly answers: number;
  readonly weights: Uint8Array;
}

const folder = await Deno.makeTempDir({ prefix: "compresso_dashboard_" });
try {
  const measured = new Map<string, Measured[]>(WAYS.map((way) => [way, []]));
  for (let repeat = 0; repeat < repeats; repeat++) {
    // By turns, so that whatever else the machine does falls on all alike.
    for (const [index, way] of WAYS.entries()) {
      measured.get(way)?.push(await run(join(folder, `${repeat}-${index}`), index));
    }
  }
  const [first] = [...measured.values()].flat();
  for (const [way, runs] of measured) {
    assert.ok(runs.every(({ weights }) => same(weights, first?.weights)), `${way}: other weights`);
    const seconds = runs.map((one) => one.seconds).sort((a, b) => a - b);
    const answers = runs.reduce((sum, one) => sum + one.answers, 0);
    console.log(
      `${way.padEnd(28)} median ${seconds[seconds.length >> 1]?.toFixed(1)} s (${
        seconds.map((value) => value.toFixed(1)).join(", ")
      }), ${answers} pages served`,
    );
  }
  console.log("all runs wrote the same weights");
} finally {
  await Deno.remove(folder, { recursive: true });
}

async function run(out: string, way: number): Promise<Measured> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "cli/main.ts",
      "prune",
      "demo",
      "--steps",
      String(STEPS),
      ...OPTIONS,
      "--calibration",
      "none",
      "--out",
      out,
      ...(way > 0 ? ["--dashboard"] : []),
    ],
    cwd: new URL("..", import.meta.url),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let said = "", hasEnded = false, answers = 0;
  const reading = (async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) said += text;
  })();
  const ended = child.status.then((status) => {
    hasEnded = true;
    return status;
  });
  const look = async (): Promise<void> => {
    while (!hasEnded) {
      const url = /^dashboard +(\S+)$/m.exec(said)?.[1];
      if (url !== undefined) await fetch(`${url}content`).then((page) => page.text()).then(() => answers++, () => {});
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, POLL_MS))]);
    }
  };
  await Promise.all([ended, reading, ...Array.from({ length: way === 2 ? viewers : 0 }, look)]);
  assert.ok((await ended).success, said);
  const { seconds }: RunSummary = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  return {
    seconds: Object.values(seconds).reduce((sum, value) => sum + value, 0),
    answers,
    weights: await Deno.readFile(`${out}/model/model.safetensors`),
  };
}

function same(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && a.length === b.length && a.every((byte, at) => byte === b[at]);
}
