// The Python files of a folder whose layers differ, as far as their text tells; scripts/check/reload_hf.py loads them.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/local/export_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource, UNEVEN } from "../formats/models.ts";

Deno.test("a folder's Python files refuse versions of transformers before the one that is said to load it, before they import what those lack", async () => {
  await inTemporaryFolder(async (folder) => {
    const options = { tokenizer: null, name: "x", formats: ["hf"] } as const;
    const { hf, loadableBy } = await exportModel(randomSource(UNEVEN), folder, options);
    const text = await Deno.readTextFile(`${hf}/modeling_compresso.py`);
    const [, major, minor] = /^LEAST = \((\d+), (\d+)\)$/m.exec(text) ?? [];
    assert.deepEqual([major, minor], ["4", "54"]);
    const version = `${major}.${minor} or later`;
    assert.match(text, new RegExp(`raise ImportError\\(\\s+"this model needs transformers ${version}`));
    assert.ok(loadableBy[0]?.programs[0]?.startsWith(`transformers ${version}: AutoModelForCausalLM`));
    const refusal = text.indexOf("raise ImportError"), imports = text.indexOf("from transformers");
    assert.ok(refusal > 0 && refusal < imports, `${refusal} < ${imports}`);
  });
});

Deno.test("a folder's Python files leave each layer to make its part of a static cache, as layers differ in KV heads", async () => {
  await inTemporaryFolder(async (folder) => {
    const options = { tokenizer: null, name: "x", formats: ["hf"] } as const;
    const { hf } = await exportModel(randomSource(UNEVEN), folder, options);
    const text = await Deno.readTextFile(`${hf}/modeling_compresso.py`),
      [, model] = text.split("CompressoForCausalLM(");
    assert.match(model ?? "", /\n {4}def _get_static_cache_init_shape\(self\):\n {8}#.*\n {8}return None\n/);
  });
});
