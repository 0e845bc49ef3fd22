// Files that became larger than the model before.
import assert from "node:assert/strict";
import { grownFiles, modelInput } from "../../lib/report/sizes.ts";

const before = { layers: [], hidden: 1, headDim: 1, bytes: 90 };
const fileBytes = [
  { file: "runs/a/model", bytes: 95 },
  { file: "runs/a/model.gguf", bytes: 120, smaller: [{ dtype: "q8_0", bytes: 60 }] },
];

Deno.test("files are compared with the model's file where it is named, else with its tensors", () => {
  const origin = [{ role: "model", name: "a.gguf", bytes: 100 }] as const;
  assert.deepEqual(modelInput({ origin, before })?.bytes, 100);
  assert.deepEqual(grownFiles({ origin, before, fileBytes }), [
    { file: "model.gguf", bytes: 120, smaller: [{ dtype: "q8_0", bytes: 60 }] },
  ]);
  assert.deepEqual(grownFiles({ origin: [], before, fileBytes }).map(({ file }) => file), ["model", "model.gguf"]);
  assert.deepEqual(grownFiles({ origin: [], before, fileBytes: fileBytes.slice(0, 0) }), []);
});
