// The program from its address, without a configuration file, and as `deno install` puts it on the PATH; both from another folder.
import assert from "node:assert/strict";
import { join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { Elsewhere, npmCache, ROOT, serveCheckout } from "./checkout.ts";

const cache = await npmCache();
const skipped = "skipped, for the packages of cli/ are not in Deno's npm cache";
const main = join(ROOT, "cli", "main.ts"), model = join(ROOT, "fixtures", "demo");

Deno.test({
  name: cache ? "deno run of cli/main.ts at a URL" : `deno run of cli/main.ts at a URL: ${skipped}`,
  ignore: cache === null,
  fn: async () => {
    await using elsewhere = await Elsewhere.make(cache ?? "");
    await using server = serveCheckout();
    const url = `http://127.0.0.1:${server.addr.port}/cli/main.ts`;
    const args = ["run", "-A", "--lock", join(elsewhere.folder, "deno.lock"), url];
    const version = await elsewhere.run(Deno.execPath(), [...args, "--version"]);
    assert.deepEqual([version.code, version.stdout], [0, `${config.version}\n`], version.stderr);
    const inspect = await elsewhere.run(Deno.execPath(), [...args, "inspect", model, "--json"]);
    assert.equal(inspect.code, 0, inspect.stderr);
    assert.equal(JSON.parse(inspect.stdout).parameters, 979_008);
  },
});

Deno.test({
  name: cache ? "deno install puts compresso on the PATH" : `deno install: ${skipped}`,
  ignore: cache === null || Deno.build.os === "windows",
  fn: async () => {
    await using elsewhere = await Elsewhere.make(cache ?? "");
    const env = { DENO_INSTALL_ROOT: join(elsewhere.folder, "root") };
    const words = ["install", "-g", "-A", "-n", "compresso", "-c", join(ROOT, "deno.json"), main];
    const installed = await elsewhere.run(Deno.execPath(), words, env);
    assert.equal(installed.code, 0, installed.stderr);
    const program = join(env.DENO_INSTALL_ROOT, "bin", "compresso");
    const version = await elsewhere.run(program, ["--version"]);
    assert.deepEqual([version.code, version.stdout], [0, `${config.version}\n`], version.stderr);
    const text = await elsewhere.run(program, ["generate", "demo", "--prompt", "Tom went", "--max-tokens", "4"]);
    assert.equal(text.code, 0, text.stderr);
    assert.match(text.stdout, /\w/);
    // The user's own modules know the entries by their names.
    const task = join(ROOT, "scripts", "examples", "own_task.ts"), data = join(elsewhere.folder, "data");
    const row = { day: "Monday", next: ["Tuesday", "Friday"], right: 0 };
    await Deno.mkdir(data);
    await Deno.writeTextFile(join(data, "weekdays.test.jsonl"), `${JSON.stringify(row)}\n`);
    const own = await elsewhere.run(program, ["eval", "demo", "--no-tuning", "--tasks", task, "--task-data", data]);
    assert.equal(own.code, 0, own.stderr);
    assert.match(own.stdout, /weekdays acc .* of 1/);
    // It serves without a word of Deno's about the signal of requests.
    const child = new Deno.Command(program, {
      args: ["serve", "demo", "--port", "0", "--no-tuning"],
      cwd: elsewhere.folder,
      env: { DENO_DIR: elsewhere.folder, NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let said = "", url: string | undefined;
    while (url === undefined) {
      const { value, done } = await reader.read();
      if (done) break;
      said += value;
      [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(said) ?? [];
    }
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "demo", prompt: "Tom", max_tokens: 1 }),
    });
    const answer = await response.text();
    assert.equal(response.status, 200, answer);
    child.kill("SIGTERM");
    await reader.cancel();
    const stderr = await new Response(child.stderr).text();
    await child.status;
    assert.doesNotMatch(stderr, /request\.signal/);
  },
});
