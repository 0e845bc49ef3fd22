// The variables of the Hub mean what they mean to Python's huggingface_hub.
import assert from "node:assert/strict";
import { join, resolve } from "node:path";
import { CompressoError } from "../../lib/core/errors.ts";
import { HUB_VARIABLES, type HubSettings, hubSettings } from "../../lib/hub/settings.ts";
import { rejects } from "../refuses.ts";

/** The settings under these variables alone. */
async function under(variables: Readonly<Record<string, string>>): Promise<HubSettings> {
  const before = new Map(HUB_VARIABLES.map((name) => [name, Deno.env.get(name)]));
  for (const name of HUB_VARIABLES) Deno.env.delete(name);
  for (const [name, value] of Object.entries(variables)) Deno.env.set(name, value);
  try {
    return await hubSettings();
  } finally {
    for (const name of Object.keys(variables)) Deno.env.delete(name);
    for (const [name, value] of before) if (value !== undefined) Deno.env.set(name, value);
  }
}

Deno.test({
  name: "the cache is in HF_HUB_CACHE, else in HF_HOME, else in the user's cache folder",
  ignore: Deno.build.os === "windows", // paths are written otherwise
  fn: async () => {
    const HOME = "/home/me";
    for (
      const [variables, cache] of [
        [{ HOME }, "/home/me/.cache/huggingface/hub"],
        [{ HOME, XDG_CACHE_HOME: "/xdg" }, "/xdg/huggingface/hub"],
        [{ HOME, XDG_CACHE_HOME: "/xdg", HF_HOME: "/hf" }, "/hf/hub"],
        [{ HF_HOME: "/hf" }, "/hf/hub"],
        [{ HOME, HF_HOME: "~/hf" }, "/home/me/hf/hub"],
        [{ HOME, HF_HOME: "/hf", HF_HUB_CACHE: "/other" }, "/other"],
      ] as const
    ) assert.equal((await under(variables)).cache, cache);
    const error = await under({}).catch((error) => error);
    assert.ok(error instanceof CompressoError && error.code === "usage" && /HF_HOME/.test(error.parts.fix ?? ""));
  },
});

Deno.test("the token is HF_TOKEN, else that of HF_TOKEN_PATH or of the file in HF_HOME, without white space", async () => {
  const home = await Deno.makeTempDir(), HF_HOME = home;
  assert.equal((await under({ HF_HOME })).token, null);
  await Deno.writeTextFile(join(home, "token"), "hf_file\n");
  await Deno.writeTextFile(join(home, "other"), "hf_other");
  assert.equal((await under({ HF_HOME })).token, "hf_file");
  assert.equal((await under({ HF_HOME, HF_TOKEN_PATH: join(home, "other") })).token, "hf_other");
  assert.equal((await under({ HF_HOME, HF_TOKEN: " hf_own\n" })).token, "hf_own");
  await Deno.writeTextFile(join(home, "long"), "a".repeat(5000));
  const endless = Deno.build.os === "windows" ? "long" : "/dev/zero";
  for (const path of [join(home, "long"), resolve(home, endless)]) {
    await rejects(under({ HF_HOME, HF_TOKEN_PATH: path }), "usage", { names: path });
  }
  await rejects(under({ HF_HOME, HF_TOKEN_PATH: home }), "input", { names: home });
  await Deno.remove(home, { recursive: true });
});

Deno.test("the endpoint has no slash at its end and is of http or https; offline is any of Python's words", async () => {
  const HF_HOME = "/hf";
  assert.equal((await under({ HF_HOME })).endpoint, "https://huggingface.co");
  assert.equal((await under({ HF_HOME, HF_ENDPOINT: "https://hub.example/hf/" })).endpoint, "https://hub.example/hf");
  for (const HF_ENDPOINT of ["hub.example", "ftp://hub.example"]) {
    await rejects(() => under({ HF_HOME, HF_ENDPOINT }), "usage", { names: "HF_ENDPOINT" });
  }
  for (const word of ["1", "on", "YES", "true"]) assert.ok((await under({ HF_HOME, HF_HUB_OFFLINE: word })).isOffline);
  for (const word of ["", "0", "no"]) assert.ok(!(await under({ HF_HOME, HF_HUB_OFFLINE: word })).isOffline);
});
