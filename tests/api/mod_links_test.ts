// The documentation of mod.ts: what it sends a reader to is there, and names that errors advise can be imported.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import * as mod from "../../mod.ts";
import { isObject } from "../../lib/core/guards.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Links of exported symbols to what is for the library alone. */
const INNER: readonly string[] = ["RowFields to parseRow"];

/** All values under a key, at any depth. */
function* under(key: string, value: unknown): Generator<unknown> {
  for (const [name, inner] of typeof value === "object" && value !== null ? Object.entries(value) : []) {
    if (name === key) yield inner;
    yield* under(key, inner);
  }
}

async function documented(): Promise<readonly Readonly<Record<string, unknown>>[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", "mod.ts"],
    cwd: ROOT,
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  const doc: unknown = JSON.parse(new TextDecoder().decode(stdout));
  const symbols = [...under("symbols", doc)].flatMap((list) => Array.isArray(list) ? list : []);
  return symbols.filter(isObject);
}

Deno.test("each {@link} of an exported symbol leads to an exported one, or to a member of its own", async () => {
  const symbols = await documented(), names = new Set(symbols.map(({ name }) => name));
  assert.ok(names.size > 300 && names.has("prune"), `${names.size} symbols`);
  let count = 0;
  const lost = symbols.flatMap((symbol) => {
    const own = new Set(under("name", symbol));
    const links = JSON.stringify([...under("jsDoc", symbol)]).matchAll(/\{@link\s+([^}\s|.]+)/g);
    return [...links].flatMap(([, target = ""]) => {
      count++;
      return names.has(target) || own.has(target) ? [] : [`${symbol.name} to ${target}`];
    });
  });
  assert.ok(count > 50, `${count} links`);
  assert.deepEqual(lost, INNER);
});

Deno.test("functions that documentation and errors of the library name to its users are exported", () => {
  const named = ["tensorShapes", "projectionName", "slotLayout", "packMasks", "unpackMasks", "keptUnits"];
  named.push("parameterTarget", "restPerDim", "defaultRates", "createTreeBuilder", "MEMORY_PARTS");
  for (const name of named) assert.ok(name in mod, name);
});
