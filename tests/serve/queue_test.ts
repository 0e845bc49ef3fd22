// The line of requests: order, length, those who leave, and its end.
import assert from "node:assert/strict";
import { ApiError } from "../../lib/serve/api_error.ts";
import { createQueue } from "../../lib/serve/queue.ts";

const NEVER = new AbortController().signal;

Deno.test("the queue gives turns in order, one at a time", async () => {
  const queue = createQueue({ most: 3 }), order: number[] = [];
  const work = async (index: number): Promise<void> => {
    using _turn = await queue.enter(NEVER);
    order.push(index);
    await Promise.resolve();
    assert.equal(queue.isBusy, true);
    order.push(-index);
  };
  await Promise.all([work(1), work(2), work(3), work(4)]);
  assert.deepEqual(order, [1, -1, 2, -2, 3, -3, 4, -4]);
  assert.equal(queue.isBusy, false);
  await queue.idle();
});

Deno.test("a full queue sends newcomers away with 429, and takes them again once there is room", async () => {
  const queue = createQueue({ most: 1 });
  const first = await queue.enter(NEVER), second = queue.enter(NEVER);
  assert.equal(queue.waiting, 1);
  await assert.rejects(queue.enter(NEVER), hasStatus(429));
  first[Symbol.dispose]();
  const turn = await second;
  assert.equal(queue.waiting, 0);
  const third = queue.enter(NEVER);
  turn[Symbol.dispose]();
  turn[Symbol.dispose](); // a second time changes nothing
  const last = await third;
  await assert.rejects(Promise.race([queue.idle(), Promise.reject(new Error("busy"))]), /busy/);
  last[Symbol.dispose]();
  await queue.idle();
});

Deno.test("a queue of length 0 takes one request and no other", async () => {
  const queue = createQueue({ most: 0 });
  using _turn = await queue.enter(NEVER);
  await assert.rejects(queue.enter(NEVER), hasStatus(429));
});

Deno.test("whoever leaves the queue keeps nobody waiting", async () => {
  const queue = createQueue({ most: 5 }), leave = new AbortController();
  const first = await queue.enter(NEVER);
  const gone = queue.enter(leave.signal), next = queue.enter(NEVER);
  leave.abort(new Error("left"));
  await assert.rejects(gone, /left/);
  assert.equal(queue.waiting, 1);
  first[Symbol.dispose]();
  using _turn = await next;
  await assert.rejects(queue.enter(leave.signal), /left/);
});

Deno.test("a closed queue sends away who waits and who comes, and lets the running request end", async () => {
  const queue = createQueue({ most: 5 });
  const first = await queue.enter(NEVER), second = queue.enter(NEVER);
  queue.close();
  await assert.rejects(second, hasStatus(503));
  await assert.rejects(queue.enter(NEVER), hasStatus(503));
  assert.equal(queue.isBusy, true);
  first[Symbol.dispose]();
  await queue.idle();
});

function hasStatus(status: number): (error: unknown) => boolean {
  return (error) => error instanceof ApiError && error.parts.status === status;
}
