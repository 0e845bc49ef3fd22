// Alarms in experiments: set as an option, told, and in the tables. Some real runs on the demo model.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { differencesOf } from "../../lib/core/identity.ts";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { cellsOf, chooseCells } from "../../lib/experiment/grid.ts";
import { markdown } from "../../lib/experiment/markdown.ts";
import { pruneOptions } from "../../lib/experiment/options.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import type { Alarm } from "../../lib/run/monitors/alarm.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { finishCell, madeReport } from "./finish_cell.ts";
import { experimentTest, TINY } from "./tiny.ts";
import { PLAIN as ONE } from "./plain.ts";
import type { CellIdentity, ExperimentDefinition, PlannedCell } from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = { ...ONE, grid: { rank: [2, 4], seed: [1, 2] } };

const BACK: Alarm = {
  monitor: "divergence",
  step: 3,
  action: "rollback",
  restored: 1,
  message: "the loss runs away",
  change: "lower it",
  options: [],
};

experimentTest("runs that an alarm sent back are told, and counted where their group is", async (run, out) => {
  const told: string[] = [];
  let inTime = 0;
  const { result } = await run(
    {
      ...TINY,
      base: { sparsity: 0.2, steps: 3, prefinetune: 10, postfinetune: 1, batch: 1, seq: 96, prompt: false, seed: 1 },
      grid: { loraRate: [0.001, 0.05] },
      evaluate: {},
    },
    out,
    {
      onAlarm: ({ name }, { monitor, action }) => told.push(`${name} ${monitor} ${action}`),
      onPhase: (text) => inTime = text.startsWith("comparing") ? told.length : inTime,
    },
  );
  const [calm, wild] = result.report.cells;
  assert.deepEqual(calm?.alarms, []);
  const count = wild?.alarms?.length ?? 0;
  assert.ok(count > 0);
  assert.deepEqual(told, Array(count).fill("loraRate=0.05 divergence rollback"), "each is told once");
  assert.equal(inTime, count, "they are told while the run goes on");
  const text = await Deno.readTextFile(`${out}/report.md`);
  assert.match(text, /### Alarms\n\n- loraRate 0\.05: 1 of 1 runs continued with halved rates\n/);
  assert.match(
    text,
    /\| loraRate=0\.05 \| \d+ \| divergence \| went back to step \d+, halved rates \| the loss runs away/,
  );
  assert.match(text, /^\| 0\.001 \| +1 \|/m);
  assert.match(text, /^\| 0\.05 \| 1, 1 halved \|/m);
});

experimentTest("alarms that come after the last step are told too", async (run, out) => {
  const told: string[] = [], base = { ...TINY.base, sparsity: 0.4, method: "magnitude", lora: false } as const;
  const { result } = await run(
    { ...TINY, base: { ...base, onAlarm: "dead-layer=warn:0.1" }, grid: { seed: [1] }, evaluate: {} },
    out,
    { onAlarm: (_cell, { monitor }) => told.push(monitor) },
  );
  const [cell] = result.report.cells;
  assert.equal(cell?.steps, 0);
  assert.ok(told.length > 0);
  assert.deepEqual(told, cell?.alarms.map(({ monitor }) => monitor));
});

experimentTest("a resumed run tells no alarm of an earlier sitting again", async (run, out) => {
  const base = { ...TINY.base, prefinetune: 8, steps: 2, loraRate: 1, onAlarm: "divergence=warn" };
  const definition = { ...TINY, base, grid: { seed: [1] }, evaluate: {} }, stop = new AbortController();
  const told: number[][] = [];
  for (const signal of [stop.signal, undefined]) {
    const now: number[] = [];
    told.push(now);
    const sitting = run(definition, out, {
      signal,
      onAlarm: (_cell, { step }) => now.push(step),
      onRecord: () => void (now.length > 0 && stop.abort(new CompressoError("aborted", { what: "stopped" }))),
    });
    if (signal) await assert.rejects(sitting, /stopped/);
    else {
      const alarms = (await sitting).result.report.cells[0]?.alarms?.map(({ step }) => step) ?? [];
      assert.ok(alarms.length > 0);
      assert.deepEqual(told.flat(), alarms, "each is told once, in the sitting in which it came up");
      assert.ok(told[0]?.length);
    }
  }
});

Deno.test("what alarms would have done is no fact of a run in which none came up", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(folder), definition = { ...PLAIN, grid: { rank: [2, 4, 6], seed: [1] } };
    const plan = async (onAlarm: readonly string[]): Promise<readonly PlannedCell[]> =>
      (await planCells(resolveExperiment(defineExperiment(definition), { set: { onAlarm } }), store)).all;
    const kinds = async (...onAlarm: string[]): Promise<string[]> =>
      (await plan(onAlarm)).map(({ state: { kind } }) => kind);
    const then = "divergence=stop,constraint=off";
    const [first, second, third] = await plan([then]);
    assert.ok(first && second && third);
    await finishCell(store, first);
    await finishCell(store, second, { alarms: [BACK] });
    await store.begin(third.folder, third.identity, { restarts: false });
    const failure = { code: "numeric", message: "it was stopped", tries: 1 } as const;
    await store.setCell(third.folder, { identity: third.identity, failure });
    assert.deepEqual(await kinds(then), ["done", "done", "failed"]);
    // The second raised that very alarm, and the last one has not ended.
    const some = ["done", "changed", "changed"];
    assert.deepEqual(await kinds("divergence=warn,constraint=off"), some);
    assert.deepEqual(await kinds("constraint=off"), some);
    // Of steps that were undone it is not known what they raised.
    assert.deepEqual(await kinds(`${then},collapse=warn`), some);
    // What raises an alarm is a fact of every run.
    for (const onAlarm of ["divergence=stop", `${then},collapse=warn:0.5`]) {
      assert.deepEqual(await kinds(onAlarm), Array(3).fill("changed"), onAlarm);
    }

    assert.deepEqual(await kinds("divergence=off,constraint=off"), some, "one that is off now would have raised none");

    // Along an axis each folder is first that of the cell that it was run for.
    const axis = { ...definition, grid: { rank: [2], onAlarm: ["divergence=warn,constraint=off", then] } };
    const places = async (): Promise<string[][]> =>
      (await planCells(resolveExperiment(defineExperiment(axis)), store)).all.map((
        { folder, state },
      ) => [folder, state.kind]);
    assert.deepEqual(await places(), [["onAlarm=divergence=warn+constraint=off", "new"], ["rank=2", "done"]]);
    axis.grid.onAlarm = ["divergence=warn,constraint=off", "divergence=rollback,constraint=off"];
    assert.deepEqual(await places(), [["rank=2", "done"], ["onAlarm=divergence=rollback+constraint=off", "new"]]);
  });
});

Deno.test("a report lists alarms, and says of how many runs the rates were halved", async () => {
  const report = await madeReport(PLAIN, { outcome: (_, index) => ({ alarms: index === 0 ? [BACK] : [] }) });
  assert.deepEqual(report.cells.map(({ cell, alarms }) => [cell, alarms]), [
    ["rank=2,seed=1", [BACK]],
    ["rank=4,seed=1", []],
    ["rank=2,seed=2", []],
    ["rank=4,seed=2", []],
  ]);
  const text = markdown(report, []);
  assert.match(text, /^\| 2 \| 2, 1 halved \|/m);
  assert.match(text, /^\| 4 \| 2 \|/m);
  assert.match(text, /n is the number of finished runs.* Halved: runs that an alarm set back/);
  assert.match(text, /- rank 2: 1 of 2 runs continued with halved rates\n/);
  assert.match(
    text,
    /\| rank=2,seed=1 \| 3 \| divergence \| went back to step 1, halved rates \| the loss runs away \|/,
  );
  assert.match(text, / All ran on none\./);
  const [first, ...rest] = report.cells;
  assert.ok(first);
  const two = markdown({ ...report, cells: [{ ...first, adapter: "another" }, ...rest] }, []);
  assert.match(two, / They ran on another \(1\) and none \(3\), and those of rank 2 not all on the same, which is/);
  const apart = report.cells.map((cell) => ({ ...cell, adapter: `of rank ${cell.at["rank"]}` }));
  assert.match(markdown({ ...report, cells: apart }, []), / They ran on of rank 2 \(2\) and of rank 4 \(2\)\./);
  // What a schedule's script says of itself is no Markdown.
  const said = "![a](https://example.com/x.png)\n\n# <b>|`c` *d* _e_ \\ &amp; ~f~";
  const shown = "\\!\\[a\\](https://example.com/x.png) # \\<b\\>|\\`c\\` \\*d\\* \\_e\\_ \\\\ \\&amp; \\~f\\~";
  const cells = [{ ...first, alarms: [{ ...BACK, message: said }] }];
  const foreign = markdown({ ...report, cells, unfinished: [{ cell: "rank=9", state: `failed: ${said}` }] }, []);
  assert.ok(foreign.includes(`\n- rank=9: failed: ${shown}\n`), foreign);
  assert.ok(foreign.includes(` | ${shown.replace("|", "\\|")} |\n`), foreign);
  const calm = markdown({ ...report, cells: report.cells.map((cell) => ({ ...cell, alarms: [] })) }, []);
  assert.match(calm, /### Alarms\n\nNo alarm came up\.\n/);
  assert.doesNotMatch(calm, /alved/);
});

Deno.test("alarms are an option of a run, in any of its forms, and none of those that are default is a fact of its own", async () => {
  const given = { prompt: null, layers: 5 },
    monitors = (onAlarm: string | string[]): unknown =>
      pruneOptions({ sparsity: 0.2, steps: 8, onAlarm }, given).monitors;
  assert.deepEqual(monitors("divergence=warn"), { divergence: { action: "warn" } });
  const two = { divergence: { action: "warn" }, constraint: { action: "stop", threshold: 0.02 } };
  assert.deepEqual(monitors("divergence=warn, constraint=stop:0.02"), two);
  assert.deepEqual(monitors(["divergence=warn", "constraint=stop:0.02"]), two);
  assert.equal("monitors" in pruneOptions({ sparsity: 0.2, steps: 8 }, given), false);

  const forms = [
    ["divergence=warn", "nan=stop"],
    ["nan=stop", "divergence=warn"],
    "divergence=warn,nan=stop",
    "nan=stop , divergence=warn",
    "divergence=stop,nan=stop,divergence=warn",
  ];
  const cells = cellsOf({ ...PLAIN, grid: { onAlarm: [...forms, "nan=stop"] } });
  assert.deepEqual(cells.map(({ name }) => name), ["onAlarm=divergence=warn+nan=stop", "onAlarm=nan=stop"]);
  assert.equal(cells[0]?.options.onAlarm, "divergence=warn,nan=stop");
  const chosen = (...values: string[]): string[] =>
    chooseCells(cells, new Map([["onAlarm", values]])).map(({ options }) => `${options.onAlarm}`);
  for (const value of ["divergence=warn+nan=stop", "nan=stop, divergence=warn"]) {
    assert.deepEqual(chosen(value), ["divergence=warn,nan=stop"]);
  }
  assert.equal(chosen("nan=stop", "divergence=warn+nan=stop").length, 2);
  assert.throws(() => chosen("divergence=warn"), /one of divergence=warn\+nan=stop, nan=stop; got: divergence=warn/);
  const identities = async (onAlarm: readonly unknown[]): Promise<CellIdentity[]> => {
    const cells = resolveExperiment(defineExperiment(PLAIN), { set: { onAlarm, rank: [2], seed: [1] } });
    return (await planCells(cells, new Store("nowhere"))).all.map(({ identity }) => identity);
  };
  const [plain] = (await planCells(resolveExperiment(defineExperiment(PLAIN)), new Store("nowhere"))).all;
  assert.deepEqual(await identities(["divergence=rollback"]), [plain?.identity]);
  const [changed] = await identities(["divergence=warn", "nan=stop"]);
  assert.deepEqual(differencesOf(plain?.identity ?? {}, changed ?? {}), [
    "monitors.divergence.action: rollback then, warn now",
    "monitors.nan.action: rollback then, stop now",
  ]);

  for (
    const [value, rule] of [
      ["divergence", /cannot use this onAlarm in the grid.*onAlarm is NAME=ACTION or NAME=ACTION:THRESHOLD/],
      ["nan=warn", /its action is rollback or stop; got: "nan=warn"/],
      ["divergence=warn:2", /its threshold lies in \(0, 1\]/],
      [["loss=warn"], /NAME one of collapse/],
    ] as const
  ) {
    assert.throws(
      () => defineExperiment({ ...PLAIN, grid: { onAlarm: [value] } }),
      (error) => error instanceof CompressoError && error.code === "usage" && rule.test(error.message),
    );
  }
});
