// Adapters that PEFT wrote, read and written again: the same tensors by PEFT's own names, and the same settings.
import assert from "node:assert/strict";
import { openHfFolder } from "../disk.ts";
import { readPeftAdapter, writePeftAdapter } from "../../lib/local/adapter.ts";
import { openSafetensors } from "../disk.ts";
import { fixture, inTemporaryFolder } from "./files.ts";

/** Tensors by name, with shape and values; one of the files is bf16. */
async function tensorsOf(folder: string): Promise<ReadonlyMap<string, readonly unknown[]>> {
  const file = await openSafetensors(`${folder}/adapter_model.safetensors`);
  const entries = [...file.tensors.values()].map(async ({ name, shape }) =>
    [name, [shape, [...await file.read(name)]]] as const
  );
  return new Map((await Promise.all(entries)).toSorted(([a], [b]) => a < b ? -1 : 1));
}

async function configOf(folder: string): Promise<Readonly<Record<string, unknown>>> {
  const { target_modules: modules, ...config } = JSON.parse(await Deno.readTextFile(`${folder}/adapter_config.json`));
  return { ...config, target_modules: modules.toSorted() };
}

for (const [name, base] of [["qv", "gqa_f16"], ["all_rslora", "gqa_f16"], ["opt", "opt"]] as const) {
  Deno.test(`the adapter ${name} of PEFT is the same when it is written again`, async () => {
    const { spec } = await openHfFolder(fixture(`golden/${base}/model`)), theirs = fixture(`golden/peft/${name}`);
    const { config, weights, baseModel } = await readPeftAdapter(theirs, spec);
    await inTemporaryFolder(async (folder) => {
      const ours = `${folder}/adapter`;
      await writePeftAdapter(ours, { spec, config, weights, baseModel });
      assert.deepEqual(await tensorsOf(ours), await tensorsOf(theirs));
      const [written, given] = [await configOf(ours), await configOf(theirs)];
      assert.ok(Object.keys(written).length >= 12, Object.keys(written).join());
      // PEFT's own file says more, all of it what is so where nothing is said.
      for (const [key, value] of Object.entries(written)) assert.deepEqual(value, given[key], key);
    });
  });
}
