// Clients that besiege a server from a thread of their own: some stay after their answer, some never send their body, and some reset their connections.
import { connect, type Socket } from "node:net";

/** What the thread is sent to begin. */
export interface CrowdSize {
  readonly port: number;
  /** Connections that stay after their answer. */
  readonly lingering: number;
  /** Connections whose body never comes. */
  readonly silent: number;
  /** Connections a second that are reset at once. */
  readonly resets: number;
}

/** What the thread reports each second: all connections that it has made so far, and those open now. */
export interface CrowdCount {
  readonly made: number;
  readonly reset: number;
  readonly open: number;
}

/** Milliseconds after which a client that was closed is back, and between the bytes by which one that ignores the server's end sees that it was closed. */
const BACK = 250, PROBE = 250;

const GET = "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n";
/** Requests of clients that stay: nonsense, two whose answer is the last one, and one whose connection may be used again. */
const LINGERING: readonly string[] = [
  " nonsense",
  `${GET}Connection: close\r\n\r\n`,
  `${GET.replace("1.1", "1.0")}\r\n`,
  `${GET}\r\n`,
];
const SILENT =
  "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";

/** Besieges a server for as long as the thread lives. */
function besiege({ port, lingering, silent, resets }: CrowdSize, report: (count: CrowdCount) => void): void {
  const open = new Set<Socket>();
  let made = 0, reset = 0;
  /** Keeps one connection, and makes the next one when the server has closed it. A probing one ignores the server's end. */
  const keep = (text: string, isProbing: boolean): void => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: isProbing });
    made++;
    open.add(socket);
    let probe: ReturnType<typeof setInterval> | undefined;
    socket.on("connect", () => void socket.write(text)).on("error", () => {});
    socket.on("data", () => {
      if (isProbing) probe ??= setInterval(() => void socket.write(" "), PROBE);
    });
    socket.on("close", () => {
      clearInterval(probe);
      open.delete(socket);
      setTimeout(() => keep(text, isProbing), Math.random() * BACK);
    });
  };
  for (let at = 0; at < lingering; at++) keep(LINGERING[at % LINGERING.length] ?? "", at % LINGERING.length !== 3);
  for (let at = 0; at < silent; at++) keep(SILENT, false);
  if (resets > 0) {
    setInterval(() => {
      const socket = connect(port, "127.0.0.1", () => void socket.resetAndDestroy());
      socket.on("error", () => {});
      reset++;
    }, 1000 / resets);
  }
  setInterval(() => report({ made, reset, open: open.size }), 1000);
}

globalThis.addEventListener("message", (event: Event) => {
  if (!(event instanceof MessageEvent)) return;
  const [channel] = event.ports;
  if (channel) besiege(event.data, (count) => channel.postMessage(count));
}, { once: true });
