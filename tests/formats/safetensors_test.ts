import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { openSafetensors } from "../disk.ts";
import { DTYPE_BITS } from "../../lib/formats/safetensors/header.ts";
import { type SafetensorsItem } from "../../lib/formats/safetensors/write.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { writeSafetensors, writeShardedSafetensors } from "../disk.ts";
import { fixture, inTemporaryFolder } from "./files.ts";
import { randomNumbers } from "./models.ts";

function f32(name: string, shape: number[], seed = 1): SafetensorsItem {
  return { name, dtype: "F32", shape, data: () => randomNumbers(shape.reduce((a, b) => a * b, 1), seed) };
}

/** A file from a header (JSON text, or a length of its own) and data bytes. */
function craft(header: string, data = 0, length = new TextEncoder().encode(header).length): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  return bytes;
}

Deno.test("writeSafetensors() and openSafetensors() keep tensors of awkward shapes and all dtypes", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.safetensors`;
    const values = randomNumbers(15, 3);
    await writeSafetensors(path, [
      { name: "half", dtype: "F16", shape: [3, 5], data: () => values },
      { name: "brain", dtype: "BF16", shape: [5, 3], data: () => Promise.resolve(values) },
      f32("empty", [0, 7]),
      f32("scalar", []),
      f32('name with "quotes", ü and __proto__', [1, 1, 7]),
      f32("__proto__", [2]),
      { name: "counters", dtype: "U32", shape: [3], data: () => Uint32Array.of(0, 7, 4294967295) },
      { name: "steps", dtype: "I64", shape: [2], data: () => BigInt64Array.of(-1n, 2n ** 62n) },
      { name: "flag", dtype: "BOOL", shape: [1], data: () => Uint8Array.of(1) },
    ], { metadata: { format: "pt", step: "12" } });
    const file = await openSafetensors(path);
    assert.deepEqual([...file.metadata], [["format", "pt"], ["step", "12"]]);
    assert.deepEqual(await file.read("half"), new Float32Array(new Float16Array(values)));
    const brain = await file.read("brain");
    assert.ok(brain.every((value, index) => Math.abs(value - Number(values[index])) <= Math.abs(value) / 256));
    assert.deepEqual(await file.read("empty"), new Float32Array(0));
    assert.deepEqual(await file.read("scalar"), randomNumbers(1, 1));
    assert.deepEqual(await file.read('name with "quotes", ü and __proto__'), randomNumbers(7, 1));
    assert.deepEqual(await file.read("__proto__"), randomNumbers(2, 1));
    assert.deepEqual(await file.readU32("counters"), Uint32Array.of(0, 7, 4294967295));
    assert.deepEqual(await file.readI64("steps"), BigInt64Array.of(-1n, 2n ** 62n));
    assert.deepEqual(await file.readRaw("flag"), Uint8Array.of(1));
    // Wider values first, so that each tensor is aligned to its width whatever comes before.
    for (const { name, offset, dtype } of file.tensors.values()) {
      assert.equal(offset % (DTYPE_BITS[dtype] / 8), 0, name);
    }
    await rejects(file.read("counters"), "input", { value: "U32", names: ["F32", "BF16"] });
    await rejects(file.readU32("nothing"), "input", { names: '"nothing"' });
  });
});

Deno.test("read() of row ranges equals the rows of the whole, for every dtype that is read as f32", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.safetensors`;
    const dtypes = ["F32", "F16", "BF16"] as const;
    await writeSafetensors(path, dtypes.map((dtype) => ({ ...f32(dtype, [7, 3, 5]), dtype })));
    const file = await openSafetensors(path);
    for (const dtype of dtypes) {
      const whole = await file.read(dtype);
      for (const [start, count] of [[0, 7], [0, 1], [6, 1], [2, 3], [7, 0]] as const) {
        assert.deepEqual(await file.read(dtype, { start, count }), whole.slice(start * 15, (start + count) * 15));
      }
      const bytes = dtype === "F32" ? 4 : 2;
      assert.deepEqual(
        await file.readRaw(dtype, { start: 2, count: 3 }),
        (await file.readRaw(dtype)).slice(30 * bytes, 75 * bytes),
      );
      for (const rows of [{ start: 5, count: 3 }, { start: -1, count: 1 }, { start: 0.5, count: 1 }]) {
        await rejects(file.read(dtype, rows), "usage", { names: 7 });
      }
    }
  });
});

Deno.test("a half-width tensor longer than one piece is read whole", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.safetensors`;
    const rows = 8200, width = 1031; // 16.1 MiB: just above one piece
    const bits = Uint16Array.from({ length: rows * width }, (_, i) => i % 0x7bff);
    await writeSafetensors(path, [{ name: "x", dtype: "F16", shape: [rows, width], data: () => bits }]);
    const values = new Float16Array(bits.buffer);
    const read = await (await openSafetensors(path)).read("x");
    assert.equal(read.findIndex((value, index) => value !== values[index]), -1);
  });
});

Deno.test("writeSafetensors() asks for one tensor at a time, and leaves no file where one fails", async () => {
  await inTemporaryFolder(async (folder) => {
    let asked = 0;
    const items: SafetensorsItem[] = [1, 2, 3].map((seed) => ({
      ...f32(`t${seed}`, [4], seed),
      data: () => {
        asked++;
        if (seed === 2) throw new RangeError("broken source");
        return randomNumbers(4, seed);
      },
    }));
    await assert.rejects(writeSafetensors(`${folder}/a`, items), RangeError);
    assert.equal(asked, 2);
    assert.deepEqual(await Array.fromAsync(Deno.readDir(folder)), []);
  });
});

Deno.test("writeSafetensors() refuses data that do not fit, duplicate names and values too large for a half", async () => {
  await inTemporaryFolder(async (folder) => {
    const write = (...items: SafetensorsItem[]): Promise<void> => writeSafetensors(`${folder}/a`, items);
    await rejects(write(f32("x", [2]), f32("x", [3])), "usage", { value: '"x"' });
    await rejects(write(f32("__metadata__", [2])), "usage", { value: "__metadata__" });
    await rejects(write({ ...f32("x", [2]), data: () => new Float32Array(3) }), "mismatch", {
      value: 3,
      names: [2, 8],
    });
    await rejects(write({ ...f32("x", [2]), data: () => new Uint32Array(2) }), "mismatch", {
      value: "Uint32Array",
      names: "F32",
    });
    const large = { ...f32("x", [2]), dtype: "F16" as const, data: () => Float32Array.of(1, 7e4) };
    await rejects(write(large), "numeric", { value: [70000, 1], names: "F16" });
    const brain = (value: number): SafetensorsItem => ({
      ...{ name: "x", dtype: "BF16", shape: [2], data: () => Float32Array.of(1, value) },
    });
    await write(brain(3.396e38));
    await rejects(write(brain(-3.3962e38)), "numeric", { value: [38, 1], names: "BF16" });
    await rejects(write(f32("x", [2.5])), "mismatch", { value: ["[2.5]", "F32"] });
  });
});

Deno.test("writeShardedSafetensors() cuts above the limit and writes an index", async () => {
  await inTemporaryFolder(async (folder) => {
    const items = [f32("a", [3]), f32("b", [2]), f32("c", [100]), f32("d", [1])];
    const names = await writeShardedSafetensors(folder, items, { maxShardBytes: 20 });
    const shard = (n: number): string => `model-0000${n}-of-00003.safetensors`;
    assert.deepEqual(names, [shard(1), shard(2), shard(3), "model.safetensors.index.json"]);
    const index = JSON.parse(await Deno.readTextFile(`${folder}/model.safetensors.index.json`));
    assert.deepEqual(index, {
      metadata: { total_size: 424 },
      weight_map: { a: shard(1), b: shard(1), c: shard(2), d: shard(3) },
    });
    for (const [name, file] of Object.entries<string>(index.weight_map)) {
      const item = items.find((item) => item.name === name);
      assert.deepEqual(await (await openSafetensors(`${folder}/${file}`)).read(name), await item?.data());
    }
    assert.deepEqual(await writeShardedSafetensors(folder, items, { maxShardBytes: 424 }), ["model.safetensors"]);
    await rejects(writeShardedSafetensors(folder, items, { maxShardBytes: 0 }), "usage", { value: 0 });
    await rejects(writeShardedSafetensors(folder, [...items, f32("a", [9])], { maxShardBytes: 20 }), "usage", {
      value: '"a"',
    });
  });
});

const X = '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';
const y = (begin: number, end: number): string => `"y":{"dtype":"F32","shape":[2],"data_offsets":[${begin},${end}]}`;

const DAMAGED: readonly (readonly [string, Uint8Array, Refusal])[] = [
  ["an empty file", new Uint8Array(0), { names: "{" }],
  ["a file of 5 bytes", new Uint8Array(5), { names: "{" }],
  [
    "a Git LFS pointer",
    new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    { value: "LFS" },
  ],
  ["a GGUF", new TextEncoder().encode("GGUF\x03\0\0\0\x07\0\0\0"), { value: "GGUF" }],
  ["a pickle in a ZIP", new TextEncoder().encode("PK\x03\x04 and so on"), { value: "PyTorch" }],
  ["an HTML page", new TextEncoder().encode("<!DOCTYPE html><html>"), { value: "HTML" }],
  ["a header above 100 MB", craft(`{${X}}`, 8, 100_000_001), { value: 100000001, names: 100000000 }],
  ["a header longer than the file", craft(`{${X}}`, 8, 1000), { names: 1000 }],
  ["a cut-off last tensor", craft(`{${X}}`, 7), { value: '"x"' }],
  ["bytes after the last tensor", craft(`{${X}}`, 9), { value: 71 }],
  ["a tensor that comes twice", craft(`{${X},${X}}`, 8), { value: '"x"' }],
  [
    "a dtype that comes twice",
    craft('{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    { value: '"dtype"' },
  ],
  [
    "tensors that overlap",
    craft(`{${X},${y(4, 12)}}`, 12),
    { value: ['"y"', '"x"'] },
  ],
  [
    "a gap between tensors",
    craft(`{${X},${y(12, 20)}}`, 20),
    { value: [4, '"x"', '"y"'] },
  ],
  ["a gap before the first tensor", craft(`{${y(4, 12)}}`, 12), { value: [4, '"y"'] }],
  [
    "an unknown dtype",
    craft('{"x":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}', 8),
    { value: '"F31"', names: ['"x"', "BOOL"] },
  ],
  [
    "a shape that does not fit its offsets",
    craft('{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', 8),
    { value: ["data_offsets", 0, 8], names: ["F32", "[3]", 12] },
  ],
  ["offsets the wrong way round", craft('{"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', 8), { value: -8 }],
  [
    "a shape whose size wraps at 2^64",
    craft('{"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', 0),
    { names: "18446744073709551616" },
  ],
  ["a negative size", craft('{"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', 8), { value: "[-2]" }],
  [
    "an offset above 2^53",
    craft('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,9007199254740993]}}', 8),
    { value: ["±2", 53] },
  ],
  ["a further key", craft('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"z":1}}', 8), {
    value: "data_offsets",
  }],
  [
    "metadata that is no string",
    craft(`{"__metadata__":{"a":1},${X}}`, 8),
    { names: "__metadata__.a" },
  ],
  ["deep nesting", craft(`{"x":${"[".repeat(1000)}}`, 8), { value: 16 }],
  ["text after the header", craft(`{${X}}}`, 8), { value: ["JSON", "character 54"] }],
  ["a header that is no UTF-8", craft(`{${X}}`, 8).map((byte, index) => index === 10 ? 0xff : byte), {
    names: ["JSON", "UTF-8"],
  }],
];

for (const [name, bytes, message] of DAMAGED) {
  Deno.test(`openSafetensors() refuses ${name}`, async () => {
    await inTemporaryFolder(async (folder) => {
      await Deno.writeFile(`${folder}/a`, bytes);
      await rejects(openSafetensors(`${folder}/a`), "input", message);
    });
  });
}

Deno.test("openSafetensors() accepts what those damaged files are made from, padded or not", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const [header, data] of [[`{${X}}`, 8], [`{${X}}   `, 8], [`{ ${X} , ${y(8, 16)}}`, 16]] as const) {
      await Deno.writeFile(`${folder}/a`, craft(header, data));
      assert.equal((await openSafetensors(`${folder}/a`)).tensors.get("x")?.byteLength, 8);
    }
  });
});

Deno.test("openSafetensors() names a missing file and a folder", async () => {
  await inTemporaryFolder(async (folder) => {
    await rejects(openSafetensors(`${folder}/none`), "input", { names: "none" });
    await rejects(openSafetensors(folder), "input", { names: folder });
  });
});

Deno.test("random byte flips in a header give a CompressoError or a sound header, never anything else", async () => {
  const original = await Deno.readFile(fixture("gguf_blocks.safetensors"));
  const headerEnd = 8 + Number(new DataView(original.buffer).getBigUint64(0, true));
  await inTemporaryFolder(async (folder) => {
    const noise = randomNumbers(4000, 99);
    let refused = 0;
    for (let round = 0; round < 500; round++) {
      const bytes = original.slice();
      const flips = 1 + round % 3;
      for (let flip = 0; flip < flips; flip++) {
        const at = Math.floor((Number(noise[round * 6 + flip * 2]) + 1) / 2 * headerEnd);
        bytes[at] = Math.floor((Number(noise[round * 6 + flip * 2 + 1]) + 1) * 128);
      }
      await Deno.writeFile(`${folder}/a`, bytes);
      try {
        const file = await openSafetensors(`${folder}/a`);
        let sum = headerEnd;
        for (const { byteLength } of file.tensors.values()) sum += byteLength;
        assert.equal(sum, bytes.length, `round ${round}`);
      } catch (error) {
        assert.ok(error instanceof CompressoError, `round ${round}: ${error}`);
        refused++;
      }
    }
    // Most flips break something; some only rename a tensor.
    assert.ok(refused > 250 && refused < 500, `${refused} of 500 refused`);
  });
});

Deno.test("a shape of many huge dimensions is refused at once, with a message of bounded length", async () => {
  await inTemporaryFolder(async (folder) => {
    const shape = `[${Array(60_000).fill(2 ** 53 - 1).join(",")}]`;
    await Deno.writeFile(`${folder}/a`, craft(`{"a":{"dtype":"F32","shape":${shape},"data_offsets":[0,4]}}`, 4));
    const start = performance.now();
    await rejects(openSafetensors(`${folder}/a`), "input", { value: [2, 80] });
    await rejects(openSafetensors(`${folder}/a`), "input", { value: [2, 80] });
    assert(performance.now() - start < 5000);
    // A dimension of 0 leaves nothing, however large the others are.
    const none = `[0,${2 ** 53 - 1},${2 ** 53 - 1}]`;
    await Deno.writeFile(`${folder}/b`, craft(`{"a":{"dtype":"F32","shape":${none},"data_offsets":[0,0]}}`));
    assert.deepEqual(await (await openSafetensors(`${folder}/b`)).read("a"), new Float32Array(0));
  });
});

Deno.test("a header of more tensors than any model has is refused before it is parsed", async () => {
  await inTemporaryFolder(async (folder) => {
    const entry = (index: number): string => `"${index}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`;
    const header = (count: number): string =>
      `{${Array.from({ length: count }, (_, index) => entry(index)).join(",")}}`;
    await Deno.writeFile(`${folder}/a`, craft(header(2 ** 18 + 2)));
    await rejects(openSafetensors(`${folder}/a`), "input", { value: 262147, names: 262144 });
    // Braces in a text are none.
    const name = JSON.stringify(`${"{".repeat(2 ** 18 + 9)}\\"{`);
    await Deno.writeFile(`${folder}/b`, craft(`{${name}:{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`));
    assert.equal((await openSafetensors(`${folder}/b`)).tensors.size, 1);
  });
});
