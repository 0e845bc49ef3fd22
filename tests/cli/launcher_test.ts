// How hints name the program: by its launcher where PATH has one, whoever started the process.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { cliProcess, ROOT, TemporaryFolder } from "./helpers/cli.ts";
import { join } from "./helpers/paths.ts";

Deno.test({
  name: "hints name the launcher that PATH has, under timeout or systemd too; not a launcher of another copy",
  ignore: Deno.build.os === "windows",
  async fn(): Promise<void> {
    using folder = new TemporaryFolder();
    const path = `${folder.path}:${Deno.env.get("PATH") ?? ""}`, env = { _: "/usr/bin/timeout", PATH: path };
    const hint = async (): Promise<string> => {
      const { code, stdout, stderr } = await cliProcess(["inspect", "demo"], { env });
      assert.equal(code, 0, stderr);
      return stdout.split("\n").find((line) => / prune demo /.test(line))?.trim() ?? "";
    };
    const write = (main: string): void =>
      Deno.writeTextFileSync(folder.at("compresso"), `#!/bin/sh\nexec deno run -A '${main}' "$@"\n`, { mode: 0o755 });
    assert.match(await hint(), /^deno run -A \S*cli\/main\.ts prune demo/);
    write("file:///elsewhere/cli/main.ts");
    assert.match(await hint(), /^deno run -A /);
    write(pathToFileURL(join(ROOT, "cli/main.ts")).href);
    assert.match(await hint(), /^compresso prune demo/);
  },
});
