// Body of the matrix-vector kernels for GPUs: a workgroup reads a few rows side by side and sums them in a tree.
import { range } from "./range.ts";
import type { Matvec } from "./matvec_types.ts";
import { columnScale4, scaledSum, texelDot, texelOf } from "./matvec_text.ts";
import { isQuantized } from "./weight_access.ts";

/**
 * Rows of a workgroup, for each matrix of a "swiglu": enough for a load of x to serve several, including the four rows
 * of a texel.
 */
export const MATVEC_BUFFER_ROWS = 4;

const LANES = 64;

/** Declarations and statements of main() up to the sums. */
export function bufferBody(
  { storage: { dtype }, ending, parts, norm }: Matvec,
): { readonly module: string; readonly main: string } {
  const isPair = ending === "swiglu",
    texel = texelOf(dtype),
    vectors = texel.columns / 4,
    quantized = isQuantized(dtype);
  const rows = MATVEC_BUFFER_ROWS * (isPair ? 2 : 1);
  const load = range(vectors).map((v) => {
    const scale = columnScale4(dtype, 4 * v);
    return `    let v${v} = x_at(c * ${vectors}u + ${v}u);
${
      norm
        ? `    squares += v${v} * v${v};\n    let h${v} = v${v} * norm[c * ${vectors}u + ${v}u];`
        : `    let h${v} = v${v};`
    }
    let x${v} = h${v}${scale ? ` * ${scale}` : ""};`;
  }).join("\n");
  const total = quantized
    ? `    let total = ${range(vectors).map((v) => `h${v}.x + h${v}.y + h${v}.z + h${v}.w`).join(" + ")};`
    : "";
  const x = range(vectors).map((v) => `x${v}`);
  const add = (m: number, base: number): string => {
    if (quantized) {
      const dot = texelDot(dtype, { texel: `d${base}`, x, name: `f${base}` });
      return `    let d${base} = w${m}[n0 / 4u * params.pitch + c];
    let e${base} = scales${m}[n0 / 4u * params.scalePitch + c / ${texel.perScale}u];
    var a${base} = vec4f();
    ${scaledSum({ target: `a${base}`, sum: dot.sum, total: "total", scale: `e${base}`, name: `g${base}` })}
${range(4).map((r) => `    s${base + r} += a${base}[${r}];`).join("\n")}`;
    }
    return range(MATVEC_BUFFER_ROWS).map((r) => {
      const dot = texelDot(dtype, { texel: `d${base + r}`, x, name: `f${base + r}` });
      return `    let d${base + r} = w${m}[(n0 + ${r}u) * params.pitch + c];
    ${dot.before} s${base + r} += ${dot.sum};`;
    }).join("\n");
  };
  const loop = (body: string): string =>
    `  for (var c = lane; c < params.pitch; c += ${LANES}u) {
${load}
${total}
${body}
  }`;
  const products = isPair
    ? loop(`${add(0, 0)}\n${add(1, MATVEC_BUFFER_ROWS)}`)
    : parts === 1
    ? loop(add(0, 0))
    : range(parts).map((m) => `  if (part == ${m}u) {\n${loop(add(m, 0))}\n  }`).join("\n");
  const all = rows + (norm ? 1 : 0);
  return {
    module: `var<workgroup> sums: array<f32, ${all * LANES}>;
fn sum_of(i: u32) -> f32 { return sums[i * ${LANES}u]; }`,
    main: `${range(rows).map((r) => `  var s${r} = 0.0;`).join("\n")}
${norm ? "  var squares = vec4f();" : ""}
${products}
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
${range(rows).map((r) => `  sums[${r * LANES}u + lane] = s${r};`).join("\n")}
${norm ? `  sums[${rows * LANES}u + lane] = squares.x + squares.y + squares.z + squares.w;` : ""}
  for (var step = ${LANES / 2}u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) {
${range(all).map((r) => `      sums[${r * LANES}u + lane] += sums[${r * LANES}u + lane + step];`).join("\n")}
    }
  }
  workgroupBarrier();
${
      norm
        ? `  let factor = inverseSqrt(sums[${rows * LANES}u] / f32(params.columns) + params.eps);`
        : "  let factor = 1.0;"
    }`,
  };
}
