// Tuning tables on disk: what is written is used again, and nothing else is.
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { adapterIdentity, formatTuning, parseTuning, tuningOf } from "../../lib/gpu/tuning.ts";
import { tuningIdentity } from "../../lib/nn/products/variants.ts";
import { loadTuning, saveTuning } from "../../lib/local/tuning_cache.ts";

const ENTRIES = [["linear-texture forward f16 256 x 512 x 512", "8x8"], [
  "matmul-buffer nnn f32 8 x 8 x 8",
  "2x4",
]] as const;

/** A device that computes nothing, which is all that a table needs. */
function anyDevice(entries: readonly (readonly [string, string])[] = []): Device {
  const device = openDryDevice({ isCpu: true, description: "an adapter" });
  for (const [key, name] of entries) tuningOf(device).set(key, name);
  return device;
}

async function withFolder(work: (path: string, folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "compresso_tuning_" });
  try {
    await work(join(folder, "cache", "tuning.json"), folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Asserts that a file with this text is ignored for this reason, and that a save fixes it. */
async function assertIgnored(
  path: string,
  text: string,
  reason: RegExp,
  { isForeign = false }: { readonly isForeign?: boolean } = {},
): Promise<void> {
  await Deno.writeTextFile(path, text);
  using device = anyDevice();
  const file = await loadTuning(device, path);
  assert.ok(file.state === "ignored", text.slice(0, 60));
  assert.match(file.reason, reason);
  assert.equal(file.isForeign, isForeign, text.slice(0, 60));
  assert.equal(tuningOf(device).size, 0);
  using other = anyDevice(ENTRIES);
  assert.equal(await saveTuning(other, path), true);
  assert.deepEqual(await loadTuning(device, path), { state: "used", entries: 2 });
}

Deno.test("a saved table is used by another device of the same adapter", async () => {
  await withFolder(async (path) => {
    using first = anyDevice(ENTRIES), second = anyDevice();
    assert.deepEqual(await loadTuning(second, path), { state: "absent" });
    assert.equal(await saveTuning(first, path), true);
    assert.deepEqual(await loadTuning(second, path), { state: "used", entries: 2 });
    assert.deepEqual([...tuningOf(second)].sort(), [...ENTRIES].sort());
  });
});

Deno.test("saving keeps what the file has beyond the table, and loading what the table has", async () => {
  await withFolder(async (path) => {
    using first = anyDevice([["a", "1x4"], ["b", "1x4"]]), second = anyDevice([["b", "2x4"], ["c", "2x4"]]);
    await saveTuning(first, path);
    await saveTuning(second, path);
    using third = anyDevice([["a", "8x8"]]);
    assert.deepEqual(await loadTuning(third, path), { state: "used", entries: 3 });
    assert.deepEqual(Object.fromEntries(tuningOf(third)), { a: "8x8", b: "2x4", c: "2x4" });
  });
});

Deno.test("a table of another adapter, version or kernels is ignored, and replaced by the next save", async () => {
  await withFolder(async (path) => {
    using device = anyDevice(ENTRIES);
    await saveTuning(device, path);
    const whole = JSON.parse(await Deno.readTextFile(path));
    const changed = (change: Readonly<Record<string, unknown>>): string => JSON.stringify({ ...whole, ...change });
    await assertIgnored(path, changed({ adapter: whole.adapter + "x" }), /another adapter/);
    await assertIgnored(path, changed({ version: 2 }), /version 2, not 1/);
    await assertIgnored(path, changed({ version: undefined }), /version/);
    await assertIgnored(path, changed({ kernels: "0123456789abcdef" }), /other kernels/);
    await assertIgnored(path, changed({ format: "else" }), /not a table/, { isForeign: true });
    await assertIgnored(path, changed({ entries: [] }), /no entries/);
    await assertIgnored(path, changed({ entries: { a: 1 } }), /entry 'a' is broken/);
  });
});

Deno.test("a broken, truncated, empty or oversized file is ignored, wherever it was cut", async () => {
  await withFolder(async (path) => {
    using device = anyDevice(ENTRIES);
    await saveTuning(device, path);
    const text = await Deno.readTextFile(path);
    for (let length = 0; length < text.trimEnd().length; length += 13) {
      await assertIgnored(path, text.slice(0, length), /no whole JSON/);
    }
    await assertIgnored(path, text.replaceAll('"', "'"), /no whole JSON/, { isForeign: true });
    for (const other of ["null", "[]", "1", '"text"']) {
      await assertIgnored(path, other, /not a table/, { isForeign: true });
    }
    await assertIgnored(path, text + " ".repeat(1 << 20), /not a table/, { isForeign: true });
  });
});

Deno.test("a place that cannot be read or written is no error", async () => {
  await withFolder(async (path, folder) => {
    using device = anyDevice(ENTRIES);
    assert.deepEqual((await loadTuning(device, folder)).state, "ignored");
    assert.equal(await saveTuning(device, folder), false);
    await Deno.writeTextFile(join(folder, "file"), "");
    const below = join(folder, "file", "tuning.json");
    assert.notEqual((await loadTuning(device, below)).state, "used");
    assert.equal(await saveTuning(device, below), false);
    assert.deepEqual(await loadTuning(device, path), { state: "absent" });
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["file"]);
  });
});

Deno.test("the identity tells adapters apart, and names the runtime", async () => {
  using cpu = openDryDevice({ isCpu: true, description: "one" });
  using gpu = openDryDevice({ isCpu: true, description: "two" });
  using real = await openDevice();
  assert.equal(new Set([cpu, gpu, real].map(adapterIdentity)).size, 3);
  const identity = tuningIdentity(real);
  assert.match(identity.adapter, new RegExp(`Deno/${Deno.version.deno}`));
  assert.ok(identity.adapter.includes(real.facts.description));
  assert.deepEqual(tuningIdentity(real), identity);
  const text = formatTuning(new Map(ENTRIES), identity);
  assert.equal(parseTuning(text, identity).isFit, true);
  assert.equal(parseTuning(text, tuningIdentity(cpu)).isFit, false);
});
