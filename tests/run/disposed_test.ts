// Sessions that are disposed wherever they are: what follows is refused, device and model go on, and nothing stays on the GPU.
import assert from "node:assert/strict";
import { type Device, type Model, prune } from "../../mod.ts";
import type { RunHandle, RunHooks } from "../../lib/run/mod.ts";
import { checkRefusal, refuses } from "../refuses.ts";
import { BASE, drive, withShortDemo } from "./helpers/demo_run.ts";
import { Lair, scriptOf } from "./helpers/scripts.ts";

const SHORT = { ...BASE, steps: 2, postfinetune: 1, seq: 32 } as const;

function isDisposed(error: unknown): boolean {
  checkRefusal(error, "usage", { value: ["session", "disposed"] });
  return true;
}

/** Does something to a session, and asserts that all is as before. */
async function leavesNothing(
  { model, device }: { readonly model: Model; readonly device: Device },
  work: () => Promise<void>,
): Promise<void> {
  const { bytes } = device;
  await work();
  assert.equal(device.bytes, bytes);
  assert.ok(!device.isBroken);
  assert.equal((await drive(model, SHORT)).records.length, 4);
  assert.equal(device.bytes, bytes);
}

Deno.test("a run that cannot allocate leaves nothing behind", async () => {
  await using lair = new Lair();
  const schedule = await lair.write(scriptOf({}));
  await withShortDemo(async (parts) => {
    const { model, device } = parts, { createBuffer } = device;
    for (const [method, last] of [["compresso", "ring"], ["flap", "ring"], ["compresso", "masks: bounds"]] as const) {
      await leavesNothing(parts, async () => {
        device.createBuffer = (label, ...args) => {
          if (label === last) throw new Error(`no room for the ${last}`);
          return createBuffer.call(device, label, ...args);
        };
        try {
          using run = prune(model, { ...SHORT, method, ...(method === "flap" ? {} : { schedule }) });
          await assert.rejects(run.prepare(), new RegExp(`no room for the ${last}`));
        } finally {
          device.createBuffer = createBuffer;
        }
      });
    }
  });
});

Deno.test("a session that was disposed at a pause or in a loop refuses whatever follows", async () => {
  await withShortDemo(async (parts) => {
    const { model, device } = parts;
    await leavesNothing(parts, async () => {
      const { bytes } = device, session = prune(model, SHORT), records = session[Symbol.asyncIterator]();
      for (let count = 0; count < 2; count++) assert.ok(!(await records.next()).done);
      session[Symbol.dispose]();
      assert.equal(device.bytes, bytes);
      await assert.rejects(records.next(), isDisposed);
      await assert.rejects(session[Symbol.asyncIterator]().next(), isDisposed);
      await assert.rejects(session.prepare(), isDisposed);
      await assert.rejects(session.slice(), isDisposed);
      await assert.rejects(session.export("nowhere"), isDisposed);
      assert.throws(() => session.result(), isDisposed);
      session[Symbol.dispose]();
    });
    await leavesNothing(parts, async () => {
      const session = prune(model, SHORT);
      await assert.rejects(async () => {
        for await (const { step } of session) if (step === 2) session[Symbol.dispose]();
      }, isDisposed);
    });
  });
});

Deno.test("a session that was disposed before it began does no step", async () => {
  await withShortDemo(async (parts) => {
    await leavesNothing(parts, async () => {
      const session = prune(parts.model, SHORT);
      session[Symbol.dispose]();
      await assert.rejects(async () => {
        for await (const { step } of session) assert.fail(`step ${step} was done`);
      }, isDisposed);
    });
  });
});

Deno.test("a session that is disposed while it works ends first and then frees, whatever it is at", async () => {
  await withShortDemo(async (parts) => {
    const { model } = parts;
    await using lair = new Lair();
    const schedule = await lair.write(
      `import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: 0.2 });`,
    );
    // The first one is preparing still, the second within a step, the third asks a script.
    for (const [before, options] of [[0, {}], [1, {}], [1, { schedule }]] as const) {
      await leavesNothing(parts, async () => {
        const session = prune(model, { ...SHORT, ...options }), records = session[Symbol.asyncIterator]();
        for (let count = 0; count < before; count++) await records.next();
        const pending = records.next();
        session[Symbol.dispose]();
        await assert.rejects(pending, isDisposed);
      });
    }
    await leavesNothing(parts, async () => {
      const session = prune(model, SHORT);
      for await (const _ of session);
      const slice = session.slice();
      session[Symbol.dispose]();
      await assert.rejects(slice, isDisposed);
      await assert.rejects(session.slice(), isDisposed);
    });
  });
});

Deno.test("a hook may dispose its session, and a handle that it kept is refused from then on", async () => {
  await withShortDemo(async (parts) => {
    for (const at of ["beforeStage", "beforeStep", "afterStep", "afterStage"] as const) {
      await leavesNothing(parts, async () => {
        const handles: RunHandle[] = [];
        const end = (handle: RunHandle): void => {
          if (handle.stage !== "prune") return;
          handles.push(handle);
          session[Symbol.dispose]();
        };
        const hooks: RunHooks = {
          beforeStage: (_, run) => at === "beforeStage" ? end(run) : undefined,
          beforeStep: (run) => at === "beforeStep" ? end(run) : undefined,
          afterStep: (_, run) => at === "afterStep" ? end(run) : undefined,
          afterStage: (_, run) => at === "afterStage" ? end(run) : undefined,
        };
        const session = prune(parts.model, { ...SHORT, hooks });
        await assert.rejects(async () => {
          for await (const _ of session);
        }, isDisposed);
        const [handle] = handles;
        assert.ok(handle);
        assert.throws(() => handle.logAlpha(), isDisposed);
        assert.throws(() => handle.setMasks({}), isDisposed);
      });
    }
  });
});

Deno.test("an export stops with its session, also one that has a signal of its own, and leaves no file", async () => {
  await withShortDemo(async (parts) => {
    await leavesNothing(parts, async () => {
      const dir = await Deno.makeTempDir(), hooks: RunHooks = { beforeExport: () => session[Symbol.dispose]() };
      const session = prune(parts.model, { ...SHORT, hooks });
      for await (const _ of session);
      await assert.rejects(session.export(dir, { signal: new AbortController().signal }), isDisposed);
      assert.deepEqual(await Array.fromAsync(Deno.readDir(dir)), []);
      await Deno.remove(dir);
    });
  });
});

Deno.test("prepare() while it is under way, and after it, allocates nothing more", async () => {
  await withShortDemo(async (parts) => {
    await leavesNothing(parts, async () => {
      const { model, device } = parts, before = device.bytes;
      {
        using once = prune(model, SHORT);
        await once.prepare();
        const own = device.bytes - before;
        assert.ok(own > 0);
        using session = prune(model, SHORT);
        await Promise.all([session.prepare(), session.prepare()]);
        await session.prepare();
        assert.equal(device.bytes - before, 2 * own);
      }
      assert.equal(device.bytes, before);
    });
  });
});

Deno.test("a loop that was left may be followed by dispose, and a sliced session by another loop", async () => {
  await withShortDemo(async (parts) => {
    await leavesNothing(parts, async () => {
      using left = prune(parts.model, SHORT);
      for await (const _ of left) break;
      using session = prune(parts.model, SHORT);
      for await (const _ of session);
      await session.slice();
      for await (const { step } of session) assert.fail(`step ${step} is none`);
      assert.deepEqual(await session.prepare(), { steps: 4, records: 4 });
      assert.ok(session.result().sparsity.hard > 0);
    });
  });
});

Deno.test("a handle that a hook has kept is refused once slice() has freed the trainer", async () => {
  await withShortDemo(async ({ model }) => {
    const handles: RunHandle[] = [];
    using run = prune(model, { ...SHORT, hooks: { afterStage: (_, handle) => void handles.push(handle) } });
    for await (const _ of run) { /* to its end */ }
    await handles.at(-1)?.logAlpha();
    await run.slice();
    refuses(() => handles.at(-1)?.logAlpha(), "usage", { names: ["handle", "trainer"] });
  });
});
