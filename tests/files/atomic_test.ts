import assert from "node:assert/strict";
import { AtomicFile, recoverFolder, stageFolder, writeFileAtomically } from "../../lib/files/atomic.ts";
import { rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";

/** {@link stageFolder} and its commit in one. */
async function writeFolder(...args: Parameters<typeof stageFolder>): Promise<void> {
  using staged = await stageFolder(...args);
  await staged.commit();
}

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

Deno.test("what a link leads to is written, a file or a folder that is there or not yet, and the link stays", async () => {
  await inTemporaryFolder(async (folder) => {
    const at = (name: string): string => `${folder}/${name}`;
    for (const name of ["disk", "disk/old", "links"]) await Deno.mkdir(at(name));
    await Deno.writeTextFile(at("disk/a"), "old");
    for (const name of ["a", "b", "old", "new"]) await Deno.symlink(`../disk/${name}`, at(`links/${name}`));
    for (const name of ["a", "b"]) await writeFileAtomically(at(`links/${name}`), name);
    for (const name of ["old", "new"]) {
      await writeFolder(at(`links/${name}/`), (inner) => Deno.writeTextFile(`${inner}/x`, name));
    }
    assert.deepEqual(await names(at("disk")), ["a", "b", "new", "old"]);
    for (const name of await names(at("links"))) assert.ok((await Deno.lstat(at(`links/${name}`))).isSymlink, name);
    assert.deepEqual(await Promise.all(["a", "b"].map((name) => Deno.readTextFile(at(`disk/${name}`)))), ["a", "b"]);
    for (const name of ["old", "new"]) assert.equal(await Deno.readTextFile(at(`disk/${name}/x`)), name);
    await Deno.mkdir(at("far/inner"), { recursive: true });
    await Deno.symlink("far/inner", at("near"));
    await Deno.symlink("../c", at("far/inner/c"));
    await writeFileAtomically(at("near/c"), "c");
    assert.equal(await Deno.readTextFile(at("far/c")), "c");
    // Folders that a crash left aside lie beside where the link leads.
    await Deno.rename(at("disk/old"), at("disk/old.old-00000000"));
    assert.equal(await recoverFolder(at("links/old")), true);
    assert.deepEqual(await names(at("links/old")), ["x"]);
    await Deno.symlink("circle", at("circle"));
    await rejects(writeFileAtomically(at("circle"), "x"), "input", { names: "circle" });
  });
});

Deno.test({
  name: "what is no file is written to, and stays what it is",
  ignore: Deno.build.os === "windows",
  async fn(): Promise<void> {
    await inTemporaryFolder(async (folder) => {
      const pipe = `${folder}/pipe`;
      assert.ok((await new Deno.Command("mkfifo", { args: [pipe] }).output()).success);
      const [text] = await Promise.all([Deno.readTextFile(pipe), writeFileAtomically(pipe, "through")]);
      assert.equal(text, "through");
      assert.ok((await Deno.lstat(pipe)).isFifo);
      assert.deepEqual(await names(folder), ["pipe"]);
    });
  },
});

Deno.test("writeFileAtomically() replaces a file, and refuses a folder", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFileAtomically(`${folder}/a`, "one");
    await writeFileAtomically(`${folder}/a`, new TextEncoder().encode("two"));
    assert.equal(await Deno.readTextFile(`${folder}/a`), "two");
    await rejects(writeFileAtomically(folder, "x"), "input");
  });
});

Deno.test({
  name: "a file that is replaced stays as private, or as open, as it was",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await inTemporaryFolder(async (folder) => {
      for (const mode of [0o600, 0o664, 0o444]) {
        const path = `${folder}/${mode}`;
        await Deno.writeTextFile(path, "one");
        await Deno.chmod(path, mode);
        await writeFileAtomically(path, "two");
        assert.equal(await Deno.readTextFile(path), "two");
        assert.equal(((await Deno.stat(path)).mode ?? 0) & 0o777, mode);
      }
    });
  },
});

Deno.test({
  name:
    "a file system that lets nobody change modes takes files none the less, and a folder stays as private as it was",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/a`,
        { chmod } = Deno,
        modeOf = (at: string): number => (Deno.statSync(at).mode ?? 0) & 0o777;
      // 0666 is less by the mask, which keeps nobody out who could not read it before.
      for (const mode of [0o644, 0o666]) {
        await Deno.writeTextFile(path, "one");
        await Deno.chmod(path, mode);
        Deno.chmod = () => Promise.reject(new Deno.errors.PermissionDenied("Operation not permitted"));
        try {
          await writeFileAtomically(path, `${mode}`);
        } finally {
          Deno.chmod = chmod;
        }
        assert.deepEqual([await Deno.readTextFile(path), modeOf(path) & ~mode], [`${mode}`, 0]);
      }
      const fill = (tmp: string): Promise<void> => Deno.writeTextFile(`${tmp}/x`, "x");
      await Deno.mkdir(`${folder}/model`, { mode: 0o700 });
      await writeFolder(`${folder}/model`, fill, { replace: true });
      assert.equal(modeOf(`${folder}/model`), 0o700);
    });
  },
});

Deno.test("a staged folder is written whole", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/deep/model/`;
    await writeFolder(target, async (tmp) => {
      await Deno.mkdir(`${tmp}/sub`);
      await Deno.writeTextFile(`${tmp}/sub/x`, "1");
      assert.ok(!(await names(`${folder}/deep`)).includes("model"));
    });
    assert.deepEqual(await names(`${folder}/deep`), ["model"]);
    assert.equal(await Deno.readTextFile(`${folder}/deep/model/sub/x`), "1");
  });
});

Deno.test("a staged folder replaces one with content only where that is asked for", async () => {
  await inTemporaryFolder(async (folder) => {
    const target = `${folder}/model`;
    const fill = (text: string) => async (tmp: string): Promise<void> =>
      await Deno.writeTextFile(`${tmp}/${text}`, text);
    await Deno.mkdir(target);
    await writeFolder(target, fill("one"));
    await rejects(writeFolder(target, fill("two")), "input", { value: 1 });
    assert.deepEqual(await names(target), ["one"]);
    await writeFolder(target, fill("two"), { replace: true });
    assert.deepEqual(await names(target), ["two"]);
    assert.deepEqual(await names(folder), ["model"]);
  });
});

Deno.test("where filling a staged folder fails, the old one stays and the error is passed on", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.mkdir(`${folder}/model`);
    await Deno.writeTextFile(`${folder}/model/old`, "");
    const failing = writeFolder(`${folder}/model`, () => Promise.reject(new TypeError("mine")), {
      replace: true,
    });
    await assert.rejects(failing, TypeError);
    assert.deepEqual(await names(folder), ["model"]);
    assert.deepEqual(await names(`${folder}/model`), ["old"]);
  });
});

Deno.test("a staged folder is refused at a path that is a file", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/model`, "a file");
    await rejects(writeFolder(`${folder}/model`, async () => {}, { replace: true }), "input", { value: 20 });
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
      await rejects(two.commit(), "input", { value: 1 });
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
    // Folders of the user's own, whatever they are called.
    for (const name of ["model.old-v1", "model.old-123456789", "model.old-1234567g", "my-model.old-12345678"]) {
      await Deno.mkdir(`${folder}/${name}`);
      assert.equal(await recoverFolder(target), false, name);
    }
    await Deno.mkdir(`${target}.old-12345678`);
    await Deno.writeTextFile(`${target}.old-12345678/x`, "kept");
    assert.equal(await recoverFolder(target), true);
    assert.equal(await Deno.readTextFile(`${target}/x`), "kept");
    await Deno.mkdir(`${target}.old-87654321`);
    assert.equal(await recoverFolder(target), false);
  });
});

Deno.test("a folder that a full disk keeps from being filled is refused by its path", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await inTemporaryFolder(async (folder) => {
    const fill = (): Promise<void> => Deno.writeTextFile("/dev/full", "more than fits");
    await rejects(writeFolder(`${folder}/model`, fill), "input", { value: [28, "/dev/full"] });
    const broken = writeFolder(`${folder}/model`, () => Promise.reject(new TypeError("a defect")));
    await assert.rejects(broken, TypeError);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  });
});

/** What `work` does on a file system that refuses to bring folders to the disk, or files too, or where folders may not be read. */
async function refusing(what: "folders" | "files" | "reading", work: () => Promise<void>): Promise<number> {
  const { open } = Deno, { sync } = Deno.FsFile.prototype;
  let refused = 0;
  const refuse = (reason: string): never => {
    refused++;
    throw new Error(reason);
  };
  Deno.FsFile.prototype.sync = async function (): Promise<void> {
    const { isDirectory } = await this.stat();
    if (what !== "reading" && isDirectory === (what === "folders")) refuse("Invalid argument (os error 22)");
    await sync.call(this);
  };
  Deno.open = async (path, options): Promise<Deno.FsFile> => {
    const isFolder = await Deno.stat(path).then((info) => info.isDirectory, () => false);
    return isFolder && what === "reading" ? refuse("Permission denied (os error 13)") : await open(path, options);
  };
  try {
    await work();
  } finally {
    Deno.open = open;
    Deno.FsFile.prototype.sync = sync;
  }
  return refused;
}

Deno.test("a write is done where the folder cannot be brought to the disk, and fails where the content cannot", {
  // Root may read every folder, and no file system here refuses: so two functions of Deno do in their place.
  ignore: Deno.build.os === "windows",
}, async () => {
  for (const what of ["folders", "reading"] as const) {
    await inTemporaryFolder(async (folder) => {
      const refused = await refusing(what, async () => {
        await writeFileAtomically(`${folder}/a`, "one");
        for (const text of ["new", "again"]) {
          const fill = (tmp: string): Promise<void> => Deno.writeTextFile(`${tmp}/x`, text);
          await writeFolder(`${folder}/model`, fill, { replace: true });
          assert.equal(await Deno.readTextFile(`${folder}/model/x`), text);
        }
        await Deno.rename(`${folder}/model`, `${folder}/model.old-12345678`);
        assert.equal(await recoverFolder(`${folder}/model`), true);
      });
      assert.equal(refused, 6, what);
      assert.deepEqual(await names(folder), ["a", "model"]);
    });
  }
  await inTemporaryFolder(async (folder) => {
    const refused = await refusing("files", async () => {
      await rejects(writeFileAtomically(`${folder}/a`, "one"), "input", { value: 22 });
      const fill = (tmp: string): Promise<void> => Deno.writeTextFile(`${tmp}/x`, "x");
      await rejects(writeFolder(`${folder}/model`, fill), "input", { value: 22 });
    });
    assert.equal(refused, 2);
    assert.deepEqual(await names(folder), []);
  });
});
