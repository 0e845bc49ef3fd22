// Body of the matrix-vector kernels for GPUs: a workgroup reads a few rows side by side and sums them in a tree.
import { range } from "../shared/range.ts";
import type { Matvec } from "../shared/matvec_types.ts";
import { type FileDtype, fileTexels, isFileDtype, scaleFunction } from "../shared/file_blocks.ts";
import {
  columnScale4,
  endingText,
  fileLoads,
  fileSum,
  scaledSum,
  scaleOf,
  texelDot,
  texelOf,
} from "../shared/matvec_text.ts";
import { hasCodes } from "../shared/weight_access.ts";

/**
 * Rows of a workgroup, for each matrix of a "swiglu": enough for a load of x to serve several, including the four rows
 * of a texel.
 */
export const MATVEC_BUFFER_ROWS = 4;

const LANES = 64;
const NONE = { low: "", high: "" };

/** Declarations and statements of main(). */
export function bufferBody(kernel: Matvec): { readonly module: string; readonly main: string } {
  const { storage: { dtype }, ending, parts, roles = [], norm, batch = 1 } = kernel;
  const isPair = ending === "swiglu",
    texel = texelOf(dtype),
    vectors = texel.columns / 4,
    quantized = hasCodes(dtype),
    list = range(batch);
  const rows = MATVEC_BUFFER_ROWS * (isPair ? 2 : 1);
  /** Name of a value of vector b. */
  const own = (name: string, b: number): string => batch > 1 ? `${name}_${b}` : name;
  const load = list.flatMap((b) =>
    range(vectors).map((v) => {
      const scale = columnScale4(dtype, 4 * v), value = own(`v${v}`, b), normed = own(`h${v}`, b);
      return `    let ${value} = x_at(b0 + ${b}u, c * ${vectors}u + ${v}u);
${
        norm
          ? `    ${
            own("squares", b)
          } += ${value} * ${value};\n    let ${normed} = ${value} * norm[c * ${vectors}u + ${v}u];`
          : `    let ${normed} = ${value};`
      }
    let ${own(`x${v}`, b)} = ${normed}${scale ? ` * ${scale}` : ""};`;
    })
  ).join("\n");
  const total = quantized
    ? list.map((b) => {
      const terms = range(vectors).map((v) => own(`h${v}`, b));
      return `    let ${own("total", b)} = ${terms.map((h) => `${h}.x + ${h}.y + ${h}.z + ${h}.w`).join(" + ")};`;
    }).join("\n")
    : "";
  const x = (b: number): string[] => range(vectors).map((v) => own(`x${v}`, b));
  const addFile = (dtype: FileDtype, m: number, base: number): string => {
    // Of 256 columns, so many texels have lower bits and so many any bits.
    const codesPitch = `params.pitch / ${256 / texel.columns / 8}u * ${fileTexels(dtype, 256).codes / 8}u`;
    const { codes, scales, decode, texels: [{ low, high } = NONE] } = fileLoads(dtype, {
      columns: ["c"],
      load: (of, at) =>
        of === "codes" ? `w${m}[n0 / 4u * (${codesPitch}) + ${at}]` : `scales${m}[n0 / 4u * params.scalePitch + ${at}]`,
      name: `${base}`,
    });
    const dots = list.map((b) => texelDot(dtype, { texel: low, high, x: x(b), name: `f${base}`, isShared: batch > 1 }));
    const lines = list.flatMap((b) => [
      `let ${own(`a${base}`, b)} = ${
        fileSum(dtype, { sums: [dots[b]?.sum ?? ""], name: `${base}`, total: own("total", b) })
      };`,
      ...range(4).map((r) => `${own(`s${base + r}`, b)} += ${own(`a${base}`, b)}[${r}];`),
    ]);
    return [...codes, ...scales, ...decode, dots[0]?.before ?? "", ...lines].map((line) => `    ${line}`).join("\n");
  };
  const add = (m: number, base: number): string => {
    if (isFileDtype(dtype)) return addFile(dtype, m, base);
    if (quantized) {
      const dots = list.map((b) =>
        texelDot(dtype, { texel: `d${base}`, x: x(b), name: `f${base}`, isShared: batch > 1 })
      );
      const scale = scaleOf(`e${base}`, `g${base}`);
      return `    let d${base} = w${m}[n0 / 4u * params.pitch + c];
    let e${base} = scales${m}[n0 / 4u * params.scalePitch + c / ${texel.perScale}u];
    ${dots[0]?.before} ${scale.before}
${
        dots.map(({ sum }, b) =>
          `    var ${own(`a${base}`, b)} = vec4f();
    ${own(`a${base}`, b)} += ${scaledSum(scale, sum, own("total", b))};
${range(4).map((r) => `    ${own(`s${base + r}`, b)} += ${own(`a${base}`, b)}[${r}];`).join("\n")}`
        ).join("\n")
      }`;
    }
    return range(MATVEC_BUFFER_ROWS).map((r) => {
      const dots = list.map((b) => texelDot(dtype, { texel: `d${base + r}`, x: x(b), name: `f${base + r}` }));
      return `    let d${base + r} = w${m}[(n0 + ${r}u) * params.pitch + c];
    ${dots[0]?.before}
${dots.map(({ sum }, b) => `    ${own(`s${base + r}`, b)} += ${sum};`).join("\n")}`;
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
  // The vectors take turns with the workgroup memory.
  const finish = (b: number): string =>
    `  {
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
${range(rows).map((r) => `  sums[${r * LANES}u + lane] = ${own(`s${r}`, b)};`).join("\n")}
${
      norm
        ? `  sums[${rows * LANES}u + lane] = ${
          ["x", "y", "z", "w"].map((c) => `${own("squares", b)}.${c}`).join(" + ")
        };`
        : ""
    }
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
    }
${
      endingText({
        ...{ ending, roles, lanes: LANES, vector: `b0 + ${b}u`, first: "n0", count: "count" },
        ...{ second: "params.groupRows", factor: "factor" },
      })
    }
  }`;
  return {
    module: `${isFileDtype(dtype) ? scaleFunction(dtype, "buffer") : ""}var<workgroup> sums: array<f32, ${all * LANES}>;
fn sum_of(i: u32) -> f32 { return sums[i * ${LANES}u]; }`,
    main: `${list.flatMap((b) => range(rows).map((r) => `  var ${own(`s${r}`, b)} = 0.0;`)).join("\n")}
${norm ? list.map((b) => `  var ${own("squares", b)} = vec4f();`).join("\n") : ""}
${products}
${list.map(finish).join("\n")}`,
  };
}
