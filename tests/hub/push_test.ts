// Uploads of a run's folder to the Hub: what is sent where, what is not sent twice, and who may not.
import assert from "node:assert/strict";
import { join } from "node:path";
import { type PushOptions, pushToHub } from "../../lib/local/push_model.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { checkRefusal } from "../refuses.ts";
import { OTHER_TOKEN, TOKEN } from "./fake_hub.ts";
import { HubRig, noise } from "./helpers.ts";

/** A folder as a run leaves it, with files of all sizes. */
async function runFolder(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "compresso_push_" });
  const files: Record<string, Uint8Array> = {
    "run.json": new TextEncoder().encode("{}"),
    "records.jsonl": new Uint8Array(),
    "calibration.jsonl": noise(10),
    ".lock": noise(1),
    "checkpoint.safetensors": noise(10),
    "model.gguf": noise(700_001),
    "model/config.json": new TextEncoder().encode("{}"),
    "model/README.md": new TextEncoder().encode("# A model"),
    "model/model.safetensors": noise(300_000, 2),
    "adapter/adapter_model.safetensors": noise(100, 3),
  };
  for (const [path, bytes] of Object.entries(files)) {
    await Deno.mkdir(join(folder, path, ".."), { recursive: true });
    await Deno.writeFile(join(folder, path), bytes);
  }
  return folder;
}

const refused = async (path: string, name: string, options?: PushOptions): Promise<CompressoError> => {
  const error = await pushToHub(path, name, options).then(() => null, (error) => error);
  assert.ok(error instanceof CompressoError, String(error?.stack ?? error));
  return error;
};

Deno.test("a run's folder becomes a repository: the model at its top with its card, large files whole or in parts", async () => {
  await using rig = new HubRig();
  Deno.env.set("HF_TOKEN", TOKEN);
  const folder = await runFolder(), { hub } = rig, shares: number[] = [];
  const { source, files } = await pushToHub(folder, "hf:me/small", {
    isPrivate: true,
    onProgress: ({ bytes, total }) => shares.push(bytes / total),
  });
  const repo = hub.repos.get("models/me/small");
  assert.equal(repo?.access, "private");
  assert.deepEqual([...repo?.files.keys() ?? []].sort(), [
    "README.md",
    "adapter/adapter_model.safetensors",
    "config.json",
    "model.gguf",
    "model.safetensors",
    "records.jsonl",
    "run.json",
  ]);
  assert.equal(files.length, 7);
  for (const [path, bytes] of repo?.files ?? []) {
    const from = [`model/${path}`, path].map((one) => join(folder, one)).find((one) => {
      try {
        return Deno.statSync(one).isFile;
      } catch {
        return false;
      }
    });
    assert.deepEqual(bytes, await Deno.readFile(from ?? ""), path);
  }
  assert.equal(source, `hf:me/small@${hub.commit("models/me/small")}`);
  const puts = hub.seen.filter(({ method }) => method === "PUT");
  assert.equal(puts.length, 1 + 1 + 3); // 300 KB and the adapter whole, 700 KB in parts of 256 KiB
  assert.ok(puts.every(({ host, headers }) => host === "store" && !headers.has("authorization")));
  assert.ok(shares.every((share, index) => share >= (shares[index - 1] ?? 0)) && shares.at(-1) === 1);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("what the Hub has is not sent again, and a storage that fails in passing is asked again", async () => {
  await using rig = new HubRig();
  Deno.env.set("HF_TOKEN", TOKEN);
  const folder = await runFolder(),
    { hub } = rig,
    count = (): number => hub.seen.filter(({ method }) => method === "PUT").length;
  // The last part fails for good: the files before it are there.
  hub.faults.push({
    path: /\/3\?signature/,
    method: "PUT",
    times: 9,
    answer: () => new Response(null, { status: 403 }),
  });
  checkRefusal(await refused(folder, "hf:me/small"), "input", { value: 403 });
  assert.equal(hub.repos.get("models/me/small")?.files.size, 0);
  const before = count();
  hub.faults.length = 0;
  hub.faults.push({
    path: /\/2\?signature/,
    method: "PUT",
    times: 1,
    answer: () => new Response(null, { status: 500 }),
  });
  await pushToHub(folder, "hf:me/small");
  assert.ok(count() - before <= 5, String(count() - before));
  assert.equal(hub.repos.get("models/me/small")?.files.size, 7);
  const again = count();
  await Deno.writeTextFile(join(folder, "model/README.md"), "# Another");
  await pushToHub(folder, "hf:me/small", { message: "Card" });
  assert.equal(count(), again);
  assert.equal(new TextDecoder().decode(hub.repos.get("models/me/small")?.files.get("README.md")), "# Another");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a folder of a model and a GGUF are pushed as they are; other paths, names and tokens are refused", async () => {
  await using rig = new HubRig();
  const folder = await runFolder(), { hub } = rig;
  checkRefusal(await refused(folder, "hf:me/small"), "usage", { names: ["HF_TOKEN", `${hub.url}/settings/tokens`] });
  Deno.env.set("HF_TOKEN", TOKEN);
  await pushToHub(join(folder, "model"), "hf:me/folder");
  assert.deepEqual([...hub.repos.get("models/me/folder")?.files.keys() ?? []].sort(), [
    "README.md",
    "config.json",
    "model.safetensors",
  ]);
  await pushToHub(join(folder, "model.gguf"), "hf:me/gguf");
  assert.deepEqual([...hub.repos.get("models/me/gguf")?.files.keys() ?? []], ["model.gguf"]);
  assert.equal((await refused(folder, "hf:me/small:file")).code, "usage");
  assert.equal((await refused(folder, "me/small")).code, "usage");
  const adapter = join(folder, "adapter");
  checkRefusal(await refused(adapter, "hf:me/small"), "input", { value: ["run.json", "config.json"], names: adapter });
  Deno.env.set("HF_TOKEN", OTHER_TOKEN);
  checkRefusal(await refused(folder, "hf:me/folder"), "input", { names: `${hub.url}/settings/tokens` });
  await Deno.remove(folder, { recursive: true });
});
