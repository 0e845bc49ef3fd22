import assert from "node:assert/strict";
import { modelPath } from "../../lib/local/open_model.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { directoryFiles, isStorageFull } from "../../lib/files/directory.ts";
import { disk } from "../../lib/files/disk.ts";
import { memoryFiles, memorySource } from "../../lib/files/memory.ts";
import { type FileSystem, readBytes, streamBytes, writeFile } from "../../lib/files/system.ts";
import { openModel } from "../../lib/formats/open.ts";
import { stageModel } from "../../lib/slice/export.ts";
import { checkRefusal, rejects } from "../refuses.ts";
import { Folder } from "./handles.ts";

/** All files of a folder, by their paths in it. */
async function contentOf(files: FileSystem, folder: string, inner = ""): Promise<Map<string, Uint8Array>> {
  const found = new Map<string, Uint8Array>();
  for (const name of await files.names(folder + inner)) {
    const path = `${inner}/${name}`;
    if ((await files.info(folder + path))?.isFolder) {
      for (const [below, bytes] of await contentOf(files, folder, path)) found.set(below, bytes);
      continue;
    }
    const source = await files.open(folder + path);
    found.set(path, await readBytes(source, 0, source.size));
  }
  return found;
}

Deno.test("a model in memory and one in a browser's folders is read and exported as on the disk, byte for byte", async () => {
  const folder = await modelPath("demo"), out = await Deno.makeTempDir();
  const memory = memoryFiles(
    await Promise.all(Array.from(
      await contentOf(disk, folder),
      async ([path]) => [`model${path}`, await Deno.readFile(folder + path)] as const,
    )),
  );
  const { source, tokenizer } = await openModel(memory, "model"), onDisk = await openModel(disk, folder);
  assert.deepEqual(source.spec, onDisk.source.spec);
  const options = { tokenizer, name: "demo", dtype: "f16" } as const;
  await exportModel(onDisk.source, out, { ...options, tokenizer: onDisk.tokenizer });
  using staged = await stageModel(source, "out", { ...options, files: memory });
  assert.equal(await memory.info("out/model.gguf"), null);
  await staged.commit();
  assert.deepEqual(await contentOf(memory, "out"), await contentOf(disk, out));
  for (const moves of [true, false]) {
    const files = directoryFiles(new Folder({ bytes: Infinity }, { moves }));
    for (const [path, bytes] of await contentOf(memory, "model")) await writeFile(files, `model${path}`, bytes);
    const { source, tokenizer } = await openModel(files, "model");
    using written = await stageModel(source, "out", { ...options, tokenizer, files });
    assert.equal(await files.info("out/model.gguf"), null);
    await written.commit();
    assert.deepEqual(await contentOf(files, "out"), await contentOf(disk, out));
    // A second export replaces the first, and one that is dropped leaves nothing.
    const again = { ...options, tokenizer, files, replace: true };
    await (await stageModel(source, "out", again)).commit();
    (await stageModel(source, "out", again))[Symbol.dispose]();
    await new Promise((resolve) => setTimeout(resolve));
    assert.deepEqual(await contentOf(files, "out"), await contentOf(disk, out));
    assert.equal((await files.file("out/model.gguf")).size, (await files.info("out/model.gguf"))?.size);
  }
  await Deno.remove(out, { recursive: true });
});

Deno.test("a file system refuses what is missing, a folder for a file, and a folder with content", async () => {
  const root = await Deno.makeTempDir(), bytes = Uint8Array.of(1, 2, 3);
  const folders = directoryFiles(new Folder({ bytes: Infinity }));
  for (const [files, at] of [[disk, root], [memoryFiles(), "a"], [folders, "a"]] as const) {
    await writeFile(files, `${at}/b`, bytes);
    assert.equal(await files.info(`${at}/c`), null);
    assert.equal(await files.text(`${at}/c`), null);
    await rejects(files.open(`${at}/c`), "input");
    await rejects(files.open(at), "input");
    await rejects(files.stageFolder(at, async () => {}), "input", { value: 1 });
    assert.equal(await files.remove(`${at}/b`), true);
    assert.equal(await files.remove(`${at}/b`), false);
  }
  await Deno.remove(root);
});

Deno.test("bytes of a source come in pieces, and none beyond its end", async () => {
  const source = memorySource("bytes", Uint8Array.from({ length: 10 }, (_, index) => index));
  const pieces: number[][] = [];
  for await (const piece of streamBytes(source, 2, { length: 7, pieceBytes: 3 })) pieces.push([...piece]);
  assert.deepEqual(pieces, [[2, 3, 4], [5, 6, 7], [8]]);
  await rejects(readBytes(source, 8, 3), "input", { names: 11 });
});

Deno.test("a file for which a browser has no room is refused, the one before it stays, and nothing else is left", async () => {
  const root = new Folder({ bytes: 12 }), files = directoryFiles(root);
  await writeFile(files, "a/b", "before");
  const error: unknown = await writeFile(files, "a/b", "much longer").catch((error) => error);
  checkRefusal(error, "input", { names: "a/b" });
  assert.ok(isStorageFull(error));
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual([await files.text("a/b"), await files.names("a")], ["before", ["b"]]);
  await rejects(files.stageFile("a"), "input");
  await rejects(files.file("a/c"), "input");
});

Deno.test("a text in memory that is not UTF-8 is refused as on a disk", async () => {
  const files = memoryFiles([["a.json", new Uint8Array([0x7b, 0xff])]]);
  await rejects(files.text("a.json"), "input", { value: "UTF-8", names: "a.json" });
});
