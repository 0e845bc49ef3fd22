// Folders that one process at a time writes to: who is refused, and what a killed process leaves.
import assert from "node:assert/strict";
import { removeLeftovers } from "../../lib/files/atomic.ts";
import { FolderLock, LOCK_FILE } from "../../lib/files/lock.ts";
import { rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), (entry) => entry.name)).sort();
}

Deno.test("a folder is held by one at a time, and nothing stays of a lock that was given back", async () => {
  await inTemporaryFolder(async (folder) => {
    using second = new FolderLock(folder);
    {
      using first = new FolderLock(folder);
      await first.take();
      await first.take();
      assert.ok(first.isHeld);
      await first.check();
      await rejects(second.take(), "usage");
      await rejects(second.check(), "usage");
      assert.ok(!second.isHeld);
      // Who reads is not held up.
      assert.deepEqual(await names(folder), [LOCK_FILE]);
    }
    assert.deepEqual(await names(folder), []);
    await second.check();
    assert.deepEqual(await names(folder), []);
    await second.take();
    assert.ok(second.isHeld);
  });
});

Deno.test("a folder that is not there is not made, and held by nobody", async () => {
  await inTemporaryFolder(async (folder) => {
    using lock = new FolderLock(`${folder}/none`);
    await lock.check();
    await lock.take();
    assert.ok(!lock.isHeld);
    assert.deepEqual(await names(folder), []);
  });
});

Deno.test("another process is refused, and one that was killed holds nothing", async () => {
  await inTemporaryFolder(async (folder) => {
    const url = new URL("../../lib/files/lock.ts", import.meta.url);
    const code = `import { FolderLock } from ${JSON.stringify(url.href)};
      const lock = new FolderLock(${JSON.stringify(folder)});
      await lock.take();
      console.log("held");
      setTimeout(() => lock, 600_000);`;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", code],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    using lock = new FolderLock(folder);
    const reader = child.stdout.getReader();
    try {
      await reader.read();
      await rejects(lock.take(), "usage");
    } finally {
      child.kill("SIGKILL");
      await child.status;
      await reader.cancel();
    }
    assert.deepEqual(await names(folder), [LOCK_FILE]);
    await lock.take();
    assert.ok(lock.isHeld);
  });
});

Deno.test("removeLeftovers() removes what a killed process left of these names, and nothing else", async () => {
  await inTemporaryFolder(async (folder) => {
    const own = ["model.tmp-0123abcd", "run.json.tmp-ffffffff", "model.old-0123abcd"];
    const others = [
      // Nothing stands in its place: it is all there is of that folder.
      "unmerged.old-0123abcd",
      ...["model", "model.old-0123abc", "model.tmp-0123abc", "model.tmp-0123abcdx", "model.tmp-0123ABCD"],
      ...["my-model.tmp-0123abcd", "notes.tmp-0123abcd", "run.json", "runXjson.tmp-0123abcd"],
    ];
    for (const name of [...own, ...others]) {
      if (/^(model|unmerged)/.test(name)) {
        await Deno.mkdir(`${folder}/${name}`);
        await Deno.writeTextFile(`${folder}/${name}/x`, "");
      } else await Deno.writeTextFile(`${folder}/${name}`, "");
    }
    await removeLeftovers(folder, ["model", "unmerged", "run.json"]);
    assert.deepEqual(await names(folder), others.sort());
  });
});

Deno.test("removeLeftovers() finds them where a link leads", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.mkdir(`${folder}/run`);
    for (const name of ["big.tmp-0123abcd", "model.tmp-0123abcd"]) {
      await Deno.mkdir(`${folder}/disk/${name}`, { recursive: true });
    }
    await Deno.symlink("../disk/big", `${folder}/run/model`);
    await removeLeftovers(`${folder}/run`, ["model"]);
    assert.deepEqual([await names(`${folder}/run`), await names(`${folder}/disk`)], [["model"], [
      "model.tmp-0123abcd",
    ]]);
  });
});

Deno.test("a file system without locks is left as it was", async () => {
  await inTemporaryFolder(async (folder) => {
    const { open } = Deno;
    Deno.open = async (...given) => {
      const file = await open(...given);
      file.tryLock = () => Promise.reject(new Deno.errors.NotSupported("ENOSYS: this file system has no locks"));
      return file;
    };
    try {
      using lock = new FolderLock(folder);
      await lock.take();
      assert.equal(lock.isHeld, false);
    } finally {
      Deno.open = open;
    }
    assert.deepEqual(await names(folder), []);
  });
});
