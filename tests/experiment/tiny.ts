// An experiment on the demo that takes seconds, and tests that run it in temporary folders.
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { runExperiment } from "../../lib/experiment/run.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { writeShortDemo } from "../demo.ts";
import { sharedDevice } from "../device.ts";
import type { ExperimentDefinition, RunExperimentOptions } from "../../lib/experiment/types.ts";

/** Folder of a short demo: that of the process that started this one, or one that is removed at the end. */
export const MODEL: string = Deno.env.get("SHORT_DEMO") ?? await temporaryModel();

async function temporaryModel(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "compresso_short_demo_" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  return await writeShortDemo(folder);
}

/** Four cells of five steps, with two measures. */
export const TINY: ExperimentDefinition = {
  name: "tiny",
  question: "Does it run?",
  model: MODEL,
  data: { file: demoData("train"), limit: 60 },
  base: { sparsity: 0.2, steps: 3, prefinetune: 1, postfinetune: 1, batch: 2, seq: 48, prompt: false },
  // alpha goes with rank, and is no axis of its own.
  grid: [{ rank: [2], alpha: [4], seed: [1, 2] }, { rank: [4], alpha: [8], seed: [1, 2] }],
  evaluate: {
    rows: [{ name: "answers", file: demoData("heldout"), last: 8, seq: 48 }],
    choices: [{ name: "questions", file: demoData("heldout"), limit: 6 }],
  },
};

/** Runs an experiment into a folder, and says what it has worked on. */
export type Run = (
  definition: ExperimentDefinition,
  out: string,
  options?: Partial<RunExperimentOptions>,
) => Promise<{ worked: string[]; result: Awaited<ReturnType<typeof runExperiment>> }>;

/** A test with a device of its own and two folders that are removed at its end. */
export function experimentTest(name: string, test: (run: Run, out: string, other: string) => Promise<void>): void {
  Deno.test(name, async () => {
    const out = await Deno.makeTempDir({ prefix: "compresso_experiment_" }), other = await Deno.makeTempDir();
    const device = await sharedDevice();
    try {
      await test(
        async (definition, out, options = {}) => {
          const worked: string[] = [];
          const onCell = ({ name }: { readonly name: string }): unknown => worked.push(name);
          const given = { device, out, onCell, ...options };
          return { worked, result: await runExperiment(defineExperiment(definition), given) };
        },
        out,
        other,
      );
    } finally {
      for (const folder of [out, other]) await Deno.remove(folder, { recursive: true });
    }
  });
}

/** A JSON file. */
export async function json<T>(path: string): Promise<T> {
  return JSON.parse(await Deno.readTextFile(path));
}
