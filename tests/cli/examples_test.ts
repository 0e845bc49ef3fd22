// The example scripts run as they stand, with few steps.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { json, TemporaryFolder } from "./helpers/cli.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

async function run(script: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `scripts/examples/${script}`, ...args],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

Deno.test("other_schedule.ts stops at half of the steps and goes on with the second schedule", async () => {
  const lines = (await run("other_schedule.ts", "4", "60")).trimEnd().split("\n");
  const targets = lines.filter((line) => /^\d/.test(line)).map((line) => Number(line.split(" ")[1]));
  assert.equal(lines.findIndex((line) => line.startsWith("stopped: ")), 2);
  assert.deepEqual(targets, [0.0875, 0.1, 0.15, 0.2]);
  assert.match(lines.at(-1) ?? "", /^hard sparsity 0\.20[01]\d$/);
});

Deno.test("rank_sweep.ts prints a line for each rank", async () => {
  const [, ...lines] = (await run("rank_sweep.ts", "2", "2,16", "60", "8")).trimEnd().split("\n");
  assert.deepEqual(lines.map((line) => line.split(" ")[0]), ["2", "16"]);
  const [two = [], sixteen = []] = lines.map((line) =>
    /^\d+ +(\d+) +(\d\.\d{3}) +\d+\.\d %$/.exec(line)?.slice(1) ?? []
  );
  assert.equal(Number(sixteen[0]), 8 * Number(two[0]), "parameters of LoRA");
  assert.notEqual(two[1], sixteen[1], "and so other losses");
});

Deno.test("prompt_ablation.ts prints all four cases", async () => {
  const [, ...lines] = (await run("prompt_ablation.ts", "1", "2", "24")).trimEnd().split("\n");
  const cases = lines.map((line) => line.split(/ +/).slice(0, 2).join(" "));
  assert.deepEqual(cases, ["on on", "on off", "off on", "off off"]);
  const costs = lines.map((line) => /(\d+) +(\d+) +\d+\.\d %$/.exec(line)?.slice(1).map(Number) ?? []);
  const [[row = 0, asked = 0] = [], [again, bare = 0] = [], ...off] = costs;
  assert.ok(row > 100 && row === again, "it is in the rows that are trained on");
  assert.ok(Math.abs(asked - bare - row) <= 1, `and in the questions: ${asked}, ${bare} tokens without`);
  assert.deepEqual(off, [[0, asked], [0, bare]]);
});

Deno.test("sensitivity.ts cuts least of the layer whose columns the loss needs most", async () => {
  const [, ...lines] = (await run("sensitivity.ts", "4", "5")).trimEnd().split("\n");
  assert.match(lines.pop() ?? "", /^hard sparsity 0\.30\d\d$/);
  const layers = lines.map((line) => {
    const [, rise = NaN, target = NaN, width = NaN] =
      /^\d +(-?[\d.]+) +([\d.]+) % +96 to (\d+)$/.exec(line)?.map(Number) ?? [];
    return { rise, target, width };
  });
  assert.equal(layers.length, 5);
  const [most, ...others] = layers.toSorted((a, b) => b.rise - a.rise);
  assert.ok(
    most && others.every(({ rise, target, width }) => most.rise > rise && most.target < target && most.width > width),
    lines.join("\n"),
  );
});

Deno.test("a run follows layerwise.ts, whose first and last layers lose least", async () => {
  using folder = new TemporaryFolder();
  const { sparsity, layers } = await json([
    ...["prune", "demo", "--schedule", "scripts/examples/layerwise.ts", "--sparsity", "0.3", "--steps", "8"],
    ...[
      "--prefinetune",
      "0",
      "--postfinetune",
      "0",
      "--seq",
      "32",
      "--batch",
      "1",
      "--no-prompt",
      "--limit-rows",
      "60",
    ],
    ...["--calibration", "none", "--no-tuning", "--on-alarm", "divergence=off", "--out", folder.at("run")],
  ]);
  assert.ok(sparsity.hard >= 0.3 && sparsity.hard < 0.305, `${sparsity.hard}`);
  // Heads are two thirds of a layer's weights here, FFN columns one.
  const left = layers.map(({ heads, ffn }: { readonly heads: number; readonly ffn: number }) =>
    (2 * heads / 6 + ffn / 96) / 3
  );
  assert.ok(Math.min(left[0], left[4]) > Math.max(left[1], left[2], left[3]) + 0.1, left.join(" "));
});
