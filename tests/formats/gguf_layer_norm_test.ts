// GPT-2, GPT-NeoX, StableLM and Phi as GGUFs: read back with the same weights, and refused where llama.cpp's architectures cannot hold them.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/local/export_model.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import { type DecoderSpec, tensorShapes } from "../../lib/spec/decoder.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { openGguf, openHfFolder } from "../disk.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder } from "./files.ts";

const CASES = [["gpt2", "gpt2"], ["gpt_neox", "gptneox"], ["stablelm", "stablelm"], [
  "stablelm_parallel",
  "stablelm",
], ["phi", "phi2"]] as const;

for (const [name, arch] of CASES) {
  Deno.test(`a uniform cut of ${name} is a GGUF of arch ${arch} with the same shape and weights`, async () => {
    const source = await openHfFolder((await openGolden(name)).modelPath), [first] = source.spec.layers;
    const width = first?.ffn ?? 0, layers = source.spec.layers.length;
    const ffn = Float32Array.from({ length: layers * width }, (_, at) => at % width < 21 ? 0 : 1);
    const sliced = sliceModel(source, { masks: { ffn } });
    await inTemporaryFolder(async (folder) => {
      await exportModel(sliced, folder, {
        layout: "uniform",
        dtype: "f32",
        ggufDtype: "f32",
        tokenizer: null,
        formats: ["gguf"],
        name,
      });
      const read = await openGguf(`${folder}/model.gguf`);
      assert.equal(read.metadata.get("general.architecture"), arch);
      assert.deepEqual(read.spec, sliced.spec);
      for (const tensor of tensorShapes(sliced.spec).keys()) {
        assert.deepEqual(await read.read(tensor), await sliced.read(tensor), tensor);
      }
      const rows = { start: 5, count: 7 }, key = "model.layers.1.self_attn.k_proj.weight";
      assert.deepEqual(await read.read(key, rows), await sliced.read(key, rows));
      assert.deepEqual(
        await source.read(key, rows),
        (await source.read(key)).subarray(5 * source.spec.hidden, 12 * source.spec.hidden),
      );
    });
  });

  Deno.test(`what llama.cpp's ${arch} cannot hold of ${name} is refused by its reason`, async () => {
    const { spec } = await openHfFolder((await openGolden(name)).modelPath);
    const refused = (change: Partial<DecoderSpec>, said: Refusal): void =>
      refuses(() => ggufArch({ ...spec, ...change }), "input", said);
    assert.equal(ggufArch(spec), arch);
    refuses(() => ggufArch(spec, "llama"), "usage", { names: "RMSNorm" });
    refuses(() => refuseUnlike(spec), "input", { names: ["GGUF", "llama.cpp"] });
    const [first = { heads: 0, kvHeads: 0, ffn: 0 }] = spec.layers;
    refused({ layers: [first, { ...first, ffn: 3 }] }, { value: ["KV", "FFN"] });
    refused({ layers: spec.layers.map(() => ({ heads: 2, kvHeads: 2, ffn: 9 })) }, { names: "head_dim" });
    if (name !== "gpt2") refused({ tied: true }, { names: ["GGUF", "llama.cpp"] });
    if (arch === "stablelm") return;
    refused({ biases: ["q", "k", "v", "o"] }, { names: ["GGUF", "llama.cpp"] });
    refused({ activation: "relu" }, { names: "FFN" });
  });
}
