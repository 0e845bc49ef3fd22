// `compresso report`, and `prune --dashboard` with a run that is then reported.
import assert from "node:assert/strict";
import { madeRecord, madeRun } from "../report/made_run.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { cli, command, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** A finished run's folder. */
async function writeRun(path: string): Promise<void> {
  const { records, summary, options, adapter, origin } = madeRun("made");
  await Deno.mkdir(path, { recursive: true });
  await Deno.writeTextFile(`${path}/records.jsonl`, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  await Deno.writeTextFile(
    `${path}/run.json`,
    JSON.stringify({ ...summary, options, inputs: {}, adapter, origin, alarms: [], files: [] }),
  );
}

Deno.test("report says which folder it makes, and makes one at most", async () => {
  using folder = new TemporaryFolder();
  await writeRun(folder.at("run"));
  const there = await cli(["report", folder.at("run"), "--out", folder.at("run", "a.html")]);
  assert.equal(there.stderr, "");
  const one = await cli(["report", folder.at("run"), "--out", folder.at("new", "a.html")]);
  assert.equal(one.code, 0, one.stderr);
  assertNames(one.stderr, folder.at("new"));
  await refused(["report", folder.at("run"), "--out", folder.at("x", "y", "a.html")], "usage", {
    value: folder.at("x"),
  });
  assert.ok(!folder.has("x"));
});

Deno.test("report writes a run's report into its folder, one of several where --out says, with evaluations and a title", async () => {
  using folder = new TemporaryFolder();
  for (const name of ["one", "two"]) await writeRun(folder.at(name));
  const alone = await cli(["report", folder.at("one")]);
  assert.equal(alone.code, 0, alone.stderr);
  assert.match(alone.stdout, /one\/report\.html {2}\d+(\.\d+)? KiB\n$/);
  const file = folder.at("one", "report.html"), { size: bytes } = await Deno.stat(file);
  assert.deepEqual(await json(["report", folder.at("one")]), { file, bytes, runs: ["one"] });
  assert.match(await Deno.readTextFile(file), /<h1>[^<]*one<\/h1>/);
  const csv = folder.at("steps.csv"), runs = [folder.at("one"), folder.at("two")];
  await cli(["report", ...runs, "--out", folder.at("x.html"), "--csv", csv]);
  const lines = (await Deno.readTextFile(csv)).trimEnd().split("\n"), { length } = madeRun("made").records;
  assert.deepEqual(lines.slice(1).map((line) => line.split(",")[0]), runs.flatMap((run) => Array(length).fill(run)));
  await refused(["report", ...runs, "--out", csv, "--csv", csv], "usage", { names: [csv, "--csv"] });
  await Deno.writeTextFile(folder.at("dense.json"), `{"tasks":{"piqa":{"acc":0.625,"stderr":0.01,"n":1838}}}`);
  await Deno.writeTextFile(folder.at("pruned.json"), `{"tasks":{"piqa":{"acc":0.5,"n":1838}}}`);
  const both = await cli([
    "report",
    folder.at("one"),
    folder.at("two"),
    "--out",
    folder.at("new", "both.html"),
    "--eval",
    folder.at("dense.json"),
    "--eval",
    folder.at("pruned.json"),
    "--title",
    "One & two",
  ]);
  assert.equal(both.code, 0, both.stderr);
  const html = await Deno.readTextFile(folder.at("new", "both.html"));
  assert.match(html, /<h1>One &amp; two<\/h1>/);
  assert.match(html, /piqa, acc<\/th><td>0\.6250 ± 0\.0100 \(1,838\)<\/td><td>0\.5000 \(1,838\)<\/td>/);
});

Deno.test("report refuses what is no run and says what is wrong, and writes nothing", async () => {
  using folder = new TemporaryFolder();
  await writeRun(folder.at("run"));
  await Deno.writeTextFile(folder.at("run", "records.jsonl"), JSON.stringify(madeRecord(1)) + "\n{\n");
  await Deno.mkdir(folder.at("empty"));
  await writeRun(folder.at("good"));
  await Deno.writeTextFile(folder.at("wrong.json"), "{}");
  const cases: readonly (readonly [readonly string[], ErrorCode, Refusal])[] = [
    [[folder.at("empty")], "input", { names: [folder.at("empty"), "records.jsonl"] }],
    [[folder.at("run")], "input", { names: ["line 2", folder.at("run", "records.jsonl")] }],
    [[folder.at("good"), folder.at("good")], "usage", { value: "--out" }],
    [[folder.at("good"), "--eval", folder.at("wrong.json")], "input", { names: folder.at("wrong.json") }],
    [[folder.at("good"), "--eval", folder.at("none.json")], "input", { names: folder.at("none.json") }],
    [[], "usage", { names: "'run'" }],
  ];
  for (const [args, code, refusal] of cases) await refused(["report", ...args], code, refusal);
  assert.ok(["empty", "run", "good"].every((name) => !folder.has(name, "report.html")));
});

Deno.test("report does not write over what it reads, by whatever path", async () => {
  using folder = new TemporaryFolder();
  await writeRun(folder.at("run"));
  for (const name of ["run/eval.json", "dense.json"]) {
    await Deno.writeTextFile(folder.at(name), `{"tasks":{"piqa":{"acc":0.625,"stderr":0.01,"n":1838}}}`);
  }
  const before = await Deno.readTextFile(folder.at("run", "run.json"));
  await Deno.symlink(folder.at("run", "run.json"), folder.at("link.html"));
  const names = [
    "run/run.json",
    "run/../run/records.jsonl",
    "run/checkpoint.safetensors",
    "run/eval.json",
    "dense.json",
    "link.html",
  ];
  for (const name of names) {
    const out = `${folder.path}/${name}`;
    await refused(["report", folder.at("run"), "--eval", folder.at("dense.json"), "--out", out], "usage", {
      names: out,
    });
  }
  assert.equal(await Deno.readTextFile(folder.at("run", "run.json")), before);
  assert.ok(!folder.has("run", "checkpoint.safetensors"));
});

Deno.test("prune --dashboard serves the run while it goes on, and what it leaves can be reported whole", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const options = [
    "--sparsity",
    "0.3",
    "--steps",
    "4",
    "--prefinetune",
    "0",
    "--postfinetune",
    "1",
    "--batch",
    "1",
    "--seq",
    "32",
    "--limit-rows",
    "40",
    "--calibration",
    "none",
    "--no-tuning",
  ];
  const child = command(["prune", "demo", ...options, "--no-prompt", "--dashboard", "--out", out]).spawn();
  const [reader, forOutput] = child.stderr.tee();
  const output = new Response(forOutput).text(), printed = new Response(child.stdout).text();
  let url = "", said = "";
  for await (const text of reader.pipeThrough(new TextDecoderStream())) {
    said += text;
    url ||= /^dashboard +(http:\/\/127\.0\.0\.1:\d+\/)$/m.exec(said)?.[1] ?? "";
    if (url !== "") break;
  }
  let seen = "";
  // As an open browser does, until the program has ended.
  for (;;) {
    const page = await fetch(`${url}content`).then((response) => response.text()).catch(() => "");
    if (page === "") break;
    seen = page;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { code } = await child.status;
  assert.equal(code, 0, await output);
  assert.match(seen, /<td>finished<\/td>/, "the last page shows the end");
  assert.match(seen, /id="masks-0"/);
  assert.match(await printed, /^sparsity +\d/m);
  const summary = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.equal(summary.masks.heads.length, 5);
  assert.ok(summary.masks.heads.flat().includes(0) || summary.masks.ffn.flat().some((share: number) => share < 1));
  assert.deepEqual(summary.before.layers.length, 5);
  const { size } = await Deno.stat(`${out}/model.gguf`);
  assert.deepEqual(summary.fileBytes.find(({ file }: { readonly file: string }) => file.endsWith(".gguf")).bytes, size);
  const report = await cli(["report", out]);
  assert.equal(report.code, 0, report.stderr);
  assert.match(await Deno.readTextFile(`${out}/report.html`), /<svg/);
});
