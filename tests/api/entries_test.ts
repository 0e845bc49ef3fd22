// The library's entries: what deno.json names, what they hold, and what they do not.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { SCRIPT_API } from "../../lib/schedule/host.ts";
import { ROOT } from "./checkout.ts";

/** Most names of an entry that many programs import. A page imports all that it needs from "./browser". */
const MOST: Readonly<Record<string, number>> = { ".": 40, "./run": 35, "./model": 35, "./browser": 48 };
/** Constants that programs use; lists of names are for the library alone, whose types name them. */
const CONSTANTS = ["CALIBRATION_SEQUENCES", "COLLABORATIVE_PROMPT"];

/** Entries by their subpath: "." and "./run". */
const entries = Object.entries(config.exports).filter(([name]) => name !== "./cli");

/** Names that an entry exports; throws where it holds anything but comments and re-exports by name. */
function namesOf(path: string): string[] {
  const text = readFileSync(join(ROOT, path), "utf8").replaceAll(/\/\*\*[^]*?\*\/|\/\/.*/g, "");
  const statement = /export (?:type )?\{([^}]*)\} from "\.[^"]+";/g;
  assert.equal(text.replaceAll(statement, "").trim(), "", `${path} holds more than re-exports by name`);
  return Array.from(text.matchAll(statement), ([, list = ""]) => list.split(",")).flat()
    .map((name) => name.trim().replace(/^type /, "")).filter((name) => name !== "");
}

Deno.test("deno.json exports mod.ts, the mod.ts of each room, and nothing else", () => {
  const rooms = readdirSync(join(ROOT, "lib")).map((room) => `lib/${room}/mod.ts`).filter((path) =>
    existsSync(join(ROOT, path))
  );
  assert.deepEqual(entries.map(([, path]) => path).sort(), ["mod.ts", ...rooms].map((path) => `./${path}`).sort());
});

Deno.test("the import map of deno.json gives each entry the name that the guide documents", () => {
  const imports = Object.entries(config.imports).filter(([name]) => name.startsWith("compresso"));
  assert.deepEqual(imports, entries.map(([name, path]) => [`compresso${name.slice(1)}`, path]));
});

Deno.test("an entry only re-exports, each name once, and the most used ones have few", () => {
  for (const [name, path] of entries) {
    const names = namesOf(path);
    assert.equal(new Set(names).size, names.length, `${name} names something twice`);
    assert.ok(names.length <= (MOST[name] ?? Infinity), `${name} has ${names.length} names`);
  }
});

Deno.test("what the root exports stands in the entry of its room too", () => {
  const inRooms = new Set(entries.filter(([name]) => name !== ".").flatMap(([, path]) => namesOf(path)));
  const missing = namesOf("mod.ts").filter((name) => !inRooms.has(name) && !/^Error|Error$/.test(name));
  assert.deepEqual(missing, []);
});

Deno.test("the first line of each entry says when to import it", () => {
  for (const [name, path] of entries) {
    assert.match(readFileSync(join(ROOT, path), "utf8"), /^\/\*\*\n \* Import this entry /, name);
  }
});

Deno.test("what a schedule script imports stands at the root", () => {
  const root = namesOf("mod.ts");
  assert.deepEqual(SCRIPT_API.filter((name) => !root.includes(name)), []);
});

Deno.test("lists of names and what only the library uses are not exported", () => {
  const all = entries.flatMap(([, path]) => namesOf(path));
  const constants = all.filter((name) => /^[A-Z\d]+(?:_[A-Z\d]+)+$|^[A-Z]{2,}$/.test(name));
  assert.deepEqual(constants.sort(), CONSTANTS);
  const inner = ["packMasks", "slotLayout", "createTreeBuilder", "TexelRows", "restPerDim", "lineChart", "fits"];
  inner.push("Weights", "LayerWeights", "MatrixPlacement", "QuantRows", "DeviceTexture", "Resource", "spelled");
  assert.deepEqual(inner.filter((name) => all.includes(name)), []);
});
