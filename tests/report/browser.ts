// A real Chromium for the tests of pages, and the checks that hold for every page.
import axe from "npm:axe-core@^4.14.1";
import assert from "node:assert/strict";
import { type Browser, type BrowserContext, chromium, type Page } from "npm:playwright-core@^1.65.0";

/** Why a test of pages is left out; null where there is a browser. */
export const CHROMIUM: string | null = await findChromium();

// As root there is no sandbox, and nothing may be asked for from elsewhere. Each start has a profile of its own.
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const WITHOUT_GPU = ["--disable-gpu"];
/** WebGPU on the CPU, the same on all machines. */
const WITH_GPU = [
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan,WebGPU",
  "--use-webgpu-adapter=swiftshader",
];

/** Declares a test of pages, with WebGPU where it is asked for; without a Chromium it is left out, and says so. */
export function browserTest(
  name: string,
  test: (browser: Browser) => Promise<void>,
  { gpu = false }: { readonly gpu?: boolean } = {},
): void {
  if (CHROMIUM === null) console.log(`left out, there is no Chromium (Debian: apt-get install chromium): ${name}`);
  Deno.test({
    name,
    ignore: CHROMIUM === null,
    // The browser is another program, and its driver keeps timers of its own.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn(): Promise<void> {
      const browser = await launchChromium(gpu ? WITH_GPU : WITHOUT_GPU);
      try {
        await test(browser);
      } finally {
        await browser.close();
      }
    },
  });
}

/** Starts a Chromium of its own; the caller closes it. */
export async function launchChromium(
  flags: readonly string[] = WITH_GPU,
  env: Readonly<Record<string, string>> = {},
): Promise<Browser> {
  return await chromium.launch({
    executablePath: CHROMIUM ?? "",
    args: [...FLAGS, ...flags],
    env: { ...Deno.env.toObject(), ...env },
  });
}

/** A page that was opened, with all that went wrong and all that it asked for. */
export interface Watched {
  readonly page: Page;
  /** Messages of the console, errors of scripts, and requests that failed. */
  readonly complaints: string[];
  /** Addresses that were asked for. */
  readonly requests: string[];
}

/** Opens a page and watches it. */
export async function openPage(
  browser: Browser,
  url: string,
  { width = 900, height = 800, scheme = "light", script = true }: {
    readonly width?: number;
    readonly height?: number;
    readonly scheme?: "light" | "dark";
    readonly script?: boolean;
  } = {},
): Promise<Watched> {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    javaScriptEnabled: script,
    // Our own policy must not keep axe out.
    bypassCSP: false,
  });
  const watched = await watch(context);
  await watched.page.goto(url);
  return watched;
}

/** A new tab that is watched; what goes wrong is added to what did. */
export async function watch(
  context: BrowserContext,
  { complaints = [], requests = [] }: Partial<Omit<Watched, "page">> = {},
): Promise<Watched> {
  const page = await context.newPage();
  page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("request", (request) => requests.push(request.url()));
  return { page, complaints, requests };
}

/** Fails where axe-core finds anything on the page as it is now. */
export async function assertAccessible({ page }: Watched, what: string): Promise<void> {
  // Evaluated by the driver, which no policy of the page keeps out.
  await page.evaluate(axe.source);
  const { violations, passes } = await page.evaluate(
    "axe.run(document, { resultTypes: ['violations'] }).then(({ violations, passes }) => ({ passes: passes.length, violations: " +
      "violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map(({ html }) => html.slice(0, 200)).join(' | ')}`) }))",
  ) as { readonly violations: readonly string[]; readonly passes: number };
  assert.deepEqual(violations, [], what);
  assert.ok(passes > 15, `axe checked ${passes} rules`);
}

async function findChromium(): Promise<string | null> {
  const named = Deno.env.get("CHROMIUM"), folders = (Deno.env.get("PATH") ?? "").split(":");
  const programs = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const paths = named ? [named] : programs.flatMap((name) => folders.map((folder) => `${folder}/${name}`));
  for (const path of paths) if (await Deno.stat(path).then(({ isFile }) => isFile, () => false)) return path;
  return null;
}
