import assert from "node:assert/strict";
import { openGgufFile } from "../disk.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import { type GgufItem } from "../../lib/formats/gguf/write.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { writeGguf } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { randomNumbers } from "./models.ts";

function item(name: string, shape: number[], type: GgufItem["type"] = "f32"): GgufItem {
  return { name, type, shape, data: () => randomNumbers(shape.reduce((a, b) => a * b, 1), 5) };
}

const VALUES: readonly (readonly [string, GgufValue | GgufTyped, GgufValue])[] = [
  ["u8", { type: "u8", value: 255 }, 255],
  ["i8", { type: "i8", value: -128 }, -128],
  ["u16", { type: "u16", value: 65535 }, 65535],
  ["i16", { type: "i16", value: -32768 }, -32768],
  ["u32", 4294967295, 4294967295],
  ["i32", -2147483648, -2147483648],
  ["u64", { type: "u64", value: 7 }, 7],
  ["u64 that is exact", 2 ** 53 - 1, 2 ** 53 - 1],
  ["u64 that is not", 2n ** 64n - 1n, 2n ** 64n - 1n],
  ["i64", -(2 ** 40), -(2 ** 40)],
  ["i64 that is not exact", -(2n ** 63n), -(2n ** 63n)],
  ["f32", 0.1, Math.fround(0.1)],
  ["f32 that is whole", { type: "f32", value: 10000 }, 10000],
  ["f64", { type: "f64", value: 0.1 }, 0.1],
  ["true", true, true],
  ["false", false, false],
  ["string", "ü € 🙂 \0", "ü € 🙂 \0"],
  ["empty string", "", ""],
  ["strings", ["a", "", "ß"], ["a", "", "ß"]],
  ["no strings", [], []],
  ["booleans", [true, false, true], [true, false, true]],
  ["u8s", Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 3)],
  ["i8s", Int8Array.of(-1), Int8Array.of(-1)],
  ["u16s", Uint16Array.of(1, 65535), Uint16Array.of(1, 65535)],
  ["i16s", Int16Array.of(-3), Int16Array.of(-3)],
  ["u32s", Uint32Array.of(4294967295), Uint32Array.of(4294967295)],
  ["i32s", Int32Array.of(-1, 0, 7), Int32Array.of(-1, 0, 7)],
  ["f32s", Float32Array.of(0.5, -1e30), Float32Array.of(0.5, -1e30)],
  ["f64s", Float64Array.of(0.1), Float64Array.of(0.1)],
  ["u64s", BigUint64Array.of(2n ** 64n - 1n), BigUint64Array.of(2n ** 64n - 1n)],
  ["i64s", BigInt64Array.of(-5n), BigInt64Array.of(-5n)],
];

Deno.test("writeGguf() and openGgufFile() keep metadata of every type and tensors of every written type", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.gguf`;
    // A vocabulary longer than one window of the reader, so that strings cross its edge.
    const long = Array.from({ length: 90_000 }, (_, i) => `token ${i} ${"x".repeat(i % 23)}`);
    await writeGguf(path, {
      metadata: new Map([...VALUES.map(([key, value]) => [key, value] as const), ["long", long]]),
      tensors: [
        item("a", [7, 3]),
        item("b", [5]),
        item("c", [3, 64], "q8_0"),
        item("d", [2, 3, 5], "f16"),
        item("e", [1, 1], "bf16"),
      ],
    });
    const file = await openGgufFile(path);
    assert.equal(file.version, 3);
    for (const [key, , value] of VALUES) assert.deepEqual(file.metadata.get(key), value, key);
    assert.deepEqual(file.metadata.get("long"), long);
    assert.deepEqual([...file.tensors.values()].map(({ name, shape, type }) => [name, shape, type]), [
      ["a", [7, 3], "f32"],
      ["b", [5], "f32"],
      ["c", [3, 64], "q8_0"],
      ["d", [2, 3, 5], "f16"],
      ["e", [1, 1], "bf16"],
    ]);
    for (const { offset } of file.tensors.values()) assert.equal(offset % 32, 0);
    assert.equal((await Deno.stat(path)).size % 32, 0);
    const random = (count: number): Float32Array => randomNumbers(count, 5);
    assert.deepEqual(await file.readTensor("a"), random(21));
    assert.deepEqual(await file.readTensor("a", { start: 2, count: 3 }), random(21).slice(6, 15));
    assert.deepEqual(await file.readTensor("d"), new Float32Array(new Float16Array(random(30))));
    const quantised = await file.readTensor("c");
    // A step of Q8_0 is at most 1/127 here: values within ±1 come back within half of it, and the scale's f16 rounding.
    assert.ok(random(192).every((value, i) => Math.abs(value - Number(quantised[i])) < 0.0045));
    assert.deepEqual(await file.readTensor("c", { start: 1, count: 2 }), quantised.slice(64));
    await rejects(file.readTensor("z"), "input", { names: ["GGUF", "a.gguf"] });
  });
});

Deno.test("openGgufFile() keeps U+FEFF at the start of a string, which is a token of LLaMA's vocabulary", async () => {
  await inTemporaryFolder(async (folder) => {
    const tokens = ["a", "\ufeff", "\ufeffx", "x\ufeff"];
    await writeGguf(`${folder}/a`, { metadata: new Map([["tokens", tokens]]), tensors: [] });
    assert.deepEqual((await openGgufFile(`${folder}/a`)).metadata.get("tokens"), tokens);
  });
});

Deno.test("writeGguf() keeps another alignment, as the reader does", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.gguf`;
    await writeGguf(path, {
      metadata: new Map([["general.alignment", 256]]),
      tensors: [item("a", [3]), item("b", [5])],
    });
    const file = await openGgufFile(path);
    assert.deepEqual([...file.tensors.values()].map(({ offset }) => offset % 256), [0, 0]);
    assert.deepEqual(await file.readTensor("b"), randomNumbers(5, 5));
  });
});

Deno.test("writeGguf() refuses what it cannot write, and leaves no file", async () => {
  const one = (value: GgufValue | GgufTyped): ReadonlyMap<string, GgufValue | GgufTyped> => new Map([["key", value]]);
  await inTemporaryFolder(async (folder) => {
    const write = (tensors: GgufItem[], metadata = new Map<string, GgufValue | GgufTyped>()): Promise<void> =>
      writeGguf(`${folder}/a`, { metadata, tensors });
    const refuse = async (value: GgufValue | GgufTyped, message: Refusal): Promise<void> =>
      await rejects(writeGguf(`${folder}/a`, { metadata: one(value), tensors: [] }), "usage", message);
    await refuse({ type: "u8", value: 256 }, { value: 256, names: "u8" });
    await refuse({ type: "i32", value: 1.5 }, { value: 1.5, names: "i32" });
    await refuse({ type: "u64", value: -1n }, { value: -1, names: "u64" });
    await refuse({ type: "string", value: 1 }, { value: "number" });
    await refuse(NaN, { value: "NaN", names: "f32" });
    await rejects(write([item("a", [2]), item("a", [3])]), "usage", { names: "GGUF" });
    await rejects(write([item("a", [2, 33], "q8_0")]), "usage", { value: "[2, 33]", names: [32, "q8_0"] });
    await rejects(write([item("a", [0, 32])]), "usage", { value: 0 });
    await rejects(write([{ ...item("a", [2]), data: () => new Float32Array(3) }]), "mismatch", {
      value: 3,
      names: "[2]",
    });
    const bad = (values: number[], type: GgufItem["type"]): Promise<void> =>
      write([{
        name: "a",
        type,
        shape: [32],
        data: () => Float32Array.of(...values, ...new Float32Array(32 - values.length)),
      }]);
    await rejects(bad([0, NaN], "f32"), "numeric", { value: ["NaN", 1], names: "f32" });
    await rejects(bad([7e4], "f16"), "numeric", { value: 70000, names: "±65520" });
    await rejects(bad([0, 0, -9e6], "q8_0"), "numeric", { value: [-9000000, 2] });
    await rejects(bad([6e5], "q4_0"), "numeric", { value: 600000 });
    await bad([6e5], "q8_0");
    await bad([3e38], "bf16");
    await rejects(bad([3.4e38], "bf16"), "numeric", { value: [38, 0] });
    assert.deepEqual((await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name), ["a"]);
  });
});

/** Writes a file of one key and two tensors, and lets `change` edit its bytes; offsets below are those of this file. */
async function damaged(change: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array, message: Refusal): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a`;
    await writeGguf(path, {
      metadata: new Map([["key", "value"]]),
      tensors: [item("ab", [2, 32], "q8_0"), item("cd", [8])],
    });
    const bytes = await Deno.readFile(path);
    await openGgufFile(path);
    await Deno.writeFile(path, change(bytes));
    await rejects(openGgufFile(path), "input", message);
  });
}

// GGUF, version, counts: 24 bytes; "key": 8 + 3; type 4; "value": 8 + 5; then "ab": 8 + 2, dimensions 4, sizes 16, type 4, offset 8.
const KEY = 24,
  TYPE = 35,
  AB = 52,
  AB_SIZES = AB + 14,
  AB_TYPE = AB_SIZES + 16,
  CD = AB_TYPE + 12,
  CD_OFFSET = CD + 10 + 4 + 8 + 4;
const set = (at: number, ...values: number[]) => (bytes: Uint8Array<ArrayBuffer>): Uint8Array => {
  bytes.set(values, at);
  return bytes;
};

const BROKEN: readonly (readonly [string, (bytes: Uint8Array<ArrayBuffer>) => Uint8Array, Refusal])[] = [
  ["an empty file", () => new Uint8Array(0), { names: "GGUF" }],
  [
    "a Git LFS pointer",
    () => new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\n"),
    { value: "LFS" },
  ],
  ["a GGML file", () => new TextEncoder().encode("tjgg\x03\0\0\0"), { value: ["GGML", "GGUF"] }],
  ["version 1", set(4, 1), { value: "version 1", names: [2, 3] }],
  ["a big-endian file", set(4, 0, 0, 0, 3), { names: ["GGUF", 2] }],
  ["a file cut off in the header", (bytes) => bytes.subarray(0, 60), { value: 44 }],
  [
    "a file cut off in the data",
    (bytes) => bytes.subarray(0, bytes.length - 1),
    { value: 255 },
  ],
  ["a huge count of tensors", set(15, 0x40), { names: 24 }],
  ["a huge count of keys", set(23, 0x40), { value: 232 }],
  ["a huge string", set(KEY + 7, 0x7f), { value: 224 }],
  ["an unknown value type", set(TYPE, 99), { value: 99, names: [0, 12] }],
  ["a string that is no UTF-8", set(TYPE + 12, 0xff), { names: "UTF-8" }],
  ["five dimensions", set(AB + 10, 5), { value: 5, names: ['"ab"', 1, 4] }],
  ["an unknown tensor type", set(AB_TYPE, 77), { value: 77, names: ['"ab"', "f32"] }],
  ["a tensor type that is not read", set(AB_TYPE, 20), { value: "iq4_nl" }],
  ["rows that are no whole blocks", set(AB_SIZES, 31), { value: 31, names: ['"ab"', "q8_0", 32] }],
  ["a tensor of absurd size", set(AB_SIZES + 7, 0x10), { value: "1152921504606847008" }],
  ["an offset that is not aligned", set(CD_OFFSET, 97), { value: 97, names: 32 }],
  ["tensors that overlap", set(CD_OFFSET, 64), { names: "GGUF" }],
  ["an offset outside the file", set(CD_OFFSET + 1, 0x40), { value: 256 }],
  ["a tensor that comes twice", set(CD + 8, 0x61, 0x62), { value: "ab" }],
];

for (const [name, change, message] of BROKEN) {
  Deno.test(`openGgufFile() refuses ${name}`, async () => await damaged(change, message));
}

Deno.test("an array of more items than any vocabulary has is refused by its count", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.gguf`, count = 2 ** 24 + 1, key = new TextEncoder().encode("general.flags");
    const bytes = new Uint8Array(100 + count), view = new DataView(bytes.buffer);
    bytes.set(new TextEncoder().encode("GGUF"));
    view.setUint32(4, 3, true);
    view.setBigUint64(16, 1n, true); // one value, no tensors
    view.setBigUint64(24, BigInt(key.length), true);
    bytes.set(key, 32);
    const at = 32 + key.length;
    view.setUint32(at, 9, true); // an array
    view.setUint32(at + 4, 7, true); // of booleans
    view.setBigUint64(at + 8, BigInt(count), true);
    await Deno.writeFile(path, bytes);
    await rejects(openGgufFile(path), "input", { value: ["general.flags", 16777217], names: 16777216 });
  });
});

Deno.test("more tensors or metadata values than any model has are refused by their counts", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const [tensors, values] of [[2 ** 18 + 1, 0], [0, 2 ** 16 + 1]] as const) {
      const bytes = new Uint8Array(24 + 24 * tensors + 13 * values), view = new DataView(bytes.buffer);
      bytes.set(new TextEncoder().encode("GGUF"));
      view.setUint32(4, 3, true);
      view.setBigUint64(8, BigInt(tensors), true);
      view.setBigUint64(16, BigInt(values), true);
      await Deno.writeFile(`${folder}/a.gguf`, bytes);
      await rejects(openGgufFile(`${folder}/a.gguf`), "input", { names: [262144, 65536] });
    }
  });
});
