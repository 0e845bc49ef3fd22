// Fixed parts of the WGSL of product.ts: params and the ways to write C.

/** Params of the kernels, in order; the last three only with a low-rank product. */
export function header(low: boolean): string {
  return `struct Params {
  rows: u32,       // m
  columns: u32,    // n, a multiple of 4 unless C is written by single f32
  k: u32,
  steps: u32,      // steps of k
  start: u32,      // first step of k
  first: u32,      // first texel of A along k, where A is stored [m][k]
  offset: u32,     // first value of C, in f32; a multiple of 4 unless C is written by single f32
  stride: u32,     // of C, in f32
  accumulate: u32, // 1: +=, 0: =
  alpha: f32,${
    low
      ? `
  lowAlpha: f32,
  lowK: u32,
  lowColumns: u32, // n of low B; C's further columns get nothing of it`
      : ""
  }
}`;
}

/** Writes tile[i], a vec4 of row m at column 4 · n4. */
export const STORE_VECTOR = `      let at = (p.offset + m * p.stride) / 4u + n4;
      var value = p.alpha * tile[i];
      if (p.accumulate == 1u) { value += c[at]; }
      c[at] = value;`;

/** Like {@link STORE_VECTOR}, by single f32; C is stored [n][m] if transposed. */
export function storeScalars(transposeC: boolean): string {
  return `      let value = p.alpha * tile[i];
      for (var j = 0u; j < min(4u, p.columns - n4 * 4u); j++) {
        let at = p.offset + ${transposeC ? "(n4 * 4u + j) * p.stride + m" : "m * p.stride + n4 * 4u + j"};
        var sum = value[j];
        if (p.accumulate == 1u) { sum += c[at]; }
        c[at] = sum;
      }`;
}
