// The cache is shared with Python's huggingface_hub: a file is fetched once for both. Skipped where `python3`, or the Python that COMPRESSO_PYTHON
// names, has no such library.
import assert from "node:assert/strict";
import { fetchFromHub } from "../../lib/hub/fetch.ts";
import { sha, TOKEN } from "./fake_hub.ts";
import { HubRig, noise } from "./helpers.ts";
import { pushToHub } from "../../lib/local/push_model.ts";

const PYTHON = Deno.env.get("COMPRESSO_PYTHON") ?? "python3";

/** What a Python program prints. */
async function python(
  program: string,
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(PYTHON, {
    args: ["-c", program],
    env: { HF_HUB_DISABLE_TELEMETRY: "1", HF_HUB_DISABLE_UPDATE_CHECK: "1", ...env },
  }).output();
  return { code, stdout: new TextDecoder().decode(stdout).trim(), stderr: new TextDecoder().decode(stderr) };
}

const found = await python("import huggingface_hub; print(huggingface_hub.__version__)").catch(() => null),
  ignore = found?.code !== 0;
if (ignore) console.log(`skipped: ${PYTHON} has no huggingface_hub; COMPRESSO_PYTHON names another Python`);

const FILES = {
  "config.json": '{"model_type": "llama"}',
  "tokenizer.json": "{}",
  "model.safetensors": noise(200_000),
  "additional_chat_templates/rag.jinja": "x",
};

Deno.test({
  name: "what we fetched, Python finds without fetching it again, offline too, and takes for a whole snapshot",
  ignore,
  fn: async () => {
    await using rig = new HubRig();
    rig.hub.add("models/maker/ours", FILES);
    const { path } = await fetchFromHub("hf:maker/ours"), fetchedBefore = rig.hub.bytesOut;
    const program = `
from huggingface_hub import hf_hub_download, snapshot_download, scan_cache_dir
print(hf_hub_download("maker/ours", "model.safetensors"))
print(snapshot_download("maker/ours"))
info = scan_cache_dir()
repo, = info.repos
print(repo.repo_id, repo.repo_type, len(info.warnings), sorted(f.file_name for r in repo.revisions for f in r.files), [sorted(r.refs) for r in repo.revisions])
`;
    const { code, stdout, stderr } = await python(program, rig.variables);
    assert.equal(code, 0, stderr);
    const names = "['config.json', 'model.safetensors', 'rag.jinja', 'tokenizer.json']";
    assert.deepEqual(stdout.split("\n"), [`${path}/model.safetensors`, path, `maker/ours model 0 ${names} [['main']]`]);
    assert.equal(rig.hub.bytesOut, fetchedBefore);
    const asked = rig.hub.seen.length;
    const offline = await python(program, { ...rig.variables, HF_HUB_OFFLINE: "1" });
    assert.equal(offline.code, 0, offline.stderr);
    assert.equal(rig.hub.seen.length, asked);
  },
});

Deno.test({
  name: "what Python fetched, we find without fetching it again, offline too",
  ignore,
  fn: async () => {
    await using rig = new HubRig();
    rig.hub.add("models/maker/theirs", FILES);
    rig.hub.add("datasets/maker/rows", { "rows.jsonl": '{"text": "a"}\n' });
    const program = `
from huggingface_hub import hf_hub_download, snapshot_download
print(snapshot_download("maker/theirs"))
print(hf_hub_download("maker/rows", "rows.jsonl", repo_type="dataset"))
`;
    const { code, stdout, stderr } = await python(program, rig.variables), [model, rows] = stdout.split("\n");
    assert.equal(code, 0, stderr);
    const fetchedBefore = rig.hub.bytesOut;
    Deno.env.set("HF_HUB_OFFLINE", "1");
    assert.equal((await fetchFromHub("hf:maker/theirs@main")).path, model);
    assert.equal((await fetchFromHub("hf:maker/rows@main", { use: "data" })).path, rows);
    Deno.env.delete("HF_HUB_OFFLINE");
    assert.equal((await fetchFromHub("hf:maker/theirs")).path, model);
    assert.equal((await fetchFromHub("hf:maker/rows", { use: "data" })).path, rows);
    assert.equal(rig.hub.bytesOut, fetchedBefore);
  },
});

Deno.test({
  name: "the fake hub takes what Python uploads as it takes ours",
  ignore,
  fn: async () => {
    await using rig = new HubRig();
    const folder = await Deno.makeTempDir(), large = noise(700_001), small = noise(1001, 2);
    await Deno.writeFile(`${folder}/model.safetensors`, large);
    await Deno.writeFile(`${folder}/small.gguf`, small);
    await Deno.writeTextFile(`${folder}/config.json`, "{}");
    const program = `
from huggingface_hub import CommitOperationAdd, HfApi
HfApi().create_repo("me/theirs", exist_ok=True)
names = ["model.safetensors", "small.gguf", "config.json"]
HfApi().create_commit("me/theirs", [CommitOperationAdd(n, "${folder}/" + n) for n in names], commit_message="x")
`;
    const env = { ...rig.variables, HF_TOKEN: TOKEN, HF_HUB_DISABLE_XET: "1" },
      { code, stderr } = await python(program, env);
    assert.equal(code, 0, stderr);
    const files = rig.hub.repos.get("models/me/theirs")?.files;
    assert.deepEqual(files?.get("model.safetensors"), large);
    assert.deepEqual(files?.get("small.gguf"), small);
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test({
  name: "what we pushed, Python downloads",
  ignore,
  fn: async () => {
    await using rig = new HubRig();
    Deno.env.set("HF_TOKEN", TOKEN);
    const folder = await Deno.makeTempDir(), weights = noise(600_000);
    await Deno.writeTextFile(`${folder}/config.json`, "{}");
    await Deno.writeFile(`${folder}/model.safetensors`, weights);
    await pushToHub(folder, "hf:maker/pushed");
    const program = `
import hashlib
from huggingface_hub import hf_hub_download
print(hashlib.sha256(open(hf_hub_download("maker/pushed", "model.safetensors"), "rb").read()).hexdigest())
`;
    const { stdout, stderr } = await python(program, { ...rig.variables, HF_TOKEN: TOKEN });
    assert.equal(stdout, sha("sha256", weights), stderr);
    await Deno.remove(folder, { recursive: true });
  },
});
