// Products of frozen matrices in textures with the vectors of several sequences, for CPU adapters.
//
// Every sum has the terms and the order of matvec_texture.ts, where the columns of a row are spread over eight
// invocations: here an invocation takes these eight parts one after the other, for rows and vectors of its own.
import { range } from "./range.ts";
import {
  columnScale4,
  endingBindings,
  endingFunctions,
  endingText,
  scaleOf,
  texelDot,
  texelOf,
} from "./matvec_text.ts";
import { unitOf } from "./matvec_texture.ts";
import type { KernelSource } from "./source.ts";
import { isQuantized, weightBindings, type WeightDtype } from "./weight_access.ts";

/** One kernel of the family. */
export interface BatchMatvec {
  readonly dtype: WeightDtype;
  /** As of `Matvec`; "raw" stores sums without the factor of the norm. */
  readonly ending: "store" | "raw" | "swiglu" | "residual";
  /** Number of consecutive matrices in the grid (1 for "residual" and "swiglu", whose second matrix does not count). */
  readonly parts: number;
  /** Vectors of a workgroup, at most {@link BATCH_VECTORS}. */
  readonly batch: number;
  /** Whether the sums are multiplied by a factor of each vector, which {@link matvecPrepare} writes. */
  readonly norm: boolean;
  /** Of `textureUnits`: whether half a unit follows, and whether there are several rounds. */
  readonly half: boolean;
  readonly isMany: boolean;
  /** Whether invocations of a workgroup load different vectors and broadcast them; needs subgroups of 8. */
  readonly broadcast: boolean;
}

/** Vectors of a workgroup, at most. */
export const BATCH_VECTORS = 8;
const LANES = 8;
/** Rows of W of a workgroup: a vec4 of each invocation. */
export const BATCH_GROUP_ROWS = 4 * LANES;
const XYZW = ["x", "y", "z", "w"] as const;

/**
 * Bindings: those of each matrix; x (texture-f32) [vectors, texels] as {@link matvecPrepare} writes it; with `norm` the
 * factors [vectors]; z for "swiglu" and "residual"; y; params. Grid: x the vectors in steps of `batch`, so that
 * those who read the same rows run one after the other; y workgroups of all parts, each of {@link BATCH_GROUP_ROWS} rows. Params end with firstGroup, rows, offset and pitch of
 * each part.
 */
export function matvecBatchKernel(kernel: BatchMatvec): KernelSource {
  const { dtype, ending, parts, batch, norm, half, isMany, broadcast } = kernel;
  const storage = { placement: "texture", dtype } as const, matrices = ending === "swiglu" ? 2 : parts;
  const weights = weightBindings(storage), quantized = isQuantized(dtype), list = range(batch);
  const bindings: { kind: KernelSource["bindings"][number]; declare: string }[] = [];
  for (let m = 0; m < matrices; m++) {
    weights.forEach((kind, index) => {
      const format = kind === "texture-f32" ? "rgba32float" : "rgba32uint";
      bindings.push({ kind, declare: `var ${index === 0 ? "w" : "scales"}${m}: texture_storage_2d<${format}, read>;` });
    });
  }
  bindings.push({ kind: "texture-f32", declare: "var x: texture_storage_2d<rgba32float, read>;" });
  const isNormed = norm && ending !== "raw", hasMask = ending === "swiglu" || ending === "residual";
  if (isNormed) bindings.push({ kind: "read", declare: "var<storage, read> factors: array<f32>;" });
  if (hasMask) bindings.push({ kind: "read", declare: "var<storage, read> z: array<f32>;" });
  bindings.push({ kind: "storage", declare: "var<storage, read_write> y: array<f32>;" });
  bindings.push({ kind: "uniform", declare: "var<uniform> params: Params;" });
  const sum = (m: number): string => sumOfMatrix({ ...kernel, m, result: `c${m}` });
  const result = (b: number): string =>
    ({
      store: `y[n] = c0_${b}[i]${isNormed ? " * factor" : ""};`,
      raw: `y[n] = c0_${b}[i];`,
      residual: `y[n] = fma(c0_${b}[i]${isNormed ? " * factor" : ""}, z[offset + row + i], y[n]);`,
      swiglu: `let gate = c0_${b}[i]${isNormed ? " * factor" : ""};
      y[n] = gate / (1.0 + exp(-gate)) * (c1_${b}[i]${isNormed ? " * factor" : ""}) * z[offset + row + i];`,
    })[ending];
  const code = `struct Params {
  units: u32,
  rounds: u32,
${range(parts).map((p) => `  firstGroup${p}: u32, rows${p}: u32, offset${p}: u32, pitch${p}: u32,`).join("\n")}
}
${bindings.map(({ declare }, index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}

@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var part = 0u;
  var n0 = group.y * ${BATCH_GROUP_ROWS}u;
  var rows = params.rows0;
  var offset = params.offset0;
  var pitch = params.pitch0;
  let b0 = group.x * ${batch}u;
  let vector = b0 + min(lane, ${batch - 1}u);
${
    range(parts).slice(1).map((p) =>
      `  if (group.y >= params.firstGroup${p}) {
    part = ${p}u;
    n0 = (group.y - params.firstGroup${p}) * ${BATCH_GROUP_ROWS}u;
    rows = params.rows${p};
    offset = params.offset${p};
    pitch = params.pitch${p};
  }`
    ).join("\n")
  }
  let row = n0 + lane * 4u;
${range(ending === "swiglu" ? 2 : 1).flatMap((m) => list.map((b) => `  var c${m}_${b} = vec4f();`)).join("\n")}
${
    ending === "swiglu"
      ? `${sum(0)}\n${sum(1)}`
      : parts === 1
      ? sum(0)
      : range(parts).map((m) => `  if (part == ${m}u) {\n${sumOfMatrix({ ...kernel, m, result: "c0" })}\n  }`).join(
        "\n",
      )
  }
  let count = min(4u, max(rows, row) - row);
${
    list.map((b) =>
      `  {
    ${isNormed ? `let factor = factors[b0 + ${b}u];` : ""}
    let start = (b0 + ${b}u) * pitch + offset + row;
    for (var i = 0u; i < count; i++) {
      let n = start + i;
      ${result(b)}
    }
  }`
    ).join("\n")
  }
}
`;
  return {
    name: `matvec-batch${batch}-${dtype}-${ending}-${parts}${isNormed ? "-norm" : ""}${half ? "-half" : ""}${
      isMany ? "-rounds" : ""
    }${broadcast ? "-broadcast" : ""}`,
    bindings: bindings.map(({ kind }) => kind),
    ...(broadcast ? { usesSubgroups: true } : {}),
    code,
  };

  /** Statements that add the sums of four rows of a matrix to `result`, for each vector. */
  function sumOfMatrix({ m, result }: BatchMatvec & { readonly m: number; readonly result: string }): string {
    const { texels, step, span } = unitOf(dtype), { perScale } = texelOf(dtype);
    const unit = unitBody({
      m,
      columns: range(texels).map((t) => `place + u * ${LANES * texels}u + ${t * step}u`),
      scale: `vlane / ${Math.max(1, step)}u + u * ${span / 32}u`,
    });
    const rest = half
      ? unitBody({
        m,
        columns: [`vlane + params.units * ${LANES * texels}u`],
        scale: `vlane / ${perScale}u + params.units * ${span / 32}u`,
      })
      : "";
    const clear = list.map((b) => `    var sum_${b} = vec4f();`).join("\n");
    const add = (target: string): string => list.map((b) => `    ${target}_${b} += sum_${b};`).join("\n");
    const units = (first: string): string =>
      `    for (var i = 0u; i < params.units; i++) {
    let u = ${first}i;
${unit}
    }`;
    return `  for (var vlane = 0u; vlane < ${LANES}u; vlane++) {
    let place = ${quantized ? `vlane / ${step}u * ${perScale}u + vlane % ${step}u` : "vlane"};
${
      isMany
        ? `${list.map((b) => `    var all_${b} = vec4f();`).join("\n")}
    for (var round = 0u; round < params.rounds; round++) {
${clear}
${units("round * params.units + ")}
${add("all")}
    }
${list.map((b) => `    ${result}_${b} += all_${b};`).join("\n")}`
        : `${clear}
${units("")}
${rest}
${add(result)}`
    }
  }`;
  }

  /** Adds the products of a unit, or of half of one, to the sums. */
  function unitBody({ m, columns, scale }: {
    readonly m: number;
    /** Texels of W along a row. */
    readonly columns: readonly string[];
    readonly scale: string;
  }): string {
    const { columns: width } = texelOf(dtype), vectors = width / 4;
    const at = (name: string, t: number, k: number): string => `${name}${t}_${k}`;
    const all = columns.flatMap((_, t) => range(vectors).map((k) => [t, k] as const));
    const column = columns.map((text, t) => `      let column${t} = ${text};`);
    const load = (target: string, vector: string): string =>
      all.map(([t, k]) =>
        `      let ${at(target, t, k)} = textureLoad(x, vec2u(column${t} * ${vectors}u + ${k}u, ${vector}));`
      ).join("\n");
    const total = (name: string): string =>
      all.map(([t, k]) => XYZW.map((c) => `${at(name, t, k)}.${c}`).join(" + ")).join(" + ");
    const scaled = (name: string, target: string): string =>
      all.map(([t, k]) => {
        const factor = columnScale4(dtype, 4 * k);
        return `      let ${at(target, t, k)} = ${at(name, t, k)}${factor ? ` * ${factor}` : ""};`;
      }).join("\n");
    const texels = quantized
      ? columns.map((_, t) => `      let d${t} = textureLoad(w${m}, vec2u(column${t}, row / 4u));`)
      : range(4).map((i) => `      let d0_${i} = textureLoad(w${m}, vec2u(column0, row + ${i}u));`);
    const scales = quantized ? [`      let e = textureLoad(scales${m}, vec2u(${scale}, row / 4u));`] : [];
    const own = broadcast
      ? `${load("h", "vector")}\n${quantized ? `      let own_total = ${total("h")};\n${scaled("h", "s")}` : ""}`
      : "";
    const source = quantized ? "s" : "h";
    const vectorOf = (b: number): string =>
      broadcast
        ? all.map(([t, k]) => `      let ${at(`x${b}_`, t, k)} = subgroupBroadcast(${at(source, t, k)}, ${b}u);`)
          .concat(quantized ? [`      let total${b} = subgroupBroadcast(own_total, ${b}u);`] : []).join("\n")
        : `${load(quantized ? `h${b}_` : `x${b}_`, `b0 + ${b}u`)}
${quantized ? `      let total${b} = ${total(`h${b}_`)};\n${scaled(`h${b}_`, `x${b}_`)}` : ""}`;
    const scaling = quantized ? scaleOf("e", "g") : null;
    const dot = (b: number): { readonly before: string; readonly sum: string } => {
      const x = (t: number): string[] => range(vectors).map((k) => at(`x${b}_`, t, k));
      if (!quantized) {
        const terms = range(width).map((c) => `${x(0)[c >> 2]}.${XYZW[c & 3]} * f${c}`);
        return { before: floatColumns(dtype, width), sum: terms.join(" + ") };
      }
      const dots = columns.map((_, t) => texelDot(dtype, { texel: `d${t}`, x: x(t), name: `f${t}`, isShared: true }));
      return { before: dots.map(({ before }) => before).join(" "), sum: dots.map(({ sum }) => sum).join(" + ") };
    };
    return `    {
${[...column, ...texels, ...scales].join("\n")}
${own}
      ${dot(0).before}
      ${scaling ? `${scaling.before} let scale_d = ${scaling.d}; let scale_m = ${scaling.m};` : ""}
${
      list.map((b) =>
        `${vectorOf(b)}
      sum_${b} += ${scaling ? `scale_d * (${dot(b).sum}) + scale_m * total${b}` : dot(b).sum};`
      ).join("\n")
    }
    }`;
  }
}

/** Defines f0, f1, …: the values of a column of a texel for four rows. */
function floatColumns(dtype: WeightDtype, width: number): string {
  const rows = range(4);
  if (dtype === "f32") {
    return range(width).map((c) => `let f${c} = vec4f(${rows.map((i) => `d0_${i}.${XYZW[c]}`).join(", ")});`).join(" ");
  }
  const pairs = rows.flatMap((i) =>
    range(width / 2).map((p) => `let p${i}_${p} = unpack2x16float(d0_${i}.${XYZW[p]});`)
  );
  const columns = range(width).map((c) =>
    `let f${c} = vec4f(${rows.map((i) => `p${i}_${c >> 1}.${c % 2 === 0 ? "x" : "y"}`).join(", ")});`
  );
  return [...pairs, ...columns].join(" ");
}

/**
 * The x of {@link matvecBatchKernel}: target[b] = x[b] ∘ norm, 0 beyond the columns, and with `norm` factors[b] = 1 /
 * √(mean x[b]² + ε).
 * Bindings: x, with `norm` its weight, target (texture), with `norm` factors, params. Grid: one workgroup per vector.
 * Writes (=).
 */
export function matvecPrepare({ dtype, norm, half }: Pick<BatchMatvec, "dtype" | "norm" | "half">): KernelSource {
  const { texels, step } = unitOf(dtype), { columns, perScale } = texelOf(dtype), vectors = columns / 4;
  const body = (column: string): string =>
    range(vectors).map((k) =>
      `    {
      let c4 = (${column}) * ${vectors}u + ${k}u;
      let v = x_at(b, c4);
      ${norm ? "squares += v * v;" : ""}
      textureStore(prepared, vec2u(c4, b), ${norm ? "v * norm[c4]" : "v"});
    }`
    ).join("\n");
  const bindings = [
    ["read", "var<storage, read> x: array<vec4f>;"],
    ...(norm ? [["read", "var<storage, read> norm: array<vec4f>;"]] as const : []),
    ["texture-store-f32", "var prepared: texture_storage_2d<rgba32float, write>;"],
    ...(norm ? [["storage", "var<storage, read_write> factors: array<f32>;"]] as const : []),
    ["uniform", "var<uniform> params: Params;"],
  ] as const;
  return {
    name: `matvec-prepare-${dtype}${norm ? "-norm" : ""}${half ? "-half" : ""}`,
    bindings: bindings.map(([kind]) => kind),
    code: `struct Params { columns: u32, xPitch: u32, units: u32, eps: f32 }
${bindings.map(([, declare], index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}
var<workgroup> square_sums: array<f32, ${LANES}>;
fn x_at(b: u32, c4: u32) -> vec4f {
  return select(vec4f(), x[b * params.xPitch + c4], c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns));
}

@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.x;
  let first = ${isQuantized(dtype) ? `lane / ${step}u * ${perScale}u + lane % ${step}u` : "lane"};
  var squares = vec4f();
  for (var u = 0u; u < params.units; u++) {
${range(texels).map((t) => body(`first + u * ${LANES * texels}u + ${t * step}u`)).join("\n")}
  }
${half ? body(`lane + params.units * ${LANES * texels}u`) : ""}
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
  square_sums[lane] = squares.x + squares.y + squares.z + squares.w;
  workgroupBarrier();
${
      norm
        ? `  let factor = inverseSqrt((${
          range(LANES).map((j) => `square_sums[${j}]`).join(" + ")
        }) / f32(params.columns) + params.eps);
  if (lane == 0u) { factors[b] = factor; }`
        : ""
    }
}
`,
  };
}

/**
 * The ending "rotate" of `Matvec` for the sums that a "raw" product has left: q of all vectors, k from params.k and
 * v from params.v, times factors[b]. q goes to y [vectors, qPitch], keys and values to the caches.
 * Bindings: raw, factors, table, position, pages, y, k and v cache, params. Grid: x heads of q, k and v, y vectors.
 */
export function matvecRotate({ headStride }: { readonly headStride: number }): KernelSource {
  const roles = ["q", "k", "v"] as const;
  const bindings = [
    { kind: "read", declare: "var<storage, read> raw: array<f32>;" },
    { kind: "read", declare: "var<storage, read> factors: array<f32>;" },
    ...endingBindings("rotate", roles),
    { kind: "uniform", declare: "var<uniform> params: Params;" },
  ] as const;
  const ending = endingText({
    ...{
      ending: "rotate",
      roles,
      lanes: LANES,
      vector: "b",
      first: "n0",
      count: "count",
      second: "0u",
      factor: "factor",
    },
  });
  return {
    name: `matvec-rotate-${headStride}`,
    bindings: bindings.map(({ kind }) => kind),
    code: `struct Params {
  heads: u32, headStride: u32, half: u32, positions: u32, kvHeads: u32, capacity: u32, perRow: u32,
  k: u32, v: u32, qPitch: u32, kvPitch: u32,
}
${bindings.map(({ declare }, index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}
var<workgroup> sums: array<f32, ${headStride}>;
fn sum_of(i: u32) -> f32 { return sums[i]; }
${endingFunctions("rotate")}
@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = group.y;
  let part = select(select(2u, 1u, group.x < params.heads + params.kvHeads), 0u, group.x < params.heads);
  let head = group.x - select(params.heads + (part - 1u) * params.kvHeads, 0u, part == 0u);
  let n0 = head * params.headStride;
  let offset = 0u;
  let pitch = params.qPitch;
  let count = params.headStride;
  let start = select(select(params.v, params.k, part == 1u) + b * params.kvPitch, b * pitch, part == 0u) + n0;
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
  for (var i = lane; i < count; i += ${LANES}u) { sums[i] = raw[start + i]; }
  let factor = factors[b];
  workgroupBarrier();
${ending}
}
`,
  };
}
