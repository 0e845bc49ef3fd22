// The documentation of the library's entries: what it sends a reader to is there.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { isObject } from "../../lib/core/guards.ts";
import { ROOT } from "./checkout.ts";

const ENTRIES = Object.entries(config.exports).filter(([name]) => name !== "./cli").map(([, path]) => path);

/** All values under a key, at any depth. */
function* under(key: string, value: unknown): Generator<unknown> {
  for (const [name, inner] of typeof value === "object" && value !== null ? Object.entries(value) : []) {
    if (name === key) yield inner;
    yield* under(key, inner);
  }
}

async function documented(): Promise<readonly Readonly<Record<string, unknown>>[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", ...ENTRIES],
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
  assert.deepEqual(lost, []);
});
