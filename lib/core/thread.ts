// A thread of threads.ts: calls functions of modules and hands back their results.
/// <reference lib="deno.worker" />
import type { ThreadAnswer, ThreadCall } from "./threads.ts";

const own = self as unknown as DedicatedWorkerGlobalScope;

own.onmessage = async ({ data }: MessageEvent<ThreadCall>): Promise<void> => {
  try {
    const module = await import(data.module) as Readonly<Record<string, (...args: readonly unknown[]) => unknown>>;
    const work = module[data.name];
    if (!work) throw new Error(`${data.module} exports no ${data.name}`);
    const value = work(...data.args);
    answer({ value }, ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer ? [value.buffer] : []);
  } catch (error) {
    answer({ error: error instanceof Error ? error.message : String(error) });
  }
};

function answer(message: ThreadAnswer, transfer: ArrayBuffer[] = []): void {
  own.postMessage(message, transfer);
}

answer("ready");
