// Work on threads.
import assert from "node:assert/strict";
import { narrowF16 } from "../../lib/core/half.ts";
import { holdThreads, inOrder, onThread } from "../../lib/core/threads.ts";

const MODULE = import.meta.resolve("../../lib/core/half.ts");
const values = (): Float32Array<ArrayBuffer> => Float32Array.from({ length: 1 << 18 }, (_, i) => i / 7);
const narrowed = async (own: Float32Array<ArrayBuffer>): Promise<Uint16Array> =>
  await onThread(() => MODULE, narrowF16, [own], { transfer: [own.buffer] });

Deno.test("onThread() gives what the function gives: large work on a thread, all else here", async () => {
  const wanted = narrowF16(values()), here = values();
  assert.deepEqual(await narrowed(here), wanted);
  assert.ok(!here.buffer.detached, "nobody holds threads");
  using _threads = holdThreads();
  const large = Array.from({ length: 5 }, values), small = large[0]?.slice(0, 100) ?? values();
  for (const found of await Promise.all(large.map(narrowed))) assert.deepEqual(found, wanted);
  assert.ok(large.every(({ buffer }) => buffer.detached), "large work went to a thread");
  assert.deepEqual(await narrowed(small), wanted.subarray(0, 100));
  assert.ok(!small.buffer.detached, "small work stays here");
});

Deno.test("threads that do not start in time are not waited for: all work is done here", async () => {
  const own = values(), { Worker } = globalThis;
  let silent = 0;
  class Silent extends EventTarget {
    constructor() {
      super();
      silent++;
    }
    terminate(): void {
      silent--;
    }
  }
  try {
    Object.defineProperty(globalThis, "Worker", { configurable: true, writable: true, value: Silent });
    using _threads = holdThreads({ startLimit: 20 });
    assert.deepEqual(await narrowed(own), narrowF16(values()));
    assert.ok(!own.buffer.detached && silent === 0, "threads that never answer are ended");
  } finally {
    Object.defineProperty(globalThis, "Worker", { configurable: true, writable: true, value: Worker });
  }
  using _threads = holdThreads({ startLimit: 60_000 });
  assert.deepEqual(await narrowed(own), narrowF16(values()));
  assert.ok(own.buffer.detached, "the next ones start");
});

Deno.test("an error on a thread reaches the caller, and the thread works on", async () => {
  using _threads = holdThreads();
  const own = values(), lost = (own: Float32Array<ArrayBuffer>): number => own.length;
  await assert.rejects(onThread(() => "data:,no module", lost, [own], { transfer: [own.buffer] }));
  assert.deepEqual(await narrowed(values()), narrowF16(values()));
});

Deno.test("inOrder() uses results in order, and ends at the first error", async () => {
  using _threads = holdThreads();
  const used: number[] = [], pieces = [0, 1, 2, 3, 4, 5, 6];
  const slow = async (piece: number): Promise<number> => {
    await new Promise((resolve) => setTimeout(resolve, 7 - piece));
    if (piece === 5) throw new Error("the fifth");
    return piece;
  };
  await assert.rejects(inOrder(pieces, slow, (result) => void used.push(result)), /the fifth/);
  assert.deepEqual(used, [0, 1, 2, 3, 4]);
});
