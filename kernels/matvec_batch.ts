// Products of frozen matrices in textures with the vectors of several sequences, for CPU adapters.
//
// Every sum has the terms and the order of matvec_texture.ts: invocations are columns of W, and a texel of it is loaded
// and unpacked once for all vectors, whose columns an invocation keeps in registers.
import { laneSums } from "./lane_sums.ts";
import { range } from "./range.ts";
import {
  columnScale4,
  endingBindings,
  endingFunctions,
  endingText,
  scaledSum,
  texelDot,
  texelOf,
} from "./matvec_text.ts";
import type { TextureUnits } from "./matvec_types.ts";
import { type Load, loadsOf, unitOf } from "./matvec_texture.ts";
import type { KernelSource } from "./source.ts";
import { isQuantized, weightBindings, type WeightDtype } from "./weight_access.ts";

/** One kernel of the family. */
export interface BatchMatvec {
  readonly dtype: WeightDtype;
  /** As of `Matvec`; "raw" stores sums without the factor of the norm. */
  readonly ending: "store" | "raw" | "swiglu" | "residual";
  /** Number of consecutive matrices in the grid (1 for "residual" and "swiglu", whose second matrix does not count). */
  readonly parts: number;
  /** Vectors of a workgroup, at most {@link batchVectors}. */
  readonly batch: number;
  /** Whether the sums are multiplied by a factor of each vector, which {@link matvecPrepare} writes. */
  readonly norm: boolean;
  /** Of `textureUnits`. Of `rounds`, only whether it exceeds 1 matters. */
  readonly units: TextureUnits;
  /** Rows of a workgroup at most, for {@link batchRowBytes}. */
  readonly rows: number;
  /** Whether the invocations of a workgroup exchange sums as a subgroup of 8, instead of through workgroup memory. */
  readonly exchange: boolean;
}

/** Vectors of a workgroup, at most. */
const BATCH_VECTORS = 8;
/** Values that an invocation keeps of all vectors, at most: 48 KiB in all, and the compile time grows with them. */
const MOST_VALUES = 1536;
const LANES = 8;
const XYZW = ["x", "y", "z", "w"] as const;

/** Vectors of a workgroup whose columns an invocation can keep. */
export function batchVectors(dtype: WeightDtype, { units, half }: TextureUnits): number {
  const all = units + (half ? 0.5 : 0), values = all * (unitOf(dtype).span / LANES + (isQuantized(dtype) ? 1 : 0));
  return Math.max(1, 2 ** Math.floor(Math.log2(Math.min(BATCH_VECTORS, MOST_VALUES / values))));
}

/**
 * Bytes of workgroup memory for each row of W: sums of all invocations and vectors; where they are exchanged, those of
 * the first matrix of "swiglu".
 */
export function batchRowBytes(kernel: Omit<BatchMatvec, "rows">): number {
  const { ending, batch } = kernel;
  if (isExchanged(kernel)) return ending === "swiglu" ? 4 * LANES : 0;
  return 4 * LANES * batch * (ending === "swiglu" ? 2 : 1);
}

/** Whether a row is summed at once, and its sums then exchanged. */
function isExchanged({ units, exchange }: Pick<BatchMatvec, "units" | "exchange">): boolean {
  return exchange && units.rounds === 1;
}

/**
 * Bindings: those of each matrix; x (texture-f32) [vectors, texels] as {@link matvecPrepare} writes it; with `norm` the
 * factors [vectors]; z for "swiglu" and "residual"; y; params. Grid: x the vectors in steps of `batch`, so that
 * those who read the same rows run one after the other; y workgroups of all parts. Params end with firstGroup, rows,
 * offset and pitch of each part.
 */
export function matvecBatchKernel(kernel: BatchMatvec): KernelSource {
  const { dtype, ending, parts, batch, norm, units: { units, half, rounds } } = kernel;
  const storage = { placement: "texture", dtype } as const, matrices = ending === "swiglu" ? 2 : parts;
  const weights = weightBindings(storage), quantized = isQuantized(dtype), list = range(batch), isMany = rounds > 1;
  const { texels, step, span } = unitOf(dtype), texel = texelOf(dtype), vectors = texel.columns / 4;
  const kept = !isExchanged(kernel),
    bytes = batchRowBytes(kernel),
    isPair = ending === "swiglu",
    pair = isPair ? [0, 1] : [0];
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

  const loads = loadsOf(dtype, { units, half, rounds });
  const scaled = (value: string): string => `${value}${isNormed ? " * factor" : ""}`;
  /** Writes the sums of row `row` of W, given for the two matrices, for the vector of this invocation. */
  const write = (row: string, [first, second]: readonly string[]): string =>
    `if (lane < ${batch}u && ${row} < rows) {
        let n = start + ${row};
        ${
      {
        store: `y[n] = ${scaled(`${first}`)};`,
        raw: `y[n] = ${first};`,
        residual: `y[n] = fma(${scaled(`${first}`)}, z[offset + ${row}], y[n]);`,
        swiglu: `let gate = ${scaled(`${first}`)};
        y[n] = gate / (1.0 + exp(-gate)) * (${scaled(`${second}`)}) * z[offset + ${row}];`,
      }[ending]
    }
      }`;
  const place = (m: number, row: string, b: number | string): string =>
    `(((${row}) * ${pair.length}u + ${m}u) * ${batch}u + ${b}) * ${LANES}u`;
  /** Statements that take the rows of a matrix, for all vectors; m counts the matrices of "swiglu". */
  const rowsOf = (matrix: number, m: number): string => {
    const at = quantized ? "(r + i)" : "r", isFirst = m + 1 < pair.length;
    const kept0 = `sums[(${at} - n0) * ${LANES}u + lane]`;
    const end = isFirst ? `      ${kept0} = all0;` : `      ${write(at, isPair ? [kept0, "all1"] : ["all0"])}`;
    const store = list.map((b) => {
      const sum = `sums[${place(m, `${at} - n0`, `${b}u`)} + lane]`, value = `sum${m}_${b}`;
      return `      ${
        isMany ? `if (round == 0u) { ${sum} = ${value}; } else { ${sum} += ${value}; }` : `${sum} = ${value};`
      }`;
    });
    const body = sumsOf(m) +
      (kept ? store.join("\n") : `${laneSums(`all${m}`, list.map((b) => `sum${m}_${b}`))}\n${end}`);
    return `    for (var r = n0; r < n0 + count; r += ${texel.rows}u) {
${loadsOfRow(matrix, m)}
${
      quantized
        ? `    for (var i = 0u; i < 4u; i++) {
      let isOdd = (i & 1u) == 1u;
      let isHigh = i >= 2u;
${body}
    }`
        : body
    }
    }`;
  };
  const work = `  let first = ${quantized ? `lane / ${step}u * ${texel.perScale}u + lane % ${step}u` : "lane"}${
    isMany ? ` + round * ${units * LANES * texels}u` : ""
  };
${quantized ? `  let firstScale = lane / ${step}u${isMany ? ` + round * ${units * span / 32}u` : ""};` : ""}
${loads.flatMap((load, u) => list.map((b) => loadX(load, u, b))).join("\n")}
${
    ending === "swiglu" || parts === 1
      ? pair.map((m) => rowsOf(m, m)).join("\n")
      : range(parts).map((p) => `  if (part == ${p}u) {\n${rowsOf(p, 0)}\n  }`).join("\n")
  }`;
  const code = `struct Params {
  units: u32,
  rounds: u32,
  groupRows: u32,
${range(parts).map((p) => `  firstGroup${p}: u32, rows${p}: u32, offset${p}: u32, pitch${p}: u32,`).join("\n")}
}
${bindings.map(({ declare }, index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}
${bytes > 0 ? `var<workgroup> sums: array<f32, ${kernel.rows * bytes / 4}>;` : ""}

@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var part = 0u;
  var n0 = group.y * params.groupRows;
  var rows = params.rows0;
  var offset = params.offset0;
  var pitch = params.pitch0;
  let b0 = group.x * ${batch}u;
${
    range(parts).slice(1).map((p) =>
      `  if (group.y >= params.firstGroup${p}) {
    part = ${p}u;
    n0 = (group.y - params.firstGroup${p}) * params.groupRows;
    rows = params.rows${p};
    offset = params.offset${p};
    pitch = params.pitch${p};
  }`
    ).join("\n")
  }
  let count = min(params.groupRows, max(rows, n0) - n0);
  let start = (b0 + lane) * pitch + offset;
${isNormed ? `  let factor = factors[b0 + min(lane, ${batch - 1}u)];` : ""}
${kept ? "  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md" : ""}
${isMany ? `  for (var round = 0u; round < params.rounds; round++) {\n${work}\n  }` : work}
${
    kept
      ? `  workgroupBarrier();
  for (var r = n0; r < n0 + count; r++) {
    let b = min(lane, ${batch - 1}u);
${
        pair.map((m) =>
          `    let at${m} = ${place(m, "r - n0", "b")};
    let all${m} = ${range(LANES).map((j) => `sums[at${m} + ${j}u]`).join(" + ")};`
        ).join("\n")
      }
    ${write("r", pair.map((m) => `all${m}`))}
  }`
      : ""
  }
}
`;
  return {
    name: `matvec-batch${batch}-${dtype}-${ending}-${parts}${isNormed ? "-norm" : ""}-${units + (half ? 0.5 : 0)}${
      isMany ? "-rounds" : ""
    }${kept ? "-kept" : ""}${bytes > 0 ? `-${kernel.rows}` : ""}`,
    bindings: bindings.map(({ kind }) => kind),
    ...(kept ? {} : { usesSubgroups: true }),
    code,
  };

  /** Statements that load the columns of vector b for a load of W: x{i}_{b}, and the sum of a block's as total. */
  function loadX({ texels, x, total }: Load, u: number, b: number): string {
    const parts = texels.flatMap(({ column }, t) =>
      range(vectors).map((v) => {
        const h = `h${u}_${t * vectors + v}_${b}`, scale = columnScale4(dtype, 4 * v);
        return `  let ${h} = textureLoad(x, vec2u((${column}) * ${vectors}u + ${v}u, b0 + ${b}u));
  let ${x[t * vectors + v]}_${b} = ${h}${scale ? ` * ${scale}` : ""};`;
      })
    );
    const all = range(parts.length).map((i) => XYZW.map((c) => `h${u}_${i}_${b}.${c}`).join(" + ")).join(" + ");
    return [...parts, ...(quantized ? [`  let ${total}_${b} = ${all};`] : [])].join("\n");
  }

  /** Statements that load a row of matrix m, or four in a texel: all loads precede their arithmetic. */
  function loadsOfRow(m: number, pair: number): string {
    const at = quantized ? "r / 4u" : "r";
    return loads.flatMap((load, u) => [
      ...load.texels.map(({ column }, t) =>
        `      let d${pair}_${u}_${t} = textureLoad(w${m}, vec2u(${column}, ${at}));`
      ),
      ...(quantized ? [`      let e${pair}_${u} = textureLoad(scales${m}, vec2u(${load.scale}, ${at}));`] : []),
    ]).join("\n");
  }

  /** Statements that sum one row for each vector, in sum{pair}_{b}. Of four rows in a texel it is the i-th. */
  function sumsOf(pair: number): string {
    const picked = (name: string): string =>
      `select(select(${name}.x, ${name}.y, isOdd), select(${name}.z, ${name}.w, isOdd), isHigh)`;
    const sums = loads.flatMap((load, u) => {
      const name = `${pair}_${u}`;
      const dots = (b: number): readonly { readonly before: string; readonly sum: string }[] =>
        load.texels.map((_, t) =>
          texelDot(dtype, {
            texel: `${quantized ? "c" : "d"}${name}_${t}`,
            x: load.x.slice(t * vectors, (t + 1) * vectors).map((x) => `${x}_${b}`),
            name: `f${name}_${t}`,
            ...{ isShared: true, isRow: true },
          })
        );
      return [
        ...(quantized ? load.texels.map((_, t) => `      let c${name}_${t} = ${picked(`d${name}_${t}`)};`) : []),
        ...(quantized ? [`      let g${name} = unpack2x16float(${picked(`e${name}`)});`] : []),
        `      ${dots(0).map(({ before }) => before).join(" ")}`,
        ...list.map((b) => {
          const sum = dots(b).map((dot) => dot.sum).join(" + ");
          const scale = { before: "", d: `g${name}.x`, m: `g${name}.y` };
          return `      sum${pair}_${b} += ${quantized ? scaledSum(scale, sum, `${load.total}_${b}`) : sum};`;
        }),
      ];
    });
    return [...list.map((b) => `      var sum${pair}_${b} = 0.0;`), ...sums, ""].join("\n");
  }
}

/**
 * The x of {@link matvecBatchKernel}: target[b] = x[b] ∘ norm, 0 beyond the columns, and with `norm` factors[b] = 1 /
 * √(mean x[b]² + ε).
 * Bindings: x, with `norm` its weight, target (texture), with `norm` factors, params. Grid: one workgroup per vector.
 * Writes (=).
 */
export function matvecPrepare(
  { dtype, norm, half }: Pick<BatchMatvec, "dtype" | "norm"> & Pick<TextureUnits, "half">,
): KernelSource {
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
