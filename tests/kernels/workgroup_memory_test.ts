// The text of kernels: workgroup memory is not written before all invocations have met, as some drivers zero it late.
import type { KernelSource } from "../../kernels/source.ts";
import assert from "node:assert/strict";
import * as kernels from "../../kernels/mod.ts";

/** Kernels of GPUs that a generator makes; those of textures run where a CPU runs the shaders. */
const GENERATED: readonly KernelSource[] = [
  ...(["f32", "f16", "q8", "q4"] as const).flatMap((dtype) => [
    kernels.productTiled({ transposeB: true, dtype, rows: 4, columns: 4 }),
    kernels.productTiled({ transposeB: false, dtype, rows: 4, columns: 8 }),
    ...([true, false] as const).map((norm) =>
      kernels.matvecKernel({ storage: { placement: "buffer", dtype }, ending: "swiglu", parts: 1, norm })
    ),
  ]),
  ...(["row", "head", "output"] as const).flatMap((of) =>
    [false, true].map((isBackward) =>
      kernels.normKernel({ of, centres: of !== "output", isBackward, lanes: 64, perLane: false })
    )
  ),
  kernels.decodeAttentionKernel({ headDim: 64, heads: 3, lanes: 64 }),
  ...(["attentionKernel", "attentionQueryGradKernel", "attentionKeyGradKernel"] as const).map((name) =>
    kernels[name]({ variant: "workgroup", headDim: 64, lanes: 64, rows: 1, step: 2 })
  ),
];

/** All kernels of the module, within records of them too. */
function kernelsIn(value: unknown): KernelSource[] {
  if (typeof value !== "object" || value === null) return [];
  if (isKernel(value)) return [value];
  return Object.values(value).flatMap(kernelsIn);
}

function isKernel(value: object): value is KernelSource {
  return "code" in value && typeof value.code === "string";
}

/** Names of workgroup variables that the text writes to before a barrier stands in it. */
function earlyWrites(code: string): string[] {
  const names = [...code.matchAll(/var<workgroup>\s+(\w+)/g)].map(([, name = ""]) => name);
  const main = code.slice(code.search(/var<workgroup>/)), barrier = main.indexOf("workgroupBarrier()");
  return names.filter((name) => {
    const write = main.search(new RegExp(`\\b${name}\\b(\\[[^\\n]*\\])?\\s*[-+*/]?=[^=]|atomic\\w+\\(&${name}\\b`));
    return write >= 0 && (barrier < 0 || write < barrier);
  });
}

Deno.test("no kernel writes workgroup memory before a barrier", () => {
  const all = [...kernelsIn(kernels), ...GENERATED].filter(({ code }) => code.includes("var<workgroup>"));
  assert.ok(all.length >= 15, `${all.length} kernels`);
  for (const { name, code } of all) assert.deepEqual(earlyWrites(code), [], name);
});

Deno.test("a write before the barrier is found, in whatever form", () => {
  const barrier = "workgroupBarrier();";
  for (const write of ["a[i * 2u] = 1.0;", "a[i] += 1.0;", "atomicStore(&a, 1u);"]) {
    assert.deepEqual(earlyWrites(`var<workgroup> a: array<f32, 4>; fn main() { ${write} ${barrier} }`), ["a"]);
    assert.deepEqual(earlyWrites(`var<workgroup> a: array<f32, 4>; fn main() { ${barrier} ${write} }`), []);
  }
});

/** Bytes of the arrays of f32 that a kernel declares in workgroup memory. */
function workgroupBytes(code: string): number {
  return [...code.matchAll(/var<workgroup>\s+\w+: array<f32, (\d+)>/g)].reduce((sum, [, n]) => sum + 4 * Number(n), 0);
}

Deno.test("the rows of a product for many sequences fit the device's workgroup memory", () => {
  const units = { units: 2, half: false, rounds: 1 }, { matvecBatchKernel, batchRows } = kernels;
  for (const memory of [16384, 32768, 49152]) {
    for (const exchange of [false, true]) {
      for (const [batch, ending] of [[2, "store"], [4, "residual"], [8, "swiglu"], [2, "rotate"]] as const) {
        for (const norm of [false, true]) {
          const kernel = {
            ...{ dtype: "f16", ending, parts: 1, batch, norm, units, exchange } as const,
            ...(ending === "rotate" ? { roles: ["q"] as const, headStride: 64 } : {}),
          };
          const rows = batchRows(kernel, memory), { name, code } = matvecBatchKernel({ ...kernel, rows });
          assert.ok(rows >= 4 && rows % 4 === 0, `${name}: ${rows} rows`);
          assert.ok(workgroupBytes(code) <= memory, `${name}: ${workgroupBytes(code)} of ${memory} bytes`);
          if (!exchange) assert.ok(workgroupBytes(code) > memory / 2 || rows === 768, `${name}: ${rows} rows`);
        }
      }
    }
  }
});
