// Verbs with names on the Hub: what they read of them, with which rights, and what a run keeps of their revisions.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { loadModel, openDevice, readRows } from "../../mod.ts";
import { readPeftAdapter, writePeftAdapter } from "../../lib/model/mod.ts";
import { cli, cliProcess, type CliResult, refused, ROOT, TemporaryFolder } from "../cli/helpers/cli.ts";
import { join } from "../cli/helpers/paths.ts";
import { assertNames } from "../refuses.ts";
import { TOKEN } from "./fake_hub.ts";
import { demoFiles, HubRig } from "./helpers.ts";

const rowsOf = (name: string): Uint8Array<ArrayBuffer> =>
  Deno.readFileSync(join(ROOT, "fixtures", "demo_data", `${name}.jsonl`));

let gguf: Promise<Uint8Array<ArrayBuffer>> | null = null;

/** The demo as a GGUF, made once. */
function demoGguf(): Promise<Uint8Array<ArrayBuffer>> {
  return gguf ??= (async () => {
    using folder = new TemporaryFolder();
    ok(await cli(["export", "demo", "--out", folder.path, "--formats", "gguf", "--overwrite"]));
    return await Deno.readFile(folder.at("model.gguf"));
  })();
}

/** A hub with the demo, its rows, and a GGUF of the demo. */
async function demoHub(): Promise<HubRig> {
  const bytes = await demoGguf(), rig = new HubRig();
  rig.hub.add("models/maker/demo", demoFiles());
  rig.hub.add("models/maker/demo-gguf", {
    "demo.gguf": bytes,
    "README.md": "x",
  });
  rig.hub.add("datasets/maker/rows", { "train.jsonl": rowsOf("train"), "heldout.jsonl": rowsOf("heldout") });
  return rig;
}

const ok = ({ code, stdout, stderr }: CliResult): string => {
  assert.equal(code, 0, stderr);
  return stdout;
};

Deno.test("plan and inspect read config and headers alone, write nothing, and say what they say of the same files here", async () => {
  await using rig = await demoHub();
  const { hub } = rig;
  assert.equal(
    ok(await cli(["plan", "hf:maker/demo"])).replace("hf:maker/demo", "demo"),
    ok(await cli(["plan", "demo"])),
  );
  assert.equal(hub.seen.filter(({ host }) => host === "store").length, 0);
  const printed = ok(await cli(["inspect", "hf:maker/demo", "--json"]));
  const facts = JSON.parse(printed.replaceAll('"hf:maker/demo"', '"demo"'));
  const own = JSON.parse(ok(await cli(["inspect", "demo", "--json"])));
  assert.deepEqual({ ...facts, model: "", bytes: 0 }, { ...own, model: "", bytes: 0 });
  const large = hub.repos.get("models/maker/demo")?.files.get("model.safetensors")?.length ?? 0;
  const fetched = (): number =>
    hub.seen.filter(({ host }) => host === "store").reduce((sum, { sent }) => sum + sent, 0);
  assert.ok(fetched() > 0 && fetched() < large / 8, `${fetched()} of ${large}`);
  const before = fetched();
  assertNames(ok(await cli(["plan", "hf:maker/demo-gguf"])), "979,008");
  assertNames(ok(await cli(["inspect", "hf:maker/demo-gguf:demo.gguf"])), ["GGUF", "979,008"]);
  // The first megabyte of the file each.
  assert.ok(fetched() - before <= 2 ** 21, String(fetched() - before));
  assert.deepEqual([...Deno.readDirSync(rig.home)], []);
});

Deno.test("with the rights of the set hub, inspect and plan; with the cache to write, export; without, each names the right to add", async () => {
  await using rig = await demoHub();
  const port = new URL(rig.hub.url).host, store = new URL(rig.hub.storeUrl).host, { env } = config.permissions.hub;
  const withRights = async (rights: readonly string[], args: readonly string[]): Promise<CliResult> => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", ...rights, "cli/main.ts", ...args],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
    }).output();
    return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
  };
  using folder = new TemporaryFolder();
  const read = "--allow-read", envs = `--allow-env=${env.join(",")}`, net = `--allow-net=${port},${store}`;
  ok(await withRights([read, envs, net], ["plan", "hf:maker/demo"]));
  ok(await withRights([read, envs, net], ["inspect", "hf:maker/demo"]));
  const write = `--allow-write=${rig.home},${folder.path}`;
  ok(await withRights([read, envs, net, write], ["export", "hf:maker/demo", "--out", folder.at("out")]));
  // Deno makes no links then, so that the files themselves are in the snapshot.
  assert.deepEqual([...Deno.readDirSync(rig.at("models--maker--demo", "blobs"))], []);
  // A cache that may not be written to serves what it has.
  const asked = rig.hub.bytesOut, own = `--allow-write=${folder.path}`;
  await Deno.remove(rig.at("models--maker--demo", "refs"), { recursive: true });
  ok(await withRights([read, envs, net, own], ["export", "hf:maker/demo", "--out", folder.at("out"), "--overwrite"]));
  assert.equal(rig.hub.bytesOut, asked);
  const model = folder.at("out", "model.gguf"), push = ["push", model, "hf:me/pushed"];
  Deno.env.set("HF_TOKEN", TOKEN);
  for (
    const [rights, args, pattern] of [
      [[read, envs, `--allow-net=${port}`], push, new RegExp(`--allow-net=${store}`)],
      [
        [read],
        ["inspect", "hf:maker/demo"],
        /--allow-env=HF_ENDPOINT,HF_HOME,HF_HUB_CACHE,HF_HUB_OFFLINE,HF_TOKEN,/,
      ],
      [[read, envs], ["inspect", "hf:maker/demo"], new RegExp(`--allow-net=${port.replaceAll(".", "\\.")} `)],
      [[read, envs, `--allow-net=${port}`], ["inspect", "hf:maker/demo-gguf"], new RegExp(`--allow-net=${store}`)],
      [[read, envs, net], ["data", "inspect", "hf:maker/rows:heldout.jsonl"], /--allow-write=\S+ /],
    ] as const
  ) {
    const { code, stderr } = await withRights(rights, args);
    assert.ok(code === 2 || code === 3, `${args.join(" ")} with ${rights.join(" ")}: ${code} ${stderr}`);
    assert.match(stderr, pattern);
  }
  assert.match(ok(await withRights([read, envs, net], push)), /^pushed +1 /);
});

Deno.test("--verify stops verbs at a damaged file of the cache, and is refused where nothing of the Hub is read", async () => {
  await using rig = await demoHub();
  using folder = new TemporaryFolder();
  const out = ["export", "hf:maker/demo", "--out", folder.at("out"), "--overwrite"];
  ok(await cliProcess(out));
  ok(await cliProcess(["inspect", "hf:maker/demo", "--verify"]));
  const commit = rig.hub.commit("models/maker/demo");
  const at = await Deno.realPath(rig.at("models--maker--demo", "snapshots", commit, "model.safetensors"));
  const { mtime, atime } = await Deno.stat(at), bytes = await Deno.readFile(at), last = bytes.length - 1;
  bytes[last] = (bytes[last] ?? 0) ^ 64;
  await Deno.writeFile(at, bytes);
  await Deno.utime(at, atime ?? 0, mtime ?? 0);
  ok(await cliProcess(["inspect", "hf:maker/demo"]));
  for (const args of [["inspect", "hf:maker/demo"], ["--verify", ...out], ["plan", "hf:maker/demo"]]) {
    // The shape of a model needs no weights, which `plan` does not read.
    const { code, stderr } = await cliProcess([...args, "--verify"]), isPlan = args[0] === "plan";
    assert.equal(code, isPlan ? 0 : 3, stderr);
    assert.equal(stderr.includes(at), !isPlan, stderr);
  }
  ok(await cliProcess(out));
  ok(await cliProcess([...out, "--verify"]));
  for (const args of [["inspect", "demo"], ["push", folder.at("out"), "hf:me/x"], ["export", "demo", "--out", "x"]]) {
    const { code, stderr } = await cliProcess([...args, "--verify"]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /--verify/);
  }
});

Deno.test("a bare owner/name of rows or an adapter is answered with what was meant, and a model without data before it is fetched", async () => {
  await using rig = await demoHub();
  await refused(["data", "inspect", "maker/rows"], "input", { names: "hf:maker/rows" });
  const adapter = ["export", "demo", "--adapter", "maker/adapter", "--out", "nowhere"];
  await refused(adapter, "input", { names: "hf:maker/adapter" });
  const { got, fix } = await refused(["data", "inspect", "hf:maker/rows"], "input");
  assert.match(got ?? "", /^train\.jsonl \([\d.]+ MB\), heldout\.jsonl \([\d.]+ [kM]B\)$/);
  assertNames(fix ?? "", "hf:maker/rows:train.jsonl");
  const asked = rig.hub.seen.length;
  using folder = new TemporaryFolder();
  assert.equal((await cli(["prune", "hf:maker/demo", "--sparsity", "0.3", "--out", folder.at("run")])).code, 2);
  assert.equal(rig.hub.seen.length, asked);
});

Deno.test("programs take names on the Hub where they take paths: models, rows, adapters", async () => {
  await using rig = await demoHub();
  using device = await openDevice();
  using model = await loadModel("hf:maker/demo-gguf", { device });
  using plain = await loadModel("demo", { device });
  assert.deepEqual(await model.logits([5, 6, 7]), await plain.logits([5, 6, 7]));
  const { rows } = await readRows("hf:maker/rows:heldout.jsonl");
  assert.deepEqual(rows, (await readRows(join(ROOT, "fixtures/demo_data/heldout.jsonl"))).rows);
  using folder = new TemporaryFolder();
  const { spec } = model,
    weights = new Map(spec.layers.flatMap(({ heads }, layer) => [
      [`lora.${layer}.q.A`, new Float32Array(2 * spec.hidden).fill(0.01)] as const,
      [`lora.${layer}.q.B`, new Float32Array(heads * spec.headDim * 2).fill(0.01)] as const,
    ]));
  await writePeftAdapter(folder.at("a"), {
    spec,
    config: { rank: 2, alpha: 4, targets: ["q"] },
    weights,
    baseModel: null,
  });
  rig.hub.add(
    "models/maker/adapter",
    Object.fromEntries(
      [...Deno.readDirSync(folder.at("a"))].map(({ name }) => [`v1/${name}`, Deno.readFileSync(folder.at("a", name))]),
    ),
  );
  const adapter = await readPeftAdapter("hf:maker/adapter:v1", spec);
  assert.deepEqual([...adapter.weights], [...(await readPeftAdapter(folder.at("a"), spec)).weights]);
});

Deno.test({
  name: "a disk that refuses bytes is named with the file, and what was fetched before is not fetched again",
  ignore: Deno.build.os === "windows", // no such limits
  fn: async () => {
    await using rig = await demoHub();
    const verb = ["data", "inspect", "hf:maker/rows:train.jsonl"], limit = 512 * 1000;
    // No file may be longer: writing fails as on a full disk, with another number of the system.
    const shell = `trap "" XFSZ; ulimit -f 1000; exec "$0" run -A --no-code-cache cli/main.ts "$@"`;
    const { code, stderr } = await new Deno.Command("sh", {
      args: ["-c", shell, Deno.execPath(), ...verb],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
    }).output();
    const said = new TextDecoder().decode(stderr);
    assert.equal(code, 3, said);
    assert.match(said, /blobs\/[0-9a-f]{40}\.incomplete/);
    const before = rig.hub.bytesOut;
    ok(await cli(verb));
    const size = rowsOf("train").length;
    assert.ok(rig.hub.bytesOut - before <= size - limit + 4096, `${rig.hub.bytesOut - before} of ${size}`);
  },
});
