// Models of the Hub in a browser: fetched in ranges, aborted, refused; and in the page of the studio.
import assert from "node:assert/strict";
import { demoData, modelPath } from "../../lib/local/open_model.ts";
import { fetchHubModel } from "../../lib/browser/hub.ts";
import { openModelFiles } from "../../lib/browser/open.ts";
import { answerFrom, buildStudio } from "../../studio/build.ts";
import { FakeHub } from "../hub/fake_hub.ts";
import { assertAccessible, browserTest, openPage } from "../report/browser.ts";
import { rejects } from "../refuses.ts";

async function demoFiles(): Promise<Record<string, Uint8Array<ArrayBuffer>>> {
  const folder = await modelPath("demo"), files: Record<string, Uint8Array<ArrayBuffer>> = {};
  for await (const { name } of Deno.readDir(folder)) files[name] = await Deno.readFile(`${folder}/${name}`);
  return files;
}

Deno.test("a model of the Hub is fetched whole, in ranges, from the place where its large files are; a broken connection is tried again", async () => {
  await using hub = new FakeHub();
  const files = await demoFiles(), big = new Uint8Array((1 << 24) + 100_000).fill(7);
  hub.add("models/o/demo", { ...files, "other.txt": "not of a model" });
  hub.add("models/o/gguf", { "a.gguf": big, "b.gguf": "x", "README.md": "" });
  const progress: [number, number][] = [];
  const fetched = await fetchHubModel("o/demo", {
    endpoint: hub.url,
    onProgress: (done, whole) => void progress.push([done, whole]),
  });
  assert.ok(!(fetched instanceof Blob));
  assert.ok(!Object.hasOwn(fetched, "other.txt"));
  const whole = Object.values(fetched).reduce((sum, { size }) => sum + size, 0);
  assert.deepEqual(progress.at(-1), [whole, whole]);
  const { source: { spec }, tokenizer } = await openModelFiles(fetched);
  assert.equal(spec.layers.length, 5);
  assert.notEqual(tokenizer, null);

  hub.faults.push({ path: /signature/, times: 1, dropAfter: 5000 });
  const gguf = await fetchHubModel("hf:o/gguf@main:a.gguf", { endpoint: hub.url });
  assert.ok(gguf instanceof Blob);
  assert.equal(gguf.size, big.length);
  assert.deepEqual(new Uint8Array(await gguf.arrayBuffer()), big);
  const ranges = hub.seen.filter(({ host, path }) => host === "store" && path.includes("signature"))
    .map(({ headers }) => headers.get("range")).slice(-3);
  assert.deepEqual(ranges, ["bytes=0-16777215", "bytes=0-16777215", `bytes=16777216-${big.length - 1}`]);
});

Deno.test("names of another form, models that are not there or have terms, several GGUFs and a silent Hub are refused; an abort ends the fetching", async () => {
  await using hub = new FakeHub();
  hub.add("models/o/gated", { "a.gguf": "x" }, { access: "gated" });
  hub.add("models/o/several", { "a.gguf": "x", "b.gguf": "x" });
  hub.add("models/o/big", { "a.gguf": new Uint8Array(1 << 20) });
  const endpoint = hub.url, fetched = (name: string) => () => fetchHubModel(name, { endpoint });
  await rejects(fetched("demo"), "usage", { value: "demo" });
  await rejects(fetched("o/none"), "input", { value: "status 401" });
  await rejects(fetched("o/gated"), "input", { value: "status 401" });
  await rejects(fetched("o/several"), "input", { value: "b.gguf" });
  hub.faults.push({ path: /signature/, times: 1, slow: 50 });
  const abort = new AbortController();
  const onProgress = (): void => abort.abort(new Error("enough"));
  await assert.rejects(fetchHubModel("o/big", { endpoint, signal: abort.signal, onProgress }), /enough/);
});

browserTest(
  "the studio fetches a model of the Hub when it is asked to, can be stopped, and asks no host before",
  async (browser) => {
    await using hub = new FakeHub({ forPages: true });
    hub.add("models/o/demo", await demoFiles());
    const files = await buildStudio({ hub: { endpoint: hub.url, stores: [hub.storeUrl] } });
    const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (one) => answerFrom(files, one));
    try {
      const watched = await openPage(browser, `http://127.0.0.1:${server.addr.port}/`), { page } = watched;
      await page.setInputFiles("#rows", demoData("train"));
      await page.locator("#rows-state", { hasText: "4,000" }).waitFor();
      assert.equal(hub.seen.length, 0);

      await page.fill("#hub-name", "o/none");
      await page.click("#fetch");
      await page.locator("#model-error:not([hidden])", { hasText: "hf:o/none" }).waitFor();

      hub.faults.push({ path: /signature/, times: 1, slow: 200 });
      await page.fill("#hub-name", "o/demo");
      await page.click("#fetch");
      await page.locator("#model-state", { hasText: "Fetching: " }).waitFor();
      assert.equal(await page.isDisabled("#demo"), true);
      await page.click("#stop-fetching");
      await page.locator("#model-error:not([hidden])", { hasText: "stopped" }).waitFor();
      assert.equal(await page.isVisible("#fetching"), false);

      await page.click("#fetch");
      await page.locator("#model-state", { hasText: "demo: 979,008 parameters" }).waitFor();
      assert.equal(await page.isVisible("#model-error"), false);
      await assertAccessible(watched, "with a model of the Hub");
      const own = `http://127.0.0.1:${server.addr.port}/`, known = [own, `${hub.url}/`, `${hub.storeUrl}/`];
      const elsewhere = watched.requests.filter((one) =>
        !/^(blob|data):/.test(one) && !known.some((at) => one.startsWith(at))
      );
      assert.deepEqual(elsewhere, []);
    } finally {
      await server.shutdown();
    }
  },
);
