import assert from "node:assert/strict";
import {
  BF16_LIMIT,
  F16_LIMIT,
  f16Table,
  firstAtLeast,
  firstNonFinite,
  narrowBf16,
  narrowF16,
  widenBf16,
  widenF16,
} from "../../lib/core/half.ts";

const ALL = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

/** f16 by its definition: (−1)^s · 2^(e − 15) · (1 + m / 1024), subnormal where e = 0. */
function f16ByDefinition(bits: number): number {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * 2 ** (exponent - 15) * (1 + mantissa / 1024);
}

Deno.test("f16Table() holds the value of every f16 bit pattern", () => {
  for (let bits = 0; bits < 65536; bits++) assert.ok(Object.is(f16Table()[bits], f16ByDefinition(bits)), String(bits));
});

Deno.test("narrowF16() gives back every f16 that is no NaN", () => {
  const wide = new Float32Array(65536);
  widenF16(ALL, wide);
  const narrow = narrowF16(wide);
  for (let bits = 0; bits < 65536; bits++) if (!Number.isNaN(wide[bits])) assert.equal(narrow[bits], bits);
});

Deno.test("narrowBf16() gives back every bf16 that is no NaN, and keeps NaN", () => {
  const wide = new Float32Array(65536);
  widenBf16(ALL, wide);
  const narrow = narrowBf16(wide);
  for (let bits = 0; bits < 65536; bits++) {
    if (!Number.isNaN(wide[bits])) assert.equal(narrow[bits], bits);
    else assert.ok((Number(narrow[bits]) & 0x7fff) > 0x7f80, String(bits));
  }
});

Deno.test("narrowBf16() and narrowF16() round halves to even", () => {
  // 1 + 1/256 is half way between the bf16 1 and 1 + 1/128; 1 + 3/256 half way between 1 + 1/128 and 1 + 2/128.
  assert.deepEqual([...narrowBf16(Float32Array.of(1 + 1 / 256, 1 + 3 / 256, 1 + 1.001 / 256))], [
    0x3f80,
    0x3f82,
    0x3f81,
  ]);
  assert.deepEqual([...narrowF16(Float32Array.of(1 + 1 / 2048, 1 + 3 / 2048, 1 + 1.001 / 2048))], [
    0x3c00,
    0x3c02,
    0x3c01,
  ]);
});

Deno.test("widenF16() and widenBf16() leave what is before the given place", () => {
  const out = new Float32Array(3).fill(9);
  widenF16(Uint16Array.of(0x3c00), out, 1);
  widenBf16(Uint16Array.of(0x4000), out, 2);
  assert.deepEqual([...out], [9, 1, 2]);
});

Deno.test("firstAtLeast() finds the first finite value that a half rounds to infinity", () => {
  assert.equal(firstAtLeast(Float32Array.of(65519, -65519, Infinity, NaN), F16_LIMIT), -1);
  assert.equal(firstAtLeast(Float32Array.of(1, 65520, -1e9), F16_LIMIT), 1);
  assert.equal(narrowF16(Float32Array.of(65519))[0], 0x7bff);
  assert.equal(narrowF16(Float32Array.of(65520))[0], 0x7c00);
  // The largest f32 below the limit, and the limit itself.
  const edge = new Float32Array(Uint32Array.of(0x7f7f7fff, 0x7f7f8000).buffer);
  assert.equal(firstAtLeast(edge, BF16_LIMIT), 1);
  assert.deepEqual([...narrowBf16(edge)], [0x7f7f, 0x7f80]);
});

Deno.test("firstNonFinite() finds NaN and infinities", () => {
  assert.equal(firstNonFinite(Float32Array.of(0, -1, 3.4e38)), -1);
  assert.equal(firstNonFinite(Float32Array.of(0, -Infinity)), 1);
  assert.equal(firstNonFinite(Float32Array.of(0, 1, NaN)), 2);
});
