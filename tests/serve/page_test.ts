// The page at `/` in a real browser: a conversation over the server's own API.
import "../pooled_gpu.ts";
import assert from "node:assert/strict";
import { assertAccessible, browserTest, openPage } from "../report/browser.ts";
import { serveDemo } from "./helpers/server.ts";

/** The demo answers "in Essen". */
const QUESTION =
  "Answer the question.\nStory: Max saw eighteen stars. Rosa took the daisy. Paul met the cricket. John went to Essen. Where is John?";

browserTest("a browser chats on a server's page with the server's key, and asks nobody else", async (browser) => {
  await using served = await serveDemo({ template: false, apiKey: "sesame", temperature: 0 });
  const { url } = served.server, watched = await openPage(browser, `${url}/`);
  const { page, complaints, requests } = watched;
  await page.locator(".note", { hasText: "API key" }).waitFor();
  await assertAccessible(watched, "the page of a server");
  await page.fill("#key", "sesame");
  const questions = [QUESTION, "<b>Where</b> is John?"];
  for (const [index, question] of questions.entries()) {
    await page.fill("#text", question);
    await page.keyboard.press("Enter");
    await page.locator(".assistant").nth(index).waitFor();
    await page.locator("#send", { hasText: "Send" }).waitFor();
  }
  await page.locator("h1", { hasText: "tiny" }).waitFor();
  assert.deepEqual(await page.locator(".user").allTextContents(), questions);
  assert.equal(await page.locator(".assistant").first().textContent(), "in Essen");
  await page.click("#again");
  assert.equal(await page.locator("#log p").count(), 0);
  const own = requests.filter((address) => address !== "data:,");
  assert.deepEqual([...new Set(own)], [`${url}/`, `${url}/v1/models`, `${url}/v1/chat/completions`]);
  assert.deepEqual(complaints.filter((text) => !text.includes("401")), []);

  // A model that was not made to chat continues a text, until it is stopped.
  await using base = await serveDemo({ template: false, style: false, endless: true });
  const { page: plain } = await openPage(browser, `${base.server.url}/`);
  await plain.fill("#text", "John went to");
  await plain.keyboard.press("Enter");
  await plain.locator(".note", { hasText: "continues your text" }).waitFor();
  await plain.locator(".assistant", { hasText: /\w/ }).waitFor();
  await plain.click("#send");
  // On a machine that is busy elsewhere the text may have ended before.
  await plain.locator(".note", { hasText: /Stopped|cut off/ }).waitFor();
});
