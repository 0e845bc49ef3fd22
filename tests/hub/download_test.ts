// Downloads from the Hub: what is fetched and kept, and what happens when something goes wrong on the way.
import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { CompressoError } from "../../lib/core/errors.ts";
import { fetchFromHub, type HubProgress } from "../../lib/hub/fetch.ts";
import { assertNames, checkRefusal, rejects } from "../refuses.ts";
import { OTHER_TOKEN, sha, TOKEN } from "./fake_hub.ts";
import { HubRig, noise } from "./helpers.ts";

const CONFIG = '{"model_type": "llama"}';

/** Names of repositories, as a name stands for one commit in a process. */
let count = 0;
const fresh = (): string => `maker/model-${++count}`;

/** The error of a fetch. */
async function refusedBy(name: string): Promise<CompressoError> {
  const error = await fetchFromHub(name).then(() => null, (error) => error);
  assert.ok(error instanceof CompressoError, String(error?.stack ?? error));
  return error;
}

Deno.test("a model is fetched into the cache in the form of huggingface_hub, only the files that are needed", async () => {
  await using rig = new HubRig();
  const name = fresh(), weights = noise(200_000);
  rig.hub.add(`models/${name}`, {
    "config.json": CONFIG,
    "model.safetensors": weights,
    "model-f16.gguf": noise(100),
    "pytorch_model.bin": noise(100),
    "tokenizer.json": "{}",
    "onnx/model.safetensors": noise(100),
    "additional_chat_templates/rag.jinja": "x",
  });
  const seen: HubProgress[] = [];
  const { path, source } = await fetchFromHub(`hf:${name}`, { onProgress: (progress) => seen.push(progress) });
  const commit = rig.hub.commit(`models/${name}`), folder = `models--${name.replace("/", "--")}`;
  assert.equal(source, `hf:${name}@${commit}`);
  assert.equal(path, rig.at(folder, "snapshots", commit));
  assert.deepEqual(await Deno.readFile(join(path, "model.safetensors")), weights);
  const tree = await rig.tree();
  const snapshots = Object.entries(tree).filter(([file]) => file.includes("/snapshots/"));
  assert.deepEqual(snapshots.map(([file]) => file.split(`${commit}/`)[1]).sort(), [
    ...["additional_chat_templates/rag.jinja", "config.json", "model.safetensors", "tokenizer.json"],
  ]);
  if (Deno.build.os !== "windows") {
    assert.equal(tree[`${folder}/snapshots/${commit}/model.safetensors`], `../../blobs/${sha("sha256", weights)}`);
    assert.match(
      tree[`${folder}/snapshots/${commit}/additional_chat_templates/rag.jinja`] ?? "",
      /^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/,
    );
  }
  assert.equal(await Deno.readTextFile(rig.at(folder, "refs", "main")), commit);
  const total = weights.length + CONFIG.length + 3;
  assert.deepEqual(seen.at(-1), { file: "model.safetensors", bytes: total, total });
  assert.ok(seen.every(({ bytes }, index) => bytes >= (seen[index - 1]?.bytes ?? 0)));
});

Deno.test("a connection that breaks in the middle is taken up where it broke, and a cut file by the next process", async () => {
  await using rig = new HubRig();
  const name = fresh(), weights = noise(300_000), { hub } = rig;
  hub.add(`models/${name}`, { "model.gguf": weights });
  hub.faults.push({ path: /signature/, times: 2, dropAfter: 100_000 });
  const { path } = await fetchFromHub(`hf:${name}`);
  assert.deepEqual(await Deno.readFile(path), weights);
  const ranges = hub.seen.filter(({ host }) => host === "store").map(({ headers }) => headers.get("range"));
  assert.deepEqual(ranges.length, 3);
  assert.equal(ranges[0], null);
  assert.ok(ranges.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range ?? "")), ranges.join());

  const other = fresh(), hash = sha("sha256", weights);
  hub.add(`models/${other}`, { "model.gguf": weights });
  const blobs = rig.at(`models--${other.replace("/", "--")}`, "blobs");
  await Deno.mkdir(blobs, { recursive: true });
  await Deno.writeFile(join(blobs, `${hash}.incomplete`), weights.subarray(0, 123_456));
  const before = hub.bytesOut;
  await fetchFromHub(`hf:${other}`);
  assert.equal(hub.bytesOut - before, weights.length - 123_456);
  assert.deepEqual(await Deno.readFile(join(blobs, hash)), weights);
});

Deno.test("a server without ranges, and a part that is longer or of other bytes, start the file anew", async () => {
  await using rig = new HubRig();
  const weights = noise(50_000), hash = sha("sha256", weights), { hub } = rig;
  for (const part of [weights.subarray(0, 20_000), noise(20_000, 7), noise(60_000, 7), noise(50_000, 7)]) {
    const name = fresh(), blobs = rig.at(`models--${name.replace("/", "--")}`, "blobs");
    hub.add(`models/${name}`, { "model.gguf": weights });
    await Deno.mkdir(blobs, { recursive: true });
    await Deno.writeFile(join(blobs, `${hash}.incomplete`), part);
    hub.faults.push({ path: /signature/, times: 1, ignoresRange: true });
    const { path } = await fetchFromHub(`hf:${name}`);
    assert.deepEqual(await Deno.readFile(path), weights);
    hub.faults.length = 0;
  }
});

Deno.test("bytes of another hash are refused and not kept, large or small", async () => {
  await using rig = new HubRig();
  for (const [file, hash] of [["model.gguf", "SHA-256"], ["config.json", "SHA-1"]] as const) {
    const name = fresh();
    rig.hub.add(`models/${name}`, { [file]: noise(5000), "model.safetensors": noise(10) });
    rig.hub.faults.push({
      path: file === "model.gguf" ? /signature/ : /config/,
      times: 1,
      change: (bytes) => bytes.fill(7),
    });
    const error = await refusedBy(`hf:${name}:${file}`);
    assert.equal(error.code, "input");
    assertNames(error.parts.rule ?? "", hash);
    const blobs = rig.at(`models--${name.replace("/", "--")}`, "blobs");
    const left = [...Deno.readDirSync(blobs)].map((entry) => join(blobs, entry.name));
    assert.ok(left.every((path) => path.endsWith(".incomplete") && Deno.statSync(path).size === 0), left.join());
    rig.hub.faults.length = 0;
    await fetchFromHub(`hf:${name}:${file}`);
  }
});

Deno.test("a large file that is announced with another hash, and redirects without an end, are refused before bytes come", async () => {
  await using rig = new HubRig();
  const name = fresh(),
    { hub } = rig,
    moved = (headers: Record<string, string>) => (): Response => new Response(null, { status: 302, headers });
  hub.add(`models/${name}`, { "model.gguf": noise(5000) });
  const other = { "x-linked-etag": `"${"0".repeat(64)}"`, "x-linked-size": "5000", location: `${hub.storeUrl}/x` };
  hub.faults.push({ path: /resolve/, times: 1, answer: moved(other) });
  checkRefusal(await refusedBy(`hf:${name}`), "input", { value: ["0".repeat(64), 5000] });
  hub.faults.push({ path: /resolve/, times: 99, answer: moved({ location: "/maker/again/resolve/main/model.gguf" }) });
  checkRefusal(await refusedBy(`hf:${name}`), "input", { value: 8 });
  assert.equal(hub.seen.filter(({ host }) => host === "store").length, 0);
});

Deno.test("no token goes to the host that large files are redirected to", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "config.json": CONFIG, "model.safetensors": noise(100) }, { access: "private" });
  Deno.env.set("HF_TOKEN", TOKEN);
  await fetchFromHub(`hf:${name}`);
  const store = rig.hub.seen.filter(({ host }) => host === "store"),
    hub = rig.hub.seen.filter(({ host }) => host === "hub");
  assert.ok(store.length > 0 && store.every(({ headers }) => !headers.has("authorization")));
  assert.ok(hub.every(({ headers }) => headers.get("authorization") === `Bearer ${TOKEN}`));
});

Deno.test("the token is also that of the file which `hf auth login` writes", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "model.gguf": noise(100) }, { access: "private" });
  await Deno.writeTextFile(join(rig.home, "token"), `${TOKEN}\n`);
  await fetchFromHub(`hf:${name}`);
});

Deno.test("a gated model says where its terms are accepted, with and without a token", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "model.gguf": noise(100) }, { access: "gated" });
  const error = await refusedBy(`hf:${name}`);
  assert.ok(error.parts.fix?.includes(`${rig.hub.url}/${name}`), error.message);
  checkRefusal(error, "input", { names: ["HF_TOKEN", `${rig.hub.url}/settings/tokens`] });
  assert.ok(!error.parts.value?.includes("403"), "no account was asked");
  Deno.env.set("HF_TOKEN", OTHER_TOKEN);
  checkRefusal(await refusedBy(`hf:${name}`), "input", { value: 403 });
  Deno.env.set("HF_TOKEN", TOKEN);
  await fetchFromHub(`hf:${name}`);
});

Deno.test("a wrong name, revision or file is answered with those that are near, a wrong token by where tokens are", async () => {
  await using rig = new HubRig();
  const name = "maker/SmolLM2-135M-Instruct";
  rig.hub.add(`models/${name}`, { "model-q8_0.gguf": noise(100) }, { branches: ["main", "release"] });
  const fixes = async (typed: string): Promise<string> => (await refusedBy(typed)).parts.fix ?? "";
  assertNames(await fixes("hf:maker/SmolLM2-135-Instruct"), `hf:${name}`);
  assertNames(await fixes("hf:taker/SmolLM2-135M-Instruct"), [`hf:${name}`, "HF_TOKEN"]);
  const unknown = await fixes("hf:nobody/nothing");
  assertNames(unknown, "HF_TOKEN");
  assert.ok(!unknown.includes("hf:"), "no name is near");
  assertNames(await fixes(`hf:${name}@relase`), `hf:${name}@release`);
  assertNames(await fixes(`hf:${name}:model-q8.gguf`), `hf:${name}:model-q8_0.gguf`);
  Deno.env.set("HF_TOKEN", "hf_old");
  assertNames(await fixes(`hf:${name}`), `${rig.hub.url}/settings/tokens`);
});

Deno.test("several GGUFs are listed with their sizes; a named one, or a folder, is taken", async () => {
  await using rig = new HubRig();
  const name = fresh(), { hub } = rig;
  hub.add(`models/${name}`, {
    "config.json": CONFIG,
    "m-q4.gguf": noise(100),
    "m-q8.gguf": noise(200_000),
    "half/config.json": CONFIG,
    "half/model.safetensors": noise(50),
  });
  const { value, fix } = (await refusedBy(`hf:${name}`)).parts;
  assert.equal(value, "m-q4.gguf (100 bytes), m-q8.gguf (0.2 MB)");
  assert.equal(fix, `name one, such as hf:${name}:m-q4.gguf`);
  assert.deepEqual(await Deno.readFile((await fetchFromHub(`hf:${name}:m-q4.gguf`)).path), noise(100));
  const { path, source } = await fetchFromHub(`hf:${name}@main:half`);
  assert.ok(path.endsWith("half") && source.endsWith(":half"));
  assert.deepEqual((await Deno.stat(join(path, "model.safetensors"))).size, 50);
  assert.equal(hub.fetched("m-q8.gguf").length, 0);
});

Deno.test("shards are those of the index", async () => {
  await using rig = new HubRig();
  const name = fresh(),
    index = { weight_map: { a: "model-1.safetensors", b: "model-2.safetensors", c: "model-1.safetensors" } };
  rig.hub.add(`models/${name}`, {
    "config.json": CONFIG,
    "model.safetensors.index.json": JSON.stringify(index),
    "model-1.safetensors": noise(10),
    "model-2.safetensors": noise(20),
    "other.safetensors": noise(30),
  });
  const { path } = await fetchFromHub(`hf:${name}`);
  const names = [...Deno.readDirSync(path)].map((entry) => entry.name).sort();
  assert.deepEqual(names, [
    "config.json",
    "model-1.safetensors",
    "model-2.safetensors",
    "model.safetensors.index.json",
  ]);
});

Deno.test("429 with Retry-After is waited for, and passing errors are tried again", async () => {
  await using rig = new HubRig();
  const name = fresh(), notes: string[] = [];
  rig.hub.add(`models/${name}`, { "model.gguf": noise(1000) });
  const busy = (): Response => new Response(null, { status: 429, headers: { "retry-after": "1" } });
  const limited = (): Response => new Response(null, { status: 429, headers: { ratelimit: '"api";r=0;t=1' } });
  rig.hub.faults.push({ path: /revision/, times: 1, answer: busy }, { path: /tree/, times: 1, answer: limited });
  rig.hub.faults.push({ path: /signature/, times: 1, answer: () => new Response(null, { status: 503 }) });
  const start = performance.now();
  await fetchFromHub(`hf:${name}`, { onNote: (line) => notes.push(line) });
  assert.ok(performance.now() - start >= 2000);
  assert.equal(notes.length, 2);
  for (const note of notes) assertNames(note, [new URL(rig.hub.url).host, "1 s"]);
  const other = fresh();
  rig.hub.add(`models/${other}`, { "model.gguf": noise(1000) });
  rig.hub.faults.push({
    path: /revision/,
    times: 1,
    answer: () => new Response(null, { status: 429, headers: { "retry-after": "9000" } }),
  });
  checkRefusal(await refusedBy(`hf:${other}`), "input", { value: [429, 9000] });
});

Deno.test("offline, and where the Hub is not there, the cache serves what it has", async () => {
  await using rig = new HubRig();
  const name = fresh(), lacking = fresh();
  rig.hub.add(`models/${name}`, { "config.json": CONFIG, "model.safetensors": noise(100), "second.gguf": noise(10) });
  const { path, source } = await fetchFromHub(`hf:${name}`);
  Deno.env.set("HF_HUB_OFFLINE", "1");
  const asked = rig.hub.seen.length;
  assert.deepEqual(await fetchFromHub(`hf:${name}@main`), { path, source });
  assertNames((await refusedBy(`hf:${lacking}`)).parts.fix ?? "", "HF_HUB_OFFLINE");
  assertNames((await refusedBy(`hf:${name}:second.gguf`)).parts.what, "second.gguf");
  assert.equal(rig.hub.seen.length, asked);
  Deno.env.delete("HF_HUB_OFFLINE");
  Deno.env.set("HF_ENDPOINT", "http://127.0.0.1:9");
  const notes: string[] = [];
  assert.equal((await fetchFromHub(`${source}:config.json`)).path, join(path, "config.json"));
  rig.hub.repos.clear();
  assert.equal(
    (await fetchFromHub(`hf:${name}:config.json`, { onNote: (line) => notes.push(line) })).path,
    join(path, "config.json"),
  );
  assertNames(notes.join("\n"), [`hf:${name}`, source.split("@")[1]?.slice(0, 12) ?? "no commit"]);
});

Deno.test({
  name: "a link that leaves the cache is refused",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await using rig = new HubRig();
    const name = fresh(), outside = await Deno.makeTempDir();
    rig.hub.add(`models/${name}`, { "model.gguf": noise(100) });
    const { path } = await fetchFromHub(`hf:${name}`);
    await Deno.writeFile(join(outside, "secret"), noise(100));
    await Deno.remove(path);
    await Deno.symlink(join(outside, "secret"), path);
    const secret = await Deno.realPath(join(outside, "secret"));
    checkRefusal(await refusedBy(`hf:${name}:model.gguf`), "input", { value: secret, names: "HF_HUB_CACHE" });
    const other = fresh();
    rig.hub.add(`models/${other}`, { "model.gguf": noise(100) });
    await Deno.symlink(outside, rig.at(`models--${other.replace("/", "--")}`));
    checkRefusal(await refusedBy(`hf:${other}`), "input", {
      value: await Deno.realPath(outside),
      names: "HF_HUB_CACHE",
    });
    assert.deepEqual([...Deno.readDirSync(outside)].map((entry) => entry.name).sort(), ["secret"]);
    await Deno.remove(outside, { recursive: true });
  },
});

Deno.test("files whose paths would leave their folder are not listed, and wrong names are refused", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, {
    "../../evil.gguf": noise(10),
    "/etc/evil.gguf": noise(10),
    "a\\b.gguf": noise(10),
    "m.gguf": noise(10),
  });
  assert.ok((await fetchFromHub(`hf:${name}`)).path.endsWith("m.gguf"));
  for (
    const typed of [
      "hf:model",
      "hf:a/b/c",
      "hf:a/b@",
      "hf:a/b:../x",
      "hf:a/b:/x",
      "hf:a/..",
      "hf:a--b/c",
      "hf:a/b@../x",
      "hf:a/b c",
    ]
  ) {
    assert.equal((await refusedBy(typed)).code, "usage", typed);
  }
});

Deno.test("a bit that changed without size and time is found by verify alone, named, and fetched again by the next use", async () => {
  await using rig = new HubRig();
  for (const file of ["config.json", "model.safetensors"]) {
    const name = fresh(), weights = noise(5000);
    rig.hub.add(`models/${name}`, { "config.json": CONFIG, "model.safetensors": weights });
    const { path } = await fetchFromHub(`hf:${name}`), at = join(path, file);
    await fetchFromHub(`hf:${name}`, { verify: true });
    const { mtime, atime } = await Deno.stat(at), bytes = await Deno.readFile(at), real = await Deno.realPath(at);
    bytes[7] = (bytes[7] ?? 0) ^ 1;
    await Deno.writeFile(real, bytes);
    await Deno.utime(real, atime ?? 0, mtime ?? 0);
    // Another name of the same file: a name stands for its files as long as the process runs.
    await fetchFromHub(`hf:${name}@main`);
    assert.deepEqual(await Deno.readFile(at), bytes);
    const hash = basename(real), asked = rig.hub.bytesOut;
    for (const names of [`hf:${name}@main`, `hf:${name}@${rig.hub.commit(`models/${name}`)}`]) {
      await rejects(fetchFromHub(names, { verify: true }), "input", {
        names: [`hf:${name}`, file, hash, real],
        value: sha(hash.length === 64 ? "sha256" : "sha1", ...hash.length === 64 ? [bytes] : [blobHead(bytes), bytes]),
      });
    }
    assert.equal(rig.hub.bytesOut, asked);
    const whole = file === "config.json" ? new TextEncoder().encode(CONFIG) : weights;
    assert.deepEqual(await Deno.readFile(join((await fetchFromHub(`hf:${name}:${file}`)).path)), whole);
    await fetchFromHub(`hf:${name}@main`, { verify: true });
  }
});

const blobHead = (bytes: Uint8Array): Uint8Array => new TextEncoder().encode(`blob ${bytes.length}\0`);

Deno.test("several at once fetch a file once", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "model.gguf": noise(100_000) });
  rig.hub.faults.push({ path: /signature/, times: 1, slow: 10 });
  const paths = await Promise.all(
    [`hf:${name}`, `hf:${name}@main`, `hf:${name}:model.gguf`].map((one) => fetchFromHub(one)),
  );
  assert.equal(new Set(paths.map(({ path }) => path)).size, 1);
  assert.equal(rig.hub.seen.filter(({ host }) => host === "store").length, 1);
});

Deno.test("an aborted download keeps what is there", async () => {
  await using rig = new HubRig();
  const name = fresh(), weights = noise(400_000);
  rig.hub.add(`models/${name}`, { "model.gguf": weights });
  rig.hub.faults.push({ path: /signature/, times: 1, slow: 2 });
  const abort = new AbortController();
  const work = fetchFromHub(`hf:${name}`, {
    signal: abort.signal,
    onProgress: ({ bytes }) => {
      if (bytes > 50_000) abort.abort(new Error("enough"));
    },
  });
  await assert.rejects(work, /enough/);
  const { path } = await fetchFromHub(`hf:${name}`);
  const [, from] = /^bytes=(\d+)-$/.exec(rig.hub.seen.at(-1)?.headers.get("range") ?? "") ?? [];
  assert.ok(Number(from) > 50_000, from);
  assert.deepEqual(await Deno.readFile(path), weights);
});
