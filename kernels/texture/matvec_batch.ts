// Products of frozen matrices in textures with the vectors of several sequences, for CPU adapters.
//
// Every sum has the terms and the order of matvec.ts: invocations are columns of W, and a texel of it is loaded
// and unpacked once for all vectors, whose columns an invocation keeps in registers. Results are written as textures
// where the next product reads them.
import { laneSums } from "./lane_sums.ts";
import { range } from "../shared/range.ts";
import {
  type BatchEnding,
  batchEndingAfter,
  batchEndingBindings,
  batchEndingFunctions,
  batchEndingOf,
} from "./matvec_batch_endings.ts";
import { type FileDtype, fileLayout, isFileDtype, scaleFunction } from "../shared/file_blocks.ts";
import {
  columnScale4,
  type FileLoads,
  fileLoads,
  fileSum,
  scaledSum,
  texelDot,
  texelOf,
} from "../shared/matvec_text.ts";
import type { TextureUnits } from "../shared/matvec_types.ts";
import { type Load, loadsOf, unitOf } from "./matvec.ts";
import type { KernelSource } from "../source.ts";
import { hasCodes, weightBindings, type WeightDtype } from "../shared/weight_access.ts";

/** One kernel of the family. */
export interface BatchMatvec extends BatchEnding {
  readonly dtype: WeightDtype;
  /** Number of consecutive matrices in the grid (1 for "residual" and "swiglu", whose second matrix does not count). */
  readonly parts: number;
  /** Whether the sums are multiplied by the factor of RMSNorm of each vector. */
  readonly norm: boolean;
  /** Of `textureUnits`. Of `rounds`, only whether it exceeds 1 matters. */
  readonly units: TextureUnits;
  /** Rows of a workgroup at most, of {@link batchRows}. */
  readonly rows: number;
  /** Whether the invocations of a workgroup exchange sums as a subgroup of 8, instead of through workgroup memory. */
  readonly exchange: boolean;
}

/** Vectors of a workgroup, at most. */
const BATCH_VECTORS = 8;
/** Values that an invocation keeps of all vectors, at most: 48 KiB in all, and the compile time grows with them. */
const MOST_VALUES = 1536;
/** Values of all vectors that an invocation reads in one pass, at most: 32 KiB in all; and in each of several passes. */
const MOST_PASS_VALUES = 1024, PASS_VALUES = 512;
/** Rows of a pass. */
const WAITING_ROWS = 8;
/** Maximum number of rows of a workgroup, so that large matrices are divided evenly. */
const MOST_ROWS = 768;
const LANES = 8;
const XYZW = ["x", "y", "z", "w"] as const;

/** Vectors of a workgroup whose columns an invocation can keep. */
export function batchVectors(dtype: WeightDtype, { units, half }: TextureUnits): number {
  const all = units + (half ? 0.5 : 0), values = all * (unitOf(dtype).span / LANES + (hasCodes(dtype) ? 1 : 0));
  return Math.max(1, 2 ** Math.floor(Math.log2(Math.min(BATCH_VECTORS, MOST_VALUES / values))));
}

/** Bytes of workgroup memory for each row of W: sums of all vectors; where they are exchanged, what an ending keeps. */
function rowBytes(kernel: Omit<BatchMatvec, "rows">): number {
  const { ending, batch } = kernel;
  if (isExchanged(kernel)) return ending === "swiglu" || ending === "rotate" ? 4 * LANES : 0;
  return 4 * LANES * batch * (ending === "swiglu" ? 2 : 1);
}

/** Bytes of workgroup memory that do not depend on rows: the sums of squares of all vectors, for a norm. */
function normBytes({ norm, exchange, batch }: Omit<BatchMatvec, "rows">): number {
  return norm && !exchange ? 4 * LANES * batch : 0;
}

/** Rows of a workgroup at most, a multiple of 4, in so many bytes of workgroup memory. */
export function batchRows(kernel: Omit<BatchMatvec, "rows">, memory: number): number {
  const bytes = rowBytes(kernel);
  return bytes === 0 ? MOST_ROWS : Math.min(MOST_ROWS, Math.floor((memory - normBytes(kernel)) / bytes / 4) * 4);
}

/** A load and its number. */
type UnitLoad = Load & { readonly u: number };

/** The loads of a row in passes, whose x fits the first cache of a CPU. */
function passesOf({ dtype, batch, units: { rounds } }: BatchMatvec, loads: readonly UnitLoad[]): readonly UnitLoad[][] {
  const values = loads.reduce((sum, { x }) => sum + 4 * x.length + (hasCodes(dtype) ? 1 : 0), 0);
  const count = rounds > 1 || values * batch <= MOST_PASS_VALUES ? 1 : Math.ceil(values * batch / PASS_VALUES),
    size = Math.ceil(loads.length / count);
  return range(count).map((pass) => loads.slice(pass * size, (pass + 1) * size)).filter(({ length }) => length > 0);
}

/** Whether a row is summed at once, and its sums then exchanged. */
function isExchanged({ units, exchange }: Pick<BatchMatvec, "units" | "exchange">): boolean {
  return exchange && units.rounds === 1;
}

/**
 * Bindings: those of each matrix; x (texture-f32) [vectors, texels], with `norm` times its weight; with `norm` the vectors
 * before it [vectors, xPitch] vec4; those of the ending; params. Grid: x the vectors in steps of `batch`, so that those
 * who read the same rows run one after the other; y workgroups of all parts. Params end with firstGroup, rows, offset and
 * pitch of each part.
 */
export function matvecBatchKernel(kernel: BatchMatvec): KernelSource {
  const { dtype, ending, parts, batch, norm, exchange, units: { units, half, rounds } } = kernel;
  const storage = { placement: "texture", dtype } as const, matrices = ending === "swiglu" ? 2 : parts;
  const weights = weightBindings(storage), quantized = hasCodes(dtype), list = range(batch), isMany = rounds > 1;
  const { texels, step, span } = unitOf(dtype), texel = texelOf(dtype), vectors = texel.columns / 4;
  const kept = !isExchanged(kernel), bytes = rowBytes(kernel), squareBytes = normBytes(kernel);
  const pair = ending === "swiglu" ? [0, 1] : [0];
  const bindings: { kind: KernelSource["bindings"][number]; declare: string }[] = [];
  for (let m = 0; m < matrices; m++) {
    weights.forEach((kind, index) => {
      const format = kind === "texture-f32" ? "rgba32float" : "rgba32uint";
      bindings.push({ kind, declare: `var ${index === 0 ? "w" : "scales"}${m}: texture_storage_2d<${format}, read>;` });
    });
  }
  bindings.push({ kind: "texture-f32", declare: "var x: texture_storage_2d<rgba32float, read>;" });
  if (norm) bindings.push({ kind: "read", declare: "var<storage, read> before: array<vec4f>;" });
  bindings.push(...batchEndingBindings(kernel));
  bindings.push({ kind: "uniform", declare: "var<uniform> params: Params;" });

  const loads = loadsOf(dtype, { units, half, rounds }).map((load, u) => ({ ...load, u }));
  const passes = passesOf(kernel, loads);
  const place = (m: number, row: string, b: number | string): string =>
    `(((${row}) * ${pair.length}u + ${m}u) * ${batch}u + ${b}) * ${LANES}u`;
  /** Place of a value of a row and the invocation's vector in workgroup memory. */
  const ownPlace = (i: string): string =>
    kept ? `${place(0, i, `min(lane, ${batch - 1}u)`)} + lane` : `(${i}) * ${LANES}u + lane`;
  const finishRow = (row: string, sums: readonly string[]): string =>
    batchEndingOf(kernel, {
      row,
      kept: `sums[${ownPlace(`${row} - n0`)}]`,
      sums: sums.map((sum) => `${sum}${norm && ending !== "rotate" ? " * factor" : ""}`),
    });
  /** Statements that take the rows of a matrix, for all vectors; m counts the matrices of "swiglu". */
  const rowsOf = (matrix: number, m: number): string => {
    const first = `sums[${ownPlace("row - n0")}]`;
    const store = (): string =>
      list.map((b) => {
        const sum = `sums[${place(m, "row - n0", `${b}u`)} + lane]`, value = `sum${m}_${b}`;
        return `      ${
          isMany ? `if (round == 0u) { ${sum} = ${value}; } else { ${sum} += ${value}; }` : `${sum} = ${value};`
        }`;
      }).join("\n");
    const finish = (): string => {
      const all = laneSums(`all${m}`, list.map((b) => `sum${m}_${b}`));
      if (m + 1 < pair.length) return `${all}\n      ${first} = all${m};`;
      return `${all}\n      ${finishRow("row", m === 1 ? [first, "all1"] : ["all0"])}`;
    };
    const last = kept ? store : finish, { length } = passes;
    if (length === 1) {
      return `    for (var r = n0; r < end; r += ${texel.rows}u) {\n${passOf(matrix, m, { end: last })}\n    }`;
    }
    // The sums of several rows wait for the next columns: what a pass reads of x stays in the first cache.
    const waiting = range(WAITING_ROWS).map((i) => list.map((b) => `wait${m}_${b}_${i}`));
    return `    for (var r0 = n0; r0 < end; r0 += ${WAITING_ROWS}u) {
${waiting.flat().map((name) => `      var ${name} = 0.0;`).join("\n")}
${
      range(length).map((pass) =>
        `    for (var r = r0; r < r0 + ${WAITING_ROWS}u; r += ${texel.rows}u) {
${
          passOf(matrix, m, {
            pass,
            before: list.map((b) => waiting[0]?.[b] ?? ""),
            end: () =>
              list.flatMap((b) =>
                waiting.map((names, i) => `      ${names[b]} = ${waiting[i + 1]?.[b] ?? `sum${m}_${b}`};`)
              ).join("\n") + (pass + 1 < length ? "" : `\n${last()}`),
          })
        }
    }`
      ).join("\n")
    }
    }`;
  };
  /** Statements that take the columns of a pass, of a row of a matrix or of four in a texel. */
  function passOf(matrix: number, m: number, { pass = 0, before = [], end }: {
    readonly pass?: number;
    /** Sums of the passes before. */
    readonly before?: readonly string[];
    /** Statements after the sums of a row. */
    readonly end: () => string;
  }): string {
    const own = passes[pass] ?? [];
    if (!quantized) return `${loadsOfRow(matrix, m, own)}\n      let row = r;\n${sumsOf(m, own, before)}${end()}`;
    return `${loadsOfRow(matrix, m, own)}
    for (var i = 0u; i < 4u; i++) {
      let row = r + i;
      let isOdd = (i & 1u) == 1u;
      let isHigh = i >= 2u;
${sumsOf(m, own, before)}${end()}
    }`;
  }
  /** Statements for each part, given one's number. */
  const ofParts = (statements: (part: number) => string): string =>
    parts === 1 ? statements(0) : range(parts).map((p) => `  if (part == ${p}u) {\n${statements(p)}\n  }`).join("\n");
  const work = `  let first = ${quantized ? `lane / ${step}u * ${texel.perScale}u + lane % ${step}u` : "lane"}${
    isMany ? ` + round * ${units * LANES * texels}u` : ""
  };
${quantized ? `  let firstScale = lane / ${step}u${isMany ? ` + round * ${units * span / 32}u` : ""};` : ""}
${loads.flatMap((load) => list.map((b) => loadX(load, b))).join("\n")}
${ending === "swiglu" ? pair.map((m) => rowsOf(m, m)).join("\n") : ofParts((part) => rowsOf(part, 0))}`;
  const code = `struct Params {
  units: u32,
  rounds: u32,
  groupRows: u32,
  columns: u32,
  xPitch: u32,
  eps: f32,
${ending === "rotate" ? "  half: u32, positions: u32, kvHeads: u32, capacity: u32, perRow: u32," : ""}
${range(parts).map((p) => `  firstGroup${p}: u32, rows${p}: u32, offset${p}: u32, pitch${p}: u32,`).join("\n")}
}
${bindings.map(({ declare }, index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}
${bytes > 0 ? `var<workgroup> sums: array<f32, ${kernel.rows * bytes / 4}>;` : ""}
${squareBytes > 0 ? `var<workgroup> square_sums: array<f32, ${squareBytes / 4}>;` : ""}
${bytes > 0 ? `fn sum_of(i: u32, lane: u32) -> f32 { return sums[${ownPlace("i")}]; }` : ""}
${batchEndingFunctions(kernel)}${isFileDtype(dtype) ? scaleFunction(dtype, "texture") : ""}
@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var part = 0u;
  var n0 = group.y * params.groupRows;
  var rows = params.rows0;
  var offset = params.offset0;
  var pitch = params.pitch0;
  let b0 = group.x * ${batch}u;
  let b = b0 + min(lane, ${batch - 1}u); // the vector whose results this invocation writes
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
  rows = min(rows, n0 + params.groupRows);
  let start = b * pitch + offset;
  let end = n0 + (max(rows, n0) - n0 + 3u) / 4u * 4u; // whole texels
${
    kept || squareBytes > 0
      ? "  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md"
      : ""
  }
${norm ? factorOf() : "  let factor = 1.0;"}
${isMany ? `  for (var round = 0u; round < params.rounds; round++) {\n${work}\n  }` : work}
${
    kept
      ? `  workgroupBarrier();
  for (var r = n0; r < end; r++) {
${
        pair.map((m) =>
          `    let at${m} = ${place(m, "r - n0", `min(lane, ${batch - 1}u)`)};
    let all${m} = ${range(LANES).map((j) => `sums[at${m} + ${j}u]`).join(" + ")};`
        ).join("\n")
      }
    ${finishRow("r", pair.map((m) => `all${m}`))}
  }`
      : ""
  }
${ofParts((part) => batchEndingAfter(kernel, { part }))}
}
`;
  return {
    name: `matvec-batch${batch}-${dtype}-${kernel.roles?.join("") ?? ending}-${parts}${norm ? "-norm" : ""}-${
      units + (half ? 0.5 : 0)
    }${isMany ? "-rounds" : ""}${exchange ? "" : "-plain"}${bytes > 0 ? `-${kernel.rows}` : ""}`,
    bindings: bindings.map(({ kind }) => kind),
    ...(exchange ? { usesSubgroups: true } : {}),
    code,
  };

  /**
   * Statements that define the factor of the norm of the invocation's vector. In loops: the compiler would contract
   * unrolled sums of squares.
   */
  function factorOf(): string {
    const first = quantized ? `lane / ${step}u * ${texel.perScale}u + lane % ${step}u` : "lane";
    const add = (column: string): string =>
      range(vectors).map((k) =>
        `    {
      let c4 = (${column}) * ${vectors}u + ${k}u;
      let known = c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns);
      let value = select(vec4f(), before[(b0 + v) * params.xPitch + c4], known);
      squares += value * value;
    }`
      ).join("\n");
    const total = (lane: (j: number) => string): string =>
      `inverseSqrt((${range(LANES).map(lane).join(" + ")}) / f32(params.columns) + params.eps)`;
    return `  var factor = 0.0;
  for (var v = 0u; v < ${batch}u; v++) {
    var squares = vec4f();
    for (var u = 0u; u < params.units * params.rounds; u++) {
${range(texels).map((t) => add(`${first} + u * ${LANES * texels}u + ${t * step}u`)).join("\n")}
    }
${half ? add(`lane + params.units * ${LANES * texels}u`) : ""}
    let own = squares.x + squares.y + squares.z + squares.w;
${
      exchange
        ? `    let total = ${total((j) => `subgroupBroadcast(own, ${j}u)`)};
    if (v == lane) { factor = total; }`
        : `    square_sums[v * ${LANES}u + lane] = own;`
    }
  }
${
      exchange ? "" : `  workgroupBarrier();
  factor = ${total((j) => `square_sums[(b - b0) * ${LANES}u + ${j}u]`)};`
    }`;
  }

  /** Statements that load the columns of vector b for a load of W: x{i}_{b}, and the sum of a block's as total. */
  function loadX({ texels, x, total, u }: UnitLoad, b: number): string {
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
  function loadsOfRow(m: number, pair: number, loads: readonly UnitLoad[]): string {
    const at = quantized ? "r / 4u" : "r";
    if (isFileDtype(dtype)) {
      return loads.flatMap((load) => {
        const { codes, scales, decode } = loadsOfFile(dtype, m, { pair, load });
        return [...codes, ...scales, ...decode].map((line) => `      ${line}`);
      }).join("\n");
    }
    return loads.flatMap(({ u, ...load }) => [
      ...load.texels.map(({ column }, t) =>
        `      let d${pair}_${u}_${t} = textureLoad(w${m}, vec2u(${column}, ${at}));`
      ),
      ...(quantized ? [`      let e${pair}_${u} = textureLoad(scales${m}, vec2u(${load.scale}, ${at}));`] : []),
    ]).join("\n");
  }

  function loadsOfFile(
    dtype: FileDtype,
    m: number,
    { pair, load }: { readonly pair: number; readonly load: UnitLoad },
  ): FileLoads {
    return fileLoads(dtype, {
      columns: load.texels.map(({ column }) => column),
      load: (of, x) => `textureLoad(${of === "codes" ? "w" : "scales"}${m}, vec2u(${x}, r / 4u))`,
      name: `${pair}_${load.u}`,
    });
  }

  /** Statements that sum one row for each vector, onto `before`, in sum{pair}_{b}. Of four rows in a texel it is the i-th. */
  function sumsOf(pair: number, loads: readonly UnitLoad[], before: readonly string[]): string {
    const picked = (name: string): string =>
      `select(select(${name}.x, ${name}.y, isOdd), select(${name}.z, ${name}.w, isOdd), isHigh)`;
    const sums = loads.flatMap(({ u, ...load }) => {
      const name = `${pair}_${u}`;
      if (isFileDtype(dtype)) {
        const { texels } = loadsOfFile(dtype, 0, { pair, load: { u, ...load } });
        const dots = list.map((b) =>
          texels.map(({ low, high }, t) =>
            texelDot(dtype, {
              ...{ texel: `q${low}`, high: `q${high}`, name: `f${name}_${t}`, isShared: true, isRow: true },
              x: load.x.slice(t * vectors, (t + 1) * vectors).map((x) => `${x}_${b}`),
            })
          )
        );
        const hasHigh = fileLayout(dtype).high > 0;
        return [
          ...texels.flatMap(({ low, high }) => [
            `      let q${low} = ${picked(low)};`,
            ...(hasHigh ? [`      let q${high} = ${picked(high)};`] : []),
          ]),
          ...(dots[0] ?? []).map(({ before }) => `      ${before}`),
          ...list.map((b) => {
            const sums = (dots[b] ?? []).map(({ sum }) => sum);
            return `      sum${pair}_${b} += ${
              fileSum(dtype, { sums, name, total: `${load.total}_${b}`, pick: picked })
            };`;
          }),
        ];
      }
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
    return [...list.map((b) => `      var sum${pair}_${b} = ${before[b] ?? "0.0"};`), ...sums, ""].join("\n");
  }
}

/**
 * The x of {@link matvecBatchKernel}: target[b] = x[b], with `norm` x[b] ∘ norm, for the columns; what is beyond stays.
 * Bindings: x, with `norm` its weight, target (texture), params. Grid: one workgroup per vector. Writes (=).
 */
export function matvecPrepare({ norm }: Pick<BatchMatvec, "norm">): KernelSource {
  const bindings = [
    ["read", "var<storage, read> x: array<vec4f>;"],
    ...(norm ? [["read", "var<storage, read> norm: array<vec4f>;"]] as const : []),
    ["texture-store-f32", "var prepared: texture_storage_2d<rgba32float, write>;"],
    ["uniform", "var<uniform> params: Params;"],
  ] as const;
  return {
    name: `matvec-prepare${norm ? "-norm" : ""}`,
    bindings: bindings.map(([kind]) => kind),
    code: `struct Params { columns: u32, xPitch: u32 }
${bindings.map(([, declare], index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}

@compute @workgroup_size(${LANES}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var c4 = lane; c4 * 4u < params.columns; c4 += ${LANES}u) {
    let known = c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns);
    let value = select(vec4f(), x[group.x * params.xPitch + c4], known);
    textureStore(prepared, vec2u(c4, group.x), value${norm ? " * norm[c4]" : ""});
  }
}
`,
  };
}
