// Task questions that did not fit the context: kept with a measure's values, and said in the report.
import assert from "node:assert/strict";
import { join } from "node:path";
import { markdown } from "../../lib/experiment/markdown.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { openDemo } from "../run/helpers/reference.ts";
import { madeReport } from "./finish_cell.ts";
import { PLAIN } from "./plain.ts";
import type { ExperimentReport, Value } from "../../lib/experiment/types.ts";

const FOLDER = join(import.meta.dirname ?? ".", "../../fixtures/tasks");
Deno.test("a task's measure keeps how many questions lost their beginning", async () => {
  using device = await openDevice();
  const { model: demo, tokenizer } = await openDemo(device);
  using model = demo;
  const spec = { ...model.source.spec, maxPosition: 12 };
  using short = await loadModelFrom({ ...model.source, spec }, { device, tokenizer });
  const [measure] = await measuresOf({ tasks: { names: ["openbookqa"], data: FOLDER } }, new RowCache());
  assert.ok(measure);
  const kept = async (taker: typeof model): Promise<unknown[]> =>
    measure.named(await measure.take(taker, {})).map(({ name, n, truncated }) => [name, n, truncated]);
  assert.deepEqual(await kept(short), [["openbookqa acc", 2, 2], ["openbookqa acc_norm", 2, 2]]);
  assert.deepEqual(await kept(model), [["openbookqa acc", 2, 0], ["openbookqa acc_norm", 2, 0]]);
});

/** The report of finished runs; the task of the first one has these values, of its model before pruning and of the pruned one. */
async function reportOf(
  dense: Pick<Value, "truncated">,
  pruned: Pick<Value, "truncated">,
  { models = ["demo"], prompt = [false] }: { readonly models?: readonly string[]; readonly prompt?: boolean[] } = {},
): Promise<{ readonly report: ExperimentReport; readonly text: string }> {
  const counted = (counts: Pick<Value, "truncated">) => (_: unknown, index: number): readonly Value[] =>
    ["acc", "acc_norm"].map((name) => ({
      ...{ name, kind: "accuracy", value: 0.5, stderr: 0.5, n: 2, ...(index === 0 ? counts : { truncated: 0 }) },
    }));
  const report = await madeReport({
    ...PLAIN,
    model: Object.fromEntries(models.map((name) => [name, "demo"])),
    evaluate: { tasks: { names: ["openbookqa"], data: FOLDER }, prompt },
    ...(models.length > 1 ? { grid: { model: models } } : { base: { ...PLAIN.base, model: models[0] } }),
  }, { values: counted(pruned), dense: counted(dense) });
  return { report, text: markdown(report, []) };
}

Deno.test("the report says which tasks have questions that lost their beginning, once each", async () => {
  const { report, text } = await reportOf({ truncated: 1 }, { truncated: 1 });
  assert.deepEqual(report.truncations, [{ model: "demo", task: "openbookqa", truncated: 1, n: 2 }]);
  const said = text.match(/ \d+ of \d+ questions of [^.]* lost their beginning\./g);
  assert.deepEqual(said, [" 1 of 2 questions of openbookqa did not fit the context and lost their beginning."]);
  const prompts = await reportOf({ truncated: 1 }, { truncated: 1 }, { prompt: [false, true] });
  assert.deepEqual(prompts.report.truncations.map(({ task }) => task), [
    "openbookqa, no prompt",
    "openbookqa, with prompt",
  ]);
  const two = await reportOf({ truncated: 1 }, { truncated: 1 }, { models: ["small", "large"] });
  assert.match(two.text, / 1 of 2 questions of openbookqa did not fit the context of small and lost /);
  assert.ok(!two.text.includes("the context of large"));
});

Deno.test("a task whose questions all fit is reported without a word on them", async () => {
  const none = await reportOf({}, {});
  assert.deepEqual(none.report.truncations, []);
  assert.ok(none.text.includes("| 50.0 % |") && !none.text.includes("lost their beginning"));
  assert.ok(!(await reportOf({ truncated: 0 }, { truncated: 0 })).text.includes("lost their beginning"));
  for (const [dense, pruned] of [[{}, { truncated: 2 }], [{ truncated: 2 }, {}]] as const) {
    assert.match((await reportOf(dense, pruned)).text, / 2 of 2 questions of openbookqa did not fit the context and /);
  }
});

Deno.test("the report says which rows a perplexity is not over, or not wholly", async () => {
  const { report } = await reportOf({}, {});
  const said = (rows?: NonNullable<Value["rows"]>): string => {
    const shared = { kind: "perplexity", value: 2, stderr: 0.1, n: 1200 } as const;
    return markdown({ ...report, dense: { demo: [{ name: "answers", ...shared, ...(rows ? { rows } : {}) }] } }, []);
  };
  assert.match(
    said({ rows: 5, truncated: 2, skipped: 1, broken: 0 }),
    /over so many tokens: answers \(1,200, 2 rows cut, 1 left out\)\./,
  );
  for (const rows of [{ rows: 5, truncated: 0, skipped: 0, broken: 0 }, undefined]) {
    assert.match(said(rows), /answers \(1,200\)\./);
  }
});
