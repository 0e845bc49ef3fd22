// The commands and the program of docs/guide/serve.md, as they are written there, at a port that is free.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { TemporaryFolder } from "../cli/helpers/cli.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PAGE = await Deno.readTextFile(new URL("../../docs/guide/serve.md", import.meta.url));

/** What the page calls compresso. */
const PROGRAM = `${Deno.execPath()} run -A cli/main.ts`;

/** The block of the page with a mark behind its language. */
function blockOf(mark: string): string {
  const [, block] = new RegExp(`^\`\`\`${mark}\n([^]*?)^\`\`\`$`, "m").exec(PAGE) ?? [];
  assert.ok(block, `no block ${mark}`);
  return block;
}

function bash(script: string): Deno.Command {
  return new Deno.Command("bash", {
    args: ["-c", `set -euo pipefail\n${script}`],
    cwd: ROOT,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

function freePort(): string {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return String(listener.addr.port);
}

/** Starts a server by a command of the page, waits until it answers, and stops it in the end. */
async function served(command: string, work: (port: string) => Promise<void>): Promise<void> {
  const port = freePort(),
    child = bash(`exec ${command.replaceAll("8000", port).replace(/^compresso/, PROGRAM)}`).spawn();
  const stderr = new Response(child.stderr).text(), reader = child.stdout.getReader();
  try {
    const { value } = await reader.read();
    const line = new TextDecoder().decode(value);
    assert.match(line, RegExp(`serving demo at http://127\\.0\\.0\\.1:${port}/v1`), line === "" ? await stderr : line);
    await work(port);
    child.kill("SIGTERM");
    assert.equal((await child.status).code, 130);
  } finally {
    await reader.cancel();
    await stderr;
  }
}

Deno.test("the server of the page answers its requests", async () => {
  await served(blockOf("sh server"), async (port) => {
    const { success, stdout, stderr } = await bash(blockOf("sh request").replaceAll("8000", port)).output();
    const [said = "", ...others] = new TextDecoder().decode(stdout).replaceAll("}{", "}\n{").trim().split("\n");
    assert.ok(success, new TextDecoder().decode(stderr));
    assert.match(JSON.parse(said).choices[0].text, /\w/);
    assert.deepEqual(others.map((text) => JSON.parse(text).object ?? JSON.parse(text).status), ["list", "ok"]);
  });
});

Deno.test("a server runs with the rights of the page, and says which one is missing", async () => {
  const command = blockOf("sh rights").replace("deno", Deno.execPath());
  await served(command, async (port) => {
    const response = await fetch(`http://127.0.0.1:${port}/health`);
    assert.equal((await response.json()).status, "ok");
  });
  for (const right of ["--allow-net=127.0.0.1:8000"]) {
    const { code, stderr } = await bash(command.replace(right, "")).output(), said = new TextDecoder().decode(stderr);
    assert.equal(code, 2, said);
    assert.ok(said.includes(`add ${right} to`), said);
  }
});

// tests/guide_test.ts checks its types.
Deno.test("the program of the page runs", async () => {
  using folder = new TemporaryFolder();
  const imports = { compresso: `${ROOT}mod.ts`, "compresso/serve": `${ROOT}lib/serve/mod.ts` };
  await Deno.writeTextFile(folder.at("deno.json"), JSON.stringify({ imports }));
  await Deno.writeTextFile(folder.at("program.ts"), blockOf("ts program"));
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "program.ts"],
    cwd: folder.path,
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  assert.match(new TextDecoder().decode(stdout), /\w/);
});
