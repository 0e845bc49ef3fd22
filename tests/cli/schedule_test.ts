// `compresso schedule preview`: the plot, the SVG, the JSON, and what is refused.
import assert from "node:assert/strict";
import { basename } from "node:path";
import { plotRows } from "../../cli/terminal/plot.ts";
import { assertStandsAlone } from "../report/svg.ts";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("schedule preview plots a built-in schedule, says that the run is simulated, and keeps to the width", async () => {
  const { code, stdout, stderr } = await cli(["schedule", "preview", "linear", "--steps", "100", "--sparsity", "0.4"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /schedule +linear\nrun +100 steps to 40\.0 % sparsity\nsimulated +12 layers/);
  assert.match(stdout, /^ +0\.4 ┤ +█*/m);
  assert.match(stdout, /step 99$/m);
  assert.match(stdout, /ends +after the last step/);
  assert.ok(stdout.split("\n").slice(3).every((line) => [...line].length <= 80));
});

Deno.test("--trust is refused where there is no script", async () => {
  for (const args of [["schedule", "preview", "cubic"], ["prune", "demo", "--sparsity", "0.2", "--out", "unused"]]) {
    const { code, stderr } = await cli([...args, "--trust"]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /cannot use --trust.*a script/s);
  }
});

Deno.test("schedule preview has the warm-up of a run", async () => {
  const early = async (...more: string[]): Promise<number> => {
    const { code, stdout, stderr } = await cli([
      ...["schedule", "preview", "linear", "--steps", "10", "--json"],
      ...more,
    ]);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).points[2].target;
  };
  assert.ok(Math.abs(await early("--warmup", "0.5") - 0.3 * 3 / 5) < 1e-9);
  assert.ok(Math.abs(await early() - 0.3 * 3 / 4) < 1e-9);
});

Deno.test("a warm-up is refused beside a schedule that has no use for it", async () => {
  using folder = new TemporaryFolder();
  const script = 'import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: 0.1 });';
  await Deno.writeTextFile(folder.at("mine.ts"), script);
  for (
    const [source, value] of [["constant", "constant, which is at the target"], [
      folder.at("mine.ts"),
      "sets sparsity itself",
    ]]
  ) {
    const { code, stderr } = await cli(["schedule", "preview", source ?? "", "--warmup", "0.9"]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, new RegExp(`cannot use --warmup[^]*${value}`));
  }
  const rate = 'import { defineSchedule } from "compresso"; export default defineSchedule({ rates: { warmup: 0.5 } });';
  await Deno.writeTextFile(folder.at("rate.ts"), rate);
  const { code, stderr } = await cli(["schedule", "preview", folder.at("rate.ts"), "--warmup", "0.9"]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /sets warmup itself/);
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
  assert.match(stderr, /script: hello/);
  assert.match(stdout, /mine\.ts, isolated/);
  assert.match(stdout, /^lora$/m);
  assert.match(stdout, /0 +free\n +1 +█{6}·{18} 25\.0 %/);
  assert.match(stdout, /freezes +units in 3 of 14 steps/);
  // Beside two steps of fine-tuning, whose records a run has too.
  assert.match(stdout, /ends +before step 14 of 20/);
  const svg = await Deno.readTextFile(folder.at("out", "mine.svg"));
  assertStandsAlone(svg);
  // Within 720 of the picture's 760 pixels, whatever the font.
  for (const [, text = ""] of svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)) assert.ok(text.length < 100, text);
  assert.match(svg, /<title[^>]*>[^<]*mine\.ts, 20 steps to 30 % sparsity<\/title>/);
  const drawn = Array.from(svg.matchAll(/<g [^>]*data-name="([^"]*)"[^>]*><path d="M/g), ([, name]) => name);
  assert.deepEqual(drawn, ["layer 1", "sparsity", "lora"], "layer 0 is free, and has no line");
  for (
    const label of [
      "lora",
      "ends before step 14",
      "step",
      "thin: targets of 1 of 2 layers; layer 0 is free",
      ">layer 1<",
    ]
  ) {
    assert.ok(svg.includes(label), label);
  }
});

Deno.test("schedule preview shows the records of fine-tuning as a run does, by the number of its steps", async () => {
  using folder = new TemporaryFolder();
  const preview = async (body: string, ...more: string[]): ReturnType<typeof cli> => {
    const text = `export default defineSchedule({ ${body} });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    return await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "200", ...more]);
  };
  const early = "end: ({ records }) => records.length >= 10";
  assert.match(
    (await preview(early)).stdout,
    /simulated .*after 20 steps of fine-tuning;[^]*ends +before step 0 of 200/,
  );
  assert.match((await preview(early, "--prefinetune", "4")).stdout, /ends +before step 6 of 200/);
  // Outside the pruning stage a record has no sparsity.
  const careless = await preview("sparsity: ({ records }) => Number(records.at(-1).expected.toFixed(3))");
  assert.equal(careless.code, 3, careless.stderr);
  assert.match(careless.stderr, /step 0 of 200/);
  // The rate of LoRA rises to its own over the first half of them; only the last records are seen.
  const rising = "sparsity: ({ records, step }) => 100 * records[0].learningRate";
  const rates = JSON.parse((await preview(rising, "--prefinetune", "40", "--json")).stdout).points;
  assert.ok(Math.abs(rates[0].sparsity - 100 * 1e-3 * 9 / 20) < 1e-9, `${rates[0].sparsity}`);
  const builtin = await cli(["schedule", "preview", "cubic", "--prefinetune", "4"]);
  assert.equal(builtin.code, 2, builtin.stderr);
  assert.match(builtin.stderr, /cannot use --prefinetune\n.*only a script/);
  const layered = await cli(["schedule", "preview", "cubic", "--layers", "4"]);
  assert.equal(layered.code, 2);
  assert.match(layered.stderr, /cannot use --layers\n.*only a script sees the layers/);
  const numbered = "end: ({ records }) => records.at(-1)?.step === 25 && records[0]?.stage === 'finetune'";
  assert.match((await preview(numbered)).stdout, /ends +before step 5 of 200/);
});

Deno.test("schedule preview says where the targets of all layers do not add up to the whole's", async () => {
  using folder = new TemporaryFolder();
  const preview = async (last: string): Promise<string> => {
    const text = `export default defineSchedule({ layers: ({ layers }) => layers.map((_, i) => ${last}) });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    const { code, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "4", "--layers", "2"]);
    assert.equal(code, 0, stderr);
    return stderr;
  };
  assert.match(await preview("0.1 * (i + 1)"), /all layers add up to 15\.0 % at the last step.*30\.0 %: a run refuses/);
  assert.match(
    await preview("0.3 * (i + 1)"),
    /all layers add up to 45\.0 % .*30\.0 %: a run follows .* raises an alarm/,
  );
  assert.doesNotMatch(await preview("0.2 * (i + 1)"), /refuses|alarm/);
  assert.doesNotMatch(await preview("i === 0 ? null : 0.1"), /refuses/);
});

Deno.test("schedule preview says where the limit of log α falls below what a run takes", async () => {
  using folder = new TemporaryFolder();
  for (const [limit, message] of [[10, /log α falls to 10: .*refuses less than 25/], [30, /^$/]] as const) {
    const text =
      `export default defineSchedule({ rates: { logAlphaLimit: ({ progress }) => progress < 1 ? 50 : ${limit} } });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    const { code, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "60"]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, message);
  }
});

Deno.test("schedule preview says where a schedule's own sparsity ends off the run's, as the run will", async () => {
  using folder = new TemporaryFolder();
  const preview = async (body: string, ...more: string[]): Promise<string> => {
    const text = `export default defineSchedule({ ${body} });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule, linear } from "compresso"; ${text}`);
    const { code, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "4", ...more]);
    assert.equal(code, 0, stderr);
    return stderr;
  };
  for (const [to, more] of [["0.25", []], ["0.35", []], ["0.3", ["--sparsity", "0.4"]]] as const) {
    const said = RegExp(
      `^the schedule ends at ${100 * Number(to)}\\.0 %, where --sparsity is [34]0\\.0 %: .*an alarm$`,
      "m",
    );
    assert.match(await preview(`sparsity: linear({ to: ${to} })`, ...more), said);
  }
  // Within what the alarm tolerates, with the run's own sparsity, or ended early on purpose.
  for (const to of ['"target"', "0.295"]) assert.equal(await preview(`sparsity: linear({ to: ${to} })`), "");
  assert.equal(await preview("rates: { lora: 1e-4 }"), "");
  assert.equal(await preview("sparsity: 0.1, end: ({ step }) => step === 2"), "");
});

Deno.test("prune refuses a script that its method cannot follow before its first step", async () => {
  using folder = new TemporaryFolder();
  const text = 'import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: 0.1 });';
  await Deno.writeTextFile(folder.at("mine.ts"), text);
  const args = ["--sparsity", "0.2", "--out", folder.at("run"), "--schedule", folder.at("mine.ts"), "--no-tuning"];
  const { code, stderr } = await cli(["prune", "demo", "--method", "magnitude", ...args]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /cannot follow the schedule\n.*magnitude cuts everything[^]*it decides sparsity/);
  await assert.rejects(Deno.stat(folder.at("run", "model")), Deno.errors.NotFound);
});

Deno.test("schedule preview holds the layer that a schedule freezes whole", async () => {
  using folder = new TemporaryFolder();
  const freezing = async (frozen: string): Promise<readonly number[]> => {
    const text = `export default defineSchedule({
      sparsity: ({ layers, sparsity }) => Math.min(sparsity, 0.1 + (layers[0]?.ffn ?? 0)),
      freeze: () => [${frozen}],
    });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso"; ${text}`);
    const { code, stdout, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "4", "--json"]);
    assert.equal(code, 0, stderr);
    const { points }: { points: { sparsity: number }[] } = JSON.parse(stdout);
    return points.map(({ sparsity }) => Number(sparsity.toFixed(6)));
  };
  assert.deepEqual(await freezing(`{ layer: 0, kind: "layer" }`), [0.1, 0.1, 0.1, 0.1]);
  assert.deepEqual(await freezing(`{ layer: 0, kind: "ffn", units: [3] }`), [0.1, 0.2, 0.3, 0.3], "the others move");
});

Deno.test("schedule preview shows what a script sets in the stages before and after pruning, each over its own steps", async () => {
  using folder = new TemporaryFolder();
  const preview = async (script: string, ...more: string[]): ReturnType<typeof cli> =>
    await cli(["schedule", "preview", script, "--steps", "20", ...more]);
  const example = "scripts/examples/learning_rate.ts", stages = ["--prefinetune", "5", "--postfinetune", "40"];
  const { code, stdout, stderr } = await preview(example, ...stages, "--svg", folder.at("rate.svg"));
  assert.equal(code, 0, stderr);
  const ends = [...stdout.matchAll(/^(lora.*)\n(?:.*\n)*? +0 +step (\d+)$/gm)].map(([, name, last]) => [name, last]);
  const names = ["lora", "lora, stage finetune", "lora, stage postfinetune"];
  assert.deepEqual(ends, names.map((name, at) => [name, ["19", "4", "39"][at]]));
  const svg = await Deno.readTextFile(folder.at("rate.svg"));
  assertStandsAlone(svg);
  const drawn = Array.from(svg.matchAll(/<g [^>]*data-name="([^"]*)"[^>]*><path d="M/g), ([, name]) => name);
  assert.deepEqual(drawn, ["sparsity (the run&#39;s own)", ...names]);
  const { finetune, postfinetune } = JSON.parse((await preview(example, ...stages, "--json")).stdout);
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
  const seen = await preview(folder.at("mine.ts"), "--json", "--sparsity", "0.2");
  assert.equal(seen.code, 0, seen.stderr);
  const rates = JSON.parse(seen.stdout).postfinetune.points.map(({ rates }: { rates: unknown }) => rates);
  assert.deepEqual(rates, Array(6).fill({ lora: 0.2 }));
  const refused = await preview("cubic", "--postfinetune", "5");
  assert.equal(refused.code, 2, refused.stderr);
  assert.match(refused.stderr, /cannot use --postfinetune\n.*scripts that steer the last stage/);
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
  assert.match(stdout, /after 1 steps of fine-tuning/);
  assert.match(
    stdout,
    /ends +after the last step\n +stage finetune before step 1 of 2\n +stage postfinetune before step 2 of 6\n/,
  );
  assert.match(stdout, /focus, stage postfinetune/);
  assert.match(await Deno.readTextFile(folder.at("ends.svg")), />ends before step 2</);
  await write("finetune: { lora: 1e-3 }");
  const idle = await cli([...args, "--prefinetune", "0"]);
  assert.match(idle.stderr, /^the schedule steers finetune, which has no steps: a run refuses that/m);
});

Deno.test("schedule preview --json has every step", async () => {
  const { code, stdout, stderr } = await cli(["schedule", "preview", "step", "--steps", "8", "--json"]);
  assert.equal(code, 0, stderr);
  const { points, isolated, endsBefore } = JSON.parse(stdout);
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
  const cases: readonly (readonly [string, number, RegExp])[] = [
    [folder.at("none.ts"), 3, /cannot read the schedule.*\n.*\n +got: +no such file\n +fix: +check the path\n/],
    ["cub", 3, /cannot read the schedule cub\n[^]*built-in schedules are cubic, linear/],
    [
      await script(`${head}{ sparsity: ({ step }) => step === 7 ? NaN : 0.1 });`),
      5,
      /step 7 of 200[^]*sparsity = NaN\n +fix: +change what the function returns/,
    ],
  ];
  for (const [source, status, message] of cases) {
    const { code, stdout, stderr } = await cli(["schedule", "preview", source]);
    assert.equal(code, status, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.equal(stderr.match(/^compresso: /gm)?.length, 1, stderr);
  }
  const path = await script(`${head}{ sparsity: () => 0.1 });`), text = await Deno.readTextFile(path);
  const itself = await cli(["schedule", "preview", path, "--svg", folder.at("..", basename(folder.path), "mine.ts")]);
  assert.equal(itself.code, 2, itself.stderr);
  assert.match(itself.stderr, /--svg is not one of the files that are read/);
  assert.equal(await Deno.readTextFile(path), text);
  const hostile = await cli(["schedule", "preview", await script(`${head}{ sparsity: () => Deno.pid / 1e9 });`)]);
  assert.equal(hostile.code, 3);
  assert.match(hostile.stderr, /Deno is not defined[^]*--trust/);
  const trusted = await cli([
    "schedule",
    "preview",
    await script(
      `export default { definition: { sparsity: () => Deno.pid > 0 ? 0.1 : 0.2 } };`,
    ),
    "--trust",
  ]);
  assert.equal(trusted.code, 0, trusted.stderr);
});

Deno.test("schedule preview --trust gives what it gives isolated, of the same text", async () => {
  using folder = new TemporaryFolder();
  for (const share of [0.5, 1]) {
    await Deno.writeTextFile(
      folder.at("mine.ts"),
      `import { defineSchedule, linear } from "compresso";
export default defineSchedule({ sparsity: linear({ to: ${0.2 * share} }) });`,
    );
    const args = ["schedule", "preview", folder.at("mine.ts"), "--steps", "2", "--json"];
    const isolated = await cli(args), trusted = await cli([...args, "--trust"]);
    assert.equal(trusted.code, 0, trusted.stderr);
    assert.deepEqual(JSON.parse(trusted.stdout), { ...JSON.parse(isolated.stdout), isolated: false });
  }
});

Deno.test("the help of schedule preview says that scripts run isolated, what --trust does, and what deno check needs", async () => {
  const { code, stdout } = await cli(["schedule", "preview", "--help"]);
  assert.equal(code, 0);
  const words = stdout.replaceAll(/\s+/g, " ");
  for (
    const part of [
      "A script runs isolated: in a process without permissions",
      "--trust runs the script in this process instead, with all its rights",
      '{ "imports": { "compresso/schedule": "PATH/lib/schedule/mod.ts" } }',
    ]
  ) assert.ok(words.includes(part), stdout);
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
  const preview = async (body: string, ...more: string[]): Promise<[number, string]> => {
    const text = `export default defineSchedule({ ${body} });`;
    await Deno.writeTextFile(folder.at("mine.ts"), `import { defineSchedule } from "compresso";\n${text}`);
    const { code, stderr } = await cli(["schedule", "preview", folder.at("mine.ts"), "--steps", "4", ...more]);
    return [code, stderr];
  };
  for (
    const [body, rule] of [
      ["layers: () => Array.from({ length: 30 }, () => null)", /each of the 12 layers\n.*30 entries/],
      ['freeze: () => [{ layer: 20, kind: "ffn" }]', /a layer from 0 to 11.*\n.*layer 20/],
    ] as const
  ) {
    const [code, stderr] = await preview(body);
    assert.equal(code, 3, stderr);
    assert.match(stderr, rule);
    assert.match(stderr, /adapt it to the layers of this model; a preview takes their number as --layers/);
    assert.deepEqual(await preview(body, "--layers", "30"), [0, ""]);
  }
});
