import assert from "node:assert/strict";
import { fileNames, modelDigest } from "../../lib/files/fingerprint.ts";
import { inTemporaryFolder } from "./files.ts";

Deno.test("modelDigest() changes with each file that is read, and with no other", async () => {
  await inTemporaryFolder(async (folder) => {
    const write = (name: string, text: string): Promise<void> => Deno.writeTextFile(`${folder}/${name}`, text);
    const read = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    const shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors"];
    const known = new Set([await modelDigest(folder)]);
    const changed = async (name: string, text: string): Promise<void> => {
      await write(name, text);
      const digest = await modelDigest(folder);
      assert.ok(!known.has(digest), `${name} ${text}`);
      known.add(digest);
    };
    const same = async (...names: readonly string[]): Promise<void> => {
      const before = await modelDigest(folder);
      for (const name of names) await write(name, "x");
      assert.equal(await modelDigest(folder), before, names.join());
    };
    const adapter = ["adapter_config.json", "adapter_model.safetensors"];
    const older = ["added_tokens.json", "special_tokens_map.json"];
    for (const name of [...read, "chat_template.jinja", ...older, ...adapter, ...shards]) {
      for (const text of ["a", "b"]) await changed(name, text);
    }
    await changed("tokenizer_config.json", '{ "added_tokens_decoder": {} }');
    await same(...older);
    await same("README.md", "records.jsonl", "run.json", "checkpoint.safetensors", "model.gguf");
    await changed("model.safetensors", "a");
    await same(...shards);
    // As the cache of huggingface_hub has them.
    const before = await modelDigest(folder);
    await Deno.rename(`${folder}/config.json`, `${folder}/blob`);
    await Deno.symlink("blob", `${folder}/config.json`);
    assert.equal(await modelDigest(folder), before);
    await changed("blob", "another");
  });
});

Deno.test("modelDigest() takes a link that leads nowhere for no file, and shards count beside one", async () => {
  await inTemporaryFolder(async (folder) => {
    const shards = ["model.safetensors.index.json", "model-00001-of-00001.safetensors"];
    for (const name of ["config.json", ...shards]) await Deno.writeTextFile(`${folder}/${name}`, name);
    const without = await modelDigest(folder), links = ["model.safetensors", "chat_template.jinja", "tokenizer.json"];
    for (const name of links) await Deno.symlink("no/such/blob", `${folder}/${name}`);
    assert.equal(await modelDigest(folder), without);
    assert.deepEqual(await fileNames(folder), ["config.json", ...shards.toReversed()]);
    // A circle is no absence: what reads it is to say so.
    await Deno.symlink("generation_config.json", `${folder}/generation_config.json`);
    await assert.rejects(modelDigest(folder), /symbolic links/);
  });
});

Deno.test("modelDigest() of a file is that of its bytes", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a.gguf`, "GGUF");
    // sha256 of "\n4\nGGUFGGUF": the name is not part of it.
    assert.equal(await modelDigest(`${folder}/a.gguf`), "851184fb2f3a5ce5");
  });
});

Deno.test("modelDigest() tells models apart whose ends are the same, as are those of one base", async () => {
  await inTemporaryFolder(async (folder) => {
    const END = 1 << 20, path = `${folder}/a.gguf`;
    const digestOf = async (between: number, change: (middle: Uint8Array) => void): Promise<string> => {
      const bytes = new Uint8Array(2 * END + between);
      change(bytes.subarray(END, END + between));
      await Deno.writeFile(path, bytes);
      return await modelDigest(path);
    };
    for (const between of [1, 5000, 3 * END]) {
      const plain = await digestOf(between, () => {});
      assert.notEqual(await digestOf(between, (middle) => middle.fill(1)), plain, `${between} bytes`);
      // A tensor of a hundredth of the file, wherever it lies.
      const width = Math.ceil(between / 100);
      for (const share of [0, 0.37, 0.98]) {
        const first = Math.floor(share * between);
        const changed = await digestOf(between, (middle) => middle.fill(1, first, first + width));
        assert.notEqual(changed, plain, `${between} bytes, from ${first} on`);
      }
    }
  });
});
