// The report's HTML, without a browser: what it holds of finished, unfinished and empty runs, and the sums behind it.
import assert from "node:assert/strict";
import { keptRecords, layerSparsity, smoothed, stageStarts } from "../../lib/report/derived.ts";
import { heatMap } from "../../lib/report/heat_map.ts";
import type { ReportRun } from "../../lib/report/read_run.ts";
import { renderReport, reportContent } from "../../lib/report/report.ts";
import { everyNth } from "../../lib/report/table.ts";
import { refuses } from "../refuses.ts";
import { MADE_SUMMARY, madeRecord, madeRun } from "./made_run.ts";
import { assertDrawn } from "./svg.ts";

/** Text of all cells. */
function cells(html: string): string[] {
  return Array.from(html.matchAll(/<t[hd][^>]*>([^<]*)<\/t[hd]>/g), ([, text = ""]) => text);
}

function headings(html: string): string[] {
  return Array.from(html.matchAll(/<h2 id="[\w-]+">([^<]*)<\/h2>/g), ([, text = ""]) => text);
}

Deno.test("a report of a finished run has every figure and table, well-formed, with the run's own numbers", () => {
  const html = renderReport([madeRun("mine")]);
  assert.deepEqual(headings(html), [
    ...["Result", "Size", "Evaluation", "Loss", "Sparsity", "Masks", "Layers as the masks learn"],
    ...["Sparsity of each layer", "Multipliers λ", "Gradient norm", "Learning rate", "Speed", "GPU memory", "Options"],
  ]);
  const figures = html.match(/<svg [^]*?<\/svg>/g) ?? [];
  assert.equal(figures.length, 20, "ten, each for wide and for narrow screens");
  for (const figure of figures) assertDrawn(figure);
  const ids = Array.from(html.matchAll(/ id="([^"]+)"/g), ([, id]) => id);
  assert.equal(new Set(ids).size, ids.length, "ids are unique");
  for (
    const cell of [
      "30.10 %",
      "10,000",
      "7,500",
      "75.00 %",
      "20.0 KiB",
      "dense.gguf, 20.0 KiB",
      "rows.jsonl, 8.79 KiB",
      "runs/mine/records.jsonl",
      "1 min 35 s",
      "2.15; before pruning 1.9 (+0.25; 95 %: +0.13 to +0.37)",
      "0.92; before pruning 0.81",
      "55 %; before pruning 62 % of 100 (−7; 95 %: −13 to −1)",
      "14.6 KiB",
      "Compresso 1.2.3, Deno 4.5.6",
      "0.5000 ± 0.0100 (2,376)",
      "lora.targets",
      "q, v",
      "none",
    ]
  ) {
    assert.ok(cells(html).includes(cell), cell);
  }
  assert.ok(
    !/(?:src|href)="(?!#|data:)/.test(html.replace(/<script>[^]*<\/script>/, "")),
    "nothing is linked to from elsewhere",
  );
  assert.ok(!/https?:(?!\/\/www\.w3\.org\/2000\/svg)/.test(html), "no address but the namespace of SVG");
});

Deno.test("a run that goes on is reported without what only its end knows, and one without steps says so", () => {
  const records = Array.from({ length: 12 }, (_, index) => madeRecord(index + 1));
  const html = renderReport([
    madeRun("mine", { records, summary: null, evaluations: [], options: null, adapter: null }),
  ]);
  assert.deepEqual(headings(html), [
    ...["Result", "Loss", "Sparsity", "Layers as the masks learn"],
    ...["Multipliers λ", "Gradient norm", "Learning rate", "Speed", "GPU memory"],
  ]);
  assert.ok(cells(html).includes("not finished: prune, step 12 of 40"));
  const target = `${(100 * (madeRecord(12).target ?? NaN)).toFixed(2)} %`;
  assert.equal(
    cells(html).slice(0, 16).filter((cell) => cell === target).length,
    2,
    "target and expected of the last step",
  );
  assert.ok(!html.includes("NaN"));
  const none = renderReport([
    madeRun("mine", { records: [], summary: null, evaluations: [], options: null, adapter: null }),
  ]);
  assert.ok(!none.includes('id="loss-plot"') && html.includes('id="loss-plot"'));
  refuses(() => renderReport([]), "usage", { value: "none" });
});

Deno.test("a finished run whose last stage a schedule ended says so beside its steps, and one that goes on does not", () => {
  const records = Array.from({ length: 35 }, (_, index) => madeRecord(index + 1));
  assert.match(renderReport([madeRun("mine", { records })]), /of 40; [^<]+</);
  assert.match(renderReport([madeRun("mine", { records, summary: null })]), /of 40</);
  assert.match(renderReport([madeRun("mine")]), /of 40</);
});

Deno.test("a run that cut everything before its first step says so, on the way and at its end", () => {
  const records = Array.from({ length: 3 }, (_, index) => ({
    ...madeRecord(index + 1),
    ...{ stage: "postfinetune" as const, target: null, expected: null },
  }));
  const noteOf = (html: string, label: string): string =>
    new RegExp(`<dt>${label}</dt>.*?<dd class="small">([^<]+)<`).exec(html)?.[1] ?? "";
  const going = renderReport([madeRun("mine", { records, summary: null, options: { method: "taylor" } })]);
  const ended = renderReport([madeRun("mine", { records, options: { method: "taylor" } })]);
  assert.match(ended.slice(ended.indexOf('<h2 id="sparsity">')), /data-name="hard"/);
  const learned = renderReport([madeRun("mine", { records, summary: null, options: { method: "compresso" } })]);
  const notes = [going, learned].map((html) => noteOf(html, "Sparsity"));
  assert.ok(notes[0] !== notes[1] && notes.every((note) => note !== ""), notes.join());
  const [atEnd, onTheWay] = [madeRun("mine", { records: [] }), madeRun("mine", { records: [], summary: null })];
  const asked = [atEnd, onTheWay].map((run) => noteOf(renderReport([run]), "Steps"));
  assert.ok(asked[0] !== asked[1] && asked.every((note) => note !== ""), asked.join());
});

Deno.test("sparsity is said to be of the whole model where hidden dims are cut to a size, finished or not, alone or beside others", () => {
  const units = ["kv", "ffn", "hidden"], size = { parameters: 7_500 };
  const read = (runs: readonly ReportRun[]): { caption: string; tile: string; all: string[] } => {
    const html = renderReport(runs).replaceAll("\u00a0", " ");
    const [, caption = ""] = /<figcaption>(Share [^<]*)</.exec(html) ?? [];
    const [, tile = ""] = /<dt>Sparsity<\/dt>.*?<dd class="small">([^<]*)</.exec(html) ?? [];
    return { caption: caption.replace(/:.*/, ""), tile, all: cells(html) };
  };
  const sized = madeRun("sized", { options: { size, units } });
  const linear = "Share of the layers&#39; linear weights that is cut";
  const done = read([sized]);
  assert.equal(done.caption, "Share of the whole model that is cut");
  assert.equal(done.tile, "hard, of the whole model; target 30.00 %");
  assert.deepEqual(done.all.filter((cell) => /% of the whole/.test(cell)), [
    ...["30.00 % of the whole model", "30.00 % of the whole model", "30.10 % of the whole model"],
  ]);
  const records = Array.from({ length: 12 }, (_, index) => madeRecord(index + 1));
  const going = read([{ ...sized, records, summary: null }]);
  assert.equal(going.caption, done.caption);
  assert.match(going.tile, /^expected, of the whole model; target [\d.]+ %$/);
  for (const options of [{ size: null, units }, { size, units: ["kv", "ffn"] }, { units }]) {
    const { caption, tile, all } = read([madeRun("other", { options })]);
    assert.deepEqual([caption, tile], [linear, "hard; target 30.00 %"]);
    assert.ok(!all.some((cell) => cell.includes("whole")));
  }
  const both = read([madeRun("other", { options: { size: null, units } }), sized]);
  assert.equal(both.caption, `${linear}, and of the whole model in sized`);
  assert.deepEqual(both.all.filter((cell) => cell.startsWith("30.10 %")), ["30.10 %", "30.10 % of the whole model"]);
  assert.match(read([madeRun("unknown", { options: null })]).caption, /linear weights or, where .* to a size, of the/);
});

Deno.test("several runs are laid over each other, those of one name told apart, and options that differ come first", () => {
  const html = renderReport([madeRun("same"), madeRun("same", { options: { sparsity: 0.3, seed: 2 } })]);
  const [loss = ""] = html.match(/<svg [^]*?<\/svg>/g) ?? [];
  const three = renderReport(["a", "a", "a (2)"].map((name) => madeRun(name)));
  for (const name of ["a", "a (2)", "a (2) (2)"]) assert.ok(three.includes(`data-name="${name}"`), name);
  for (const name of ["same", "same (2)"]) assert.ok(loss.includes(`data-name="${name}"`), name);
  const options = cells(html.slice(html.indexOf('<h2 id="options">')));
  assert.deepEqual(options.slice(0, 6), ["option", "same", "same (2)", "seed (differs)", "1", "2"]);
  assert.ok(options.includes("lora.rank (differs)"), "one of them had it");
  const going = madeRun("going on", { summary: null, options: { sparsity: 0.3, seed: 1 } });
  assert.ok(
    !cells(renderReport([madeRun("one"), going])).some((cell) => cell.endsWith("(differs)")),
    "it does not tell",
  );
  assert.equal(headings(html).filter((title) => title.startsWith("Masks: ")).length, 2);
});

Deno.test("alarms stand in a table, and rolled-back steps are drawn once", () => {
  const alarm = {
    monitor: "nan",
    step: 6,
    action: "rollback",
    restored: 3,
    message: "loss NaN",
    change: "lower the rates",
    options: [],
  } as const;
  const records = [
    ...[1, 2, 3, 4, 5].map((step) => madeRecord(step)),
    madeRecord(6, { loss: NaN }),
    ...[4, 5, 6, 7].map((step) => madeRecord(step, { loss: 1 })),
  ];
  assert.deepEqual(keptRecords(records).map(({ step, loss }) => [step, step < 4 ? 0 : loss]), [
    [1, 0],
    [2, 0],
    [3, 0],
    [4, 1],
    [5, 1],
    [6, 1],
    [7, 1],
  ]);
  const html = renderReport([madeRun("mine", { records, alarms: [alarm] })]);
  for (const cell of ["step 6", "nan", "rollback to step 3", "loss NaN", "lower the rates"]) {
    assert.ok(cells(html).includes(cell), cell);
  }
});

Deno.test("a report shows what the run warned of, and no warning where there was none", () => {
  const run = madeRun("a"), { summary } = run;
  assert.ok(summary);
  assert.ok(!renderReport([run]).includes("Warning"));
  const message = "the loss on held-out rows is 1.28 times that before pruning";
  const warnings = [{ measure: "heldoutLoss", ratio: 1.28, message }] as const;
  const page = renderReport([{ ...run, summary: { ...summary, warnings } }]);
  assert.ok(page.includes(message));
  assert.ok(page.includes("× 1.28"));
});

Deno.test("smoothed() is the exponential mean without bias, and leaves gaps out", () => {
  assert.deepEqual(smoothed([3, 3, 3], 5).map((value) => Number(value.toFixed(9))), [3, 3, 3]);
  const keep = Math.exp(-1 / 2), [, second = 0, third = 0] = smoothed([0, 1, NaN], 2);
  assert.ok(Math.abs(second - 1 / (1 + keep)) < 1e-12);
  assert.equal(third, second);
  assert.ok(Number.isNaN(smoothed([NaN], 2)[0]));
});

Deno.test("layerSparsity() counts heads, KV groups that live, columns and hidden dims, as sparsity does", () => {
  const { summary } = madeRun("mine");
  assert.ok(summary);
  const whole = (2 * 4 * 6 + 3 * 8) * 16;
  // Layer 0 keeps 2 heads of one KV group and 4 columns; 15 of 16 hidden dims are left.
  const first = (2 * 4 * 3 + 3 * 4) * 15, second = (2 * 4 * 6 + 3 * 6) * 15;
  const { layers, uniform } = layerSparsity(summary);
  assert.deepEqual(layers, [1 - first / whole, 1 - second / whole]);
  assert.ok(Math.abs(uniform - (1 - (first + second) / (2 * whole))) < 1e-12);
});

Deno.test("stageStarts() finds where stages begin; everyNth() keeps the last of a long list", () => {
  const { records } = madeRun("mine");
  assert.deepEqual(stageStarts(records), [{ x: 5, stage: "prune" }, { x: 33, stage: "postfinetune" }]);
  const { items, every } = everyNth(records, 7);
  assert.deepEqual([every, items.length, items.at(-1)?.step], [6, 8, 40]);
});

Deno.test("heatMap() shades by share, leaves cells that never were out, and thins labels of many layers", () => {
  const draw = (rows: readonly (readonly (number | null)[])[]): string =>
    heatMap({
      title: "t",
      description: "made up masks",
      rowLabels: rows.map((_, row) => String(row)),
      blocks: [{ label: "heads", rows }],
      scale: ["cut", "kept"],
    });
  const svg = draw([[0, 0.5, 1], [1, null]]);
  assertDrawn(svg);
  const shades = new Map(
    Array.from(svg.matchAll(/<path class="heat" d="([^"]*)" stroke="currentColor" stroke-opacity="([\d.]+)"/g), (
      [, path = "", shade = ""],
    ) => [Number(shade), path.split("M").length - 1]),
  );
  assert.deepEqual([...shades.values()], [1, 1, 2], "one cut, one half, two whole, none for null");
  assert.ok([...shades.keys()].every((shade, at, all) => at === 0 || shade > (all[at - 1] ?? 1)));
  const many = draw(Array.from({ length: 120 }, () => [1]));
  const labels = Array.from(many.matchAll(/>(\d+)<\/text>/g), ([, text]) => Number(text));
  assert.ok(labels.length >= 40 && labels.length <= 62, `${labels.length} labels`);
});

Deno.test("a report says where a run went on otherwise than it began, and nothing of it where none did", () => {
  const { summary } = madeRun("mine");
  assert(summary);
  const differences = ["rates.lora: 0.001 then, 0.0001 now", "schedule: cubic then, linear now"];
  const changed = madeRun("mine", { summary: { ...summary, changes: [{ step: 12, differences }] } });
  const html = renderReport([changed]);
  assert.ok(headings(html).includes("Changes on the way"));
  const at = cells(html).indexOf("after step 12");
  assert.equal(cells(html)[at + 1], differences.join("; "));
  assert.ok(cells(renderReport([changed, madeRun("other")])).includes("mine, after step 12"));
  const none = renderReport([madeRun("mine", { summary: { ...summary, changes: [] } })]);
  assert.ok(!headings(none).includes("Changes on the way"));
});

Deno.test("a report names model and data, the whole time, and how a file that grew would become smaller", () => {
  const html = renderReport([madeRun("mine")]).replaceAll("\u00a0", " ");
  assert.match(html, /<p id="note">dense\.gguf on rows\.jsonl\. [^<]* a made adapter\.<\/p>/);
  assert.match(html, /<dt>Time<\/dt><dd class="big">1 min 35 s<\/dd><dd class="small">[^<]* 24 s</);
  assert.match(html, /model\.gguf [^<]* 12\.5 KiB [^<]*\bq8_0\b/);
  assert.match(
    html,
    /<dt>Loss, held-out rows<\/dt><dd class="big">2\.15<\/dd><dd class="small">1\.9 [^<]* 640/,
  );
  const { summary } = madeRun("mine");
  assert(summary);
  const resumed = renderReport([madeRun("mine", { summary: { ...summary, resumedAfter: 12, heldoutLoss: null } })]);
  assert.match(
    resumed,
    /<dt>Time<\/dt><dd class="big">1 min 35 s<\/dd><dd class="small">[^<]* step 12/,
  );
  assert.ok(!resumed.includes("held-out"));
});

Deno.test("a report says what became of the vocabulary", () => {
  const { summary } = madeRun("mine");
  assert(summary);
  const agreement = {
    kl: 0.0814,
    klError: 0.002,
    klMedian: 0.05,
    kl99: 0.9,
    top1: 0.912,
    tokens: 3210,
    dropped: 0.023,
  };
  const bits = { before: 1.12, after: 1.25, bytes: 2170, agreement };
  const cut = {
    before: 49_152,
    after: 24_000,
    counted: 578_952,
    coverage: 0.961,
    growth: 0.04,
    heldout: bits,
    text: null,
  };
  const html = renderReport([
    madeRun("mine", { options: { units: ["vocab"] }, summary: { ...summary, vocabulary: cut } }),
  ]);
  assert.match(
    html,
    /<dt>Vocabulary<\/dt><dd class="big">24,000<\/dd><dd class="small">[^<]*49,152 [^<]* 96\.10\u00a0%/,
  );
  const found = cells(html);
  for (
    const cell of [
      "24,000 of 49,152 tokens",
      "96.10 % of 578,952",
      "4.00 % more tokens",
      "1.25; whole model and vocabulary 1.12 (2,170 bytes)",
    ]
  ) assert.ok(found.includes(cell), cell);
  assert.ok(found.some((cell) => cell.includes("mean KL 0.081") && cell.includes("2.3 %")));
  assert.ok(!html.includes("<dt>Sparsity</dt>") && !html.includes("of the text, vocabulary cut"));
  for (const title of ["sparsity, hard", "Masks", "Sparsity of each layer"]) {
    assert.ok(!html.includes(`>${title}<`), title);
  }
  const other = renderReport([madeRun("mine")]);
  for (const title of ["sparsity, hard", "Masks", "Sparsity of each layer"]) {
    assert.ok(other.includes(`>${title}<`), title);
  }
  assert.ok(!renderReport([madeRun("mine")]).includes("ocabulary"));
});

Deno.test("runs of several models are called by them too", () => {
  const other = madeRun("b", { origin: [{ role: "model", name: "other.gguf", bytes: 1 }] });
  const html = renderReport([madeRun("a"), other]);
  assert.ok(cells(html).includes("20.0 KiB → 14.6 KiB, 73.24 %"), "sizes stand in a column for each run");
  for (const name of ["a (dense.gguf)", "b (other.gguf)"]) assert.ok(html.includes(`data-name="${name}"`), name);
  assert.match(html, /<p id="note">dense\.gguf on rows\.jsonl; other\.gguf\. 2 /);
  assert.ok(renderReport([madeRun("a"), madeRun("b")]).includes(`data-name="a"`), "one model needs no saying");
});

Deno.test("training loss is a mean of ten steps at both ends only where these do not overlap", () => {
  const tile = (count: number): string => {
    const records = Array.from({ length: count }, (_, index) => madeRecord(index + 1, { loss: index + 1 }));
    const [, text = ""] = /<dt>Training loss<\/dt><dd class="big">(.*?)<\/dd><\/div>/.exec(
      renderReport([madeRun("mine", { records })]).replace("</dd></div>", "</dd></div>"),
    ) ?? [];
    return text.replaceAll(/<[^>]*>/g, " ");
  };
  assert.match(tile(20), /^15\.5 \D*10 \D*10 \D*5\.5/);
  assert.match(tile(19), /^19 \D*1$/);
  assert.match(tile(1), /^1 \D*$/);
});

Deno.test("a live report has the time left and the masks on their way", () => {
  const records = Array.from({ length: 12 }, (_, index) => madeRecord(index + 1, { tokens: 100, tokensPerSecond: 50 }));
  const masks = { heads: [[1, 0.5], [0.25, 0]], ffn: [[1, 0.5], [0.5, 0.5]], hidden: [1, 1] };
  const run = madeRun("mine", { records, summary: null, liveMasks: { step: 11, masks } });
  const html = reportContent([run], { isLive: true });
  assert.match(html, /<dt>Time left<\/dt><dd class="big">56 s<\/dd>/);
  assert.match(html, /step 11\./);
  assert.ok(cells(html).includes("12.5 %") && cells(html).includes("75 %"));
  assert.ok(!reportContent([run]).includes("Time left"), "a run that was interrupted has none");
});

Deno.test("a report of cut experts has their map, with use or with scores alone, and what the cut took of the choices", () => {
  const layer = { tokens: [30, 0, 50], weight: [0.5, 0, 0.25], output: [2, 0, 1.5] };
  const use = { tokens: 40, layers: [layer, null, { ...layer, output: [0, 1, 3] }] };
  const experts = { before: 6, after: 4, kept: [[0, 2], null, [1, 2]], scores: [[2, 0, 1.5], null, [0, 1, 3]], use };
  const options = { units: ["experts"], method: "reap" }, summary = { ...MADE_SUMMARY, experts };
  const html = renderReport([madeRun("mine", { records: [], summary, options })]);
  assert.deepEqual(headings(html).filter((title) => title !== "Evaluation"), ["Result", "Size", "Experts", "Options"]);
  const figures = html.match(/<svg [^]*?<\/svg>/g) ?? [];
  assert.equal(figures.length, 2);
  for (const figure of figures) assertDrawn(figure);
  // Layer 2 has cut expert 0, with 30 of 80 choices.
  const found = cells(html), at = found.indexOf("their part of all choices");
  assert.ok(at > 0);
  for (const cell of ["0.00 %", "37.50 %", "dense", "0 to 0", "1 to 3", "1.5 to 2"]) {
    assert.ok(found.slice(at).includes(cell), cell);
  }
  assert.match(html, /<dt>Experts<\/dt><dd class="big">4<\/dd>/);
  const alone = renderReport([
    madeRun("mine", { records: [], summary: { ...summary, experts: { ...experts, use: null } }, options }),
  ]);
  const blocks = (page: string): number => (page.match(/<svg [^]*?<\/svg>/)?.[0].match(/<title>layer 0/g) ?? []).length;
  assert.deepEqual([blocks(html), blocks(alone)], [4, 2], "three measures and the kept; the score and the kept");
});
