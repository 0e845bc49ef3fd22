// Options of `prune` from a file: a user's own, or the run.json of a run.
import assert from "node:assert/strict";
import type { Refusal } from "../refuses.ts";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** Refusals come before anything is read, so no such model has to be there. */
const NOWHERE = ["prune", "nowhere", "--out", "nowhere"];

async function config(folder: TemporaryFolder, value: unknown, name = "config.json"): Promise<string[]> {
  await Deno.writeTextFile(folder.at(name), typeof value === "string" ? value : JSON.stringify(value));
  return ["--config", folder.at(name)];
}

Deno.test("prune takes a file's options by name and by path, and the run.json of that run makes it again, bit for bit", async () => {
  using folder = new TemporaryFolder();
  const given = await config(folder, {
    ...{ sparsity: 0.2, steps: 1, method: "taylor", units: "kv,ffn", batch: 1, seq: 32, limitRows: 40 },
    ...{ lora: { rank: 2, targets: ["q", "v"] }, loraRate: 2e-3, prompt: false, tuning: false, postfinetune: null },
    ...{ onAlarm: "constraint=warn:0.4", dtype: "f32", formats: ["hf"], out: folder.at("elsewhere") },
  });
  const first = await json(["prune", "demo", ...given, "--out", folder.at("first"), "--seed", "7", "--seq", "48"]);
  assert.ok(!folder.has("elsewhere"), "the command line takes precedence");
  const { options, inputs } = first;
  assert.deepEqual([options.sparsity, options.steps, options.seed, options.seq], [0.2, 1, 7, 48]);
  assert.deepEqual([options.lora.rank, options.lora.targets, options.rates.lora], [2, ["q", "v"], 2e-3]);
  assert.deepEqual([options.prompt, options.monitors.constraint.threshold], [null, 0.4]);
  assert.deepEqual(JSON.parse(inputs.files), { dtype: "f32" });
  assert.match(inputs.data, /"limitRows":40/);
  const again = [
    "prune",
    "demo",
    "--config",
    folder.at("first", "run.json"),
    "--no-tuning",
    "--out",
    folder.at("again"),
  ];
  const second = await json(again);
  for (const part of ["options", "inputs", "masks", "heldoutLoss"]) assert.deepEqual(second[part], first[part], part);
  const bytes = (name: string): Promise<Uint8Array> => Deno.readFile(folder.at(name, "model", "model.safetensors"));
  assert.deepEqual(await bytes("again"), await bytes("first"));
  // A target of the command line replaces the file's. The run is refused before it begins.
  await refused([...again.slice(0, 4), "--target-params", "5", "--out", folder.at("third")], "usage", {
    value: 5,
  });
});

Deno.test("keys of a file that are no options are one error with the nearest names", async () => {
  using folder = new TemporaryFolder();
  const given = await config(folder, { sparsty: 0.3, rates: { lora: 1e-3, masks: 0.1 }, steps: 5, zzzzzzzzzz: 1 });
  await refused([...NOWHERE, ...given], "usage", {
    value: ["sparsty", "rates.masks", "zzzzzzzzzz"],
    names: ["sparsity", "rates.mask"],
  });
});

Deno.test("a file gives each option once, with a value that it can have, and neither trust nor what is done to a folder", async () => {
  using folder = new TemporaryFolder();
  const cases: readonly (readonly [value: unknown, option: string | null, data: string])[] = [
    [{ sparsity: 30 }, "--sparsity", "30"],
    [{ sparsity: "30%" }, "--sparsity", "30%"],
    [{ packing: "no" }, "--packing", "no"],
    [{ units: ["kv", "kv"] }, "--units", "kv"],
    [{ units: "kv,fn" }, "--units", "kv,fn"],
    [{ evalTasks: [3] }, "--eval-tasks", "3"],
    [{ schedule: 5 }, "--schedule", "5"],
    [{ data: ["a.json"] }, "--data", "a.json"],
    [{ onAlarm: "nothing=stop" }, null, "nothing=stop"],
    [{ rank: 2, lora: { rank: 2 } }, null, "lora.rank"],
    [{ trust: true }, "--trust", "trust"],
    [{ export: { replace: true } }, "--overwrite", "export.replace"],
  ];
  for (const [value, option, data] of cases) {
    const given = await config(folder, value), expected = option === null ? {} : { option };
    await refused([...NOWHERE, ...given], "usage", { ...expected, value: data });
  }
  await refused([...NOWHERE, ...await config(folder, "sparsity: 0.3", "config.txt")], "input", { names: "config.txt" });
  await refused([...NOWHERE, ...await config(folder, [])], "input", { value: "[]" });
  // A target of the command line replaces the file's, with what belongs to it. Then the model is looked for.
  const sized = await config(folder, { targetBytes: "200M", targetFile: "gguf" });
  await refused([...NOWHERE, ...sized, "--sparsity", "0.3", "--data", "x.json"], "input", { names: "nowhere" });
  await refused([...NOWHERE, "--config", folder.at("none.json")], "input", { names: "none.json" });
});

Deno.test("a file of YAML gives the options that JSON gives, and each mistake is an error with its line", async () => {
  using folder = new TemporaryFolder();
  const yaml = async (lines: readonly string[]): Promise<string[]> => [
    ...NOWHERE,
    ...await config(folder, lines.join("\n"), "run.yaml"),
  ];
  const cases: readonly (readonly [lines: readonly string[], code: "usage" | "input", expected: Refusal])[] = [
    // Each option was read, and the model is looked for next.
    [
      ["# a run", "sparsity: 0.3", "rates:", "  lora: 1e-3", "units: [kv, ffn]", "prompt: false", "data: x.json"],
      "input",
      {
        names: "nowhere",
      },
    ],
    [["steps: 4", "sparsity: 30"], "usage", { option: "--sparsity", value: "30" }],
    [["steps: 0x10"], "usage", { option: "--steps", value: "0x10" }],
    [["packing: no"], "usage", { option: "--packing", value: "no" }],
    [["steps: 4", "rates: {lora: 1e-3, lora: 2e-3}"], "input", { names: "run.yaml", value: ["line 2", "column 21"] }],
    [["steps: 4", "sparsity: 0.2", "steps: 5"], "input", { names: "run.yaml", value: "line 3" }],
    [["steps: &n 4", "batch: *n"], "input", { names: "run.yaml", value: "line 2" }],
    [["steps: !!js/function 4"], "input", { names: "run.yaml", value: "line 1" }],
    [["<<: {steps: 4}"], "usage", { value: "<<" }],
    [["steps: 4", "\tbatch: 2"], "input", { names: "run.yaml", value: "line 2" }],
    [["steps: 4", "---", "steps: 5"], "input", { names: "run.yaml" }],
    [["- steps"], "input", { value: '["steps"]' }],
    [[], "input", { names: "run.yaml" }],
  ];
  for (const [lines, code, expected] of cases) await refused(await yaml(lines), code, expected);
});

Deno.test("a run that read more files than run.json names is repeated with these", async () => {
  using folder = new TemporaryFolder();
  const small = [
    "--steps",
    "0",
    "--method",
    "magnitude",
    "--seq",
    "32",
    "--limit-rows",
    "40",
    "--no-tuning",
    "--sparsity",
    "0.2",
  ];
  await Deno.writeTextFile(folder.at("prompt.txt"), "Be brief.");
  const { code, stderr } = await cli([
    ...["prune", "demo", ...small, "--formats", "hf", "--prompt", folder.at("prompt.txt"), "--out", folder.at("run")],
  ]);
  assert.equal(code, 0, stderr);
  const again = [...NOWHERE, "--config", folder.at("run", "run.json")];
  await refused(again, "usage", { option: "--prompt" });
  // With it, the next thing that is refused is the model.
  await refused([...again, "--prompt", folder.at("prompt.txt")], "input", { names: "nowhere" });
});
