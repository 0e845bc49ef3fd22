// `mpirun … compresso prune`: the bits of one process, one error for all ranks, and a run that other ranks resume.
import assert from "node:assert/strict";
import { assertNames } from "../refuses.ts";
import { cli, json, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = [
  ...[
    "prune",
    "demo",
    "--sparsity",
    "0.3",
    "--steps",
    "4",
    "--prefinetune",
    "1",
    "--postfinetune",
    "1",
    "--batch",
    "1",
  ],
  ...["--seq", "32", "--no-prompt", "--limit-rows", "40", "--calibration", "none", "--no-tuning"],
  ...["--on-alarm", "divergence=off"],
];

/** Open MPI or MPICH; null where there is none. */
const MPIRUN = await find("mpirun");
const TEST = { ignore: MPIRUN === null };
if (MPIRUN === null) console.log("left out, there is no mpirun (Debian: apt-get install openmpi-bin libopenmpi40)");

async function find(name: string): Promise<string | null> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(":")) {
    if (await Deno.stat(`${folder}/${name}`).then(({ isFile }) => isFile, () => false)) return `${folder}/${name}`;
  }
  return null;
}

/** Runs the command on so many ranks; `words` may use the number of the rank as $RANK. */
async function onRanks(count: number, words: readonly string[]): Promise<{ code: number; text: string }> {
  const line = `RANK=\${OMPI_COMM_WORLD_RANK:-$PMI_RANK}; exec ${Deno.execPath()} run -A cli/main.ts ${
    words.join(" ")
  }`;
  const { code, stdout, stderr } = await new Deno.Command(MPIRUN ?? "", {
    args: ["-n", `${count}`, "bash", "-c", line],
    cwd: ROOT,
    env: {
      NO_COLOR: "1",
      OMPI_ALLOW_RUN_AS_ROOT: "1",
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
      PRTE_MCA_rmaps_default_mapping_policy: ":oversubscribe",
      OMPI_MCA_btl: "self,sm",
    },
    stdout: "piped",
    stderr: "piped",
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** The one error that ranks said. MPI may write before it on its line. */
function errorIn(text: string): string {
  const errors = text.match(/\{"error":.*\}$/gm) ?? [];
  assert.equal(errors.length, 1, text);
  return Object.values(JSON.parse(errors[0] ?? "").error).join("\n");
}

/** The files that the run wrote, but for those that say how long it took. */
async function filesOf(folder: string): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for (const name of ["model/model.safetensors", "model.gguf"]) {
    const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(`${folder}/${name}`));
    files.set(name, new Uint8Array(digest).toHex());
  }
  return files;
}

Deno.test({
  name: "two and four ranks write what one process writes, and so does one that resumes what three began",
  ...TEST,
  fn: async () => {
    using folder = new TemporaryFolder();
    const schedule = folder.at("stops.ts"), whole = folder.at("whole.ts");
    const module = new URL("../../lib/schedule/mod.ts", import.meta.url).href;
    const source = (last: string): string =>
      `import { defineSchedule } from "${module}";
export default defineSchedule({ sparsity: ({ step }) => { ${last} return 0.3 * (step + 1) / 4; } });
`;
    await Deno.writeTextFile(schedule, source("if (step === 2) throw new Error('no further');"));
    await Deno.writeTextFile(whole, source(""));
    const options = [...OPTIONS, "--accumulate", "4", "--trust"], steered = [...options, "--schedule", whole];
    await json([...steered, "--out", folder.at("alone")]);
    const want = await filesOf(folder.at("alone"));
    for (const count of [2, 4]) {
      const out = folder.at(`ranks${count}`), { code, text } = await onRanks(count, [...steered, "--out", out]);
      assert.equal(code, 0, text);
      assertNames(text, `${count} ranks`);
      assert.equal(text.match(/^sparsity /gm)?.length, 1, "one summary");
      assert.deepEqual(await filesOf(out), want);
    }
    // The schedule fails and stops three ranks, which leave a checkpoint of the steps before. One rank has two of the four micro-batches.
    const out = folder.at("resumed");
    const stopped = await onRanks(3, [...options, "--schedule", schedule, "--checkpoint-every", "1", "--out", out]);
    assert.notEqual(stopped.code, 0);
    assert.equal(stopped.text.match(/no further/g)?.length, 1, stopped.text);
    await json([...steered, "--out", out, "--resume", "--may-differ", "schedule"]);
    assert.deepEqual(await filesOf(out), want);
  },
});

Deno.test({
  name: "ranks with other options, and more ranks than micro-batches, are one error, and write nothing",
  ...TEST,
  fn: async () => {
    using folder = new TemporaryFolder();
    for (
      const [words, names] of [
        [["--seed", "$((1+RANK))"], ["rank 1 of 2", "seed: 2, on rank 0 1"]],
        [["--accumulate", "1"], ["2 ranks", "--accumulate 1"]],
        [["--acumulate", "2"], ["'--acumulate'", "--accumulate"]],
      ] as const
    ) {
      const { code, text } = await onRanks(2, [...OPTIONS, ...words, "--json", "--out", folder.at("run")]);
      assert.notEqual(code, 0);
      assertNames(errorIn(text), names);
      assert.ok(!folder.has("run"));
    }
  },
});

Deno.test({
  name: "eval on two ranks prints what one process prints",
  ...TEST,
  fn: async () => {
    using folder = new TemporaryFolder();
    const text = folder.at("text.txt");
    await Deno.writeTextFile(text, "Mary went to Paris. ".repeat(60));
    for (const words of [["--text", text, "--window", "48"], ["--tasks", "piqa", "--task-data", "fixtures/tasks"]]) {
      const line = ["eval", "demo", ...words, "--no-tuning", "--json"], alone = await cli(line);
      const both = await onRanks(2, line);
      assert.equal(alone.code, 0, alone.stderr);
      assert.equal(both.code, 0, both.text);
      assert.ok(both.text.includes(alone.stdout), both.text);
    }
    const odd = await onRanks(2, ["eval", "demo", "--text", text, "--window", "$((48+RANK))", "--json"]);
    assertNames(errorIn(odd.text), ["rank 1 of 2", "window: [49], on rank 0 [48]"]);
    const kept = await onRanks(2, ["eval", "demo", "--text", text, "--out", folder.at("scores.jsonl"), "--json"]);
    assertNames(errorIn(kept.text), "--out");
  },
});
