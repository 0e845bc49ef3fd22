// Whole experts cut from a model: what stays is the file's own, and what cannot be cut is refused.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { expertsName, routerName, tensorShapes } from "../../lib/spec/decoder.ts";
import { keepExperts } from "../../lib/slice/experts.ts";
import { exportGguf, exportHf, openGguf, openHfFolder } from "../disk.ts";
import { refuses } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { assertSameWeights } from "../formats/models.ts";

const ROOT = fileURLToPath(new URL("../../fixtures/golden_experts/", import.meta.url));

Deno.test("a cut of experts keeps the rows of the others, whole and in ranges", async () => {
  const source = await openHfFolder(`${ROOT}mixtral/model`), { hidden } = source.spec, ffn = 21;
  const kept = [[0, 2, 3], [1, 5, 6]], cut = keepExperts(source, kept);
  for (const [name, [rows = 0, columns = 0]] of tensorShapes(cut.spec)) {
    assert.equal((await cut.read(name)).length, rows * (columns || 1), name);
  }
  for (const [layer, own] of kept.entries()) {
    const whole = [routerName(layer), expertsName(layer, "up"), expertsName(layer, "down")] as const;
    for (const [index, [per, width]] of ([[1, hidden], [ffn, hidden], [hidden, ffn]] as const).entries()) {
      const name = whole[index] ?? "", all = await source.read(name), values = await cut.read(name);
      const wanted = own.flatMap((e) => [...all.subarray(e * per * width, (e + 1) * per * width)]);
      assert.deepEqual([...values], wanted, name);
      const rows = { start: per === 1 ? 1 : per - 2, count: per === 1 ? 2 : per + 3 };
      assert.deepEqual(
        [...await cut.read(name, rows)],
        wanted.slice(rows.start * width, (rows.start + rows.count) * width),
      );
    }
  }
});

for (const name of ["qwen3_moe", "mixtral", "granitemoe", "glm4_moe", "ernie4_5_moe"]) {
  Deno.test(`${name} with fewer experts is written as a folder and read back`, async () => {
    const source = await openHfFolder(`${ROOT}${name}/model`);
    const cut = keepExperts(
      source,
      source.spec.layers.map(({ experts }, layer) => experts ? [0, 1, 2, 3].map((e) => e + layer % 2) : null),
    );
    await inTemporaryFolder(async (folder) => {
      assert.equal((await exportHf(cut, `${folder}/a`, { dtype: "f32", tokenizer: null })).form, name);
      const read = await openHfFolder(`${folder}/a`);
      assert.deepEqual(read.spec, cut.spec);
      await assertSameWeights(read, cut);
    });
  });
}

Deno.test("the blocks of kept experts in a quantised GGUF stay byte for byte", async () => {
  const source = await openHfFolder(`${ROOT}mixtral/model`), { spec } = source, wide = 32;
  const layers = spec.layers.map((layer) => ({ ...layer, experts: { count: 7, ffn: wide } }));
  const made = {
    ...source,
    spec: { ...spec, hidden: 64, layers },
    read(name: string): Promise<Float32Array<ArrayBuffer>> {
      const count = (tensorShapes(made.spec).get(name) ?? []).reduce((product, size) => product * size, 1);
      return Promise.resolve(Float32Array.from({ length: count }, (_, i) => Math.sin(i * 0.7 + name.length)));
    },
    storedDtype: () => "f32",
    readStored: () => Promise.resolve(null),
  };
  const options = { dtype: "q8_0", name: "x", tokenizerMetadata: new Map() } as const, kept = [[1, 2, 5], [0, 4, 6]];
  await inTemporaryFolder(async (folder) => {
    await exportGguf(made, `${folder}/a.gguf`, options);
    const whole = await openGguf(`${folder}/a.gguf`);
    await exportGguf(keepExperts(whole, kept), `${folder}/b.gguf`, options);
    const cut = await openGguf(`${folder}/b.gguf`);
    assert.deepEqual(cut.spec.layers.map(({ experts }) => experts?.count), [3, 3]);
    for (const [layer, own] of kept.entries()) {
      for (const matrix of ["gate", "up", "down"] as const) {
        const name = expertsName(layer, matrix),
          all = await whole.readStored?.(name),
          some = await cut.readStored?.(name);
        assert.ok(all && some);
        assert.equal(cut.storedDtype(name), "q8_0");
        const size = all.length / 7;
        assert.deepEqual(some, Uint8Array.from(own.flatMap((e) => [...all.subarray(e * size, (e + 1) * size)])));
      }
    }
  });
});

Deno.test("experts that are not there, come twice, or are fewer than a token has are refused", async () => {
  const source = await openHfFolder(`${ROOT}qwen3_moe/model`);
  const refused = (kept: Parameters<typeof keepExperts>[1], value: string | number): void =>
    refuses(() => keepExperts(source, kept), "usage", { value });
  refused([[0, 1], null], 2);
  refused([[0, 5], null, [0, 1]], 5);
  refused([[1, 1], null, [0, 1]], 1);
  refused([[2], null, [0, 1]], 1);
  refused([[0, 1], [0], [0, 1]], "dense");
  refused([[0, 1], null, null], "null");
});
