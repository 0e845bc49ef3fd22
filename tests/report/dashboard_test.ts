// The dashboard of a run: its answers, its thread, and what a browser makes of it while records come in.
import assert from "node:assert/strict";
import { openDashboard } from "../../cli/verbs/prune/dashboard/dashboard.ts";
import { createPages } from "../../cli/verbs/prune/dashboard/pages.ts";
import type { StepRecord } from "../../lib/run/contract.ts";
import { assertNames, rejects } from "../refuses.ts";
import { TemporaryFolder } from "../cli/helpers/cli.ts";
import { assertAccessible, browserTest, openPage } from "./browser.ts";
import { madeRecord, madeRun } from "./made_run.ts";

const HOST = { host: "127.0.0.1:1" };

async function append(folder: TemporaryFolder, records: readonly StepRecord[]): Promise<void> {
  const text = records.map((record) => `${JSON.stringify(record)}\n`).join("");
  await Deno.writeTextFile(folder.at("records.jsonl"), text, { append: true });
}

function records(first: number, last: number): StepRecord[] {
  return Array.from({ length: last - first + 1 }, (_, index) => madeRecord(first + index));
}

function started(folder: TemporaryFolder): Parameters<ReturnType<typeof createPages>["tell"]>[0] {
  const origin = [{ role: "model", name: "small", bytes: 5 }] as const;
  return {
    kind: "started",
    folder: folder.path,
    name: "live run",
    options: { seed: 7 },
    adapter: "an adapter",
    origin,
  };
}

Deno.test("the dashboard answers with the records so far, says when nothing is new, and is made anew at most every 1.5 s", async () => {
  using folder = new TemporaryFolder();
  const clock = { now: 0 }, pages = createPages({ now: () => clock.now });
  const get = (path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> =>
    pages.answer(new Request(`http://127.0.0.1:1${path}`, { headers: { ...HOST, ...headers } }));
  assert.doesNotMatch(await (await get("/")).text(), /step \d/);
  await append(folder, records(1, 3));
  pages.tell(started(folder));
  const first = await get("/content"), tag = first.headers.get("etag") ?? "";
  assert.match(await first.text(), /finetune, step 3 of 40/);
  assert.equal(decodeURIComponent(first.headers.get("x-state") ?? ""), "Running.");
  assert.equal((await get("/content", { "if-none-match": tag })).status, 304);
  await append(folder, records(4, 6));
  await Deno.writeTextFile(folder.at("records.jsonl"), `{"half`, { append: true });
  assert.equal((await get("/content", { "if-none-match": tag })).status, 304, "it was made just now");
  clock.now += 1600;
  const second = await get("/content", { "if-none-match": tag });
  assert.equal(second.status, 200);
  assert.match(await second.text(), /step 6 of 40/);
  assert.notEqual(second.headers.get("etag"), tag);
  clock.now += 1600;
  assert.equal(
    (await get("/content", { "if-none-match": second.headers.get("etag") ?? "" })).status,
    304,
    "made anew, and the same",
  );
});

Deno.test("records that a rollback took back are read anew, longer or shorter than before, and its alarm stays", async () => {
  using folder = new TemporaryFolder();
  const clock = { now: 0 }, pages = createPages({ now: () => clock.now });
  const content = async (): Promise<string> => {
    clock.now += 2000;
    return await (await pages.answer(new Request("http://localhost/content", { headers: { host: "localhost" } })))
      .text();
  };
  await append(folder, records(1, 9));
  pages.tell(started(folder));
  assert.match(await content(), /step 9 of 40/);
  await Deno.writeTextFile(folder.at("records.jsonl"), "");
  await append(folder, records(1, 5));
  assert.match(await content(), /step 5 of 40/);
  const alarm = {
    monitor: "nan",
    step: 5,
    action: "rollback",
    restored: 3,
    message: "the loss is NaN",
    change: "x",
    options: [],
  } as const;
  pages.tell({ kind: "alarm", alarm });
  await Deno.writeTextFile(folder.at("records.jsonl"), "");
  await append(folder, [...records(1, 3), ...[4, 5, 6, 7].map((step) => madeRecord(step, { loss: 77 }))]);
  const html = await content();
  assert.match(html, /step 7 of 40/);
  assert.match(html, /rollback to step 3/);
  assert.equal(html.match(/<td[^>]*>77<\/td>/g)?.length, 4);
});

Deno.test("the dashboard answers this machine alone, and only to be read", async () => {
  const pages = createPages();
  const status = async (path: string, { host = "127.0.0.1:8123", method = "GET" } = {}): Promise<number> =>
    (await pages.answer(new Request(`http://127.0.0.1:8123${path}`, { method, headers: { host } }))).status;
  assert.equal(await status("/"), 200);
  for (const host of ["localhost", "localhost:80", "[::1]:9"]) assert.equal(await status("/", { host }), 200, host);
  for (const host of ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", ""]) {
    assert.equal(await status("/", { host }), 403, host);
  }
  assert.equal(await status("/", { method: "POST" }), 405);
  for (const path of ["/records.jsonl", "/../run.json", "/content/"]) assert.equal(await status(path), 404, path);
});

Deno.test("a Host header that makes no URL is answered with 400", async () => {
  const pages = createPages();
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, pages.answer);
  for (const name of ["a b", "[::1"]) {
    using connection = await Deno.connect({ hostname: "127.0.0.1", port: server.addr.port });
    const request = `GET / HTTP/1.1\r\nHost: ${name}\r\nConnection: close\r\n\r\n`;
    await connection.write(new TextEncoder().encode(request));
    assert.match(await new Response(connection.readable).text(), /^HTTP\/1\.1 400 /);
  }
});

Deno.test("records that cannot be read are said, and the dashboard goes on", async () => {
  using folder = new TemporaryFolder();
  const clock = { now: 0 }, pages = createPages({ now: () => clock.now });
  const get = (): Promise<Response> =>
    pages.answer(new Request("http://localhost/content", { headers: { host: "localhost" } }));
  await Deno.writeTextFile(folder.at("records.jsonl"), "{oops}\n");
  pages.tell(started(folder));
  const broken = await get();
  assert.equal(broken.status, 500);
  assertNames(await broken.text(), ["line 1", folder.at("records.jsonl")]);
  await Deno.writeTextFile(folder.at("records.jsonl"), "");
  await append(folder, records(1, 2));
  clock.now += 2000;
  assert.equal((await get()).status, 200);
});

Deno.test("a dashboard's thread serves on loopback and ends with it; a port that is taken is refused", async () => {
  using folder = new TemporaryFolder();
  await append(folder, records(1, 8));
  const trouble: string[] = [];
  let url = "";
  {
    await using dashboard = await openDashboard(0, { onTrouble: (text) => trouble.push(text) });
    url = dashboard.url;
    assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/$/);
    const port = Number(new URL(url).port);
    await rejects(openDashboard(port, { onTrouble: () => {} }), "usage", { value: port });
    dashboard.tell(started(folder));
    let page = "";
    for (let tries = 0; tries < 100 && !page.includes("step 8 of 40"); tries++) {
      page = await (await fetch(url)).text();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.match(page, /live run[^]*an adapter[^]*step 8 of 40/);
  }
  // A thread takes a moment to end.
  let isServed = true;
  for (let tries = 0; tries < 200 && isServed; tries++) {
    isServed = await fetch(url).then((response) => response.text()).then(() => true, () => false);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(isServed, false, "nobody listens any more");
  assert.deepEqual(trouble, []);
});

Deno.test("the end of a run does not wait for viewers that have gone or never came", async () => {
  using folder = new TemporaryFolder();
  await append(folder, records(1, 3));
  const start = performance.now();
  {
    await using dashboard = await openDashboard(0, { onTrouble: () => {}, farewell: 20_000 });
    dashboard.tell(started(folder));
    dashboard.tell({ kind: "finished" });
  }
  assert.ok(performance.now() - start < 15_000, `${performance.now() - start} ms`);
});

browserTest(
  "an open dashboard shows new steps and the end by itself, keeps what is open, and stays when the run's program has gone",
  async (browser) => {
    using folder = new TemporaryFolder();
    await append(folder, records(1, 10));
    const dashboard = await openDashboard(0, { onTrouble: () => {}, farewell: 20_000 }), run = madeRun("live run");
    const watched = await openPage(browser, dashboard.url), { page } = watched;
    // Opened while the run is prepared.
    assert.equal(await page.title(), "Pruning: run");
    dashboard.tell({ kind: "named", name: "soon", origin: [{ role: "model", name: "small", bytes: 5 }] });
    await page.locator("h1").getByText("Pruning: soon").waitFor({ timeout: 15_000 });
    dashboard.tell(started(folder));
    const stateShown = (text: string): Promise<unknown> =>
      page.locator("main").getByText(text, { exact: true }).first().waitFor({ timeout: 15_000 });
    try {
      await stateShown("not finished: prune, step 10 of 40");
      const head = [await page.title(), await page.locator("h1").textContent()];
      assert.deepEqual(head, ["Pruning: live run", "Pruning: live run"], "its name comes with its start");
      assert.equal(await page.locator("#note").textContent(), "small. One run of Compresso on an adapter.");
      await page.locator("#loss-summary").focus();
      await page.keyboard.press("Enter");
      await append(folder, records(11, 20));
      const masks = { heads: [[1, 0.4]], ffn: [[0.5, 0.5]], hidden: [1] };
      dashboard.tell({ kind: "masks", step: 18, masks });
      await stateShown("not finished: prune, step 20 of 40");
      assert.match((await page.locator("figcaption").allTextContents()).join(), /After step 18\./);
      assert.match((await page.locator(".tiles").textContent()) ?? "", /Time left\d/);
      assert.ok(await page.locator("#loss-details table").isVisible(), "what was open stays open");
      assert.equal(await page.evaluate("document.activeElement.id"), "loss-summary", "the focus stays");
      await assertAccessible(watched, "live");
      const table = page.locator("#loss-details .scroll");
      await table.evaluate((one: { scrollTop: number }) => {
        one.scrollTop = 40;
      });
      await append(folder, records(21, 30));
      await stateShown("not finished: prune, step 30 of 40");
      assert.equal(await table.evaluate((one: { scrollTop: number }) => one.scrollTop), 40, "tables stay scrolled");
      await append(folder, records(31, 40));
      await Deno.writeTextFile(
        folder.at("run.json"),
        JSON.stringify(run.summary),
      );
      // A reader who is at a value keeps it, and has the end of the run when it is let go, though the program has gone.
      await page.locator("#loss-plot").focus();
      await page.keyboard.press("End");
      const value = await page.locator("#loss-plot output").textContent();
      dashboard.tell({ kind: "finished" });
      await dashboard[Symbol.asyncDispose]();
      assert.equal(await page.locator("#loss-plot output").textContent(), value);
      await page.keyboard.press("Escape");
      await stateShown("finished");
      assert.equal(await page.locator("figure .wide svg").count(), 10);
      await page.getByRole("status").filter({ hasText: "has ended" }).waitFor({ timeout: 15_000 });
      assert.equal(
        await page.locator("#status").textContent(),
        "Finished. The program has ended; this page stays as it is.",
      );
      assert.equal(await page.locator("figure .wide svg").count(), 10, "the last state stays");
    } finally {
      await dashboard[Symbol.asyncDispose]();
    }
    const { origin } = new URL(dashboard.url);
    assert.ok(watched.requests.every((url) => url.startsWith(`${origin}/`)), "only this server was asked");
    // Once the server has gone, asking it fails: three times, then the page stops asking.
    assert.ok(
      watched.complaints.every((text) => /ERR_CONNECTION_REFUSED|\/content$/.test(text)),
      watched.complaints.join("; "),
    );
  },
);
