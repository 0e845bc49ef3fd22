// The report in a real browser: nothing asked for from elsewhere, no complaint, figures, accessibility, keyboard, print.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { renderReport } from "../../lib/report/report.ts";
import { assertAccessible, browserTest, openPage } from "./browser.ts";
import { madeRecord, madeRun } from "./made_run.ts";

const HOSTILE = `<script>document.title = "hacked"</script>"'&<img src=x onerror=alert(1)>`;

/** A report as a file; the folder goes when disposed. */
async function reportFile(html: string): Promise<{ readonly url: string; [Symbol.dispose](): void }> {
  const folder = await Deno.makeTempDir({ prefix: "compresso_report_" });
  await Deno.writeTextFile(`${folder}/report.html`, html);
  return {
    url: pathToFileURL(`${folder}/report.html`).href,
    [Symbol.dispose]: () => Deno.removeSync(folder, { recursive: true }),
  };
}

const ALARM = {
  monitor: "divergence",
  step: 12,
  action: "warn",
  restored: null,
  message: "the loss is 0.6 of the way to a guess (threshold 0.5)",
  change: "lower the learning rates",
  options: [],
} as const;

browserTest(
  "a report shows its figures, asks for nothing, and has nothing that axe or the console complains of, in light and wide, dark and narrow",
  async (browser) => {
    using file = await reportFile(renderReport([madeRun("learned", { alarms: [ALARM] })]));
    for (
      const view of [
        { width: 1280 },
        { scheme: "dark" as const, width: 390, height: 844 },
        { width: 390, height: 844 },
        { scheme: "dark" as const, width: 1280 },
      ]
    ) {
      const watched = await openPage(browser, file.url, view), { page } = watched, what = JSON.stringify(view);
      const kind = view.width < 680 ? "narrow" : "wide";
      assert.deepEqual(
        await page.locator(`figure .${kind} > svg > title`).allTextContents(),
        [
          ...["Loss", "Sparsity", "Masks", "Layers as the masks learn", "Sparsity of each layer"],
          ...["Multipliers λ", "Gradient norm", "Learning rate", "Speed", "GPU memory"],
        ],
      );
      for (const svg of await page.locator(`figure .${kind} svg`).all()) {
        const box = await svg.boundingBox();
        assert.ok(box && box.width >= 300 && box.height >= 60, `${what}: a figure of ${box?.width} × ${box?.height}`);
        assert.ok(box.x >= 0 && box.x + box.width <= view.width, `${what}: a figure is cut off`);
      }
      const small = await page.evaluate(
        `[...document.querySelectorAll("figure .${kind} svg text:not([transform])")].map((text) => text.getBoundingClientRect().height)
          .filter((height) => height < 11).length`,
      );
      assert.equal(small, 0, `${what}: texts of figures are large enough to read`);
      assert.deepEqual(await page.getByRole("img").count(), 10, "all figures are images to a screen reader");
      assert.ok(
        await page.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        `${what}: the page scrolls sideways`,
      );
      for (const details of await page.locator("details").all()) {
        await details.evaluate((one) => one.setAttribute("open", ""));
      }
      await assertAccessible(watched, `${what}, with all data open`);
      const ground = await page.evaluate("getComputedStyle(document.body).backgroundColor");
      assert.equal(ground, view.scheme === "dark" ? "rgb(13, 17, 23)" : "rgb(255, 255, 255)");
      assert.deepEqual(watched.complaints, [], what);
      assert.deepEqual(watched.requests, [file.url], "the file alone is asked for");
      await page.context().close();
    }
  },
);

browserTest("several runs with hostile names and texts are shown as text", async (browser) => {
  const other = madeRun(HOSTILE, {
    adapter: HOSTILE,
    options: { prompt: HOSTILE, [HOSTILE]: 1 },
    evaluations: [{
      name: HOSTILE,
      file: HOSTILE,
      scores: [{ task: HOSTILE, metric: HOSTILE, value: 1, stderr: null, count: null, change: null }],
    }],
    records: [madeRecord(1), madeRecord(2)],
    alarms: [{ ...ALARM, message: HOSTILE, change: HOSTILE }],
  });
  using file = await reportFile(renderReport([madeRun("plain"), other], { title: HOSTILE }));
  const watched = await openPage(browser, file.url), { page } = watched;
  assert.equal(await page.title(), HOSTILE);
  assert.equal(await page.locator("h1").textContent(), HOSTILE);
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.locator("script").count(), 1);
  assert.ok(
    (await page.locator("figure svg text").allTextContents()).includes(HOSTILE),
    "the legend has the name as it is",
  );
  await assertAccessible(watched, "two runs");
  assert.deepEqual(watched.complaints, []);
});

browserTest("runs of long names stand within page and figures", async (browser) => {
  const runs = ["one", "a_folder_of_a_long_name/".repeat(7), "three"].map((name) => madeRun(name));
  using file = await reportFile(renderReport(runs));
  const watched = await openPage(browser, file.url, { width: 800 }), { page } = watched;
  assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways");
  const outside = await page.evaluate(
    `[...document.querySelectorAll("figure .wide svg text")].filter((text) => {
      const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
      return inner.left < outer.left || inner.right > outer.right;
    }).map((text) => text.textContent)`,
  );
  assert.deepEqual(outside, []);
  assert.deepEqual(watched.complaints, []);
});

browserTest("the values of a chart and its data are reached by keyboard alone", async (browser) => {
  using file = await reportFile(renderReport([madeRun("learned")]));
  const watched = await openPage(browser, file.url), { page } = watched;
  const focused = (): Promise<unknown> => page.evaluate("document.activeElement.id");
  for (let presses = 0; presses < 40 && await focused() !== "loss-plot"; presses++) await page.keyboard.press("Tab");
  assert.equal(await focused(), "loss-plot");
  await page.keyboard.press("End");
  const value = (await page.locator("#loss-plot output").textContent()) ?? "";
  const loss = madeRecord(40).loss;
  const [, shown = ""] = /^step 40: loss ([\d.]+); smoothed [\d.]+$/.exec(value) ?? [];
  assert.ok(Math.abs(Number(shown) - loss) < 0.01, `${value}, the loss is ${loss}`);
  await page.keyboard.press("ArrowLeft");
  assert.match((await page.locator("#loss-plot output").textContent()) ?? "", /^step 39: /);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#loss-plot output").textContent(), "");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "loss-summary");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#loss-details table").isVisible(), true);
  assert.equal(await page.locator("#loss-details tbody tr").count(), 40);
  assert.deepEqual(watched.complaints, []);
});

browserTest("without scripts, and in print, the figures are there and nothing is cut off", async (browser) => {
  using file = await reportFile(renderReport([madeRun("learned")]));
  const { page, complaints } = await openPage(browser, file.url, { script: false, scheme: "dark", width: 700 });
  assert.equal(await page.getByRole("img").count(), 10);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  assert.equal(await page.locator("nav").isVisible(), false);
  const [ground, ink] = await page.evaluate(
    "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg .ink')).fill]",
  ) as string[];
  assert.deepEqual([ground, ink], ["rgb(255, 255, 255)", "rgb(27, 31, 36)"], "paper is white whatever the screen");
  const pdf = await page.pdf({ format: "A4" });
  assert.equal(new TextDecoder().decode(pdf.subarray(0, 5)), "%PDF-");
  assert.deepEqual(complaints, []);
});
