// What a page of a table may decode to: bytes that claim far more values than a page has are refused before they are decoded.
import assert from "node:assert/strict";
import {
  checkCount,
  checkLevels,
  checkValues,
  type PageValues,
  type Reader,
} from "../../lib/data/readers/parquet_values.ts";

function reader(...bytes: readonly number[]): Reader {
  return { view: new DataView(new Uint8Array(bytes).buffer), offset: 0 };
}

/** A number in groups of 7 bits. */
function varint(value: number): number[] {
  return value < 128 ? [value] : [value % 128 + 128, ...varint(Math.floor(value / 128))];
}

/** Bytes behind their length. */
function prefixed(...bytes: readonly number[]): number[] {
  return [bytes.length, 0, 0, 0, ...bytes];
}

const PAGE: PageValues = { type: "BYTE_ARRAY", encoding: "RLE_DICTIONARY", typeLength: undefined, count: 10 };

Deno.test("runs of as many values as the page has are passed over, and levels at their most are counted", () => {
  const mixed = reader(...prefixed(...varint(2 * 5), 1, ...varint(2 * 1 + 1), 0b10101));
  assert.equal(checkLevels(mixed, { most: 1, count: 10 }), 8);
  assert.equal(mixed.offset, 8);
  assert.equal(checkLevels(reader(...varint(2 * 9), 0, ...varint(2), 3), { most: 3, count: 10, length: 4 }), 1);
  assert.equal(checkLevels(reader(...varint(3), 0b11100100, 0b11), { most: 3, count: 5, length: 3 }), 2);
  assert.equal(checkLevels(reader(), { most: 0, count: 10 }), 10);
  checkValues(reader(2, ...varint(2 * 10), 3), PAGE, { isV2: false });
  checkValues(reader(0), PAGE, { isV2: false });
});

Deno.test("a run of repeated or packed values that is longer than the page is refused: it would fill the memory", () => {
  const long = [...varint(2 * 2 ** 30), 1], packed = varint(2 * 2 ** 27 + 1);
  for (const run of [long, packed]) {
    assert.throws(
      () => checkLevels(reader(...prefixed(...run)), { most: 1, count: 10 }),
      /a run of \d+ values, where 10/,
    );
    assert.throws(() => checkValues(reader(3, ...run), PAGE, { isV2: false }), /a run of \d+ values/);
    assert.throws(() => checkValues(reader(3, ...run), PAGE, { isV2: true }), /a run of \d+ values/);
    const booleans = { ...PAGE, type: "BOOLEAN", encoding: "RLE" };
    assert.throws(() => checkValues(reader(...prefixed(...run)), booleans, { isV2: true }), /a run of \d+ values/);
  }
  assert.throws(() => checkValues(reader(3, ...varint(2 ** 33), 1), PAGE, { isV2: false }), /more than 32 bits/);
  assert.throws(() => checkValues(reader(40, 0), PAGE, { isV2: false }), /indices of 40 bits/);
});

Deno.test("a page has at most a million values, and 64 more for each byte", () => {
  checkCount(2 ** 20 + 640, 10);
  assert.throws(() => checkCount(2 ** 20 + 641, 10), /1049217 values in a page of 10 bytes/);
});

Deno.test("blocks of differences that are empty or huge are refused", () => {
  const page = { ...PAGE, encoding: "DELTA_BINARY_PACKED" };
  checkValues(reader(...varint(128), ...varint(4)), page, { isV2: false });
  for (const [block, parts] of [[0, 1], [128, 0], [128, 3], [2 ** 30, 1], [2 ** 31, 2 ** 31]] as const) {
    const read = reader(...varint(block), ...varint(parts));
    assert.throws(() => checkValues(read, page, { isV2: false }), /blocks of \d+ differences in \d+ parts/);
  }
});

Deno.test("values with a common beginning that would take more than their page may stand for are refused", () => {
  // Differences in one block of one part of 128: the first number, then a common difference of no bits.
  const numbers = (first: number, step: number): number[] => [
    ...[...varint(128), 1, ...varint(100), ...varint(2 * first), ...varint(step < 0 ? -2 * step - 1 : 2 * step)],
    0,
  ];
  const page = { ...PAGE, encoding: "DELTA_BYTE_ARRAY", count: 100 };
  checkValues(reader(...numbers(0, 0), ...numbers(9, 0)), page, { isV2: false });
  // Each value begins as the one before it and is a million bytes longer.
  const read = reader(...numbers(0, 1_000_000), ...numbers(1_000_000, 0));
  assert.throws(() => checkValues(read, page, { isV2: false }), /values of more than \d+ bytes in a page of \d+/);
  const shorter = reader(...numbers(5, 0), ...numbers(1, 0));
  assert.throws(() => checkValues(shorter, page, { isV2: false }), /shares more bytes/);
});

Deno.test("split values of more bytes than the page has are refused", () => {
  const page = {
    ...PAGE,
    type: "FIXED_LEN_BYTE_ARRAY",
    encoding: "BYTE_STREAM_SPLIT",
    typeLength: 2 ** 30,
    count: 70_000,
  };
  assert.throws(
    () => checkValues(reader(1, 2, 3), page, { isV2: false }),
    /70000 values of 1073741824 bytes in 3 bytes/,
  );
});
