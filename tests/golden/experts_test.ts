// Models with experts against transformers in float64, on tiny random models saved by transformers.
import { loadModel } from "../../mod.ts";
import { openSafetensors } from "../disk.ts";
import { fileURLToPath } from "node:url";
import { assertClose, distance } from "./helpers/golden.ts";
import { sharedDevice } from "../device.ts";

const ROOT = fileURLToPath(new URL("../../fixtures/golden_experts/", import.meta.url));
const NAMES = ["qwen3_moe", "olmoe", "mixtral", "qwen2_moe", "granitemoe", "glm4_moe", "ernie4_5_moe"];
// torch in f32 is within 2e-6 of its float64; the rest is room for other orders of summation.
const TOLERANCE = 1e-4;

for (const name of NAMES) {
  Deno.test(`logits of ${name} match transformers`, async () => {
    const golden = await openSafetensors(`${ROOT}${name}/golden.safetensors`);
    const [batch = 0, seq = 0] = golden.tensors.get("tokens")?.shape ?? [];
    const tokens = [...await golden.read("tokens")], logits = await golden.read("logits");
    using model = await loadModel(`${ROOT}${name}/model`, { device: await sharedDevice(), baseDtype: "f32" });
    const width = logits.length / batch, distances = [];
    for (let row = 0; row < batch; row++) {
      const expected = logits.subarray(row * width, (row + 1) * width);
      distances.push(
        distance(`logits[${row}]`, await model.logits(tokens.slice(row * seq, (row + 1) * seq)), expected),
      );
    }
    assertClose(distances, TOLERANCE);
  });
}
