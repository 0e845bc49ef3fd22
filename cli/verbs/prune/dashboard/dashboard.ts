// `prune --dashboard`: starts and ends the thread that serves a live report on loopback.
import { CompressoError } from "../../../../lib/core/errors.ts";
import type { DashboardMessage } from "./pages.ts";
import type { DashboardReply } from "./worker.ts";

/** A dashboard that is being served. Dispose it to end the thread. */
export interface Dashboard extends AsyncDisposable {
  /** Where a browser finds it. */
  readonly url: string;
  /** Sends a message; does not wait. */
  tell(message: DashboardMessage): void;
}

/** Options of {@link openDashboard}. */
export interface DashboardOptions {
  /** Called with what goes wrong in the thread. */
  readonly onTrouble: (text: string) => void;
  /** Milliseconds that the end of a run waits at most for a browser that is open to see it. Default 3000. */
  readonly farewell?: number;
}

/**
 * Serves a dashboard on loopback; port 0 takes a free one. Once it is up, nothing that goes wrong in it stops the run: `onTrouble` is called.
 * Throws `CompressoError("usage")` where the port is taken.
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
    reject(new Error(event.message));
    finish();
    onTrouble(`the dashboard has ended: ${event.message}`);
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
    throw new CompressoError("usage", {
      what: "cannot serve the dashboard",
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
