// mod.ts imported by URL, as a script at a URL does: no import map, no lock file, no checkout.
import assert from "node:assert/strict";
import { join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { VERSION } from "../../lib/core/version.ts";
import { Elsewhere, npmCache, ROOT, serveCheckout } from "./checkout.ts";

/** The files that name packages: of lib/, with parquet's and what it takes of zod, and of cli/, with YAML that only a file of YAML loads. */
const PACKAGES = [
  ...["lib/core/packages.ts", "lib/core/parquet_package.ts", "lib/core/zod.ts"],
  ...["cli/packages.ts", "cli/options/yaml.ts"],
]
  .map((path) => join(ROOT, path));

const cache = await npmCache();

Deno.test({
  name: cache
    ? "deno run of a script at a URL prunes a model, with mod.ts imported by URL"
    : "deno run of a script at a URL: skipped, for the packages of lib/ are not in Deno's npm cache",
  ignore: cache === null,
  fn: async () => {
    await using elsewhere = await Elsewhere.make(cache ?? "");
    await using server = serveCheckout((origin) =>
      `import { loadModel, openDevice, prune, toRow } from "${origin}/mod.ts";
import { cubic, defineSchedule, evaluateSchedule, openSchedule } from "${origin}/lib/schedule/mod.ts";
const input = { stage: "prune", progress: 0.25, step: 0, steps: 4, sparsity: 0.5, records: [], layers: [] };
const schedule = defineSchedule({ sparsity: cubic({ to: "target", warmup: 0.5 }) });
console.log(evaluateSchedule(schedule, input).sparsity);
await using isolated = await openSchedule("${origin}/scripts/examples/early_stop.ts");
console.log(isolated.isolated, (await isolated.evaluate(input)).sparsity.toFixed(4));
using device = await openDevice();
using model = await loadModel(${JSON.stringify(join(ROOT, "fixtures", "demo"))}, { device });
const rows = ["Rome", "Oslo", "Kyiv"].map((output) => toRow({ instruction: "Where is Tom?", input: "Tom is here.", output }));
const sizes = { steps: 2, prefinetune: 0, postfinetune: 0, batch: 1, seq: 32, prompt: null };
using run = prune(model, { rows, sparsity: 0.2, schedule, ...sizes, lora: { targets: ["q"] } });
for await (const { step, loss } of run) console.log(step, Number.isFinite(loss));
console.log((await run.slice()).parameters.after < 979_008);`
    );
    const { code, stdout, stderr } = await elsewhere.run(Deno.execPath(), [
      ...["run", "-A", "--lock", join(elsewhere.folder, "deno.lock")],
      `http://127.0.0.1:${server.addr.port}/script.ts`,
    ]);
    assert.equal(code, 0, stderr);
    const expected = (0.5 - 0.5 * (1 - 0.25 / 0.4) ** 3).toFixed(4);
    assert.equal(stdout, `0.4375\ntrue ${expected}\n1 true\n2 true\ntrue\n`);
  },
});

Deno.test("the files of packages name the versions of deno.json", async () => {
  assert.equal(VERSION, config.version);
  const declared: readonly string[] = Object.values(config.imports);
  for (const path of PACKAGES) {
    const text = await Deno.readTextFile(path);
    const specifiers = Array.from(text.matchAll(/from "(npm:[^"]+)"/g), ([, specifier = ""]) => specifier);
    assert.ok(specifiers.length > 0, path);
    for (const specifier of specifiers) {
      // A file of a package counts as the package.
      const [, name = specifier] = /^(npm:(?:@[^/]+\/)?[^/]+)/.exec(specifier) ?? [];
      assert.ok(declared.includes(name), `${specifier} is not in deno.json`);
    }
  }
});

Deno.test("only the files of packages import packages in kernels/, lib/ and cli/", async () => {
  const names = Object.entries(config.imports).filter(([, path]) => path.startsWith("npm:")).map(([name]) => name),
    strangers: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = join(folder, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith(".ts") && !PACKAGES.includes(path)) {
        const text = await Deno.readTextFile(path);
        for (const [, specifier = ""] of text.matchAll(/^(?:import |(?:export|\}).* from )[^"\n]*"([^"]+)"/gm)) {
          if (names.includes(specifier) || /^(?:npm|jsr|https?):/.test(specifier)) {
            strangers.push(`${path}: ${specifier}`);
          }
        }
      }
    }
  };
  for (const folder of ["kernels", "lib", "studio", "cli"]) await visit(join(ROOT, folder));
  assert.deepEqual(strangers, []);
});
