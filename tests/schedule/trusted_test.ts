// Scripts that run as the user's own code: the text that was read is what runs, and its imports mean what they mean in an isolated one.
import assert from "node:assert/strict";
import { fileURLToPath, pathToFileURL } from "node:url";
import { linear } from "../../lib/schedule/curves.ts";
import { type OpenSchedule } from "../../lib/schedule/open.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { rejects } from "../refuses.ts";
import { INPUT, Lair } from "../run/helpers/scripts.ts";

/** What a script says, run in this process; its sparsity is a number. */
async function trusted(source: string | URL): Promise<{ readonly value: number | null; readonly identity: string }> {
  await using schedule: OpenSchedule = await openSchedule(source, { trust: true });
  return { value: (await schedule.evaluate(INPUT)).sparsity, identity: schedule.identity };
}

const plain = (sparsity: number): string => `export default { definition: { sparsity: ${sparsity} } };`;

Deno.test("a script that was changed runs as it is now, in the same process too, and its identity is that of the code that runs", async () => {
  await using lair = new Lair();
  const identities = new Set<string>();
  for (const value of [0.1, 0.2, 0.1]) {
    const path = await lair.write(plain(value)), { identity, ...given } = await trusted(path);
    assert.deepEqual(given, { value });
    await using isolated = await openSchedule(path);
    assert.deepEqual([(await isolated.evaluate(INPUT)).sparsity, isolated.identity], [value, identity]);
    identities.add(identity);
  }
  assert.equal(identities.size, 2);
});

Deno.test("a script that a server has changed runs as it is now, in the next process too, with what lies beside it behind a redirect", async () => {
  await using lair = new Lair();
  let value = 0.1;
  const headers = { "content-type": "application/typescript" };
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    ({ url }) =>
      !url.includes("/moved/") && !url.endsWith("/share.ts")
        ? Response.redirect(new URL("./moved/script.ts", url))
        : new Response(
          url.endsWith("/share.ts")
            ? `export const share: number = ${url.includes("/moved/") ? 0.5 : 1};`
            : `import { share } from "./share.ts"; ${plain(value).replace(String(value), `${value} * share`)}`,
          { headers },
        ),
  );
  try {
    const host = new URL("../../lib/schedule/host.ts", import.meta.url).href;
    const url = `http://127.0.0.1:${server.addr.port}/${crypto.randomUUID()}.ts`;
    const program = await lair.write(`const { openSchedule } = await import(${JSON.stringify(host)});
const schedule = await openSchedule(${JSON.stringify(url)}, { trust: true });
console.log((await schedule.evaluate(${JSON.stringify(INPUT)})).sparsity);`);
    const config = fileURLToPath(new URL("../../deno.json", import.meta.url));
    for (value of [0.1, 0.2]) {
      // Without a lock file, as a module of a server would be written to it.
      const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", "--no-lock", "--config", config, program],
        signal: AbortSignal.timeout(60_000),
      }).output();
      assert.equal(new TextDecoder().decode(stdout).trim(), String(value * 0.5), new TextDecoder().decode(stderr));
    }
  } finally {
    await server.shutdown();
  }
});

Deno.test("imports of the toolkit give this one, by name, and by a path where no mod.ts lies", async () => {
  await using lair = new Lair();
  const expected = linear({ to: "target" })(INPUT);
  const names = [
    "compresso",
    "compresso/schedule",
    "./mod.ts",
    "../lib/schedule/mod.ts",
    "jsr:@compresso/compresso@^1",
  ];
  const mod = new URL("../../lib/schedule/mod.ts", import.meta.url).href, identities: string[] = [];
  for (const name of [...names, mod]) {
    const path = await lair.write(`import { defineSchedule, linear } from "${name}";
export default defineSchedule({ sparsity: linear({ to: "target" }) });`);
    const { value, identity } = await trusted(path);
    assert.equal(value, expected, name);
    await using isolated = await openSchedule(path);
    assert.equal(identity, isolated.identity);
    identities.push(identity);
  }
  assert.equal(new Set(identities).size, names.length + 1);
  // A mod.ts of the user's own is theirs.
  await lair.write("export const own = 0.125;", "mod.ts");
  assert.equal(
    (await trusted(await lair.write(`import { own } from "./mod.ts"; ${plain(NaN).replace("NaN", "own")}`))).value,
    0.125,
  );
});

Deno.test("relative imports give what lies beside the script, import.meta is that of the script, and texts stay as they are", async () => {
  await using lair = new Lair();
  await lair.write("export const share: number = 0.25;", "shape.ts");
  await lair.write(`{ "share": 0.125 }`, "shape.json");
  const path = await lair.write(`#!/usr/bin/env -S deno run
import { share } from "./shape.ts"; import type { share as Share } from './shape.ts';
import data from "./shape.json" with { type: "json" };
export { share } from "./shape.ts"; // import "./none.ts"
enum Kind { One = 1 }
const texts: string[] = ['import "./none.ts"', \`from "./none.ts" \${(await import("./shape.ts")).share}\`, String(/import "compresso"/)];
const { from } = Array, spread = [...from("./x")].join("");
const { default: read } = await import(import.meta.resolve("./shape.json"), { with: { type: "json" } });
const beside = JSON.parse(await Deno.readTextFile(new URL("./shape.json", import.meta.url)));
const seen = JSON.stringify([texts, spread, import.meta.url, import.meta.filename, import.meta.dirname, Kind.One]);
if (seen !== JSON.stringify(JSON.parse(await Deno.readTextFile(import.meta.dirname + "/wanted.json")))) throw new Error(seen);
const all = [share, data.share, read.share, beside.share];
export default { definition: { sparsity: all.reduce((a, b) => a + b, 0) } };`);
  const texts = ['import "./none.ts"', 'from "./none.ts" 0.25', '/import "compresso"/'];
  const folder = lair.at(".").replace(/\/\.?$/, "");
  await lair.write(JSON.stringify([texts, "./x", pathToFileURL(path).href, path, folder, 1]), "wanted.json");
  assert.equal((await trusted(path)).value, 0.625);
});

Deno.test("a script of a file may import what it computes, and be JSX, as other modules of its place", async () => {
  await using lair = new Lair();
  await lair.write("export const share: number = 0.25;", "shape.ts");
  const ways = [
    'const at = "./shape.ts"; const { share } = await import(at);',
    'const name = "shape"; const { share } = await import(`./${name}.ts`);',
    'import { share } from /* beside */ "./shape.ts";',
    'const { share } = await import(/* beside */ "./shape.ts");',
  ];
  for (const way of ways) {
    assert.equal((await trusted(await lair.write(`${way} ${plain(NaN).replace("NaN", "share")}`))).value, 0.25, way);
  }
  const jsx = `/** @jsx h */ const h = (_: string) => 0.5; const value = <b />; ${plain(NaN).replace("NaN", "value")}`;
  assert.equal((await trusted(await lair.write(jsx, "page.tsx"))).value, 0.5);
});

Deno.test("the language of a script whose name tells none is TypeScript, as where it is isolated", async () => {
  await using lair = new Lair();
  for (const name of ["script.txt", "script.cts", "script.schedule", "script"]) {
    const path = await lair.write(`const value: number = 0.5; ${plain(NaN).replace("NaN", "value")}`, name);
    await using isolated = await openSchedule(path);
    assert.deepEqual([(await trusted(path)).value, (await isolated.evaluate(INPUT)).sparsity], [0.5, 0.5], name);
  }
});

Deno.test("a script that is saved while it is opened is refused, and no later opening has what ran then", async () => {
  await using lair = new Lair();
  // It changes itself, as an editor would between the two times that it is read.
  const self = "await Deno.writeTextFile(new URL(import.meta.url.split('?')[0]), 'export default 1;');";
  const path = await lair.write(`${self} ${plain(0.1)}`);
  await rejects(trusted(path), "input", { names: "script.ts" });
  await lair.write(plain(0.2));
  assert.equal((await trusted(path)).value, 0.2);
});

Deno.test("a script that cannot be imported is named by its place, without its text", async () => {
  await using lair = new Lair();
  await assert.rejects(
    trusted(await lair.write(`import { share } from "./none.ts"; export default share;`)),
    (error) => {
      assert.match(String(error), /Module not found.*none\.ts/);
      // deno-lint-ignore no-control-regex
      assert.doesNotMatch(error instanceof Error ? error.message : "", /[\u0000-\u001f]/);
      assert.doesNotMatch(String(error), /base64|\?opening/);
      return true;
    },
  );
  await rejects(trusted(await lair.write("\n\nconst a = ;")), "input", { value: ["script.ts", 3] });
});
