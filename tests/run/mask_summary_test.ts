// What run.json keeps of masks and sizes.
import assert from "node:assert/strict";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { disk } from "../../lib/files/disk.ts";
import { fileBytes, maskSummary, modelBefore, withSmallerTypes } from "../../lib/run/mask_summary.ts";
import { fileBytes as bytesOfKind } from "../../lib/units/file_size.ts";
import { TemporaryFolder } from "../cli/helpers/cli.ts";

Deno.test("maskSummary() gives z of heads by layer, and kept shares of columns and hidden dims in at most 64 stretches", async () => {
  const { source: { spec } } = await openModelFiles("demo");
  const head = new Float32Array(30).fill(1),
    ffn = new Float32Array(5 * 96).fill(1),
    hidden = new Float32Array(192).fill(1);
  head.set([0, 0.123456789], 6);
  // 96 columns in 64 stretches: 1 and 2 columns by turns.
  ffn.set([0, 0, 0.5], 96);
  hidden.set([0, 0.7, 0], 3);
  const summary = maskSummary(spec, { head, ffn, hidden });
  assert.deepEqual(
    summary.heads,
    [1, 2, 3, 4, 5].map((layer) => layer === 2 ? [0, 0.123457, 1, 1, 1, 1] : Array(6).fill(1)),
  );
  assert.deepEqual(summary.ffn.map((shares) => shares.length), Array(5).fill(64));
  assert.deepEqual(summary.ffn[1]?.slice(0, 3), [0, 0.5, 1]);
  assert.deepEqual(summary.hidden.slice(0, 3), [1, 0.3333, 1]);
  assert.equal(summary.hidden.length, 64);
  const small = { ...spec, hidden: 3, layers: [{ heads: 0, kvHeads: 0, ffn: 5 }] };
  assert.deepEqual(maskSummary(small, {}), { heads: [[]], ffn: [[1, 1, 1, 1, 1]], hidden: [1, 1, 1] });
});

Deno.test("modelBefore() counts the tensors' bytes as they are stored, fileBytes() those of files and of the weights in folders", async () => {
  const { source } = await openModelFiles("demo");
  const { bytes, layers } = modelBefore(source);
  assert.equal(bytes, 979_008 * 2, "979,008 parameters in f16");
  assert.equal(layers.length, 5);
  const blocks = { ...source, spec: source.spec, storedDtype: () => "q8_0" };
  assert.equal(modelBefore(blocks).bytes, 979_008 * 34 / 32);
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("model"));
  await Deno.writeFile(folder.at("model", "model-1.safetensors"), new Uint8Array(100));
  await Deno.writeFile(folder.at("model", "model-2.safetensors"), new Uint8Array(20));
  await Deno.writeFile(folder.at("model", "tokenizer.json"), new Uint8Array(7));
  await Deno.writeFile(folder.at("model.gguf"), new Uint8Array(33));
  assert.deepEqual((await fileBytes([folder.at("model"), folder.at("model.gguf")], disk)).map((one) => one.bytes), [
    120,
    33,
  ]);
});

Deno.test("withSmallerTypes() gives the exact bytes of a GGUF as other types, and none for a folder in f16", async () => {
  const { source: { spec }, tokenizer } = await openModelFiles("demo");
  const content = { tokenizer, name: "demo" };
  const bytes = (dtype: "f16" | "q8_0" | "q4_0"): number => bytesOfKind(spec, { format: "gguf", dtype }, content);
  const [gguf, folder] = withSmallerTypes(
    [{ file: "out/model.gguf", bytes: bytes("f16") }, { file: "out/model", bytes: 979_008 * 2 }],
    { spec, content },
  );
  assert.deepEqual(gguf?.smaller, [{ dtype: "q8_0", bytes: bytes("q8_0") }, { dtype: "q4_0", bytes: bytes("q4_0") }]);
  assert.equal(folder?.smaller, undefined);
});
