// A hostile or broken Hub: each answer ends in a named error, within bounded time and memory, and the token is in no message.
import assert from "node:assert/strict";
import { join } from "node:path";
import { CompressoError } from "../../lib/core/errors.ts";
import { fetchFromHub } from "../../lib/hub/fetch.ts";
import { viewHub } from "../../lib/hub/view.ts";
import { pushToHub } from "../../lib/local/push_model.ts";
import { checkRefusal, rejects } from "../refuses.ts";
import { sha, TOKEN } from "./fake_hub.ts";
import { HubRig, noise } from "./helpers.ts";

let count = 0;
const fresh = (): string => `maker/hostile-${++count}`;
const realTimeout = setTimeout;

/** Makes a silence of 40 seconds half a second long. */
function fastMinutes(): Disposable {
  const fast = (work: () => void, ms = 0): ReturnType<typeof setTimeout> => realTimeout(work, ms > 30_000 ? 500 : ms);
  Object.assign(globalThis, { setTimeout: fast });
  return { [Symbol.dispose]: () => void (globalThis.setTimeout = realTimeout) };
}

/** The error of work, which has to end within some seconds. */
async function errorOf(work: Promise<unknown>, seconds = 15): Promise<CompressoError> {
  const { promise, resolve } = Promise.withResolvers<Error>();
  const timer = realTimeout(() => resolve(new Error("it does not end")), 1000 * seconds);
  const error = await Promise.race([work.then(() => new Error("it was taken"), (error) => error), promise]);
  clearTimeout(timer);
  assert.ok(error instanceof CompressoError, String(error?.stack ?? error));
  return error;
}

/** A body that begins and never ends: silent, or with ever more bytes. */
function endless(bytes: Uint8Array<ArrayBuffer>, { isSilent }: { readonly isSilent: boolean }): ReadableStream {
  return new ReadableStream({
    start: (controller) => controller.enqueue(bytes),
    pull: (controller) => isSilent ? new Promise(() => {}) : controller.enqueue(new Uint8Array(1 << 20)),
  });
}

Deno.test({
  name: "answers that stop after some bytes end after one silence: commit, list, error, range, file",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using rig = new HubRig();
    using _fast = fastMinutes();
    for (const [path, status] of [[/revision/, 200], [/tree/, 200], [/revision/, 401], [/signature/, 206]] as const) {
      const name = fresh();
      rig.hub.add(`models/${name}`, { "model.gguf": noise(100_000) });
      rig.hub.faults.push({
        path,
        times: 99,
        answer: () =>
          new Response(endless(new Uint8Array(3), { isSilent: true }), {
            status,
            headers: { "content-type": "application/json", "content-range": "bytes 0-65535/100000" },
          }),
      });
      const look = async (): Promise<void> => {
        const { files, path } = await viewHub(`hf:${name}`, { use: "model" });
        await (await files.open(path)).read(new Uint8Array(100), 0);
      };
      assert.equal((await errorOf(look())).code, "input");
      assert.equal((await errorOf(fetchFromHub(`hf:${name}`))).code, "input");
      rig.hub.faults.length = 0;
    }
  },
});

Deno.test("a commit, list or refusal whose connection breaks after some bytes is a named error", async () => {
  await using rig = new HubRig();
  for (const [path, status] of [[/revision/, 200], [/tree/, 200], [/revision/, 401]] as const) {
    const name = fresh();
    rig.hub.add(`models/${name}`, { "model.gguf": noise(10) });
    const broken = (): ReadableStream => {
      const pieces = [new Uint8Array(3)];
      return new ReadableStream({
        pull: async (controller) => {
          const piece = pieces.pop();
          if (piece) return controller.enqueue(piece);
          await new Promise((resolve) => realTimeout(resolve, 50)); // what was handed over goes out first
          controller.error(new Error("broken"));
        },
      }, { highWaterMark: 0 });
    };
    const headers = { "content-type": "application/json" };
    rig.hub.faults.push({ path, times: 1, answer: () => new Response(broken(), { status, headers }) });
    assert.equal((await errorOf(fetchFromHub(`hf:${name}`))).code, "input");
  }
});

Deno.test("a range with more bytes than were asked for is refused before they are kept", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "model.gguf": noise(100_000) });
  rig.hub.faults.push({
    path: /signature/,
    times: 9,
    answer: () =>
      new Response(endless(noise(100), { isSilent: false }), {
        status: 206,
        headers: { "content-range": "bytes 0-65535/100000" },
      }),
  });
  const { files, path } = await viewHub(`hf:${name}`, { use: "model" });
  await rejects(files.open(path).then((file) => file.read(new Uint8Array(100), 0)), "input", { value: 65536 });
});

Deno.test("a file shorter than the list says, and one without ranges that breaks early, end after three tries", async () => {
  await using rig = new HubRig();
  for (const isRanged of [true, false]) {
    const name = fresh(), whole = noise(200_000);
    rig.hub.add(`models/${name}`, { "config.json": whole, "model.safetensors": noise(10) });
    let tries = 0;
    rig.hub.faults.push({
      path: /resolve.*config/,
      times: 999,
      answer: () => {
        if (isRanged && tries++ % 2 === 1) return new Response(null, { status: 416 });
        return new Response(whole.slice(0, isRanged ? 100_000 : 10 + 10 * (tries++ % 2)));
      },
    });
    assert.equal((await errorOf(fetchFromHub(`hf:${name}:config.json`))).code, "input");
    assert.equal(tries, 3);
    rig.hub.faults.length = 0;
  }
});

Deno.test("a bad next page, redirect or upload address is a named error, not tried again", async () => {
  await using rig = new HubRig();
  const name = fresh(), { hub } = rig;
  hub.add(`models/${name}`, { "model.gguf": noise(10) });
  const answers: [number, HeadersInit][] = [[200, { link: '<http://[bad>; rel="next"' }], [302, {
    location: "http://[::bad",
  }]];
  for (const [status, headers] of answers) {
    const before = hub.seen.length;
    hub.faults.push({ path: /tree/, times: 9, answer: () => new Response("[]", { status, headers }) });
    assert.equal((await errorOf(fetchFromHub(`hf:${name}`))).code, "input");
    assert.equal(hub.seen.length - before, 2);
    hub.faults.length = 0;
  }
  Deno.env.set("HF_TOKEN", TOKEN);
  const file = join(rig.home, "model.gguf");
  await Deno.writeFile(file, noise(1000));
  for (const href of ["nonsense", 5, "file:///etc/passwd"]) {
    hub.faults.push({
      path: /objects\/batch/,
      method: "POST",
      times: 1,
      answer: () => {
        const objects = [{ oid: sha("sha256", noise(1000)), actions: { upload: { href } } }];
        return Response.json({ objects });
      },
    });
    checkRefusal(await errorOf(pushToHub(file, "hf:me/addresses")), "input", { value: JSON.stringify(href) });
  }
});

Deno.test("the token is in no message, and what the Hub says is shown without control characters", async () => {
  await using rig = new HubRig();
  const name = fresh();
  rig.hub.add(`models/${name}`, { "model.gguf": noise(10) });
  for (const token of ["hf_SECRET\nX-Evil: 1", "hf_SECRET\u00e9", "hf SECRET"]) {
    Deno.env.set("HF_TOKEN", token);
    const { code, message } = await errorOf(fetchFromHub(`hf:${name}`));
    assert.ok(code === "usage" && !message.includes("SECRET") && message.includes("HF_TOKEN"), message);
  }
  assert.equal(rig.hub.seen.length, 0);
  Deno.env.set("HF_TOKEN", TOKEN);
  const error = `bad \u001b[2J\u009b31m\u202e ${TOKEN}`;
  rig.hub.faults.push({ path: /revision/, times: 1, answer: () => Response.json({ error }, { status: 403 }) });
  const { message } = await errorOf(fetchFromHub(`hf:${name}`));
  // deno-lint-ignore no-control-regex
  assert.ok(!/[\u001b\u009b\u202e]/.test(message) && !message.includes(TOKEN), message);
  const echoes = [
    new Response(`<p>${" ".repeat(40)}Bearer ${TOKEN}`),
    new Response(null, { status: 302, headers: { location: `gopher://${TOKEN}/` } }),
    Response.json([], { headers: { link: `<http://[${TOKEN}>; rel="next"` } }),
    Response.json([{ type: "file", path: `${TOKEN}.bin`, size: 3, oid: "0".repeat(40) }]),
  ];
  for (const answer of echoes) {
    rig.hub.faults.push({ path: /tree/, times: 1, answer: () => answer });
    const { message } = await errorOf(fetchFromHub(`hf:${name}`));
    assert.ok(!message.includes(TOKEN) && message.includes("the token"), message);
  }
});

Deno.test({
  name: "push leaves out links to other places, links to folders and pipes, and says so",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await using rig = new HubRig();
    Deno.env.set("HF_TOKEN", TOKEN);
    const folder = join(rig.home, "model"), at = (name: string): string => join(folder, name), notes: string[] = [];
    await Deno.mkdir(folder);
    await Deno.writeTextFile(at("config.json"), "{}");
    await Deno.writeTextFile(join(rig.home, "private"), "SECRET");
    await Deno.symlink("../private", at("notes.txt"));
    await Deno.symlink("..", at("outer"));
    await Deno.symlink(".", at("loop"));
    await Deno.symlink("/nowhere", at("dangling"));
    await Deno.symlink("config.json", at("same.json"));
    await new Deno.Command("mkfifo", { args: [at("pipe")] }).output();
    const { files } = await pushToHub(folder, "hf:me/links", { onNote: (line) => notes.push(line) });
    assert.deepEqual([...files].sort(), ["config.json", "same.json"]);
    for (const name of ["notes.txt", "outer", "loop", "dangling", "pipe"]) assert.ok(notes.join().includes(at(name)));
  },
});

Deno.test("a blob with changed bytes is not used: its hash is checked again if its size or time of change is not that of the last check", async () => {
  await using rig = new HubRig();
  const name = fresh(), bytes = noise(100_000), { hub } = rig;
  hub.add(`models/${name}`, { "model.gguf": bytes });
  const { path, source } = await fetchFromHub(`hf:${name}:model.gguf`);
  const blob = await Deno.realPath(path),
    fetches = (): number => hub.seen.filter(({ path }) => /signature/.test(path)).length;
  const damage = async (): Promise<void> =>
    await Deno.writeFile(blob, bytes.map((byte, at) => at === 500 ? byte ^ 1 : byte));
  await damage();
  assert.equal((await fetchFromHub(source)).path, path);
  assert.deepEqual(await Deno.readFile(path), bytes);
  assert.equal(fetches(), 2);
  // A file without a stamp, as Python leaves it, is checked once.
  const stamp = rig.at(".locks", `models--${name.replace("/", "--")}`, `${sha("sha256", bytes)}.checked`);
  const before = await Deno.readTextFile(stamp);
  await Deno.remove(stamp);
  const again = `hf:${name}@${hub.commit(`models/${name}`)}`;
  await fetchFromHub(again);
  assert.equal(await Deno.readTextFile(stamp), before);
  assert.equal(fetches(), 2);
  await damage();
  Deno.env.set("HF_HUB_OFFLINE", "1");
  await rejects(fetchFromHub(`hf:${name}`), "input", { names: [`hf:${name}:model.gguf`, bytes.length] });
});

Deno.test("a file too large for the text of a commit goes into large file storage, whatever the Hub says", async () => {
  await using rig = new HubRig();
  Deno.env.set("HF_TOKEN", TOKEN);
  const folder = join(rig.home, "model"), bytes = new Uint8Array(11 << 20);
  await Deno.mkdir(folder);
  await Deno.writeTextFile(join(folder, "config.json"), "{}");
  await Deno.writeFile(join(folder, "vocab.txt"), bytes);
  await pushToHub(folder, "hf:me/large");
  assert.equal(rig.hub.store.size, 1);
  assert.equal(rig.hub.repos.get("models/me/large")?.files.get("vocab.txt")?.length, bytes.length);
});

Deno.test("a text that is too long, or an index that names too many files, is refused before it is fetched", async () => {
  await using rig = new HubRig();
  const map = Object.fromEntries(Array.from({ length: 10_001 }, (_, i) => [`t${i}`, `${i}.safetensors`]));
  const name = fresh(), index = new TextEncoder().encode(JSON.stringify({ weight_map: map }));
  rig.hub.add(`models/${name}`, { "config.json": noise(10), "model.safetensors.index.json": index });
  await rejects(fetchFromHub(`hf:${name}`), "input", { value: 10_001 });
  const oid = "0".repeat(40), long = 1 << 27, paths = ["config.json", "model.safetensors.index.json", "README.md"];
  for (const [index, path] of paths.entries()) {
    const other = `${name}-${index}`;
    const listed = paths.map((one) => ({ type: "file", path: one, size: one === path ? long : 10, oid }));
    rig.hub.add(`models/${other}`, { "config.json": noise(10 + index) });
    rig.hub.faults.push({ path: /tree/, times: 1, answer: () => Response.json(listed) });
    await rejects(fetchFromHub(`hf:${other}`), "input", { names: path, value: long });
  }
});

Deno.test({
  name: "an upload to a storage that answers nothing, or a byte now and then, ends after one silence",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using rig = new HubRig();
    Deno.env.set("HF_TOKEN", TOKEN);
    const file = join(rig.home, "model.gguf");
    await Deno.writeFile(file, noise(1000));
    const realInterval = setInterval;
    const fast = (work: () => void, ms = 0): ReturnType<typeof setInterval> =>
      realInterval(work, ms > 30_000 ? 500 : ms);
    Object.assign(globalThis, { setInterval: fast });
    try {
      const drip = new ReadableStream({
        pull: async (controller) => {
          await new Promise((resolve) => realTimeout(resolve, 100));
          controller.enqueue(new Uint8Array(1));
        },
      });
      for (const [index, body] of [new ReadableStream(), drip].entries()) {
        rig.hub.faults.push({ path: /signature/, method: "PUT", times: 1, answer: () => new Response(body) });
        const before = performance.now();
        assert.equal((await errorOf(pushToHub(file, `hf:me/silent-${index}`))).code, "input");
        assert.ok(performance.now() - before < 5000);
        assert.equal(rig.hub.seen.filter(({ method }) => method === "PUT").length, index + 1);
      }
    } finally {
      globalThis.setInterval = realInterval;
    }
  },
});
