// A thread of threads.ts: calls functions of modules and hands back their results.
/// <reference lib="deno.worker" />
import { THREAD_NAME, type ThreadAnswer, type ThreadCall } from "./threads.ts";

const own = self as unknown as DedicatedWorkerGlobalScope;

async function call({ data }: MessageEvent<ThreadCall>): Promise<void> {
  try {
    const module = await import(data.module) as Readonly<Record<string, (...args: readonly unknown[]) => unknown>>;
    const work = module[data.name];
    if (!work) throw new Error(`${data.module} exports no ${data.name}`);
    const value = work(...data.args);
    answer({ value }, ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer ? [value.buffer] : []);
  } catch (error) {
    answer({ error: error instanceof Error ? error.message : String(error) });
  }
}

function answer(message: ThreadAnswer, transfer: ArrayBuffer[] = []): void {
  own.postMessage(message, transfer);
}

// What starts threads loads this file too, to see whether it may be read.
if (own.name === THREAD_NAME) {
  own.onmessage = call;
  answer("ready");
}
