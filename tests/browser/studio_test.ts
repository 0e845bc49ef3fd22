// The studio in a real Chromium: damaged files, a plan, a run that is stopped, one whose tab is closed and that loses the GPU,
// one without storage, and their files.
import type { Page } from "npm:playwright-core@^1.65.0";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { brotliCompressSync, crc32, gzipSync } from "node:zlib";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { answerFrom, buildStudio } from "../../studio/build.ts";
import { PACK } from "../../studio/parts.ts";
import { assertAccessible, browserTest, openPage, watch, type Watched } from "../report/browser.ts";

/** Most bytes of the scripts that a visit fetches until the demo is pruned, as brotli and as gzip compress them. */
const MOST_BROTLI = 320_000, MOST_GZIP = 380_000;

/** Milliseconds to wait: while kernels are compiled on a processor, the browser draws nothing and takes no click. */
const PATIENCE = 400_000;

/** Names of the files of a zip archive without compression, in the order of its directory; their checksums are right. */
async function storedFiles(path: string): Promise<readonly string[]> {
  const bytes = Buffer.from(await Deno.readFile(path)), end = bytes.length - 22;
  let at = bytes.readUInt32LE(end + 16);
  return Array.from({ length: bytes.readUInt16LE(end + 10) }, () => {
    const length = bytes.readUInt16LE(at + 28), size = bytes.readUInt32LE(at + 24);
    const name = bytes.toString("utf8", at + 46, at + 46 + length), begin = bytes.readUInt32LE(at + 42) + 30 + length;
    assert.equal(crc32(bytes.subarray(begin, begin + size)), bytes.readUInt32LE(at + 16), name);
    at += 46 + length;
    return name;
  });
}

/** A new tab in the browser of one that was closed. */
async function reopened({ page, complaints, requests }: Watched, url: string): Promise<Watched> {
  const watched = await watch(page.context(), { complaints, requests });
  await watched.page.goto(url);
  return watched;
}

/** Milliseconds of each task of the page's own thread that took more than 50 while the work was done. */
async function longTasks(page: Page, work: () => Promise<void>): Promise<readonly number[]> {
  await page.evaluate(
    "new PerformanceObserver((list) => window.long.push(...list.getEntries().map(({ duration }) => duration)))" +
      ".observe({ type: 'longtask' }, window.long = [])",
  );
  await work();
  return await page.evaluate("window.long") as readonly number[];
}

browserTest(
  "the studio refuses damaged files in one box, plans, stops a run, goes on after a closed tab and a lost GPU, ends with the same bits without storage, stays smooth and gives the files; nothing comes from elsewhere",
  async (browser) => {
    const files = await buildStudio(), out = await Deno.makeTempDir({ prefix: "compresso_studio_" });
    const server = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen: () => {} },
      // Below a path, as on a host of several pages.
      (request) => answerFrom(files, request, "/sub/"),
    );
    const url = `http://127.0.0.1:${server.addr.port}/sub/`;
    try {
      let watched = await openPage(browser, url, { width: 390, scheme: "dark" }), { page } = watched;
      page.setDefaultTimeout(PATIENCE);
      const text = async (id: string): Promise<string> => await page.textContent(`#${id}`) ?? "";
      const ended = async (): Promise<void> => {
        await page.locator("#result:not([hidden]), #run-error:not([hidden])").waitFor();
        assert.equal(await page.isVisible("#run-error"), false, await text("run-error"));
      };
      await page.locator("#adapter", { hasText: /swiftshader/i }).waitFor();
      assert.equal(await page.isDisabled("#start"), true, "there is nothing to prune yet");

      const buffer = Buffer.from(files.get("demo/config.json") ?? []);
      await page.setInputFiles("#gguf", { name: "broken.gguf", mimeType: "application/octet-stream", buffer });
      await page.locator("#model-error:not([hidden])").waitFor();
      assert.equal(await page.locator(".error:not([hidden])").count(), 1, "one error");
      assert.equal(await page.isDisabled("#start"), true);
      await assertAccessible(watched, "with a damaged model");

      await page.click("#demo");
      for (const [id, value] of [["steps", "2"], ["batch", "1"], ["seq", "32"]] as const) {
        await page.fill(`#${id}`, value);
      }
      await page.locator("#plan-fits[data-fits=true]").waitFor();
      assert.equal(await page.isChecked("#writesTexts"), false, "a processor would take minutes for them");
      await page.locator("#start:not([disabled])").waitFor();
      await page.click("#start");
      await page.click("#stop");
      await page.locator("#run-error:not([hidden])").waitFor();
      assert.equal(await page.isDisabled("#start"), false, "it can be started again");
      assert.equal(await page.isVisible("#model-error"), false);

      await page.click("#start");
      await page.locator("#saving", { hasText: "Saved at step 1" }).waitFor();
      await page.close();

      // The tab was closed in the midst of the run.
      watched = await reopened(watched, url);
      page = watched.page;
      page.setDefaultTimeout(PATIENCE);
      await page.locator("#kept-text", { hasText: "demo stopped at step 1 of 3" }).waitFor();
      await page.locator("#resume:not([disabled])").waitFor();
      await assertAccessible(watched, "with a run that can go on");
      await page.click("#resume");
      await page.locator("#stop:not([disabled])").waitFor();
      await (await browser.newBrowserCDPSession()).send("Browser.crashGpuProcess");
      await page.locator("#run-error:not([hidden])").waitFor();
      assert.match(await text("run-error"), /device lost[^]*What to do: start the run again/);
      await page.click("#resume"); // it is offered again
      await page.locator("#run-error").waitFor({ state: "hidden" });
      await page.locator("#saving", { hasText: "Saved at step 1" }).waitFor();
      assert.equal(await page.inputValue("#steps"), "2");
      const long = [await longTasks(page, ended)];
      assert.match(await text("tile-loss"), /^\d+\.\d{3}$/);
      assert.ok(await page.locator("#figures svg").count() >= 2, "loss and masks are drawn");
      assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways");
      await assertAccessible(watched, "with a result");
      const scripts = [...files].filter(([name]) =>
        /\.(js|txt)$/.test(name) && watched.requests.some((one) => one === `${url}${name}`)
      );
      assert.ok(scripts.some(([name]) => name === PACK), "the worker's scripts are among the requests");
      const compressed = (by: (bytes: Uint8Array) => Uint8Array): number =>
        scripts.reduce((sum, [, bytes]) => sum + by(bytes).length, 0);
      const brotli = compressed(brotliCompressSync), gzip = compressed((bytes) => gzipSync(bytes, { level: 9 }));
      const fetched = scripts.map(([name]) => name).join(", ");
      assert.ok(brotli <= MOST_BROTLI && gzip <= MOST_GZIP, `${fetched}: ${brotli} with brotli, ${gzip} with gzip`);
      for (const [button, name] of [["save-gguf", "demo-pruned.gguf"], ["save-folder", "demo-pruned.zip"]] as const) {
        const [download] = await Promise.all([page.waitForEvent("download"), page.click(`#${button}`)]);
        assert.equal(download.suggestedFilename(), name);
        await download.saveAs(join(out, name));
      }
      const { source: { spec } } = await openModelFiles(join(out, "demo-pruned.gguf"));
      const dense = (await openModelFiles("demo")).source.spec;
      const ffn = ({ layers }: typeof spec): number => layers.reduce((sum, layer) => sum + layer.ffn, 0);
      assert.ok(ffn(spec) < ffn(dense), "columns are cut");
      const names = await storedFiles(join(out, "demo-pruned.zip"));
      assert.ok(["model/config.json", "model/model.safetensors", "run.json"].every((name) => names.includes(name)));

      // A run that is not interrupted, without room for anything.
      const quota = { origin: new URL(url).origin, quotaSize: 1000 };
      await (await page.context().newCDPSession(page)).send("Storage.overrideQuotaForOrigin", quota);
      await page.click("#start");
      await page.locator("#saving-error:not([hidden])", { hasText: "no storage left" }).waitFor();
      await assertAccessible(watched, "without storage");
      long.push(await longTasks(page, ended));
      assert.match(await text("saving-error"), /in the memory of this tab/);
      const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save-gguf")]);
      const bits = [await download.path(), join(out, "demo-pruned.gguf")].map((path) => Deno.readFile(path));
      assert.ok(
        Buffer.compare(...await Promise.all(bits) as [Uint8Array, Uint8Array]) === 0,
        "other bits after going on",
      );
      // What the page does itself is the same in both runs; a loaded machine may hold up one of them.
      assert.ok(long.some((tasks) => tasks.length === 0), `the page was held up for ms: ${JSON.stringify(long)}`);
      assert.deepEqual(watched.complaints.filter((one) => !one.includes("No available adapters")), []);
      const elsewhere = watched.requests.filter((one) => !one.startsWith(url) && !/^(blob|data):/.test(one));
      assert.deepEqual(elsewhere, []);
    } finally {
      await server.shutdown();
      await Deno.remove(out, { recursive: true });
    }
  },
  { gpu: true },
);

browserTest("without WebGPU the studio says what to do, and nothing can be started", async (browser) => {
  const files = await buildStudio();
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (one) => answerFrom(files, one));
  try {
    const watched = await openPage(browser, `http://127.0.0.1:${server.addr.port}/`);
    await watched.page.locator("#begin-error:not([hidden])", { hasText: "WebGPU" }).waitFor();
    assert.doesNotMatch(await watched.page.textContent("main") ?? "", /\{\{/, "a name was not filled in");
    await watched.page.click("#demo");
    await watched.page.locator("#rows-state", { hasText: "4,000" }).waitFor();
    assert.equal(await watched.page.isDisabled("#start"), true);
    await assertAccessible(watched, "without WebGPU");
  } finally {
    await server.shutdown();
  }
});
