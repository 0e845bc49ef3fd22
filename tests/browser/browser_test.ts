// The library in a browser: bundled without any of Deno's or Node's names, it prunes the demo by WebGPU.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { modelPath } from "../../lib/local/open_model.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { sharedDevice } from "../device.ts";
import { browserTest, openPage } from "../report/browser.ts";
import type { Outcome } from "./entry.ts";

const TOKENS = [1, 5, 60, 200, 7, 33, 150, 2];

/** The entry with all that it reaches, as one script. */
async function bundle(): Promise<string> {
  const entry = fileURLToPath(new URL("entry.ts", import.meta.url));
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", entry],
    env: { NO_COLOR: "1" },
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Serves the script, a page with it and the demo's files, and takes the GGUF that the page posts. */
function serve(script: string, out: string): { readonly url: string; readonly close: () => Promise<void> } {
  const page = "<!doctype html><link rel=icon href=data:,><script type=module src=script.js></script>";
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/") return new Response(page, { headers: { "content-type": "text/html" } });
    if (pathname === "/script.js") return new Response(script, { headers: { "content-type": "text/javascript" } });
    if (pathname === "/gguf" && request.body) {
      await Deno.writeFile(out, request.body);
      return new Response("");
    }
    return new Response(await Deno.readFile(await modelPath("demo") + pathname.replace(/^\/demo/, "")));
  });
  return { url: `http://127.0.0.1:${server.addr.port}/`, close: () => server.shutdown() };
}

browserTest(
  "in a browser the demo is pruned and sliced, and its GGUF has the logits of the masked model",
  async (browser) => {
    const script = await bundle(), folder = await Deno.makeTempDir({ prefix: "compresso_browser_" });
    assert.deepEqual(script.match(/\bDeno\.\w+|["']node:\w+["']/g), null, "names of a runtime in the bundle");
    const server = serve(script, `${folder}/model.gguf`);
    try {
      const { page, complaints } = await openPage(browser, server.url);
      const names = await Array.fromAsync(Deno.readDir(await modelPath("demo")), ({ name }) => `demo/${name}`);
      const options = { model: names, tokens: TOKENS };
      const { adapter, losses, logits } = await page.evaluate(`run(${JSON.stringify(options)})`) as Outcome;
      assert.deepEqual(complaints, []);
      assert.match(adapter, /swiftshader/i);
      assert.ok(losses.length === 4 && losses.every((loss) => loss > 0 && loss < 20), losses.join(" "));
      using pruned = await loadModel(`${folder}/model.gguf`, { device: await sharedDevice(), baseDtype: "f32" });
      const own = await pruned.logits(TOKENS);
      assert.equal(own.length, logits.length);
      const range = Math.max(...logits) - Math.min(...logits);
      const worst = own.reduce((most, value, index) => Math.max(most, Math.abs(value - (logits[index] ?? NaN))), 0);
      assert.ok(range > 1 && worst < 1e-5 * range, `they differ by ${worst} of a range of ${range}`);
    } finally {
      await server.close();
      await Deno.remove(folder, { recursive: true });
    }
  },
  { gpu: true },
);
