// Starts and ends the thread that serves the live report of `prune --dashboard` on loopback.
import { refuse } from "../../../../lib/core/errors.ts";
import type { DashboardMessage } from "./pages.ts";
import type { DashboardReply } from "./worker.ts";

/** A running dashboard. Dispose it to end the thread. */
export interface Dashboard extends AsyncDisposable {
  /** Its address for a browser. */
  readonly url: string;
  /** Sends a message without waiting. */
  tell(message: DashboardMessage): void;
}

/** Options of {@link openDashboard}. */
export interface DashboardOptions {
  /** Called with errors in the thread. */
  readonly onTrouble: (text: string) => void;
  /** Most milliseconds to wait at the end of a run until an open browser has seen it. Default 3000. */
  readonly farewell?: number;
}

/**
 * Serves a dashboard on loopback; port 0 takes a free one. Later errors do not stop the run: they go to `onTrouble`.
 * Throws `CompressoError("usage")` if the port is in use.
 */
export async function openDashboard(
  port: number,
  { onTrouble, farewell = 3000 }: DashboardOptions,
): Promise<Dashboard> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const { port1: channel, port2 } = new MessageChannel();
  const { promise: answer, resolve, reject } = Promise.withResolvers<DashboardReply>();
  const { promise: done, resolve: finish } = Promise.withResolvers<void>();
  let hasFinished = false;
  worker.onerror = (event): void => {
    event.preventDefault();
    // Deno reads the thread's own file as a program would.
    const isRight = /^Requires \w+ access/.test(event.message);
    reject(isRight ? new Deno.errors.NotCapable(event.message) : new Error(event.message));
    finish();
    if (!isRight) onTrouble(`the dashboard has ended: ${event.message}`);
  };
  channel.onmessage = ({ data }: MessageEvent<DashboardReply>): void => data.kind === "done" ? finish() : resolve(data);
  worker.postMessage({ port }, [port2]);
  const close = (): void => {
    channel.close();
    worker.terminate();
  };
  const reply = await answer.catch((error: unknown) => {
    close();
    throw error;
  });
  if (reply.kind !== "listening") {
    close();
    refuse("usage", "cannot serve the dashboard", {
      rule: "its port on 127.0.0.1 is free",
      value: `port ${port}: ${reply.kind === "refused" ? reply.reason : reply.kind}`,
      fix: "choose another --dashboard-port, or 0 for any free one",
    });
  }
  return {
    url: `http://127.0.0.1:${reply.port}/`,
    tell(message): void {
      if (message.kind === "finished") hasFinished = true;
      channel.postMessage(message);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      let timer: ReturnType<typeof setTimeout> | undefined;
      if (hasFinished) await Promise.race([done, new Promise((late) => timer = setTimeout(late, farewell))]);
      clearTimeout(timer);
      close();
    },
  };
}
