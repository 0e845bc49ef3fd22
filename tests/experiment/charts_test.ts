// Charts of experiments: lines that can be told apart, where all layers alike lie, and which files stay. Without a GPU.
import assert from "node:assert/strict";
import { experimentPage } from "../../lib/experiment/page.ts";
import { charts } from "../../lib/experiment/charts.ts";
import { spreadNote } from "../../lib/experiment/markdown.ts";
import { writeReport } from "../../lib/experiment/report.ts";
import { Store } from "../../lib/experiment/store.ts";
import { spreadOf } from "../../lib/experiment/statistics.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import type { ExperimentReport, Group } from "../../lib/experiment/types.ts";

/** A report of groups along some axes, with the hard sparsity of each. */
function reportOf(
  groups: readonly { readonly at: Readonly<Record<string, string>>; readonly hard: number }[],
): ExperimentReport {
  return {
    name: "made",
    question: null,
    protocol: [],
    axes: Object.keys(groups[0]?.at ?? {}),
    names: [],
    dense: {},
    truncations: [],
    contrasts: [],
    cells: [],
    unfinished: [],
    losses: Object.fromEntries(groups.map((_, index) => [`cell ${index}`, [3, 2, 1]])),
    groups: groups.map(({ at, hard }, index): Group => {
      const spread = spreadOf([hard]);
      return {
        at,
        cells: [`cell ${index}`],
        wanted: 1,
        numbers: spread ? { "hard sparsity": spread } : {},
        layers: [hard - 0.1, hard, hard + 0.1],
        layerSpread: null,
      };
    }),
  };
}

/** The lines of a chart: name, color and dashes. */
function lines(svg: string): { readonly name: string; readonly look: string }[] {
  return [...svg.matchAll(/<g class="(s\d+)" data-name="([^"]*)"[^>]*><path[^>]*?( stroke-dasharray="[^"]*")?\/>/g)]
    .map(([, color = "", name = "", dash = ""]) => ({ name, look: color + dash }));
}

Deno.test("the standard error of a mean over tasks is its own, that of other accuracies follows from their questions", () => {
  const report = reportOf([{ at: {}, hard: 0.2 }]), [group] = report.groups;
  const noteOf = (name: string, more: { readonly tasks?: number }): string => {
    const value = { name, kind: "accuracy", value: 0.5, stderr: 0.02, n: 10_000, ...more } as const;
    const names = [{ name, kind: "accuracy", isMeasure: true }] as const, numbers = { [name]: spreadOf([0.5]) };
    if (!group || !numbers[name]) assert.fail();
    const groups = [{ ...group, numbers: { [name]: numbers[name] } }];
    return spreadNote({ ...report, names, groups, dense: { model: [value] } });
  };
  // Of 10,000 questions in all, but few in one of the tasks.
  assert.match(noteOf("mean acc of 2 tasks", { tasks: 2 }), /standard error of 2\.0 points/);
  assert.match(noteOf("answers", {}), /standard error of 0\.5 points/);
});

Deno.test("no two lines of a chart look the same, however many values an axis has", () => {
  for (const count of [8, 9, 10, 20]) {
    const drawn = charts(
      reportOf(Array.from({ length: count }, (_, index) => ({ at: { rank: `${index}` }, hard: 0.3 }))),
    );
    for (const kind of ["loss", "layers"]) {
      const own = drawn.filter(({ file }) => file.startsWith(kind)), names: string[] = [];
      assert.equal(own.length, Math.ceil(count / 8));
      assert.equal(new Set(own.map(({ file, title }) => file + title)).size, own.length);
      for (const { svg } of own) {
        const all = lines(svg);
        assert.equal(new Set(all.map(({ look }) => look)).size, all.length, JSON.stringify(all));
        names.push(...all.map(({ name }) => name).filter((name) => name.startsWith("rank")));
      }
      assert.deepEqual(names, Array.from({ length: count }, (_, index) => `rank ${index}`));
    }
  }
  const two = charts(reportOf(Array.from({ length: 20 }, (_, index) => ({
    at: { rank: `${index % 10}`, lora: index < 10 ? "on" : "off" },
    hard: 0.3,
  }))));
  assert.deepEqual(two.map(({ file }) => file).filter((file) => file.startsWith("loss")), [
    "loss-lora-on-1.svg",
    "loss-lora-on-2.svg",
    "loss-lora-off-1.svg",
    "loss-lora-off-2.svg",
  ]);
});

Deno.test("charts that are no longer drawn go, and no file that the report did not show", async () => {
  await inTemporaryFolder(async (out) => {
    const write = async (count: number): Promise<string[]> => {
      const groups = Array.from({ length: count }, (_, index) => ({ at: { rank: `${index}` }, hard: 0.3 }));
      await writeReport(reportOf(groups), new Store(out));
      return (await Array.fromAsync(Deno.readDir(out), ({ name }) => name)).filter((name) => name.endsWith(".svg"))
        .sort();
    };
    await Deno.writeTextFile(`${out}/layers-mine.svg`, "mine");
    assert.deepEqual(await write(8), ["layers-mine.svg", "layers.svg", "loss.svg"]);
    const parts = ["layers-1.svg", "layers-2.svg", "layers-mine.svg", "loss-1.svg", "loss-2.svg"];
    assert.deepEqual(await write(9), parts);
    assert.deepEqual(await write(9), parts);
    assert.deepEqual(await write(8), ["layers-mine.svg", "layers.svg", "loss.svg"]);
  });
});

Deno.test("an axis that goes with the first one does not split the charts", () => {
  const groups = Array.from({ length: 9 }, (_, rank) => ({ at: { rank: `${rank}`, alpha: `${2 * rank}` }, hard: 0.2 }));
  const names = charts(reportOf(groups)).map(({ file }) => file).filter((name) => name.startsWith("loss"));
  assert.deepEqual(names, ["loss-1.svg", "loss-2.svg"]);
});

Deno.test("charts of values that differ in signs alone are files of their own", () => {
  const groups = ["1", "-1"].flatMap((protect) =>
    [1, 2, 3, 4, 5].map((rank) => ({ at: { rank: String(rank), protect }, hard: 0.2 }))
  );
  const names = charts(reportOf(groups)).map(({ file }) => file);
  assert.equal(names.length, new Set(names).size, names.join(", "));
  assert.ok(names.filter((name) => name.startsWith("loss")).length === 2, names.join(", "));
});

Deno.test("charts of many axes, or of long values, have names that file systems take, each its own", async () => {
  await inTemporaryFolder(async (out) => {
    const long = "a".repeat(300);
    const groups = [`${long}1`, `${long}2`].flatMap((prompt) =>
      [1, 2, 3, 4, 5].map((rank) => ({ at: { rank: String(rank), prompt }, hard: 0.2 }))
    );
    const files = (await writeReport(reportOf(groups), new Store(out))).filter((path) => path.endsWith(".svg"));
    assert.equal(new Set(files).size, 4);
    for (const file of files) await Deno.stat(file);
  });
});

Deno.test("the line of all layers alike lies at the hard sparsity, one for those that are nearly the same", () => {
  const hard = [0.125, 0.2051, 0.125, 0.2049];
  const [chart] = charts(reportOf(hard.map((hard, index) => ({ at: { rank: `${index}` }, hard }))))
    .filter(({ file }) => file === "layers.svg");
  const svg = chart?.svg ?? "", uniform = lines(svg).map(({ name }) => name).filter((name) => !name.startsWith("rank"));
  assert.deepEqual(uniform, ["uniform, 12.5 %", "uniform, 20.5 %"]);
  // data-y: domain, range.
  const [least = NaN, most = NaN, bottom = NaN, top = NaN] = (/data-y="([^"]*)"/.exec(svg)?.[1] ?? "").split(" ").map(
    Number,
  );
  for (const [name, share] of [["uniform, 12.5 %", 0.125], ["uniform, 20.5 %", 0.205]] as const) {
    const [, y] = new RegExp(`data-name="${name}"><path d="M[\\d.]+,([\\d.]+)L`).exec(svg) ?? [];
    const at = least + (Number(y) - bottom) / (top - bottom) * (most - least);
    // Coordinates are rounded to a tenth of a pixel, of 270 for some 30 %.
    assert.ok(Math.abs(at - share) < 5e-4, `${name} lies at ${at}`);
  }
});

Deno.test("each run of a group of several has a thin line of its own, which the legend leaves out", () => {
  const report = reportOf([{ at: { rank: "2" }, hard: 0.3 }, { at: { rank: "4" }, hard: 0.3 }]);
  const [first, ...others] = report.groups, runs = ["cell 0", "cell 0 again"];
  if (!first) assert.fail();
  const cells = runs.map((cell, index) => ({
    ...{
      cell,
      folder: cell,
      at: first.at,
      numbers: {},
      measuredTokens: {},
      steps: 1,
      tokens: 1,
      adapter: "none",
      alarms: [],
    },
    layers: first.layers.map((cut) => cut + 0.01 * (index - 0.5)),
  }));
  const drawn = charts({ ...report, cells, groups: [{ ...first, cells: runs }, ...others] });
  const { svg = "" } = drawn.find(({ file }) => file === "layers.svg") ?? {};
  assert.deepEqual(lines(svg).map(({ name }) => name).slice(0, 4), [...runs, "rank 2", "rank 4"]);
  const [one, again, mean] = lines(svg).map(({ look }) => look);
  assert.ok(one === mean && again === mean, "in the color of their group");
  assert.equal(svg.match(/stroke-width="0.75"/g)?.length, 2);
  for (const run of runs) assert.ok(!svg.includes(`>${run}</text>`), run);
});

Deno.test("the page of an experiment has the headings, lists, tables and charts of its Markdown, and no text as HTML", () => {
  const markdown = [
    "# tiny_1",
    "Why <b>so</b> \\*often\\*, with `a < b`?",
    "- one\n- two \\<i\\>",
    "## Result",
    "| runs |  n |\n| --- | --: |\n| a \\| <u>b</u> |  |\n| c | 3 |",
    "![chart](own.svg)",
    "![gone](none.svg)",
  ].join("\n\n");
  const page = experimentPage(markdown, [{ file: "own.svg", svg: "<svg>own</svg>" }]);
  for (
    const part of [
      "<h1>tiny_1</h1>",
      "<p>Why &lt;b&gt;so&lt;/b&gt; *often*, with <code>a &lt; b</code>?</p>",
      "<ul><li>one</li><li>two &lt;i&gt;</li></ul>",
      "<h2>Result</h2>",
      '<th scope="row">a | &lt;u&gt;b&lt;/u&gt;</th><td></td>',
      '<th scope="row">c</th><td>3</td>',
      "<figure><svg>own</svg></figure>",
    ]
  ) assert.ok(page.includes(part), `${part}: ${page.slice(page.indexOf("<main>"))}`);
});
