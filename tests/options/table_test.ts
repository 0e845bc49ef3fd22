// The table of options against the types and defaults of a run: every option is in it, with the bounds and defaults that runs have.
import assert from "node:assert/strict";
import { accepts } from "../../lib/core/value_rule.ts";
import { FOLDER_PATHS, namesOf, presetOptions, PRUNE_PATHS, valueAt } from "../../lib/run/options/check.ts";
import { DECIDING_PATHS, entryOf, OPTION_PATHS, type OptionPath } from "../../lib/run/options/table.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import type { PruneToFolderOptions } from "../../lib/run/prune_to_folder.ts";
import type { SessionExportOptions } from "../../lib/slice/export_options.ts";
import { rateBounds } from "../../lib/schedule/definition.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";

const BASE = { rows: [], sparsity: 0.3, steps: 80 } as const;

Deno.test("every option of pruneToFolder has an entry", () => {
  type Own =
    | Exclude<keyof PruneToFolderOptions, keyof PruneOptions | "export">
    | `export.${keyof SessionExportOptions}`;
  const missing: Exclude<Own, OptionPath> extends never ? true : false = true;
  assert.ok(missing);
});

Deno.test("defaults of the table are those of a run", () => {
  const resolved = resolveOptions(BASE, { maxPosition: 512 });
  for (const path of PRUNE_PATHS) {
    const { default: own, defaultText } = entryOf(path);
    if (own === undefined || (defaultText !== undefined && typeof own !== "function")) continue;
    const value = valueAt(resolved, path);
    if (value === undefined) continue; // not among resolved options, or absent as none
    assert.deepEqual(value, typeof own === "function" ? own(BASE.steps) : own, path);
  }
});

Deno.test("the preset of the table is that of a run", () => {
  const resolved = resolveOptions({ ...BASE, preset: "paper" }, { maxPosition: 512 }),
    paper = presetOptions("paper", BASE.steps);
  for (const path of PRUNE_PATHS) {
    const value = valueAt(paper, path);
    if (value !== undefined && typeof value !== "object") assert.deepEqual(valueAt(resolved, path), value, path);
  }
});

Deno.test("bounds of rates are those of schedules, and 0 trains no LoRA", () => {
  const loopNumbers = ["lora", "mask", "lambda", "temperature", "noise", "warmup", "tracking", "clipNorm"] as const;
  for (const name of loopNumbers) {
    const { above, most } = rateBounds(name), path = `rates.${name}` as const;
    assert.equal(accepts(entryOf(path), 0), above === undefined, path);
    assert.equal(accepts(entryOf(path), 1.5), most === undefined, path);
    for (const value of [-1, NaN, Infinity, 1e39, "1"]) {
      assert.equal(accepts(entryOf(path), value), false, `${path} ${value}`);
    }
  }
});

Deno.test("what a resumed run compares are options of prune, and neither functions nor checkpoints", () => {
  for (const path of DECIDING_PATHS) {
    assert.ok(PRUNE_PATHS.includes(path), path);
    assert.ok(!path.startsWith("checkpoint.") && entryOf(path).type !== "function", path);
  }
  for (const path of ["seed", "rates.lora", "lora.rank", "rules.protect", "size.bytes", "keptMasks"] as const) {
    assert.ok(DECIDING_PATHS.includes(path), path);
  }
  for (const path of ["recompute", "monitors", "schedule", "signal", "rows"] as const) {
    assert.ok(!DECIDING_PATHS.includes(path), path);
  }
});

Deno.test("no two options have one name, and pruneToFolder has no checkpoint of its own", () => {
  const names = OPTION_PATHS.map((path) => entryOf(path).name === undefined ? path : entryOf(path).name)
    .filter((name) => name !== null);
  assert.deepEqual(names.filter((name, index) => names.indexOf(name) !== index), []);
  assert.ok(!("checkpoint" in namesOf(FOLDER_PATHS)));
});
