// `compresso schedule preview`: the plot, the SVG, the JSON, and what is refused.
import assert from "node:assert/strict";
import { basename } from "node:path";
import { plotRows } from "../../cli/terminal/plot.ts";
import { assertStandsAlone } from "../report/svg.ts";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("schedule preview plots a built-in schedule, says that the run is simulated, and keeps to the width", async () => {
  const { code, stdout, stderr } = await cli(["schedule", "preview", "linear", "--steps", "100", "--sparsity", "0.4"]);
  assert.equal(code, 0, stderr);
  assertNames(stdout, ["linear", "100 steps", "40.0 %", "12 layers"]);
  assert.match(stdout, /^ +0\.4 ┤ +█*/m);
  assert.match(stdout, /step 99$/m);
  assert.match(stdout, /^ends +\S/m);
  assert.ok(stdout.split("\n").slice(3).every((line) => [...line].length <= 80));
});

Deno.test("--trust is refused where there is no script", async () => {
  for (const args of [["schedule", "preview", "cubic"], ["prune", "demo", "--sparsity", "0.2", "--out", "unused"]]) {
    await refused([...args, "--trust"], "usage", { option: "--trust" });
  }
});

Deno.test("schedule preview has the warm-up of a run", async () => {
  const early = async (...more: string[]): Promise<number> =>
    (await json(["schedule", "preview", "linear", "--steps", "10", ...more])).points[2].target;
  assert.ok(Math.abs(await early("--warmup", "0.5") - 0.3 * 3 / 5) < 1e-9);
  assert.ok(Math.abs(await early() - 0.3 * 3 / 4) < 1e-9);
});

Deno.test("a warm-up is refused beside a schedule that has no use for it", async () => {
  using folder = new TemporaryFolder();
  const script = 'import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: 0.1 });';
  await Deno.writeTextFile(folder.at("mine.ts"), script);
  const refusal = async (source: string, value: string | string[]): Promise<unknown> =>
    await refused(["schedule", "preview", source, "--warmup", "0.9"], "usage", { option: "--warmup", value });
  await refusal("constant", "constant");
  await refusal(folder.at("mine.ts"), [folder.at("mine.ts"), "sparsity"]);
  const rate = 'import { defineSchedule } from "compresso"; export default defineSchedule({ rates: { warmup: 0.5 } });';
  await Deno.writeTextFile(folder.at("rate.ts"), rate);
  await refusal(folder.at("rate.ts"), [folder.at("rate.ts"), "warmup"]);
});

Deno.test("schedule preview shows rates, layers, frozen units and the end of a script, and writes an SVG for light and dark", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(
    folder.at("mine.ts"),
    `import { defineSchedule, steps } from "compresso";
console.log("hello");
export default defineSchedule({
  sparsity: steps([[0, 0.1], [0.5, "target"]]),
  layers: ({ layers }) => layers.map((_, layer) => layer === 0 ? null : 0.25),
  freeze: ({ step }) => step < 3 ? [{ layer: 0, kind: "heads" }] : [],
  end: ({ records }) => records.length === 16,
  rates: { lora: ({ progress }) => 1e-3 * progress },
});`,
  );
  const args = ["schedule", "preview", folder.at("mine.ts"), "--steps", "20", "--layers", "2"];
  const { code, stdout, stderr } = await cli([...args, "--svg", folder.at("out", "mine.svg")]);
  assert.equal(code, 0, stderr);
  assertNames(stderr, "script: hello");
  assertNames(stdout, "mine.ts");
  assert.match(stdout, /^lora$/m);
  assert.match(stdout, /0 +free\n +1 +█{6}·{18} 25\.0 %/);
  assertNames(stdout, ["3 of 14 steps", "14 of 20"]);
  // Beside two steps of fine-tuning, whose records a run has too.
  const facts = await json(args), { points } = facts;
  assert.deepEqual([facts.isolated, facts.endsBefore, points.length], [true, 14, 14]);
  assert.equal(points.filter(({ freeze }: { freeze: unknown[] }) => freeze.length > 0).length, 3);
  const svg = await Deno.readTextFile(folder.at("out", "mine.svg"));
  assertStandsAlone(svg);
  // Within 720 of the picture's 760 pixels, whatever the font.
  for (const [, text = ""] of svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)) assert.ok(text.length < 100, text);
  assertNames(/<title[^>]*>([^<]*)<\/title>/.exec(svg)?.[1] ?? "", ["mine.ts", "20 steps", "30 %"]);
  const drawn = Array.from(svg.matchAll(/<g [^>]*data-name="([^"]*)"[^>]*><path d="M/g), ([, name]) => name);
  assert.deepEqual(drawn, ["layer 1", "sparsity", "lora"], "layer 0 is free, and has no line");
  for (const label of ["lora", "step 14", "layer 0", ">layer 1<"]) assert.ok(svg.includes(label), label);
});

Deno.test("schedule preview shows the records of fine-tuning as a run does, by the number of its steps", async () => {
  using folder = new TemporaryFolder();
  const preview = async (body: string, ...more: string[]): Promise<string[]> => {
    const text = `export default defineSchedule({ ${body} });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    return ["schedule", "preview", folder.at("mine.ts"), "--steps", "200", ...more];
  };
  const early = "end: ({ records }) => records.length >= 10";
  const whole = await json(await preview(early));
  assertNames(whole.simulated, "20 steps");
  assert.equal(whole.endsBefore, 0);
  assert.equal((await json(await preview(early, "--prefinetune", "4"))).endsBefore, 6);
  // Outside the pruning stage a record has no sparsity.
  const careless = await preview("sparsity: ({ records }) => Number(records.at(-1).expected.toFixed(3))");
  await refused(careless, "input", { names: "step 0 of 200" });
  // The rate of LoRA rises to its own over the first half of them; only the last records are seen.
  const rising = "sparsity: ({ records, step }) => 100 * records[0].learningRate";
  const { points: rates } = await json(await preview(rising, "--prefinetune", "40"));
  assert.ok(Math.abs(rates[0].sparsity - 100 * 1e-3 * 9 / 20) < 1e-9, `${rates[0].sparsity}`);
  for (const option of ["--prefinetune", "--layers"]) {
    await refused(["schedule", "preview", "cubic", option, "4"], "usage", { option, value: "cubic" });
  }
  const numbered = "end: ({ records }) => records.at(-1)?.step === 25 && records[0]?.stage === 'finetune'";
  assert.equal((await json(await preview(numbered))).endsBefore, 5);
});

/** What a run would not take of a script with this body; what is said of it has its figures. */
async function shortfallOf(body: string, ...more: readonly string[]): Promise<unknown> {
  using folder = new TemporaryFolder();
  const text = `export default defineSchedule({ ${body} });`;
  await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule, linear } from "compresso"; ${text}`);
  const { code, stdout, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--json", ...more]);
  assert.equal(code, 0, stderr);
  const { shortfall } = JSON.parse(stdout);
  if (shortfall === null) assert.equal(stderr, "");
  else if (shortfall.of === "layers" || shortfall.of === "sparsity") {
    assertNames(stderr, [shortfall.value, shortfall.wanted].map((share) => `${(100 * share).toFixed(1)} %`));
  } else assertNames(stderr, shortfall.stage ?? shortfall.value);
  return shortfall && { ...shortfall, value: Number(shortfall.value?.toFixed(6)) };
}

Deno.test("schedule preview says where the targets of all layers do not add up to the whole's", async () => {
  const preview = (last: string): Promise<unknown> =>
    shortfallOf(`layers: ({ layers }) => layers.map((_, i) => ${last})`, "--steps", "4", "--layers", "2");
  const layers = { of: "layers", wanted: 0.3 };
  assert.deepEqual(await preview("0.1 * (i + 1)"), { ...layers, value: 0.15, run: "refuses" });
  assert.deepEqual(await preview("0.3 * (i + 1)"), { ...layers, value: 0.45, run: "alarms" });
  assert.equal(await preview("0.2 * (i + 1)"), null);
  assert.equal(await preview("i === 0 ? null : 0.1"), null);
});

Deno.test("schedule preview says where the limit of log α falls below what a run takes", async () => {
  const preview = (limit: number): Promise<unknown> =>
    shortfallOf(`rates: { logAlphaLimit: ({ progress }) => progress < 1 ? 50 : ${limit} }`, "--steps", "60");
  const short = await preview(10);
  assert.ok(short !== null && typeof short === "object" && "wanted" in short);
  assert.deepEqual({ ...short, wanted: Math.ceil(Number(short.wanted)) }, {
    of: "logAlphaLimit",
    value: 10,
    wanted: 25,
    run: "refuses",
  });
  assert.equal(await preview(30), null);
});

Deno.test("schedule preview says where a schedule's own sparsity ends off the run's, as the run will", async () => {
  const preview = (body: string, ...more: string[]): Promise<unknown> => shortfallOf(body, "--steps", "4", ...more);
  for (const [to, wanted] of [[0.25, 0.3], [0.35, 0.3], [0.3, 0.4]] as const) {
    assert.deepEqual(await preview(`sparsity: linear({ to: ${to} })`, "--sparsity", `${wanted}`), {
      of: "sparsity",
      value: to,
      wanted,
      run: "alarms",
    });
  }
  // Within what the alarm tolerates, with the run's own sparsity, or ended early on purpose.
  for (const to of ['"target"', "0.295"]) assert.equal(await preview(`sparsity: linear({ to: ${to} })`), null);
  assert.equal(await preview("rates: { lora: 1e-4 }"), null);
  assert.equal(await preview("sparsity: 0.1, end: ({ step }) => step === 2"), null);
});

Deno.test("prune refuses a script that its method cannot follow before its first step", async () => {
  using folder = new TemporaryFolder();
  const text = 'import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: 0.1 });';
  await Deno.writeTextFile(folder.at("mine.ts"), text);
  const args = ["--sparsity", "0.2", "--out", folder.at("run"), "--schedule", folder.at("mine.ts"), "--no-tuning"];
  await refused(["prune", "demo", "--method", "magnitude", ...args], "usage", { names: ["magnitude", "sparsity"] });
  assert.ok(!folder.has("run", "model"));
});

Deno.test("schedule preview holds the layer that a schedule freezes whole", async () => {
  using folder = new TemporaryFolder();
  const freezing = async (frozen: string): Promise<readonly number[]> => {
    const text = `export default defineSchedule({
      sparsity: ({ layers, sparsity }) => Math.min(sparsity, 0.1 + (layers[0]?.ffn ?? 0)),
      freeze: () => [${frozen}],
    });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    const { points }: { points: { sparsity: number }[] } = await json([
      ...["schedule", "preview", folder.at("mine.ts"), "--steps", "4"],
    ]);
    return points.map(({ sparsity }) => Number(sparsity.toFixed(6)));
  };
  assert.deepEqual(await freezing(`{ layer: 0, kind: "layer" }`), [0.1, 0.1, 0.1, 0.1]);
  assert.deepEqual(await freezing(`{ layer: 0, kind: "ffn", units: [3] }`), [0.1, 0.2, 0.3, 0.3], "the others move");
});

Deno.test("schedule preview shows what a script sets in the stages before and after pruning, each over its own steps", async () => {
  using folder = new TemporaryFolder();
  const preview = (
    script: string,
    ...more: string[]
  ): string[] => ["schedule", "preview", script, "--steps", "20", ...more];
  const example = "scripts/examples/learning_rate.ts", stages = ["--prefinetune", "5", "--postfinetune", "40"];
  const { code, stdout, stderr } = await cli(preview(example, ...stages, "--svg", folder.at("rate.svg")));
  assert.equal(code, 0, stderr);
  const ends = [...stdout.matchAll(/^(lora.*)\n(?:.*\n)*? +0 +step (\d+)$/gm)].map(([, name, last]) => [name, last]);
  const names = ["lora", "lora, stage finetune", "lora, stage postfinetune"];
  assert.deepEqual(ends, names.map((name, at) => [name, ["19", "4", "39"][at]]));
  const svg = await Deno.readTextFile(folder.at("rate.svg"));
  assertStandsAlone(svg);
  const drawn = Array.from(svg.matchAll(/<g [^>]*data-name="([^"]*)"[^>]*><path d="M/g), ([, name]) => name);
  assert.deepEqual(drawn, ["sparsity (the run&#39;s own)", ...names]);
  const { finetune, postfinetune } = await json(preview(example, ...stages));
  assert.deepEqual([finetune.steps, finetune.points[4]], [5, { step: 4, progress: 1, rates: { lora: 1e-3 } }]);
  const { steps, points, endsBefore } = postfinetune;
  assert.deepEqual([steps, points.length, points[3].rates.lora, points[39].rates.lora, endsBefore], [
    40,
    40,
    1e-3,
    0,
    null,
  ]);
  // Three tenths of the steps, as a run; and what it sees there is what a run shows.
  const told =
    `export default defineSchedule({ sparsity: 0.2, postfinetune: { lora: ({ stage, records, layers, step }) =>
    stage === "postfinetune" && records.length === 22 + step && records.at(-1).stage === (step ? stage : "prune") ? layers[0].ffn : NaN } });`;
  await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${told}`);
  const { postfinetune: seen } = await json(preview(folder.at("mine.ts"), "--sparsity", "0.2"));
  const rates = seen.points.map(({ rates }: { rates: unknown }) => rates);
  assert.deepEqual(rates, Array(6).fill({ lora: 0.2 }));
  await refused(preview("cubic", "--postfinetune", "5"), "usage", { option: "--postfinetune", value: "cubic" });
});

Deno.test("schedule preview says where a script ends stages before and after pruning, and where one has no steps", async () => {
  using folder = new TemporaryFolder();
  const path = folder.at("mine.ts"), args = ["schedule", "preview", path, "--steps", "20"];
  const write = async (body: string): Promise<void> =>
    await Deno.writeTextFile(
      path,
      `import { defineSchedule } from "compresso"; export default defineSchedule({ ${body} });`,
    );
  // Two steps of fine-tuning, of which one is done; then twenty, and six of the last stage.
  await write(
    "finetune: { end: ({ step }) => step === 1 }, postfinetune: { lora: 1e-4, focus: 0.5, end: ({ records }) => records.length === 23 }",
  );
  const { code, stdout, stderr } = await cli([...args, "--svg", folder.at("ends.svg")]);
  assert.equal(code, 0, stderr);
  for (const [stage, end] of [["finetune", "1 of 2"], ["postfinetune", "2 of 6"]] as const) {
    assert.match(stdout, new RegExp(`^ .*${stage} .*${end}$`, "m"));
  }
  assertNames(stdout, "focus, stage postfinetune");
  assert.match(await Deno.readTextFile(folder.at("ends.svg")), />[^<]*step 2</);
  const ends = await json(args);
  assert.deepEqual([ends.finetune.endsBefore, ends.endsBefore, ends.postfinetune.endsBefore], [1, null, 2]);
  await write("finetune: { lora: 1e-3 }");
  const idle = await cli([...args, "--prefinetune", "0", "--json"]), { shortfall } = JSON.parse(idle.stdout);
  assert.equal(idle.code, 0, idle.stderr);
  assertNames(idle.stderr, "finetune");
  assert.deepEqual(shortfall, { of: "stage", stage: "finetune", run: "refuses" });
});

Deno.test("schedule preview --json has every step", async () => {
  const { points, isolated, endsBefore } = await json(["schedule", "preview", "step", "--steps", "8"]);
  assert.equal(isolated, false);
  assert.equal(endsBefore, null);
  assert.equal(points.length, 8);
  assert.deepEqual(points[7], {
    step: 7,
    progress: 1,
    target: 0.3,
    sparsity: 0.3,
    layers: null,
    freeze: [],
    end: false,
    rates: {},
  });
});

Deno.test("schedule preview refuses what is no schedule, with one error and its status", async () => {
  using folder = new TemporaryFolder();
  const script = async (text: string): Promise<string> => {
    await Deno.writeTextFile(folder.at("mine.ts"), text);
    return folder.at("mine.ts");
  };
  const head = `import { defineSchedule } from "compresso"; export default defineSchedule(`;
  const cases: readonly (readonly [string, ErrorCode, Refusal])[] = [
    [folder.at("none.ts"), "input", { names: folder.at("none.ts") }],
    ["cub", "input", { names: ["cub", "cubic", "linear"] }],
    [
      await script(`${head}{ sparsity: ({ step }) => step === 7 ? NaN : 0.1 });`),
      "numeric",
      { names: ["step 7 of 200", "sparsity = NaN"] },
    ],
  ];
  for (const [source, code, refusal] of cases) await refused(["schedule", "preview", source], code, refusal);
  const path = await script(`${head}{ sparsity: () => 0.1 });`), text = await Deno.readTextFile(path);
  await refused(
    ["schedule", "preview", path, "--svg", folder.at("..", basename(folder.path), "mine.ts")],
    "usage",
    { names: ["--svg", "mine.ts"] },
  );
  assert.equal(await Deno.readTextFile(path), text);
  const hostile = await script(`${head}{ sparsity: () => Deno.pid / 1e9 });`);
  await refused(["schedule", "preview", hostile], "input", { names: ["Deno", "--trust"] });
  await json([
    ...["schedule", "preview", "--trust"],
    await script(`export default { definition: { sparsity: () => Deno.pid > 0 ? 0.1 : 0.2 } };`),
  ]);
});

Deno.test("schedule preview --trust gives what it gives isolated, of the same text", async () => {
  using folder = new TemporaryFolder();
  for (const share of [0.5, 1]) {
    await Deno.writeTextFile(
      folder.at("mine.ts"),
      `import { defineSchedule, linear } from "compresso";
export default defineSchedule({ sparsity: linear({ to: ${0.2 * share} }) });`,
    );
    const name = `mine${share}.ts`; // a module is imported once in a process
    await Deno.rename(folder.at("mine.ts"), folder.at(name));
    const args = ["schedule", "preview", folder.at(name), "--steps", "2"];
    const isolated = await json(args), trusted = await json([...args, "--trust"]);
    assert.deepEqual(trusted, { ...isolated, isolated: false });
  }
});

Deno.test("the help of schedule preview says that scripts run isolated, what --trust does, and what deno check needs", async () => {
  const { code, stdout } = await cli(["schedule", "preview", "--help"]);
  assert.equal(code, 0);
  assertNames(stdout, [
    "--trust",
    "--allow-run",
    '{ "imports": { "compresso/schedule": "PATH/lib/schedule/mod.ts" } }',
  ]);
});

Deno.test("plotRows() draws bars in eighths, and keeps the place of steps after an early end", () => {
  assert.deepEqual(plotRows({ name: "a", values: [0, 0.25, 0.5, 1] }, { rows: 1, columns: 22, count: 10 }), [
    "a",
    "         1 ┤ ▂▄█",
    "           └──────────",
    "            0   step 9",
  ]);
  const two = plotRows({ name: "a", values: [0, 0.5, 1, NaN, 1] }, { rows: 2, columns: 17, count: 5 });
  assert.deepEqual(two.slice(1, 3), ["         1 ┤    ██  ██", "         0 ┤  ████  ██"]);
  const long = { name: "a", values: new Array<number>(300_000).fill(1) };
  assert.match(plotRows(long, { rows: 1, columns: 22, count: 300_000 })[1] ?? "", /1 ┤█+$/);
  const flat = plotRows({ name: "a", values: [0, 0] }, { rows: 1, columns: 22, count: 2 });
  assert.equal(flat[1], "         0 ┤");
});

Deno.test("schedule preview of a script for a certain model names the option that takes its layers", async () => {
  using folder = new TemporaryFolder();
  const preview = async (body: string, ...more: string[]): Promise<string[]> => {
    const text = `export default defineSchedule({ ${body} });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso";\n${text}`);
    return ["schedule", "preview", folder.at("mine.ts"), "--steps", "4", ...more];
  };
  for (
    const [body, names] of [
      ["layers: () => Array.from({ length: 30 }, () => null)", [12, 30]],
      ['freeze: () => [{ layer: 20, kind: "ffn" }]', [11, "layer 20"]],
    ] as const
  ) {
    const { fix } = await refused(await preview(body), "input", { names });
    assertNames(fix ?? "", "--layers");
    const { code, stderr } = await cli(await preview(body, "--layers", "30"));
    assert.deepEqual([code, stderr], [0, ""]);
  }
});
