// A siege of a whole server: crowds of one address that stay, send no body or reset their connections, while honest clients ask for completions.
import type { CrowdCount, CrowdSize } from "./crowd.ts";
import { type Bounds, type Loop, portOf, start, type Tally } from "./loop.ts";

/** Who besieges the server. */
const CROWD = { lingering: 256, silent: 256, resets: 50 };
/** Honest clients at once, each with a new connection for each request; requests that they make at most. */
const CLIENTS = 4, MOST_REQUESTS = 1000;
/** Seconds that an honest client waits for its answer. */
const PATIENCE = 30;
/** Seconds of the slowest answer, times the load of a core where it is above 1. */
const SLOWEST = 2;

const PROMPTS = ["Where is Tom?", "Tom went to the", "Anna has a", "The red"];

export const SIEGE: Loop = {
  name: "siege",
  promise: "crowds of clients that stay, send no body or reset their connections cost an honest client no answer",
  async run(tally: Tally, { until }: Bounds): Promise<void> {
    const { child, ended } = start(["serve", "demo", "--port", "0", "--no-tuning"]);
    let isOver = false;
    ended.finally(() => isOver = true);
    const port = await portOf(child.pid);
    // What each client gets without a crowd, which makes the server ready, too.
    const alone = await Promise.all(PROMPTS.map((prompt) => complete(port, prompt)));
    for (const { text, problem } of alone) if (text === null) throw new Error(`before the siege: ${problem}`);
    const worker = new Worker(new URL("./crowd.ts", import.meta.url), { type: "module" });
    let crowd: CrowdCount = { made: 0, reset: 0, open: 0 };
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }: MessageEvent<CrowdCount>): void => void (crowd = data);
    worker.postMessage({ port, ...CROWD } satisfies CrowdSize, [port2]);
    while (crowd.open < 200 && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 100));
    const begun = performance.now(), taken: number[] = [];
    let asked = 0;
    const client = async (at: number): Promise<void> => {
      while (performance.now() < until && asked < MOST_REQUESTS && !isOver) {
        const which = asked++ % PROMPTS.length, asking = performance.now();
        const { text, problem } = await complete(port, PROMPTS[which] ?? "");
        taken.push((performance.now() - asking) / 1000);
        tally.check(text !== null && text === alone[which]?.text, `client ${at}: ${problem} ${text ?? ""}`);
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, (_, at) => client(at)));
    const seconds = (performance.now() - begun) / 1000, load = Deno.loadavg()[0] ?? 0;
    worker.terminate();
    port1.close();
    const sorted = taken.sort((a, b) => a - b), slowest = sorted.at(-1) ?? 0;
    const figures = [
      `median ${sorted[sorted.length >> 1]?.toFixed(2)} s, slowest ${slowest.toFixed(2)} s`,
      `in ${seconds.toFixed(0)} s ${crowd.made} connections of the crowd and ${crowd.reset} resets`,
      `load ${load.toFixed(1)}`,
    ];
    tally.count(`(${figures.join("; ")})`);
    const most = SLOWEST * Math.max(1, load / navigator.hardwareConcurrency);
    tally.check(slowest <= most, `the slowest answer took ${slowest.toFixed(2)} s of ${most.toFixed(2)} s`);
    if (isOver) tally.failures.push(`the server has ended: ${(await ended).said.slice(0, 2000)}`);
    else child.kill("SIGTERM");
    const { code, said } = await ended;

    tally.check(code === 130, `the server ends with status ${code}: ${said.slice(0, 500)}`);
  },
};

/** The text of a completion, by a connection of its own. */
async function complete(
  port: number,
  prompt: string,
): Promise<{ readonly text: string | null; readonly problem: string }> {
  const body = JSON.stringify({ model: "demo", prompt, max_tokens: 4, temperature: 0 });
  const head = `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${body.length}\r\nConnection: close\r\n\r\n`;
  let answer = "";
  try {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const timer = setTimeout(() => conn.close(), 1000 * PATIENCE);
    try {
      await conn.write(new TextEncoder().encode(head + body));
      answer = await new Response(conn.readable).text();
    } finally {
      clearTimeout(timer);
    }
    const text = JSON.parse(answer.slice(answer.indexOf("\r\n\r\n"))).choices[0].text;
    return { text: answer.startsWith("HTTP/1.1 200 ") && typeof text === "string" ? text : null, problem: answer };
  } catch (error) {
    return { text: null, problem: `${error}: ${answer.slice(0, 500)}` };
  }
}
