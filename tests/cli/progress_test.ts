// Progress on a terminal and elsewhere, and the parsing of values, without a process.
import assert from "node:assert/strict";
import { formatBytes, formatCount } from "../../cli/terminal/output.ts";
import { maskMap } from "../../cli/terminal/mask_map.ts";
import { createProgress, type Progress } from "../../cli/terminal/progress.ts";
import { progressLine } from "../../cli/terminal/progress_line.ts";
import { duration } from "../../lib/report/numbers.ts";
import { refuses } from "../refuses.ts";
import { parserOf } from "../../cli/options/flags.ts";
import type { StepRecord } from "../../lib/run/contract.ts";

function record(step: number): StepRecord {
  return {
    stage: "prune",
    step,
    steps: 100,
    loss: 2.5,
    target: 0.2,
    expected: 0.1,
    lambda1: 0,
    lambda2: 0,
    gradNorm: 1,
    learningRate: 1e-3,
    tokens: 100,
    labelTokens: 10,
    tokensPerSecond: 812.4,
    gpuBytes: 0,
    plannedGpuBytes: 0,
    layers: null,
    alarms: [],
  };
}

/** A progress that writes to a list, with a clock that is set by hand; `tick` is what a timer calls. */
function fake(
  { isTerminal, columns = 200, isVerbose = false }: {
    readonly isTerminal: boolean;
    readonly columns?: number;
    readonly isVerbose?: boolean;
  },
): { progress: Progress; written: string[]; clock: { now: number }; tick: () => void } {
  const written: string[] = [], clock = { now: 0 }, timers = new Set<() => void>();
  const progress = createProgress({
    isTerminal,
    columns: () => columns,
    write: (text) => written.push(text),
    now: () => clock.now,
    every: (_, tick) => {
      timers.add(tick);
      return () => timers.delete(tick);
    },
    isVerbose,
  });
  return { progress, written, clock, tick: () => timers.forEach((each) => each()) };
}

/** What a terminal shows of the last line that was rewritten. */
function lineOf(written: readonly string[]): string {
  const last = written.at(-1) ?? "";
  assert.ok(last.startsWith("\r\x1b[2K"), last);
  return last.slice("\r\x1b[2K".length);
}

Deno.test("off a terminal a line comes at tenth steps and after five seconds, not more", () => {
  const { progress, written, clock } = fake({ isTerminal: false });
  for (let step = 1; step <= 30; step++) {
    clock.now += 250;
    progress.step(record(step));
  }
  assert.equal(written.length, 3);
  assert.ok(written.every((line) => line.endsWith("\n") && !line.includes("\r")));
  written.length = 0;
  for (let step = 31; step <= 34; step++) {
    clock.now += 2600;
    progress.step(record(step));
  }
  assert.equal(written.length, 2, "two steps of 2.6 s are more than 5 s");
});

Deno.test("a step's line has loss, sparsity and target, speed and the time that is left", () => {
  const { progress, written, clock } = fake({ isTerminal: false });
  for (let step = 1; step <= 10; step++) {
    clock.now += 1000;
    progress.step(record(step));
  }
  assert.equal(
    written.at(-1),
    "prune 10/100  loss 2.500  sparsity 10.0 % (target 20.0 %)  812 tokens/s  1 min 30 s left\n",
  );
});

Deno.test("steps are counted within their stage, so that prune N/M has the M of --steps, and the bar over the whole run", () => {
  const { progress, written, clock } = fake({ isTerminal: true });
  progress.stages([{ stage: "finetune", steps: 20 }, { stage: "prune", steps: 60 }, {
    stage: "postfinetune",
    steps: 20,
  }]);
  const shown = (stage: StepRecord["stage"], step: number): string => {
    clock.now += 1000;
    progress.step({ ...record(step), stage });
    return lineOf(written);
  };
  assert.match(shown("finetune", 20), /^finetune 20\/20 +█{4}░{16} +20 %/);
  assert.match(shown("prune", 21), /^prune 1\/60 .*21 %/);
  // A schedule ended the stage before its time.
  assert.match(shown("prune", 50), /^prune 30\/60 /);
  assert.match(shown("postfinetune", 51), /^postfinetune 1\/20 /);
});

Deno.test("the time that is left is first said after some steps, and the first one, which waits for kernels, does not count", () => {
  const { progress, written, clock } = fake({ isTerminal: true });
  const lefts: (string | undefined)[] = [];
  for (let step = 1; step <= 6; step++) {
    clock.now += step === 1 ? 60_000 : 1000;
    progress.step(record(step));
    lefts.push(/[\w ]+ left/.exec(lineOf(written))?.[0].trim());
  }
  assert.deepEqual(lefts, [undefined, undefined, undefined, undefined, "1 min 35 s left", "1 min 34 s left"]);
});

Deno.test("records that come in groups are timed by group", () => {
  const { progress, written, clock } = fake({ isTerminal: false });
  for (let group = 0; group < 4; group++) {
    clock.now += 10_000;
    for (let step = 1; step <= 10; step++) progress.step(record(10 * group + step));
  }
  assert.match(written.at(-1) ?? "", /^prune 31\/100 .* 1 min 09 s left\n$/);
});

Deno.test("after a run went back the time that is left is taken anew", () => {
  const { progress, written, clock } = fake({ isTerminal: true });
  for (const step of [6, 7, 8, 9, 10, 6, 7, 8, 9, 10]) {
    clock.now += 1000;
    progress.step(record(step));
  }
  assert.match(written[4] ?? "", / left/);
  for (const line of written.slice(5, 9)) assert.doesNotMatch(line, / left/, "one step tells nothing");
  assert.match(written.at(-1) ?? "", /1 min 30 s left/);
});

Deno.test("on a terminal one line is rewritten, no wider than the terminal, and cleared before a note and at the end", () => {
  const { progress, written, clock } = fake({ isTerminal: true, columns: 40 });
  for (let step = 1; step <= 5; step++) {
    clock.now += 200;
    progress.step(record(step));
  }
  assert.equal(written.length, 5);
  for (const text of written) {
    assert.ok(text.startsWith("\r\x1b[2K") && !text.includes("\n"));
    assert.ok(text.length - "\r\x1b[2K".length < 40, `${text.length} characters`);
  }
  progress.note("a note");
  assert.deepEqual(written.slice(5), ["\r\x1b[2K", "a note\n"]);
  clock.now += 200;
  progress.step(record(6));
  progress[Symbol.dispose]();
  assert.equal(written.at(-1), "\r\x1b[2K");
});

Deno.test("a long note is broken at spaces on a terminal, and left as it is elsewhere", () => {
  const text = "122 examples of 64 tokens, rows packed, the last 8 rows held out; 10 steps on a GPU";
  for (const isTerminal of [true, false]) {
    const { progress, written } = fake({ isTerminal, columns: 40 });
    progress.note(text);
    progress.note("short   note");
    const [long = "", short] = written;
    assert.equal(short, "short   note\n");
    assert.equal(long.replaceAll("\n  ", " "), `${text}\n`);
    assert.equal(long.split("\n").every((line) => line.length < 40), isTerminal);
  }
});

Deno.test("whatever the width, the line fits and keeps percentage and time left; details go one by one, the bar gets shorter", () => {
  const parts = {
    label: "postfinetune 1234/2000",
    share: 0.625,
    left: 9 * 3600 + 59 * 60,
    details: [["loss 2.500", "loss 2.50"], ["sparsity 25.2 % (target 30.0 %)", "sparsity 25.2/30.0 %"], [
      "812 tokens/s",
      "812 tokens/s",
    ]] as const,
  };
  for (let columns = 24; columns <= 140; columns++) {
    const line = progressLine(parts, columns);
    assert.ok([...line].length <= columns, `${columns}: ${line}`);
    assert.match(line, /62 %/, `${columns}`);
    assert.match(line, /9 h 59 min left|9h59m left/, `${columns}`);
  }
  const at = (columns: number): string => progressLine({ ...parts, label: "prune 8/60", left: 151 }, columns);
  assert.equal(
    at(79),
    "prune 8/60  █████░░░  62 %  2 min 31 s left  loss 2.50  sparsity 25.2/30.0 %",
  );
  assert.equal(at(39), "prune 8/60  ██░░  62 %  2 min 31 s left");
  assert.equal(at(28), "prune 8/60  62 %  2m31s left");
  assert.equal(at(22), "pru…  62 %  2m31s left");
});

Deno.test("a phase has a bar where its share is known, and says how long it lasts where it is not", () => {
  const { progress, written, clock, tick } = fake({ isTerminal: true, columns: 80 });
  progress.phase("loading the model", 0.1);
  clock.now += 1000;
  progress.phase("loading the model", 0.2);
  assert.equal(lineOf(written), "loading the model  ████░░░░░░░░░░░░░░░░  20 %");
  clock.now += 3000;
  progress.phase("loading the model", 0.6);
  assert.equal(lineOf(written), "loading the model  ████████████░░░░░░░░  60 %  3 s left");
  progress.phase("writing the files");
  assert.equal(lineOf(written), "writing the files  0 s");
  for (let second = 0; second < 65; second++) {
    clock.now += 1000;
    tick();
  }
  assert.equal(lineOf(written), "writing the files  1 min 05 s");
  progress[Symbol.dispose]();
  const { length } = written;
  clock.now += 5000;
  tick();
  assert.equal(written.length, length, "a phase that ended is not shown again");
});

Deno.test("a download says its bytes beside the time that is left, on a terminal and off it", () => {
  for (const isTerminal of [true, false]) {
    const { progress, written, clock } = fake({ isTerminal, columns: 80 });
    progress.phase("fetching hf:a/b", 0, "0 B of 6 MiB");
    clock.now += 6000;
    progress.phase("fetching hf:a/b", 0.5, "3 MiB of 6 MiB");
    const share = isTerminal ? "██████████░░░░░░░░░░  50 %" : "50 %", gap = isTerminal ? "  " : " ";
    const line = isTerminal ? lineOf(written) : written.at(-1)?.trim();
    assert.equal(line, `fetching hf:a/b${gap}${share}  6 s left  3 MiB of 6 MiB`);
    progress[Symbol.dispose]();
  }
});

Deno.test("off a terminal a phase is named once, and again each minute that it lasts", () => {
  const { progress, written, clock, tick } = fake({ isTerminal: false });
  progress.phase("writing the files");
  for (let second = 0; second < 130; second++) {
    clock.now += 1000;
    tick();
  }
  assert.deepEqual(written, [
    "writing the files\n",
    "writing the files  for 1 min 00 s\n",
    "writing the files  for 2 min 00 s\n",
  ]);
});

Deno.test("details and how long phases took are said with --verbose only", () => {
  for (const isVerbose of [false, true]) {
    const { progress, written, clock } = fake({ isTerminal: false, isVerbose });
    progress.detail("device      a GPU");
    progress.phase("loading the model", 0);
    clock.now += 3000;
    progress.step(record(1));
    const said = written.join("");
    assert.equal(said.includes("a GPU"), isVerbose);
    assert.equal(said.includes("loading the model: 3 s\n"), isVerbose, said);
  }
});

Deno.test("on a terminal the masks of the layers come as lines that stay, some seconds apart; elsewhere there are none", () => {
  const masks = (step: number): StepRecord => ({
    ...record(step),
    layers: [
      { heads: 0, ffn: 1, sparsity: 1 },
      { heads: step / 100, ffn: 0.99, sparsity: 1 },
      { heads: 0.5, ffn: 0.01, sparsity: 0.1 },
    ],
  });
  const { progress, written, clock } = fake({ isTerminal: true });
  for (let step = 1; step <= 100; step++) {
    clock.now += 1000;
    progress.step(masks(step));
  }
  const lines = written.filter((text) => text.endsWith("\n"));
  assert.equal(lines[0], "kept of each layer, first to last: █ all, ▄ half, · nothing\n");
  assert.equal(lines[1], "step   1/100  heads █▇▄  FFN ·▁▇\n");
  assert.equal(lines.at(-1), "step  96/100  heads █▁▄  FFN ·▁▇\n");
  assert.equal(lines.length, 1 + 20, "a line each 5 of 100 steps: 24 at most in a run");
  written.length = 0;
  progress.step(masks(40));
  assert.ok(written.includes("step  40/100  heads █▅▄  FFN ·▁▇\n"), "a run that went back shows them anew");
  const plain = fake({ isTerminal: false });
  for (let step = 1; step <= 100; step++) {
    plain.clock.now += 1000;
    plain.progress.step(masks(step));
  }
  assert.ok(plain.written.every((line) => line.startsWith("prune ")));
});

Deno.test("maskMap() keeps to the width of the terminal: neighbours share a character", () => {
  const layers = Array.from({ length: 80 }, (_, layer) => ({ heads: layer < 40 ? 0 : 1, ffn: 0.5, sparsity: 0.5 }));
  const line = maskMap({ step: 7, steps: 300, layers }, 60);
  assert.equal([...line].length, 60);
  assert.match(line, /^step {3}7\/300 {2}heads █{8}[▃-▅]·{8} {2}FFN ▄{17}$/);
  assert.equal(maskMap({ step: 7, steps: 300, layers: layers.slice(0, 2) }, 60), "step   7/300  heads ██  FFN ▄▄");
});

Deno.test("durations, counts and bytes read well", () => {
  assert.deepEqual([8.2, 125, 12_000].map(duration), ["8 s", "2 min 05 s", "3 h 20 min"]);
  assert.deepEqual([7, 1234, 134_515_008].map(formatCount), ["7", "1,234", "134,515,008"]);
  assert.deepEqual([999.4, 999.7, 1023].map((count) => formatBytes(count * 2 ** 20)), [
    "999 MiB",
    "999.7 MiB",
    "1023 MiB",
  ]);
  assert.deepEqual([0, 900, 2048, 128 * 2 ** 20, 1.5 * 2 ** 30].map(formatBytes), [
    "0 bytes",
    "900 bytes",
    "2.00 KiB",
    "128 MiB",
    "1.50 GiB",
  ]);
});

Deno.test("flags of bytes, parameters, counts and lists take what their type has, and refuse the rest with the flag's path", () => {
  const kinds = [
    {
      row: { type: "bytes" },
      takes: {
        "1000": 1000,
        "2K": 2048,
        "800M": 800 * 2 ** 20,
        "1.5G": 1.5 * 2 ** 30,
        "6GiB": 6 * 2 ** 30,
        "1tb": 2 ** 40,
      },
      refused: ["", "0", "-1", "G", "6X", "1e3", "Infinity"],
    },
    {
      row: { type: "parameters" },
      takes: { "1000": 1000, "250K": 250e3, "110M": 110e6, "5.4B": 5.4e9, "0.1b": 1e8, " 1.2 T ": 1.2e12 },
      refused: ["", "0", "-1", "B", "5.4G", "5,4B", "1e9", "0.0001"],
    },
    {
      row: { type: "count", least: 1 },
      takes: { "12": 12, "+3": 3 },
      refused: ["", " ", "0", "1e3", "0x10", "1_000", "12.0", "99999999999"],
    },
    {
      row: { type: "number", above: 0, below: 1 },
      takes: { "0.3": 0.3, "1e-3": 1e-3 },
      refused: ["", " ", "0", "1", "30%", "NaN", "x"],
    },
    {
      row: { type: "words", words: ["kv", "ffn"] },
      takes: { "ffn, kv": ["ffn", "kv"], "KV": ["kv"] },
      refused: ["", ",", "kv,kv", "kv,hid"],
    },
    { row: { type: "names", words: ["schedule", "rates"] }, takes: { rates: ["rates"] }, refused: ["", "rates,x"] },
    { row: { type: "list" }, takes: { "a, b": ["a", "b"] }, refused: ["", "a,"] },
    { row: { type: "layers" }, takes: { "0,1, -1": [0, 1, -1] }, refused: ["", "0,", "1.5"] },
    { row: { type: "word", words: ["f16", "f32"] }, takes: { F16: "f16" }, refused: ["", "f61"] },
    { row: { type: "text" }, takes: { "a b": "a b" }, refused: ["", " "] },
  ] as const;
  for (const { row, takes, refused } of kinds) {
    const parse = parserOf(row, { flag: "--flag", path: "a.path" }) as (text: string) => unknown;
    for (const [text, value] of Object.entries(takes)) assert.deepEqual(parse(text), value, text);
    for (const text of refused) refuses(() => parse(text), "usage", { option: "a.path", names: "--flag" });
  }
});
