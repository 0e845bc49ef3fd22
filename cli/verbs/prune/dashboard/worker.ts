// The thread of the dashboard: a server on loopback.
//
// It is a separate thread, so that making pages and serving viewers, however many or slow, takes no time from the run.
import { createPages, type DashboardMessage } from "./pages.ts";

/** Messages from the thread to the run's process. */
export type DashboardReply =
  | { readonly kind: "listening"; readonly port: number }
  | { readonly kind: "refused"; readonly reason: string }
  /** The end of the run was seen, or no browser is open. */
  | { readonly kind: "done" };

/** Milliseconds without a request after which a browser counts as closed. */
const GONE_MS = 12_000;

globalThis.addEventListener("message", (event: Event) => {
  if (!(event instanceof MessageEvent)) return;
  const [channel] = event.ports;
  if (channel) start(event.data.port, channel);
}, { once: true });

function start(port: number, channel: MessagePort): void {
  const pages = createPages(), reply = (message: DashboardReply): void => channel.postMessage(message);
  try {
    const server = Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, (request) => pages.answer(request));
    reply({ kind: "listening", port: server.addr.port });
  } catch (error) {
    return reply({ kind: "refused", reason: error instanceof Error ? error.message : String(error) });
  }
  channel.onmessage = ({ data }: MessageEvent<DashboardMessage>) => {
    pages.tell(data);
    if (data.kind !== "finished") return;
    const timer = setInterval(() => {
      if (!pages.endWasSeen && pages.idle < GONE_MS) return;
      clearInterval(timer);
      reply({ kind: "done" });
    }, 50);
  };
}
