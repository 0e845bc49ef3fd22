// Leases: one holder at a time, take-over of the dead, and word to a holder that was taken for dead.
import assert from "node:assert/strict";
import { Leases } from "../../lib/files/lease.ts";

async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "compresso_lease_" });
  try {
    await test(`${folder}/leases`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

Deno.test("of many who try at once, again and again, one at a time holds a lease", () =>
  inFolder(async (folder) => {
    let holders = 0, taken = 0;
    const work = async (): Promise<void> => {
      const leases = new Leases(folder, { takeOverAfter: 30 });
      for (let tries = 0; tries < 40; tries++) {
        const lease = await leases.take("cell a/b");
        if (!lease) {
          await sleep(1);
          continue;
        }
        assert.equal(++holders, 1);
        taken++;
        await sleep(2);
        holders--;
        await lease[Symbol.asyncDispose]();
      }
    };
    await Promise.all(Array.from({ length: 6 }, work));
    assert.ok(taken > 6, `${taken} times`);
    assert.deepEqual([...Deno.readDirSync(folder)], [], "released leases leave no file");
  }));

Deno.test("a lease that its holder touches is kept, and other names are free", () =>
  inFolder(async (folder) => {
    const holder = new Leases(folder, { takeOverAfter: 0.6 }), other = new Leases(folder, { takeOverAfter: 0.6 });
    await using lease = await holder.wait("a");
    for (let tries = 0; tries < 12; tries++) {
      assert.equal(await other.take("a"), null);
      await sleep(100);
    }
    assert.equal(lease.lost.aborted, false);
    await using free = await other.take("b");
    assert.ok(free);
  }));

Deno.test("the lease of a holder that died is taken over once, after the time, by one of those who wait", () =>
  inFolder(async (folder) => {
    await Deno.mkdir(folder);
    await Deno.writeTextFile(`${folder}/a.3`, "of a process that was killed");
    const start = performance.now();
    const stop = new AbortController();
    const waiting = Array.from({ length: 4 }, async () => {
      const leases = new Leases(folder, { takeOverAfter: 0.5 }), lease = await leases.wait("a", stop.signal);
      const files = [...Deno.readDirSync(folder)].map(({ name }) => name), milliseconds = performance.now() - start;
      stop.abort(new Error("one has it"));
      return { lease, files, milliseconds };
    });
    const [held, ...more] = (await Promise.allSettled(waiting)).filter((one) => one.status === "fulfilled");
    assert.ok(held && more.length === 0);
    await held.value.lease[Symbol.asyncDispose]();
    assert.ok(held.value.milliseconds > 500, `${held.value.milliseconds} ms`);
    assert.deepEqual(held.value.files, ["a.4"]);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  }));

Deno.test("files that no holder can have made keep nobody waiting", () =>
  inFolder(async (folder) => {
    await Deno.mkdir(folder);
    for (const end of ["1000000000000000000000", "1e3", "0x5", "-1", "", " 7"]) {
      await Deno.writeTextFile(`${folder}/a.${end}`, "");
    }
    await using lease = await new Leases(folder).take("a");
    assert.ok(lease);
  }));

Deno.test("a holder whose lease was taken over hears of it", () =>
  inFolder(async (folder) => {
    await using lease = await new Leases(folder, { takeOverAfter: 0.3 }).wait("a");
    // What another process does that has seen no touch for too long.
    await Deno.writeTextFile(`${folder}/a.2`, "");
    await sleep(300);
    assert.equal(lease.lost.aborted, true);
    assert.match(String(lease.lost.reason), /another process took over a/);
  }));
