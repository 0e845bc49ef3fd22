// Names and sizes of the files that a run is made from.
import assert from "node:assert/strict";
import { originOf } from "../../lib/run/origin.ts";
import { TemporaryFolder } from "../cli/helpers/cli.ts";

Deno.test("originOf() gives names without folders, sizes of files and of the weights in folders, and models of the Hub by owner, name and commit", async () => {
  using folder = new TemporaryFolder();
  const commit = "0123abcdef".repeat(4), cached = folder.at("models--owner--small-model", "snapshots", commit);
  await Deno.mkdir(cached, { recursive: true });
  await Deno.writeFile(`${cached}/model.safetensors`, new Uint8Array(100));
  await Deno.writeFile(`${cached}/config.json`, new Uint8Array(7));
  await Deno.writeFile(folder.at("rows.jsonl"), new Uint8Array(33));
  const data = folder.at("rows.jsonl");
  assert.deepEqual(await originOf({ model: cached, data, calibration: null }), [
    { role: "model", name: "owner/small-model", bytes: 100, source: `hf:owner/small-model@${commit}` },
    { role: "data", name: "rows.jsonl", bytes: 33 },
  ]);
  const [demo] = await originOf({ model: "demo", data: null, calibration: data });
  assert.deepEqual([demo?.name, (demo?.bytes ?? 0) > 1e6], ["demo", true]);
});
