// General strided f32 matrix product from storage buffers, one register tile per invocation.
import type { KernelSource } from "../source.ts";

/** Parameters of the kernel: the tile of C that an invocation owns. */
export interface BufferProduct {
  readonly rows: number;
  readonly columns: number;
}

/** Invocations of a workgroup, along n. */
export const BUFFER_GROUP = 32;

/**
 * C[m, n] (=|+=) α · Σₖ A[m, k] · B[k, n]. Each matrix has an offset and two strides, so that one kernel serves all
 * transposes. Bindings A, B, C, params. Grid: groups of {@link BUFFER_GROUP} tiles, counted row by row of tiles, along
 * x and then y. The order of the sum is fixed: k ascending.
 */
export function productBuffer({ rows, columns }: BufferProduct): KernelSource {
  const cells = rows * columns;
  return {
    name: `product-buffer-${rows}x${columns}`,
    bindings: ["read", "read", "storage", "uniform"],
    code: `struct Params {
  m: u32, n: u32, k: u32,
  tiles: u32,                             // tiles along n
  offsetA: u32, strideAm: u32, strideAk: u32,
  offsetB: u32, strideBk: u32, strideBn: u32,
  offsetC: u32, strideC: u32,
  accumulate: u32,                        // 1: +=, 0: =
  alpha: f32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(${BUFFER_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let tile0 = id.x + id.y * groups.x * ${BUFFER_GROUP}u;
  let m0 = tile0 / p.tiles * ${rows}u;
  let n0 = tile0 % p.tiles * ${columns}u;
  if (m0 >= p.m) { return; }
${lines(rows, (r) => `  let a${r} = p.offsetA + min(m0 + ${r}u, p.m - 1u) * p.strideAm;`)}
${lines(columns, (n) => `  let b${n} = p.offsetB + min(n0 + ${n}u, p.n - 1u) * p.strideBn;`)}
${lines(cells, (i) => `  var c${i} = 0.0;`)}
  for (var k = 0u; k < p.k; k++) {
    let ka = k * p.strideAk;
    let kb = k * p.strideBk;
${lines(rows, (r) => `    let x${r} = a[a${r} + ka];`)}
${lines(columns, (n) => `    let y${n} = b[b${n} + kb];`)}
${lines(cells, (i) => `    c${i} += x${Math.floor(i / columns)} * y${i % columns};`)}
  }
  var tile: array<f32, ${cells}>;
${lines(cells, (i) => `  tile[${i}] = c${i};`)}
  for (var i = 0u; i < ${cells}u; i++) {
    let m = m0 + i / ${columns}u;
    let n = n0 + i % ${columns}u;
    if (m < p.m && n < p.n) {
      let at = p.offsetC + m * p.strideC + n;
      var value = p.alpha * tile[i];
      if (p.accumulate == 1u) { value += c[at]; }
      c[at] = value;
    }
  }
}
`,
  };
}

function lines(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}
