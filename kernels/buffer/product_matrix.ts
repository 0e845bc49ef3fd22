// Forward product with f16 weights on the matrix units of a GPU, by WGSL's experimental subgroup matrices.
import type { KernelSource } from "../source.ts";

/** A shape that the matrix units multiply: f16 [m, k] · f16 [k, n], added up in f32, by subgroups of one size. */
export interface MatrixUnits {
  /** Invocations of a subgroup. */
  readonly lanes: number;
  /** Rows of the left factor; divides 32. */
  readonly m: number;
  /** Columns of the right factor; divides 32. */
  readonly n: number;
  /** Depth; divides 16. */
  readonly k: number;
}

/** WGSL of the operations on matrices, for an index `at` into an array. Replaced by tests where there are no units. */
export interface MatrixOperations {
  /** Directives and declarations. */
  readonly enable: string;
  readonly declare: string;
  /** An expression of a zero result. */
  readonly zero: string;
  /** Loads rows of `tile`, `pitch` apart, and columns of `weights`, `stride` apart. */
  left(at: string, pitch: string): string;
  right(at: string, stride: string): string;
  multiply(left: string, right: string, sum: string): string;
  /** A statement that stores a result to `stage`, row by row. */
  store(at: string, sum: string): string;
}

/** Rows and columns of y of a workgroup, and values of k per step. */
export const UNIT_TILE = 64;
export const UNIT_STEP = 16;
/** Subgroups of a workgroup: two rows of two, each with a quarter of the tile. */
const SUBGROUPS = 4, SIDE = UNIT_TILE / 2;
/** Distance of the rows of a tile in f16: a multiple of 16 bytes that spreads them over the banks of the memory. */
const PITCH = UNIT_STEP + 8;

/**
 * Bindings x, W, y, params: those of `productTiled` for f16 weights stored [n][k]. Grid: x tiles of {@link UNIT_TILE}
 * rows, y tiles of as many columns.
 *
 * A value of x is the sum of two f16 after a power of two has brought the largest of its row near 2^15, so it keeps
 * 22 bits, or 2^-39 of the largest. Products of f16 are exact; the units add them up in f32, in an order of their
 * own.
 */
export function productMatrix(units: MatrixUnits, operations: MatrixOperations = builtin(units)): KernelSource {
  const { lanes, m, n, k } = units, group = lanes * SUBGROUPS, { left, right, multiply, store } = operations;
  const rows = range(SIDE / m), columns = range(SIDE / n), half = UNIT_TILE * PITCH;
  const sums = rows.flatMap((r) => columns.map((c) => ({ r, c, name: `sum_${r}_${c}` })));
  const steps = range(UNIT_STEP / k).map((step) => {
    const high = (r: number): string => `(32u * (part / 2u) + ${r * m}u) * ${PITCH}u + ${step * k}u`;
    const loads = rows.flatMap((r) => [
      `    let high_${r}_${step} = ${left(high(r), `${PITCH}u`)};`,
      `    let low_${r}_${step} = ${left(`${half}u + ${high(r)}`, `${PITCH}u`)};`,
    ]);
    const products = columns.flatMap((c) => {
      const w = `w_${c}_${step}`,
        at = `(n0 + 32u * (part % 2u) + ${c * n}u) * stride + step * ${UNIT_STEP}u + ${step * k}u`;
      return [
        `    let ${w} = ${right(at, "stride")};`,
        ...rows.flatMap((r) =>
          ["high", "low"].map((which) =>
            `    sum_${r}_${c} = ${multiply(`${which}_${r}_${step}`, w, `sum_${r}_${c}`)};`
          )
        ),
      ];
    });
    return [...loads, ...products].join("\n");
  });
  return {
    name: `product-matrix-f16-${m}x${n}x${k}`,
    bindings: ["read", "read", "storage", "uniform"],
    code: `${operations.enable}
struct Params {
  rows: u32,       // m
  columns: u32,    // values written of each row of y
  steps: u32,      // steps of k
  first: u32,      // first vec4 of a row of x
  strideX: u32,    // of x, in vec4
  strideW: u32,    // of W, in groups of four
  offset: u32,     // first vec4 of y
  strideY: u32,    // of y, in vec4
  accumulate: u32, // 1: +=, 0: =
}
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<f16>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> tile: array<f16, ${2 * half}>; // the upper halves of x, [m][k], and the lower ones
var<workgroup> stage: array<f32, ${SUBGROUPS * m * n}>;
var<workgroup> sizes: array<atomic<u32>, ${UNIT_TILE}>; // bits of the largest |x| of each row
${operations.declare}
fn power(exponent: i32) -> f32 { return bitcast<f32>(u32(exponent + 127) << 23u); }
fn exponent_of(row: u32) -> i32 { return clamp(i32(atomicLoad(&sizes[row]) >> 23u) - 127, -100, 126); }

@compute @workgroup_size(${group}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) t: u32) {
  let m0 = group.x * ${UNIT_TILE}u;
  let n0 = group.y * ${UNIT_TILE}u;
  let part = t / ${lanes}u;
  let stride = 4u * p.strideW;
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
  for (var row = 0u; row < min(${UNIT_TILE}u, p.rows - m0); row++) {
    var size = 0.0;
    for (var i = t; i < p.steps * 4u; i += ${group}u) {
      let value = abs(x[(m0 + row) * p.strideX + p.first + i]);
      size = max(size, max(max(value.x, value.y), max(value.z, value.w)));
    }
    atomicMax(&sizes[row], bitcast<u32>(size));
  }
  workgroupBarrier();
${sums.map(({ name }) => `  var ${name} = ${operations.zero};`).join("\n")}
  for (var step = 0u; step < p.steps; step++) {
    for (var i = t; i < ${UNIT_TILE * UNIT_STEP / 4}u; i += ${group}u) {
      let row = i / ${UNIT_STEP / 4}u;
      let column = i % ${UNIT_STEP / 4}u;
      let value = x[min(m0 + row, p.rows - 1u) * p.strideX + p.first + step * ${
      UNIT_STEP / 4
    }u + column] * power(14 - exponent_of(row));
      let upper = bitcast<vec4f>(bitcast<vec4u>(value) & vec4u(0xffffe000u)); // 11 bits: exact in f16
      let high = vec4h(upper);
      let low = vec4h(value - upper);
      for (var j = 0u; j < 4u; j++) {
        tile[row * ${PITCH}u + column * 4u + j] = high[j];
        tile[${half}u + row * ${PITCH}u + column * 4u + j] = low[j];
      }
    }
    workgroupBarrier();
${steps.join("\n")}
    workgroupBarrier();
  }
${
      sums.map(({ r, c, name }) =>
        `  ${store(`part * ${m * n}u`, name)}
  workgroupBarrier();
  for (var i = t % ${lanes}u; i < ${m * n}u; i += ${lanes}u) {
    let row = 32u * (part / 2u) + ${r * m}u + i / ${n}u;
    let column = n0 + 32u * (part % 2u) + ${c * n}u + i % ${n}u;
    if (m0 + row < p.rows && column < p.columns) {
      let at = 4u * (p.offset + (m0 + row) * p.strideY) + column;
      let value = stage[part * ${m * n}u + i] * power(exponent_of(row) - 14);
      if (p.accumulate == 1u) { y[at] += value; } else { y[at] = value; }
    }
  }
  workgroupBarrier();`
      ).join("\n")
    }
}
`,
  };
}

/** The operations of `chromium_experimental_subgroup_matrix`: types have columns before rows. */
function builtin({ m, n, k }: MatrixUnits): MatrixOperations {
  return {
    enable: `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity); // offsets are the same within a subgroup, not a workgroup
`,
    declare: "",
    zero: `subgroup_matrix_result<f32, ${n}, ${m}>()`,
    left: (at, pitch) => `subgroupMatrixLoad<subgroup_matrix_left<f16, ${k}, ${m}>, row_major>(&tile, ${at}, ${pitch})`,
    right: (at, stride) =>
      `subgroupMatrixLoad<subgroup_matrix_right<f16, ${n}, ${k}>, col_major>(&weights, ${at}, ${stride})`,
    multiply: (left, right, sum) => `subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${sum})`,
    store: (at, sum) => `subgroupMatrixStore<row_major>(&stage, ${at}, ${sum}, ${n}u);`,
  };
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}
