// Norms, forward and backward: RMSNorm, and LayerNorm, which subtracts the mean first.
import type { Binding, KernelSource } from "../source.ts";

/**
 * Invocations that share a row of a norm. On a CPU they are one vector, as barriers between vectors cost more than the
 * work.
 */
export type NormLanes = 8 | 64;

/** One kernel of the family. */
export interface Norm {
  /**
   * - "row": the rows of x.
   * - "head": each head of a row of x. r is not kept, and backward is in place.
   * - "output": u = y ∘ z is normalised and added to x. r is not kept.
   */
  readonly of: "row" | "head" | "output";
  /** Whether μ is the mean (LayerNorm) instead of 0 (RMSNorm); not with "output". */
  readonly centres: boolean;
  readonly isBackward: boolean;
  /** Workgroup size. */
  readonly lanes: NormLanes;
  /** Whether an invocation takes a whole head, for adapters where barriers cost more than loads far apart. */
  readonly perLane: boolean;
}

/**
 * n = (x − μ)·r, r = 1 / sqrt(mean of (x − μ)² + ε), means over the first `width` columns of a head:
 *
 *   y = n ∘ w + b                                   b only for rows with μ; "output": x + n ∘ w with n of u
 *   dx = r·(g − mean of g − n · mean of (g · n))    g = dy ∘ w; without mean of g where μ = 0
 *
 * A row that is normalised whole is one head. Shapes, in vec4: x, y, dy, dx [rows, row4], head h from h·head4; w
 * [weight4·heads, or head4 where weight4 is 0]; b, z as a row; r [rows]. Padding columns of x (u), w and b are zero.
 * Bindings: "row" x, w, (b,) y, r, params, backward dy, x, w, r, dx, params; "head" x, w, y, params, backward x, w, dy →
 * dx, params; "output" y, z, w, x, out, params, backward dy, y, z, w, dx, params.
 * Grid: a workgroup per head (x) and row (y); with `perLane` an invocation per head of all rows, in x, then y.
 * `reduce` is the text of `group_sum`, with its constant GROUP.
 * Writes (=) y with zeros in padding columns and after the heads, and r; dx (+=) if params.accumulate is 1, otherwise (=).
 */
export function normKernelWith(norm: Norm, reduce: string): KernelSource {
  const { of, centres, isBackward, lanes, perLane } = norm;
  const bindings = bindingsOf(norm);
  const names = Object.keys(bindings);
  const declared = names.map((name, index) =>
    `@group(0) @binding(${index}) var<${
      bindings[name] === "read" ? "storage, read" : "storage, read_write"
    }> ${name}: array<${name === "r" ? "f32" : "vec4f"}>;`
  );
  return {
    name: `norm_${of}${centres ? "_centred" : ""}${isBackward ? "_backward" : ""}${perLane ? "_lanes" : ""}`,
    bindings: [...Object.values(bindings), "uniform"],
    code: `${
      perLane
        ? `const GROUP = ${lanes}u;
`
        : reduce
    }
struct Params {
  rows: u32, heads: u32, row4: u32, head4: u32, weight4: u32, width: u32, eps: f32, accumulate: u32,
}
${declared.join("\n")}
@group(0) @binding(${names.length}) var<uniform> params: Params;

fn centred(value: vec4f, mean: f32, c: u32) -> vec4f {
  return select(vec4f(), value - mean, 4u * c + vec4u(0u, 1u, 2u, 3u) < vec4u(params.width));
}

@compute @workgroup_size(GROUP) fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
${perLane ? ONE_LANE : SHARED_LANES}
  let base = row * params.row4 + head * params.head4;
  let first = head * params.weight4;
  let width = f32(params.width);
${centres ? meanText(perLane) : ""}
${isBackward ? backwardText(norm) : forwardText(norm)}
}
`,
  };
}

const ONE_LANE = `  let index = lane + GROUP * (group.x + group.y * groups.x);
  let row = index / params.heads;
  let head = index % params.heads;
  if (row >= params.rows) { return; }`;
const SHARED_LANES = `  let row = group.y;
  let head = group.x;`;

function bindingsOf({ of, centres, isBackward }: Norm): Readonly<Record<string, Binding>> {
  const bias: Record<string, Binding> = centres ? { b: "read" } : {};
  if (of === "row") {
    return isBackward
      ? { dy: "read", x: "read", w: "read", r: "read", dx: "storage" }
      : { x: "read", w: "read", ...bias, y: "storage", r: "storage" };
  }
  if (of === "head") return { x: "read", w: "read", [isBackward ? "dx" : "y"]: "storage" };
  return isBackward
    ? { dy: "read", y: "read", z: "read", w: "read", dx: "storage" }
    : { y: "read", z: "read", w: "read", x: "read", out: "storage" };
}

/** A loop over the vec4 of a head, which the lanes of a workgroup share unless each has its own. */
function overColumns(perLane: boolean, body: string): string {
  return `for (var c = ${perLane ? "0u" : "lane"}; c < params.head4; c += ${perLane ? "1u" : "GROUP"}) {\n${body}\n  }`;
}

/** The sum over a head from the sum of a lane. */
function totalOf(name: string, perLane: boolean): string {
  const sum = `${name}.x + ${name}.y + ${name}.z + ${name}.w`;
  return perLane ? `(${sum})` : `group_sum(${sum}, lane)`;
}

function meanText(perLane: boolean): string {
  return `  var values = vec4f();
  ${overColumns(perLane, "    values += x[base + c];")}
  let mean = ${totalOf("values", perLane)} / width;`;
}

/** A value that is normalised. As a product it is written out, so that its terms round in one order everywhere. */
function valueOf({ of }: Norm): string {
  return of === "output" ? "y[base + c] * z[c]" : "x[base + c]";
}

function differenceOf(norm: Norm): string {
  return norm.centres ? "centred(x[base + c], mean, c)" : valueOf(norm);
}

function forwardText(norm: Norm): string {
  const { of, centres, perLane } = norm, n = `${differenceOf(norm)} * inverse`;
  const target = of === "output" ? "out" : "y";
  const value = of === "output"
    ? `x[base + c] + ${n} * w[c]`
    : of === "row" && centres
    ? `fma(${n}, w[c], b[c])`
    : `${n} * w[first + c]`;
  return `  var squares = vec4f();
  ${
    overColumns(
      perLane,
      `    let value = ${differenceOf(norm)};
    squares = fma(value, value, squares);`,
    )
  }
  let inverse = inverseSqrt(${totalOf("squares", perLane)} / width + params.eps);
${of === "row" ? `  ${perLane ? "r[row] = inverse;" : "if (lane == 0u) { r[row] = inverse; }"}` : ""}
  ${overColumns(perLane, `    ${target}[base + c] = ${value};`)}
  if (head + 1u < params.heads) { return; }
  for (var c = params.heads * params.head4 + ${perLane ? "0u" : "lane"}; c < params.row4; c += ${
    perLane ? "1u" : "GROUP"
  }) {
    ${target}[row * params.row4 + c] = vec4f();
  }`;
}

function backwardText(norm: Norm): string {
  const { of, centres, perLane } = norm, isKept = of === "row", value = differenceOf(norm);
  const dy = `${of === "head" ? "dx" : "dy"}[base + c]`, g = `${dy} * w[first + c]`;
  // r is either kept or computed in the loop that sums g · n, which then lacks the factor r.
  const sums = [
    ...isKept ? [] : ["    squares = fma(value, value, squares);"],
    ...centres ? ["    offsets += g;"] : [],
    `    dots = fma(g, value${isKept && centres ? " * inverse" : ""}, dots);`,
  ];
  const dot = `${totalOf("dots", perLane)} / width`;
  const factor = !centres
    ? `inverse * inverse * inverse * ${totalOf("dots", perLane)} / width`
    : isKept
    ? dot
    : `${dot} * inverse`;
  const result = centres
    ? `inverse * (centred(${g}, offset, c) - ${value} * inverse * factor)`
    : `inverse * ${g} - factor * ${value}`;
  return `${isKept ? "  let inverse = r[row];" : "  var squares = vec4f();"}
${centres ? "  var offsets = vec4f();" : ""}
  var dots = vec4f();
  ${
    overColumns(
      perLane,
      `    let value = ${value};
    let g = ${g};
${sums.join("\n")}`,
    )
  }
${isKept ? "" : `  let inverse = inverseSqrt(${totalOf("squares", perLane)} / width + params.eps);`}
${centres ? `  let offset = ${totalOf("offsets", perLane)} / width;` : ""}
  let factor = ${factor};
  ${
    overColumns(
      perLane,
      `    let value = ${result};
    if (params.accumulate == 1u) { dx[base + c] += value; } else { dx[base + c] = value; }`,
    )
  }`;
}
