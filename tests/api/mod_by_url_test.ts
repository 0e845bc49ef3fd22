// mod.ts imported by URL, as a script at a URL does: no import map, no lock file, no checkout.
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import config from "../../deno.json" with { type: "json" };

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PACKAGES = join(ROOT, "lib", "packages.ts");

/** Deno's cache of npm packages; null where the packages of lib/ are not in it. */
async function npmCache(): Promise<string | null> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"], cwd: ROOT }).output();
  const { npmCache } = JSON.parse(new TextDecoder().decode(stdout)) as { readonly npmCache: string };
  for (const registry of await Array.fromAsync(Deno.readDir(npmCache)).catch(() => [])) {
    const has = await Deno.stat(join(npmCache, registry.name, "zod")).then(() => true, () => false);
    if (has) return npmCache;
  }
  return null;
}

/** Serves the checkout's files, and a script that imports mod.ts. */
function serveCheckout(script: (origin: string) => string): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    const { pathname, origin } = new URL(request.url);
    const type = pathname.endsWith(".ts") ? "application/typescript" : "text/plain";
    if (pathname === "/script.ts") return new Response(script(origin), { headers: { "content-type": type } });
    const bytes = await Deno.readFile(join(ROOT, ...pathname.split("/").slice(1))).catch(() => null);
    return bytes
      ? new Response(bytes, { headers: { "content-type": type } })
      : new Response("nothing", { status: 404 });
  });
}

const cache = await npmCache();

Deno.test({
  name: cache
    ? "deno run of a script at a URL prunes a model, with mod.ts imported by URL"
    : "deno run of a script at a URL: skipped, for the packages of lib/ are not in Deno's npm cache",
  ignore: cache === null,
  fn: async () => {
    const folder = await Deno.makeTempDir({ prefix: "compresso_url_" });
    const server = serveCheckout((origin) =>
      `import { cubic, defineSchedule, evaluateSchedule, loadModel, openDevice, openSchedule, prune, toRow } from "${origin}/mod.ts";
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
    try {
      // A cache of its own, so that nothing is taken from an earlier run, but with the npm packages that are there; versions as in our lock file.
      await Deno.symlink(cache ?? "", join(folder, "npm"));
      await Deno.copyFile(join(ROOT, "deno.lock"), join(folder, "deno.lock"));
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--lock", join(folder, "deno.lock"), `http://127.0.0.1:${server.addr.port}/script.ts`],
        cwd: folder,
        env: { DENO_DIR: folder, NO_COLOR: "1" },
        signal: AbortSignal.timeout(120_000),
      }).output();
      assert.equal(code, 0, new TextDecoder().decode(stderr));
      const expected = (0.5 - 0.5 * (1 - 0.25 / 0.4) ** 3).toFixed(4);
      assert.equal(new TextDecoder().decode(stdout), `0.4375\ntrue ${expected}\n1 true\n2 true\ntrue\n`);
    } finally {
      await server.shutdown();
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test("lib/core/packages.ts names the versions of deno.json", async () => {
  const text = await Deno.readTextFile(PACKAGES);
  const specifiers = Array.from(text.matchAll(/from "(npm:[^"]+)"/g), ([, specifier = ""]) => specifier);
  const declared: readonly string[] = Object.values(config.imports);
  assert.ok(specifiers.length > 0);
  for (const specifier of specifiers) assert.ok(declared.includes(specifier), `${specifier} is not in deno.json`);
});

Deno.test("only lib/core/packages.ts imports packages in kernels/ and lib/", async () => {
  const names = Object.keys(config.imports), strangers: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = join(folder, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith(".ts") && path !== PACKAGES) {
        const text = await Deno.readTextFile(path);
        for (const [, specifier = ""] of text.matchAll(/^(?:import|export|\})[^"\n]*(?:from )?"([^"]+)"/gm)) {
          if (names.includes(specifier) || /^(?:npm|jsr|https?):/.test(specifier)) {
            strangers.push(`${path}: ${specifier}`);
          }
        }
      }
    }
  };
  await visit(join(ROOT, "lib"));
  await visit(join(ROOT, "kernels"));
  assert.deepEqual(strangers, []);
});
