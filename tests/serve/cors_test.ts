// Web pages of other origins, by the headers that browsers send and look at; and the temperature of requests that give none.
import assert from "node:assert/strict";
import { serveModel } from "../../lib/serve/serve.ts";
import { refuses } from "../refuses.ts";
import { NAME, serveDemo } from "./helpers/server.ts";

const COMPLETIONS = "/v1/completions", PAGE = "http://localhost:5173";
const PREFLIGHT = {
  origin: PAGE,
  "access-control-request-method": "POST",
  "access-control-request-headers": "authorization,content-type",
};

Deno.test("a page of the allowed origin gets past its preflight without a key, and can read answers and errors", async () => {
  await using served = await serveDemo({ apiKey: "open", cors: PAGE });
  const url = `${served.server.url}${COMPLETIONS}`;
  const asked = await fetch(url, {
    method: "OPTIONS",
    headers: { ...PREFLIGHT, "access-control-request-private-network": "true" },
  });
  assert.equal(asked.status, 204);
  assert.equal(asked.headers.get("access-control-allow-origin"), PAGE);
  assert.equal(asked.headers.get("access-control-allow-methods"), "GET, HEAD, POST");
  assert.equal(asked.headers.get("access-control-allow-headers"), "authorization,content-type");
  assert.equal(asked.headers.get("access-control-allow-private-network"), "true");
  const fields = { model: NAME, prompt: "Tom", max_tokens: 1 };
  for (const [key, status] of [["open", 200], ["shut", 401]] as const) {
    const headers = { origin: PAGE, authorization: `Bearer ${key}` };
    for (const stream of [false, true]) {
      const response = await served.post(COMPLETIONS, { ...fields, stream }, { headers });
      await response.body?.cancel();
      assert.equal(response.status, status);
      assert.equal(response.headers.get("access-control-allow-origin"), PAGE);
      assert.match(response.headers.get("vary") ?? "", /origin/);
      assert.match(response.headers.get("access-control-expose-headers") ?? "", /retry-after/);
    }
  }
});

Deno.test("every page is let in by *, and none without the option", async () => {
  await using open = await serveDemo({ cors: "*" });
  const asked = await fetch(`${open.server.url}${COMPLETIONS}`, { method: "OPTIONS", headers: PREFLIGHT });
  assert.deepEqual([asked.status, asked.headers.get("access-control-allow-origin")], [204, "*"]);
  // Without the headers of a preflight OPTIONS is a method like others.
  const plain = await fetch(`${open.server.url}${COMPLETIONS}`, { method: "OPTIONS" });
  assert.equal(plain.status, 405);
  await plain.body?.cancel();
  await using closed = await serveDemo();
  const refused = await fetch(`${closed.server.url}${COMPLETIONS}`, { method: "OPTIONS", headers: PREFLIGHT });
  assert.deepEqual([refused.status, refused.headers.get("access-control-allow-origin")], [405, null]);
  await refused.body?.cancel();
});

Deno.test("a request without temperature has that of the server, and its own goes before", async () => {
  await using served = await serveDemo({ temperature: 0 });
  const ask = async (fields: object): Promise<string> => {
    const response = await served.post(COMPLETIONS, { model: NAME, prompt: "Tom went", max_tokens: 8, ...fields });
    return (await response.json()).choices[0].text;
  };
  const likeliest = await ask({ temperature: 0 });
  assert.deepEqual(await Promise.all([1, 2, 3].map((seed) => ask({ seed }))), Array(3).fill(likeliest));
  const drawn = await Promise.all([1, 2, 3].map((seed) => ask({ seed, temperature: 2 })));
  assert.ok(drawn.some((text) => text !== likeliest));
});

Deno.test("an origin that is none and a temperature out of range are refused", async () => {
  await using served = await serveDemo();
  for (const cors of ["localhost", "http://a.example/", "http://a.example/page", "null", ""]) {
    refuses(() => serveModel(served.model, { port: 0, cors }), "usage", { option: "cors" });
  }
  for (const temperature of [-1, 2.5, NaN]) {
    refuses(() => serveModel(served.model, { port: 0, temperature }), "usage", {
      option: "temperature",
      names: "[0, 2]",
    });
  }
});
