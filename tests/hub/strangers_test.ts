// Answers that no Hub gives, one row each: all end in one named error, without the token, and nothing is written outside of the cache.
import assert from "node:assert/strict";
import { join } from "node:path";
import { CompressoError } from "../../lib/core/errors.ts";
import { fetchFromHub } from "../../lib/hub/fetch.ts";
import { viewHub } from "../../lib/hub/view.ts";
import { pushToHub } from "../../lib/local/push_model.ts";
import { checkRefusal, type Refusal, rejects } from "../refuses.ts";
import { type Fault, sha, TOKEN } from "./fake_hub.ts";
import { HubRig, noise } from "./helpers.ts";

/** What a request whose path matches is answered with. */
type Answer = readonly [path: RegExp, answer: (rig: HubRig) => Response, method?: Fault["method"]];

interface Stranger {
  readonly name: string;
  readonly answers?: readonly Answer[];
  /** Files of the repository besides a config and, unless they hold an index, weights. */
  readonly files?: Readonly<Record<string, string>>;
  /** Data of the error. */
  readonly refused?: Refusal;
  /** What is asked for. Default: to fetch the model. */
  readonly ask?: (name: string) => Promise<unknown>;
}

const INDEX = "model.safetensors.index.json", WEIGHTS = noise(1000), LARGE_HASH = sha("sha256", WEIGHTS);
const CONFIG = "{}", CONFIG_HASH = sha("sha1", new TextEncoder().encode(`blob 2\0${CONFIG}`));
const realTimeout = setTimeout;

/** Shortens the waits before a further try; a silence stays as long as it is. */
function shortWaits(): Disposable {
  const short = (work: () => void, ms = 0): ReturnType<typeof setTimeout> =>
    realTimeout(work, ms > 30_000 ? ms : Math.min(ms, 5));
  Object.assign(globalThis, { setTimeout: short });
  return { [Symbol.dispose]: () => void (globalThis.setTimeout = realTimeout) };
}

const head = (status: number, headers: HeadersInit, body: BodyInit | null = null) => (): Response =>
  new Response(body, { status, headers });
const json = (value: unknown) => (): Response => Response.json(value);
const commit = (answer: Answer[1]): Pick<Stranger, "answers"> => ({ answers: [[/revision/, answer]] });
const list = (...entries: readonly unknown[]): Pick<Stranger, "answers"> => ({ answers: [[/tree/, json(entries)]] });
const index = (map: string): Pick<Stranger, "files"> => ({ files: { [INDEX]: `{"weight_map":${map}}` } });

/** An entry of a list of files. */
function entry(path: string, more: object = {}): object {
  return { type: "file", path, size: 10, oid: "0".repeat(40), ...more };
}

/** The config and weights in a list, the latter with another size or hash in their large file storage. */
const weights = (lfs: object): object[] => [
  entry("config.json", { oid: CONFIG_HASH, size: 2 }),
  entry("model.safetensors", { lfs: { oid: LARGE_HASH, size: 1000, ...lfs } }),
];

/** A body that never ends. */
function endless(): ReadableStream {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1 << 20)) });
}

/** Zeros, packed to a thousandth. */
async function packed(bytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const zeros = new Blob([new Uint8Array(bytes)]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(zeros).arrayBuffer());
}

const MOST_ANSWER = 1 << 25, BOMB = await packed(40_000_000), GZIP = { "content-encoding": "gzip" };
/** Four pages of it are more than a list may hold. */
const LONG_PATHS = JSON.stringify(Array(4400).fill(entry(Array(20).fill("d".repeat(200)).join("/"))));

const DOWNLOADS: readonly Stranger[] = [
  ...["../../../x", { x: 1 }, undefined].map((sha) => ({ name: `commit ${sha}`, ...commit(json({ sha })) })),
  { name: "a list in place of a commit", ...commit(json([])) },
  { name: "no content", ...commit(head(204, {})) },
  { name: "a page of HTML", ...commit(head(200, { "content-type": "text/html" }, "<html>login</html>")) },
  { name: "a commit that would unpack to 40 MB", ...commit(head(200, GZIP, BOMB)) },
  { name: "an endless commit", ...commit(() => new Response(endless())), refused: { value: MOST_ANSWER } },
  { name: "an endless 401", ...commit(() => new Response(endless(), { status: 401 })), refused: { value: 401 } },
  { name: "an endless 503", ...commit(() => new Response(endless(), { status: 503 })), refused: { value: 503 } },
  ...["-5", "Wed, 21 Oct 2099 07:28:00 GMT", "x"].map((after) =>
    stranger(`429, again after ${after}`, [/revision/, head(429, { "retry-after": after })], { value: 429 })
  ),
  { name: "an object in place of a list", answers: [[/tree/, json({ a: 1 })]] },
  { name: "a list of other things", ...list(null, 1, "x", [], {}, { type: "file" }, entry("x", { size: "x" })) },
  { name: "a deep list", answers: [[/tree/, () => new Response("[".repeat(1e6) + "]".repeat(1e6))]] },
  ...[-1, 0.5, 2 ** 53, null].map((size) => ({ name: `weights of ${size} bytes`, ...list(...weights({ size })) })),
  {
    name: "weights of 1e999 bytes",
    answers: [[/tree/, () => {
      return new Response(JSON.stringify(weights({ size: 77 })).replaceAll(":77", ":1e999"));
    }]],
  },
  ...["../".repeat(21) + "x", "/etc/passwd", 5].map((oid) => ({
    name: `the hash ${oid}`,
    ...list(...weights({ oid })),
  })),
  { name: "Git's hash ../x", ...list(weights({})[0], entry("model.safetensors", { oid: "../../../../x" })) },
  {
    name: "a config that is listed twice",
    ...list(...weights({}), entry("config.json", { oid: "1".repeat(40), size: 2 })),
    refused: { names: ["config.json", "1".repeat(40)] },
  },
  {
    name: "a file that is a folder, too",
    ...list(...weights({}), entry("config.json-x"), entry("config.json/a/x")),
    refused: { value: "config.json" },
  },
  {
    name: "a list of very long paths",
    answers: [[/tree/, (rig) => {
      return new Response(LONG_PATHS, { headers: { link: `<${rig.hub.url}/tree/more>; rel="next"` } });
    }]],
    refused: { value: 1 << 26 },
  },
  {
    name: "a next page of another host",
    answers: [[/tree/, (rig) => Response.json([], { headers: { link: `<${rig.hub.storeUrl}/2>; rel="next"` } })]],
  },
  { name: "a shard above the folder", ...index('{"a":"../../../x.safetensors"}'), refused: { names: INDEX } },
  { name: "a shard at /etc", ...index('{"a":"/etc/x.safetensors"}'), refused: { names: INDEX } },
  { name: "a shard of Windows", ...index('{"a":"..\\\\x.safetensors"}'), refused: { names: INDEX } },
  { name: "a shard that is a number", ...index('{"a":5}'), refused: { names: INDEX } },
  { name: "no shards", ...index("[]"), refused: { names: INDEX } },
  { name: "a shard that is not there", ...index('{"__proto__":"x.safetensors"}'), refused: { names: "x.safetensors" } },
  { name: "a redirect to a file", answers: [[/resolve/, head(302, { location: "file:///etc/passwd" })]] },
  { name: "a redirect to data", answers: [[/resolve/, head(302, { location: "data:text/plain,{}" })]] },
  {
    name: "weights that would unpack to 40 MB",
    answers: [[/signature/, head(200, GZIP, BOMB)]],
    refused: { names: "model.safetensors" },
  },
  {
    name: "endless weights",
    answers: [[/signature/, () => new Response(endless())]],
    refused: { names: "model.safetensors" },
  },
  { name: "empty weights", answers: [[/signature/, head(200, {})]], refused: { names: "model.safetensors" } },
];

/** What a storage is told to do; "PUT" stands for an address of it. */
const ACTIONS: readonly object[] = [
  { actions: { upload: 5 } },
  { actions: { upload: { href: "PUT", header: { "x\r\ny": "z" } } } },
  { actions: { upload: { href: "PUT", header: { chunk_size: "0" } } } },
  { actions: { upload: { href: "PUT", header: { chunk_size: "1000", "1": 5 } } } },
  { actions: { upload: { href: "PUT", header: { chunk_size: "1", "1": "PUT" } } } },
  { actions: { upload: { href: "PUT" }, verify: { href: "nonsense" } } },
  { error: { message: "\u202e\u009b no" } },
  { oid: "another" },
];

const PUSHES: readonly Stranger[] = [
  ...["x", [], [{ path: "x" }], [null]].map((files) =>
    stranger(`answers ${JSON.stringify(files)} about files`, [/preupload/, json({ files }), "POST"])
  ),
  ...ACTIONS.map((action) =>
    stranger(`stores by ${JSON.stringify(action)}`, [/objects\/batch/, ({ hub }) => {
      const text = JSON.stringify({ objects: [{ oid: LARGE_HASH, ...action }] });
      const body = text.replaceAll('"PUT"', `"${hub.storeUrl}/${LARGE_HASH}"`);
      return new Response(body, { headers: { "content-type": "application/json" } });
    }, "POST"])
  ),
  ...[403, 307, 500].map((status) =>
    stranger(`a storage that answers ${status}`, [/./, head(status, { location: "/elsewhere" }), "PUT"], {
      value: status,
    })
  ),
  stranger("no commit", [/\/commit\//, json({}), "POST"]),
  stranger("a commit that fails", [/\/commit\//, head(500, {}), "POST"], { value: 500 }),
  stranger("a commit at another host", [/\/commit\//, ({ hub }) => {
    return head(307, { location: `${hub.storeUrl}/c` })();
  }, "POST"]),
];

function stranger(name: string, answer: Answer, refused: Refusal = {}): Stranger {
  return { name, answers: [answer], refused };
}

/** Asks for each, and checks the errors. */
async function checkAll(rig: HubRig, strangers: readonly Stranger[], owner: string): Promise<void> {
  const { hub } = rig;
  Deno.env.set("HF_TOKEN", TOKEN);
  for (const [at, { name, answers = [], files = {}, refused, ask }] of strangers.entries()) {
    const repo = `${owner}/stranger-${at}`;
    hub.add(`models/${repo}`, {
      "config.json": CONFIG,
      ...INDEX in files ? {} : { "model.safetensors": WEIGHTS },
      ...files,
    });
    hub.store.clear();
    hub.faults.splice(
      0,
      Infinity,
      ...answers.map(([path, answer, method = "GET"]) => {
        return { path, method, times: Infinity, answer: () => answer(rig) };
      }),
    );
    const error = await (ask ?? fetchFromHub)(`hf:${repo}`).then(() => null, (error) => error);
    assert.ok(error instanceof CompressoError, `${name}: ${error?.stack ?? "it was taken"}`);
    checkRefusal(error, "input", refused);
    assert.ok(error.message.length <= 2048 && !error.message.includes(TOKEN), `${name}: ${error.message}`);
    // deno-lint-ignore no-control-regex
    assert.ok(!/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/.test(error.message), `${name}: ${error.message}`);
  }
  assert.deepEqual([...Deno.readDirSync(rig.home)].map(({ name }) => name).filter((name) => name !== "hub"), []);
  assert.ok(hub.seen.every(({ host, headers }) => host === "hub" || !headers.has("authorization")));
}

Deno.test("strange commits, lists, indexes and bodies are one named error each", async () => {
  await using rig = new HubRig();
  using _short = shortWaits();
  await checkAll(rig, DOWNLOADS, "maker");
  for (const folder of await rig.tree().then(Object.keys)) {
    assert.match(folder, /^(models--maker--stranger-\d+|\.locks)[/\\]/);
  }
});

Deno.test("a strange answer to a push is one named error", async () => {
  await using rig = new HubRig();
  using _short = shortWaits();
  const file = join(rig.home, "hub", "model.gguf");
  await Deno.mkdir(rig.at());
  await Deno.writeFile(file, WEIGHTS);
  await checkAll(rig, PUSHES.map((one) => ({ ...one, ask: (name) => pushToHub(file, name) })), "me");
});

Deno.test("a redirect of the Hub to another host, and one back, is followed without the token, with user info in its address too", async () => {
  await using rig = new HubRig();
  Deno.env.set("HF_TOKEN", TOKEN);
  const { hub } = rig, name = "maker/moved", id = `models/${name}`;
  hub.add(id, { "config.json": CONFIG, "model.safetensors": WEIGHTS });
  const moved = (location: string): () => Response => head(307, { location });
  hub.faults.push({ path: /revision/, times: 1, answer: moved(`${hub.storeUrl}/other/commit`) });
  hub.faults.push({ path: /other\/commit/, times: 1, answer: json({ sha: hub.commit(id) }) });
  const user = `${new URL(hub.url).host}@${new URL(hub.storeUrl).host}`;
  hub.faults.push({ path: /tree/, times: 1, answer: moved(`http://${user}/other/list`) });
  hub.faults.push({ path: /other\/list/, times: 1, answer: moved(`${hub.url}/api/${id}/tree/${hub.commit(id)}`) });
  const { path } = await fetchFromHub(`hf:${name}`);
  assert.deepEqual(await Deno.readFile(join(path, "model.safetensors")), WEIGHTS);
  const elsewhere = hub.seen.filter(({ host }) => host === "store");
  assert.equal(elsewhere.length, 3);
  for (const { headers } of elsewhere) assert.ok(!(headers.get("authorization") ?? "").includes(TOKEN));
});

Deno.test("names of JavaScript's own, and paths that leave the folder or are too long, do no harm next to a model", async () => {
  await using rig = new HubRig();
  const name = "maker/names", names = ["__proto__", "constructor", "hasOwnProperty", "toString"];
  const templates = ["additional_chat_templates/__proto__.jinja", "additional_chat_templates/constructor.jinja"];
  const bad = [
    "../x",
    "..",
    "",
    "x\u0000",
    "\u202e\u009b31m",
    "a//b",
    "./x",
    "C:\\x",
    "C:x",
    "a".repeat(300),
    "a/".repeat(5000) + "x",
  ];
  const files = [...names, ...templates, ...bad.map((part) => `additional_chat_templates/${part}.jinja`)];
  rig.hub.add(`models/${name}`, { "config.json": CONFIG, "model.safetensors": WEIGHTS, ...fromNames(files) });
  const { path } = await fetchFromHub(`hf:${name}`);
  const found = Object.keys(await rig.tree(path)).map((one) => one.split(COMMIT_IN).at(-1)?.replaceAll("\\", "/"))
    .sort();
  assert.deepEqual(
    found,
    [...templates, "config.json", "model.safetensors", "additional_chat_templates/...jinja"].sort(),
  );
  for (const own of names) {
    assert.equal(await Deno.readTextFile((await fetchFromHub(`hf:${name}:${own}`)).path), own);
  }
  const { files: system, path: root } = await viewHub(`hf:${name}`, { use: "model" });
  assert.equal(await system.text(`${root}/__proto__`), "__proto__");
});

/** The commit within a path of the cache. */
const COMMIT_IN = /snapshots[/\\][0-9a-f]{40}[/\\]/;

/** Files that hold their names. */
function fromNames(names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, name]));
}

Deno.test("what others left in the cache is fetched again or refused by its path", async () => {
  await using rig = new HubRig();
  const name = "maker/left", { hub } = rig;
  hub.add(`models/${name}`, { "config.json": CONFIG, "model.safetensors": WEIGHTS, "a/b/c.gguf": WEIGHTS });
  const { path } = await fetchFromHub(`hf:${name}`), commit = hub.commit(`models/${name}`);
  const folder = rig.at("models--maker--left"), blob = join(folder, "blobs", LARGE_HASH);
  const tree = join(folder, "trees", `${commit}.json`), at = join(path, "model.safetensors");
  /** Revisions are names that this process has not fetched yet. */
  const again = async (): Promise<Uint8Array> => {
    const revision = `v${hub.repos.get(`models/${name}`)?.refs.size}`;
    hub.repos.get(`models/${name}`)?.refs.set(revision, commit);
    return await Deno.readFile((await fetchFromHub(`hf:${name}@${revision}:model.safetensors`)).path);
  };
  await Deno.writeTextFile(join(path, "a"), "a file in place of a folder");
  await rejects(fetchFromHub(`hf:${name}:a/b/c.gguf`), "input", { names: join(path, "a") });
  await Deno.writeTextFile(join(folder, "refs", "main"), "../../x");
  for (const text of ["{", "[]", '{"format_version":1,"files":{"../../x":{"size":1,"blob_id":"x"}}}']) {
    await Deno.writeTextFile(tree, text);
    assert.deepEqual(await again(), WEIGHTS, text);
  }
  await Deno.remove(tree);
  await Deno.remove(blob);
  assert.deepEqual(await again(), WEIGHTS);
  await Deno.remove(at);
  await Deno.mkdir(at);
  assert.deepEqual(await again(), WEIGHTS);
  await Deno.remove(blob);
  await Deno.mkdir(join(blob, "x"), { recursive: true });
  await rejects(again(), "input", { names: blob });
  await Deno.remove(blob, { recursive: true });
  const lock = rig.at(".locks", "models--maker--left", `${LARGE_HASH}.lock`);
  await Deno.remove(lock);
  await Deno.mkdir(lock);
  await rejects(again(), "input", { names: lock });
  // A file where the cache's own folders would be, at any depth.
  for (const place of [tree, join(tree, "a", "b")]) {
    Deno.env.set("HF_HUB_CACHE", place);
    await rejects(again(), "input", { names: place });
  }
});

Deno.test("a password in HF_ENDPOINT is in no message, and an address with ? or # is refused", async () => {
  await using rig = new HubRig();
  const name = "maker/secret", host = new URL(rig.hub.url).host;
  const withUser = (rest: string): void => Deno.env.set("HF_ENDPOINT", `http://user:SECRET@${rest}`);
  using _short = shortWaits();
  const errors: CompressoError[] = [];
  for (const place of [host, host, "127.0.0.1:9", `${host}/?x`, `${host}/a#b`]) {
    withUser(place);
    if (errors.length === 1) rig.hub.faults.push({ path: /revision/, times: 1, answer: json({}) });
    const error = await fetchFromHub(`hf:${name}`).then(() => null, (error) => error);
    assert.ok(error instanceof CompressoError, String(error?.stack ?? "it was taken"));
    errors.push(error);
  }
  assert.deepEqual(errors.map(({ code }) => code), ["input", "input", "input", "usage", "usage"]);
  for (const { message } of errors) assert.ok(!message.includes("SECRET"), message);
});
