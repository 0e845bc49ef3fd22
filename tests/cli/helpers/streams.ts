// Streams of the command line within this process: each call writes to texts of its own and reads its own stdin, also where calls run side by side.
import { AsyncLocalStorage } from "node:async_hooks";

/** Streams of one call. */
interface Streams {
  readonly input: Uint8Array<ArrayBuffer>;
  readonly stdout: Uint8Array[];
  readonly stderr: Uint8Array[];
}

const current = new AsyncLocalStorage<Streams>();
let isReady = false;

/** Does work whose stdin is `input`, and whose stdout and stderr are pipes. Returns what it gave and wrote. */
export async function withStreams<T>(
  input: string | Uint8Array<ArrayBuffer>,
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly stdout: string; readonly stderr: string }> {
  if (!isReady) divert();
  const bytes = typeof input === "string" ? new TextEncoder().encode(input) : input;
  const streams: Streams = { input: bytes, stdout: [], stderr: [] };
  const result = await current.run(streams, work);
  return { result, stdout: await textOf(streams.stdout), stderr: await textOf(streams.stderr) };
}

async function textOf(parts: readonly Uint8Array[]): Promise<string> {
  return await new Blob(parts as Uint8Array<ArrayBuffer>[]).text();
}

/** Diverts Deno's streams within calls; outside of them they are as ever. */
function divert(): void {
  isReady = true;
  const { stdin, stdout, stderr } = Deno;
  for (const [stream, name] of [[stdout, "stdout"], [stderr, "stderr"]] as const) {
    const write = stream.writeSync.bind(stream);
    stream.writeSync = (bytes) => {
      const streams = current.getStore();
      if (!streams) return write(bytes);
      streams[name].push(bytes.slice());
      return bytes.length;
    };
  }
  for (const stream of [stdin, stdout, stderr]) {
    const isTerminal = stream.isTerminal.bind(stream);
    stream.isTerminal = () => !current.getStore() && isTerminal();
  }
  const consoleSize = Deno.consoleSize.bind(Deno);
  Deno.consoleSize = () => {
    if (current.getStore()) throw new Deno.errors.BadResource("no terminal");
    return consoleSize();
  };
  const own = stdin.readable;
  Object.defineProperty(stdin, "readable", {
    get: () => {
      const streams = current.getStore();
      return streams ? new Blob([streams.input]).stream() : own;
    },
  });
}
