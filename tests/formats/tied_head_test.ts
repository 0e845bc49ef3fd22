// Folders of tied models that store their head too, or their head alone.
import assert from "node:assert/strict";
import { type DecoderSpec, EMBEDDING, HEAD, tensorShapes } from "../../lib/spec/decoder.ts";
import { exportHf } from "../disk.ts";
import { hfConfig } from "../../lib/formats/hf/export.ts";
import { openHfFolder } from "../disk.ts";
import { type SafetensorsItem } from "../../lib/formats/safetensors/write.ts";
import { rejects } from "../refuses.ts";
import { writeSafetensors } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

/** More values of the embedding than are compared at a time; its last row is compared by itself. */
const TIED: DecoderSpec = { ...SPEC, hidden: 24, vocab: Math.floor(2 ** 20 / 24) + 1, tied: true };

/** Writes a tied model with this head beside its embedding, or without that. */
async function writeTied(
  folder: string,
  { head, embedding = true }: { readonly head?: SafetensorsItem; readonly embedding?: boolean },
): Promise<void> {
  const source = randomSource(TIED);
  const items = [...tensorShapes(TIED)].map(([name, shape]): SafetensorsItem => ({
    ...{ name, shape, dtype: "F32" },
    data: () => source.read(name),
  }));
  const kept = items.filter(({ name }) => embedding || name !== EMBEDDING);
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(hfConfig(TIED, { dtype: "f32" })));
  await writeSafetensors(`${folder}/model.safetensors`, head ? [...kept, head] : kept);
}

/** The embedding as a head, with these values in place of others. */
async function head(changed: Readonly<Record<number, number>> = {}): Promise<SafetensorsItem> {
  const values = await randomSource(TIED).read(EMBEDDING);
  for (const [index, value] of Object.entries(changed)) values[Number(index)] = value;
  return { name: HEAD, shape: [TIED.vocab, TIED.hidden], dtype: "F32", data: () => values };
}

Deno.test("a stored head of a tied model that is not the embedding is refused by its first value that differs", async () => {
  const last = TIED.vocab * TIED.hidden - 1;
  for (const index of [0, 24 * 3 + 5, last]) {
    await inTemporaryFolder(async (folder) => {
      await writeTied(folder, { head: await head({ [index]: 8 }) });
      const source = await openHfFolder(folder), rows = { start: 1, count: 1 };
      const value = [8, `row ${Math.floor(index / 24)}`, `column ${index % 24}`];
      for (let time = 0; time < 2; time++) {
        await rejects(source.read(EMBEDDING, rows), "input", { value, names: "lm_head.weight" });
      }
    });
  }
  await inTemporaryFolder(async (folder) => {
    await writeTied(folder, { head: { ...await head(), shape: [TIED.hidden, TIED.vocab] } });
    await rejects(openHfFolder(folder), "input", { value: "[24, 43691]", names: ["lm_head.weight", "[43691, 24]"] });
  });
});

Deno.test("openHfFolder() takes a head that is the embedding, beside it or alone, for the embedding", async () => {
  const expected = randomSource(TIED);
  for (const embedding of [true, false]) {
    await inTemporaryFolder(async (folder) => {
      await writeTied(folder, { head: await head(), embedding });
      const source = await openHfFolder(folder);
      await assertSameWeights(source, expected);
      assert.deepEqual(source.spec, TIED);
      assert.equal(source.storedDtype(EMBEDDING), "f32");
      const rows = { start: 7, count: 2 };
      assert.deepEqual(await source.read(EMBEDDING, rows), await expected.read(EMBEDDING, rows));
      await exportHf(source, `${folder}/again`, { dtype: "f32", tokenizer: null });
      await assertSameWeights(await openHfFolder(`${folder}/again`), expected);
    });
  }
  await inTemporaryFolder(async (folder) => {
    await writeTied(folder, { embedding: false });
    await rejects(openHfFolder(folder), "input", { names: "model.embed_tokens.weight" });
  });
});
