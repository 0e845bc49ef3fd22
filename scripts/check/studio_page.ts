// Runs the studio in a headless Chromium, as the checks of the page need it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CHROMIUM, launchChromium, openPage } from "../../tests/report/browser.ts";
import { answerFrom, buildStudio } from "../../studio/build.ts";
import type { Choices } from "../../studio/messages.ts";

/** What a run in the page is made from. */
export interface PageRun {
  readonly model: "demo" | string;
  /** File of rows; the demo has its own. */
  readonly rows: string | null;
  readonly choices: Partial<Choices>;
  /** Flags of Chromium that choose its WebGPU; SwiftShader by default. */
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** PNG file of the page with its result. */
  readonly picture?: string | undefined;
  /** Folder that the files are saved in. */
  readonly out: string;
  /** Called with the state of the run, when it has changed. */
  readonly onState?: (state: string) => void;
}

/** A run in the page that has ended. */
export interface PageResult {
  readonly adapter: string;
  /** Seconds from the click on `Prune` until the files were there. */
  readonly seconds: number;
  /** Largest resident bytes of the browser's processes by their kind, such as `renderer`. */
  readonly memory: Readonly<Record<string, number>>;
  readonly gguf: string;
  readonly run: string;
  /** The folder, as a zip archive. */
  readonly zip: string;
}

/** Milliseconds of the longest run. */
const PATIENCE = 3 * 3_600_000;

/**
 * Opens the page, prunes, and saves the GGUF and run.json.
 *
 * @throws Error with the page's words if the run fails.
 */
export async function pruneInPage(
  { model, rows, choices, flags, env, out, picture, onState }: PageRun,
): Promise<PageResult> {
  if (CHROMIUM === null) throw new Error("there is no Chromium: install one, or name it in CHROMIUM");
  const files = await buildStudio();
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (one) => answerFrom(files, one));
  const browser = await launchChromium(flags, env);
  try {
    const { page, complaints } = await openPage(browser, `http://127.0.0.1:${server.addr.port}/`, { width: 1280 });
    page.setDefaultTimeout(PATIENCE);
    await page.locator("#adapter:not(:text-is('Looking for a GPU …'))").waitFor();
    if (await page.isVisible("#begin-error")) throw new Error(await page.textContent("#begin-error") ?? "");
    if (model === "demo") await page.click("#demo");
    else await page.setInputFiles("#gguf", model);
    if (rows !== null) await page.setInputFiles("#rows", rows);
    for (const [id, value] of Object.entries(choices)) {
      if (id === "baseDtype") await page.selectOption(`#${id}`, String(value));
      else if (id === "sparsity") await page.fill(`#${id}`, String(Math.round(Number(value) * 100)));
      else if (typeof value === "boolean") await page.setChecked(`#${id}`, value);
      else await page.fill(`#${id}`, String(value));
    }
    await page.locator("#start:not([disabled]), .error:not([hidden])").first().waitFor();
    const begun = performance.now();
    await page.click("#start");
    const ended = page.locator("#result:not([hidden]), .error:not([hidden])").first().waitFor();
    let last = "";
    const watching = setInterval(async () => {
      const state = await page.textContent("#doing").catch(() => null) ?? last;
      if (state !== last) onState?.(last = state);
    }, 1000);
    await ended.finally(() => clearInterval(watching));
    const seconds = (performance.now() - begun) / 1000;
    const [failure] = await page.locator(".error:not([hidden])").allTextContents();
    if (failure !== undefined) throw new Error(`${failure} ${complaints.join(" ")}`);
    if (picture !== undefined) await page.screenshot({ path: picture, fullPage: true });
    const { processInfo } = await (await browser.newBrowserCDPSession()).send("SystemInfo.getProcessInfo");
    const memory = Object.fromEntries(
      processInfo.map(({ type, id }) => [type, mostResident(id)] as const)
        .sort(([, a], [, b]) => a - b),
    );
    const saved: Record<string, string> = {};
    for (const [id, name] of [["gguf", "model.gguf"], ["run", "run.json"], ["folder", "model.zip"]] as const) {
      const [download] = await Promise.all([page.waitForEvent("download"), page.click(`#save-${id}`)]);
      await download.saveAs(saved[id] = join(out, name));
    }
    const adapter = await page.textContent("#adapter") ?? "";
    return { adapter, seconds, memory, gguf: saved["gguf"] ?? "", run: saved["run"] ?? "", zip: saved["folder"] ?? "" };
  } finally {
    await browser.close();
    await server.shutdown();
  }
}

/** Largest resident bytes that a process has had; 0 where the system does not tell. */
function mostResident(id: number): number {
  try {
    return 1024 * Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${id}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** A file of a zip archive without compression. */
export function storedText(path: string, name: string): string {
  const bytes = readFileSync(path), end = bytes.length - 22;
  let at = bytes.readUInt32LE(end + 16);
  for (let left = bytes.readUInt16LE(end + 10); left > 0; left--) {
    const length = bytes.readUInt16LE(at + 28), begin = bytes.readUInt32LE(at + 42) + 30 + length;
    if (bytes.toString("utf8", at + 46, at + 46 + length) === name) {
      return bytes.toString("utf8", begin, begin + bytes.readUInt32LE(at + 24));
    }
    at += 46 + length;
  }
  throw new Error(`${path} has no ${name}`);
}
