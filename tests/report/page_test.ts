// The page around a report: its policy must let its own script run, whatever line ends the files have.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { TemporaryFolder } from "../cli/helpers/cli.ts";

const SOURCE = join(import.meta.dirname ?? ".", "../../lib");

for (const [name, end] of [["line feeds", "\n"], ["Windows' line ends", "\r\n"], ["carriage returns", "\r"]] as const) {
  Deno.test(`the policy has the hash of the script as a browser reads it, where the files have ${name}`, async () => {
    using folder = new TemporaryFolder();
    for (const room of ["report", "core"]) await Deno.mkdir(folder.at(room));
    for (const file of ["report/page.ts", "report/page.js", "report/svg.ts", "core/digest.ts"]) {
      const text = await Deno.readTextFile(join(SOURCE, file));
      await Deno.writeTextFile(folder.at(file), text.replaceAll(/\r\n?|\n/g, end));
    }
    const module: Readonly<Record<string, unknown>> = await import(pathToFileURL(folder.at("report/page.ts")).href);
    const { pageHtml } = module;
    assert.ok(typeof pageHtml === "function");
    const html: unknown = pageHtml({ title: "t", note: "n", content: "c", live: null });
    assert.ok(typeof html === "string");
    const [, script = ""] = /<script>([^]*?)<\/script>/.exec(html) ?? [];
    assert.ok(script.length > 1000 && script.includes("\n"));
    // As the HTML standard has it, 13.2.3.5.
    const read = script.replaceAll(/\r\n?/g, "\n");
    const hash = createHash("sha256").update(read).digest("base64");
    assert.ok(html.includes(`script-src 'sha256-${hash}'`), "the policy has another hash");
    assert.ok(!html.includes("\r"));
  });
}
