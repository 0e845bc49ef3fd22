// Server-sent events: their wording, their end, and clients that read slowly or go.
import assert from "node:assert/strict";
import { badRequest } from "../../lib/serve/api_error.ts";
import { eventStream } from "../../lib/serve/event_stream.ts";
import { eventsOf, until } from "./helpers/server.ts";

const QUIET = { onGone: (): void => assert.fail("nobody went"), describe: (error: unknown): unknown => error };

async function* count(to: number): AsyncGenerator<unknown, void, undefined> {
  for (let index = 0; index < to; index++) yield await Promise.resolve({ index, text: "a\nb" });
}

Deno.test("events are lines of JSON, and the last one says that it is the last", async () => {
  const text = await eventStream(count(2), QUIET).text();
  assert.equal(text, 'data: {"index":0,"text":"a\\nb"}\n\ndata: {"index":1,"text":"a\\nb"}\n\ndata: [DONE]\n\n');
});

Deno.test("events are taken as they come, though nobody reads them yet", async () => {
  let isOver = false;
  const response = eventStream(all(), QUIET);
  await until(() => isOver);
  let read = 0;
  for await (const _ of eventsOf(response)) read++;
  assert.equal(read, 1001);

  async function* all(): AsyncGenerator<unknown, void, undefined> {
    yield* count(1000);
    isOver = true;
  }
});

Deno.test("an error is the last event of a stream", async () => {
  const told: unknown[] = [];
  const describe = (error: unknown): unknown => {
    told.push(error);
    return badRequest("no more", { code: "enough" });
  };
  const events: string[] = [];
  for await (const event of eventsOf(eventStream(failing(), { ...QUIET, describe }))) events.push(event);
  assert.equal(events.length, 2);
  assert.deepEqual(JSON.parse(events[1] ?? ""), {
    error: { message: "no more", type: "invalid_request_error", param: null, code: "enough" },
  });
  assert.match(String(told[0]), /broken/);

  async function* failing(): AsyncGenerator<unknown, void, undefined> {
    yield* count(1);
    throw new Error("broken");
  }
});

Deno.test("a client that goes is told of, and gets nothing more", async () => {
  const gate = Promise.withResolvers<void>();
  let gone = 0, isOver = false;
  const response = eventStream(waiting(), { ...QUIET, onGone: () => void gone++ });
  const reader = response.body?.getReader();
  await reader?.read();
  await reader?.cancel();
  assert.equal(gone, 1);
  gate.resolve();
  await until(() => isOver);

  async function* waiting(): AsyncGenerator<unknown, void, undefined> {
    yield* count(1);
    await gate.promise;
    yield* count(1);
    isOver = true;
  }
});
