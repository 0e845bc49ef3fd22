import assert from "node:assert/strict";
import {
  AtomicFile,
  recoverFolder,
  stageFolder,
  writeFileAtomically,
  writeFolderAtomically,
} from "../../lib/io/atomic.ts";
import { inTemporaryFolder, rejectsWith } from "./files.ts";

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), (entry) => entry.name)).sort();
}

Deno.test("AtomicFile shows the file at its path only after commit, and makes its folder", async () => {
  await inTemporaryFolder(async (folder) => {
    using file = await AtomicFile.open(`${folder}/new/a.bin`);
    await file.write(Uint8Array.of(1, 2));
    await file.write(Uint8Array.of(3));
    assert.equal(file.written, 3);
    assert.ok(!(await names(`${folder}/new`)).includes("a.bin"));
    await file.commit();
    assert.deepEqual(await names(`${folder}/new`), ["a.bin"]);
    assert.deepEqual([...await Deno.readFile(`${folder}/new/a.bin`)], [1, 2, 3]);
  });
});

Deno.test("AtomicFile leaves the old file and nothing else where an error comes before commit", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFileAtomically(`${folder}/a`, "old");
    await assert.rejects(async () => {
      using file = await AtomicFile.open(`${folder}/a`);
      await file.write(Uint8Array.of(1));
      throw new Error("stop");
    }, /stop/);
    assert.deepEqual(await names(folder), ["a"]);
    assert.equal(await Deno.readTextFile(`${folder}/a`), "old");
  });
});

Deno.test("writeFileAtomically() replaces a file, and refuses a folder", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFileAtomically(`${folder}/a`, "one");
    await writeFileAtomically(`${folder}/a`, new TextEncoder().encode("two"));
    assert.equal(await Deno.readTextFile(`${folder}/a`), "two");
    await rejectsWith(writeFileAtomically(folder, "x"), "input", /cannot write .*the path is a folder/);
  });
});

Deno.test("writeFolderAtomically() writes a new folder, whole", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/deep/model/`;
    await writeFolderAtomically(target, async (tmp) => {
      await Deno.mkdir(`${tmp}/sub`);
      await Deno.writeTextFile(`${tmp}/sub/x`, "1");
      assert.ok(!(await names(`${folder}/deep`)).includes("model"));
    });
    assert.deepEqual(await names(`${folder}/deep`), ["model"]);
    assert.equal(await Deno.readTextFile(`${folder}/deep/model/sub/x`), "1");
  });
});

Deno.test("writeFolderAtomically() replaces a folder with content only when told to", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/model`;
    const fill = (text: string) => async (tmp: string): Promise<void> =>
      await Deno.writeTextFile(`${tmp}/${text}`, text);
    await Deno.mkdir(target);
    await writeFolderAtomically(target, fill("one"));
    await rejectsWith(writeFolderAtomically(target, fill("two")), "input", /new or empty; now: it holds 1 entry; mend/);
    assert.deepEqual(await names(target), ["one"]);
    await writeFolderAtomically(target, fill("two"), { replace: true });
    assert.deepEqual(await names(target), ["two"]);
    assert.deepEqual(await names(folder), ["model"]);
  });
});

Deno.test("writeFolderAtomically() keeps the old folder and passes the error on where filling fails", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.mkdir(`${folder}/model`);
    await Deno.writeTextFile(`${folder}/model/old`, "");
    const failing = writeFolderAtomically(`${folder}/model`, () => Promise.reject(new TypeError("mine")), {
      replace: true,
    });
    await assert.rejects(failing, TypeError);
    assert.deepEqual(await names(folder), ["model"]);
    assert.deepEqual(await names(`${folder}/model`), ["old"]);
  });
});

Deno.test("writeFolderAtomically() refuses a path that is a file", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/model`, "a file");
    await rejectsWith(
      writeFolderAtomically(`${folder}/model`, async () => {}, { replace: true }),
      "input",
      /cannot write/,
    );
    assert.equal(await Deno.readTextFile(`${folder}/model`), "a file");
  });
});

Deno.test("stageFolder() leaves what stands there until commit, and nothing where it is disposed without", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/model`;
    const stage = (text: string, replace: boolean): ReturnType<typeof stageFolder> =>
      stageFolder(target, (tmp) => Deno.writeTextFile(`${tmp}/${text}`, text), { replace });
    {
      using one = await stage("one", false);
      using two = await stage("two", false);
      using _three = await stage("three", true);
      assert.ok(!(await names(folder)).includes("model"));
      await one.commit();
      await rejectsWith(two.commit(), "input", /new or empty/);
      assert.deepEqual(await names(target), ["one"]);
      assert.equal((await names(folder)).length, 3);
    }
    assert.deepEqual(await names(folder), ["model"]);
    using four = await stage("four", true);
    assert.deepEqual(await names(target), ["one"]);
    await four.commit();
    assert.deepEqual(await names(target), ["four"]);
    assert.deepEqual(await names(folder), ["model"]);
  });
});

Deno.test("recoverFolder() puts back a folder that a crash left aside, and only where none stands", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/model`;
    assert.equal(await recoverFolder(target), false);
    await Deno.mkdir(`${target}.old-12345678`);
    await Deno.writeTextFile(`${target}.old-12345678/x`, "kept");
    assert.equal(await recoverFolder(target), true);
    assert.equal(await Deno.readTextFile(`${target}/x`), "kept");
    await Deno.mkdir(`${target}.old-87654321`);
    assert.equal(await recoverFolder(target), false);
  });
});
