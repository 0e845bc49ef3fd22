// Schedules with the fewest rights that Deno allows, and what is said where one is missing.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { Lair, scriptOf } from "../run/helpers/scripts.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url)), DENO = Deno.execPath();

async function preview(
  schedule: string,
  rights: readonly string[],
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(DENO, {
    args: ["run", "--no-prompt", ...rights, "cli/main.ts", "schedule", "preview", schedule, "--steps", "4", "--json"],
    cwd: ROOT,
  }).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

Deno.test("a script runs isolated with the rights to read it and to start Deno alone", async () => {
  await using lair = new Lair();
  const script = await lair.write(scriptOf({}));
  for (const run of [`--allow-run=${DENO}`, `--allow-run=${DENO},/bin/sh`]) {
    const { code, stdout, stderr } = await preview(script, ["--allow-read", run]);
    assert.equal(code, 0, stderr);
    assert.equal(JSON.parse(stdout).isolated, true);
  }
});

Deno.test("where the right to start Deno is missing, the error names it", async () => {
  await using lair = new Lair();
  const { code, stderr } = await preview(await lair.write(scriptOf({})), ["--allow-read"]);
  assert.equal(code, 2);
  assert.ok(stderr.includes(`add --allow-run=${DENO} to`) && stderr.includes("--trust"), stderr);
});

Deno.test("where the right to read a script, or to fetch it, is missing, the error names it", async () => {
  await using lair = new Lair();
  const script = await lair.write(scriptOf({}));
  const unread = await preview(script, [`--allow-run=${DENO}`]);
  assert.ok(unread.code === 2 && unread.stderr.includes(`add --allow-read=${script} to`), unread.stderr);
  const unfetched = await preview("http://127.0.0.1:8009/x.ts", ["--allow-read", `--allow-run=${DENO}`]);
  assert.ok(unfetched.code === 2 && unfetched.stderr.includes("add --allow-net=127.0.0.1:8009 to"), unfetched.stderr);
});
