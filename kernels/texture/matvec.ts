// Body of the matrix-vector kernels for CPU adapters: x in registers, rows of W streamed from a texture.
import { range } from "../shared/range.ts";
import type { Matvec, TextureUnits } from "../shared/matvec_types.ts";
import { type FileDtype, isFileDtype, scaleFunction } from "../shared/file_blocks.ts";
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
import { hasCodes, type WeightDtype } from "../shared/weight_access.ts";

/** Largest number of rows of a workgroup, over all matrices of a "swiglu"; more were not faster. */
const MAX_ROWS = 768;
/** Largest number of units in registers: the compile time grows with them. */
const MAX_UNITS = 32;
/** Up to this number of units, each number has a separate kernel. */
const EXACT_UNITS = 10;

const LANES = 8;

/** Rows of a workgroup, over all matrices of a "swiglu", whose sums fit the given bytes of workgroup memory. */
export function textureRows(workgroupBytes: number): number {
  const sums = Math.floor(workgroupBytes / 4) - LANES; // a norm needs LANES of them
  return Math.min(MAX_ROWS, Math.floor(sums / LANES / 8) * 8);
}

/**
 * A unit is what one invocation loads at once: one texel, or two texels of a block and its scales. The units of the
 * eight invocations are adjacent, so that a row is read sequentially: a CPU prefetcher follows only such reads
 * (measured: 20 GB/s per core, and 9 GB/s with the invocations on adjacent rows). Large numbers of units are rounded
 * up, so that layers of uneven widths share kernels.
 */
export function textureUnits(dtype: WeightDtype, columns: number): TextureUnits {
  const { span } = unitOf(dtype), halves = Math.ceil(2 * columns / span);
  if (hasCodes(dtype) && halves % 2 === 1 && halves > 1 && halves < 2 * EXACT_UNITS) {
    return { units: (halves - 1) / 2, half: true, rounds: 1 };
  }
  const all = Math.max(1, Math.ceil(halves / 2));
  const rounds = Math.ceil(all / MAX_UNITS), units = Math.ceil(all / rounds);
  return { units: units <= EXACT_UNITS ? units : Math.ceil(units / 2) * 2, half: false, rounds };
}

/** See {@link textureUnits}. */
interface Unit {
  /** Texels of a unit. */
  readonly texels: number;
  /** Texels from one texel of a unit to the next. */
  readonly step: number;
  /** Columns that the units of all invocations span. */
  readonly span: number;
}

/** The unit of a dtype. */
export function unitOf(dtype: WeightDtype): Unit {
  const { columns, perScale } = texelOf(dtype), texels = perScale === 0 ? 1 : 2;
  return { texels, step: perScale / texels, span: LANES * texels * columns };
}

/** Loads of one invocation: texels of W by column, the vec4 of x that they multiply, and the position of the scales. */
export interface Load {
  readonly texels: readonly { readonly column: string; readonly x: readonly string[] }[];
  /** Names of the vec4 of x for all texels. */
  readonly x: readonly string[];
  readonly scale: string;
  /** Name of the sum of x. */
  readonly total: string;
}

/** The loads of a round, where `first` is the invocation's first texel and `firstScale` that of its scales. */
export function loadsOf(dtype: WeightDtype, { units, half }: TextureUnits): Load[] {
  const { texels, step, span } = unitOf(dtype), { columns, perScale } = texelOf(dtype), vectors = columns / 4;
  const loads = range(units).map((u) =>
    loadOf({
      columns: range(texels).map((t) => `first + ${u * LANES * texels + t * step}u`),
      x: (i) => `x${u * texels * vectors + i}`,
      scale: `firstScale + ${u * span / 32}u`,
      total: `t${u}`,
    })
  );
  const rest = {
    columns: [`lane + ${units * LANES * texels}u`],
    x: (i: number) => `y${i}`,
    scale: `lane / ${perScale}u + ${units * span / 32}u`,
    total: "rest",
  };
  return half ? [...loads, loadOf(rest)] : loads;

  function loadOf({ columns, x, ...names }: Omit<Load, "texels" | "x"> & {
    readonly columns: readonly string[];
    readonly x: (index: number) => string;
  }): Load {
    const each = columns.map((column, t) => ({ column, x: range(vectors).map((v) => x(t * vectors + v)) }));
    return { ...names, texels: each, x: each.flatMap((texel) => texel.x) };
  }
}

/** Declarations and statements of main(). */
export function textureBody(kernel: Matvec): { readonly module: string; readonly main: string } {
  const { storage: { dtype }, ending, parts, roles = [], norm } = kernel;
  const { rows: most = MAX_ROWS, units: { units, half, rounds } = NO_UNITS } = kernel;
  const { texels, step, span } = unitOf(dtype), isMany = rounds > 1;
  const texel = texelOf(dtype), vectors = texel.columns / 4, perUnit = texels * vectors, quantized = hasCodes(dtype);
  const registers = range(units * perUnit);

  const place = (unit: string, t: number): string => `first + ${unit} * ${LANES * texels}u + ${t * step}u`;
  const all = loadsOf(dtype, { units, half, rounds }), rest = half ? all.at(-1) : undefined;

  /** Statements that load x for texels of W, given the names to assign. */
  const loadX = (columns: readonly string[], targets: readonly string[], total: string): string =>
    columns.flatMap((column, t) =>
      range(vectors).map((v) => {
        const i = t * vectors + v, c4 = `(${column}) * ${vectors}u + ${v}u`, scale = columnScale4(dtype, 4 * v);
        return `    let v${i} = x_at(0u, ${c4});
${norm ? `    squares += v${i} * v${i};\n    let h${i} = v${i} * norm[${c4}];` : `    let h${i} = v${i};`}
    ${targets[i]} = h${i}${scale ? ` * ${scale}` : ""};`;
      })
    ).join("\n") +
    (quantized
      ? `\n    ${total} = ${targets.map((_, i) => `h${i}.x + h${i}.y + h${i}.z + h${i}.w`).join(" + ")};`
      : "");
  // Shifts the registers down in a loop: unrolled buffer loads make llvmpipe's compiler several times slower, and
  // compilers contract unrolled sums of squares otherwise. So its end is a param.
  const fill = `  for (var i = 0u; i < params.units; i++) {
    ${registers.slice(0, -perUnit).map((i) => `x${i} = x${i + perUnit};`).join(" ")}
    ${quantized ? range(units - 1).map((i) => `t${i} = t${i + 1};`).join(" ") : ""}
${
    loadX(
      range(texels).map((t) => place("i", t)),
      registers.slice(-perUnit).map((i) => `x${i}`),
      `t${units - 1}`,
    )
  }
  }
${rest ? `  {\n${loadX(rest.texels.map(({ column }) => column), rest.x, rest.total)}\n  }` : ""}`;

  const row = (m: number): string => {
    const texture = quantized ? "n0 / 4u + r / 4u" : "n0 + r";
    const at = `(${m === 1 && ending === "swiglu" ? "r + params.groupRows" : "r"}) * ${LANES}u + lane`;
    if (isFileDtype(dtype)) return fileRow(dtype, { m, texture, at });
    // All loads precede their arithmetic: an image load is a call, which saves all registers.
    const codes = all.flatMap((load, u) =>
      load.texels.map(({ column }, t) => `      let d${u}_${t} = textureLoad(w${m}, vec2u(${column}, ${texture}));`)
    );
    const scales = quantized
      ? all.map(({ scale }, u) => `      let e${u} = textureLoad(scales${m}, vec2u(${scale}, ${texture}));`)
      : [];
    const sums = all.map((load, u) => {
      const dots = load.texels.map(({ x }, t) => texelDot(dtype, { texel: `d${u}_${t}`, x, name: `f${u}_${t}` }));
      const before = dots.map((dot) => dot.before).join(" "), sum = dots.map((dot) => dot.sum).join(" + ");
      const scale = quantized ? scaleOf(`e${u}`, `g${u}`) : null;
      return `      ${before} ${scale?.before ?? ""} sum += ${scale ? scaledSum(scale, sum, load.total) : sum};`;
    });
    const store = quantized
      ? range(4).map((j) => `      ${storeSum(`${at} + ${j * LANES}u`, `sum[${j}]`, isMany)}`).join("\n")
      : `      ${storeSum(at, "sum", isMany)}`;
    return `    for (var r = 0u; r < count; r += ${texel.rows}u) {
      var sum = ${quantized ? "vec4f()" : "0.0"};
${[...codes, ...scales, ...sums].join("\n")}
${store}
    }`;
  };
  const fileRow = (dtype: FileDtype, { m, texture, at }: {
    readonly m: number;
    readonly texture: string;
    readonly at: string;
  }): string => {
    const loaded = all.map((load, u) =>
      fileLoads(dtype, {
        columns: load.texels.map(({ column }) => column),
        load: (of, x) => `textureLoad(${of === "codes" ? "w" : "scales"}${m}, vec2u(${x}, ${texture}))`,
        name: `${u}`,
      })
    );
    const sums = all.map((load, u) => {
      const dots = load.texels.map(({ x }, t) => {
        const { low = "", high = "" } = loaded[u]?.texels[t] ?? {};
        return texelDot(dtype, { texel: low, high, x, name: `f${u}_${t}` }).sum;
      });
      return `sum += ${fileSum(dtype, { sums: dots, name: `${u}`, total: load.total })};`;
    });
    const statements = [
      ...loaded.flatMap(({ codes }) => codes),
      ...loaded.flatMap(({ scales }) => scales),
      ...loaded.flatMap(({ decode }) => decode),
      ...sums,
      ...range(4).map((j) => storeSum(`${at} + ${j * LANES}u`, `sum[${j}]`, isMany)),
    ];
    return `    for (var r = 0u; r < count; r += ${texel.rows}u) {
      var sum = vec4f();
${statements.map((line) => `      ${line}`).join("\n")}
    }`;
  };
  const rows = ending === "swiglu"
    ? [row(0), row(1)].join("\n")
    : parts === 1
    ? row(0)
    : range(parts).map((m) => `    if (part == ${m}u) {\n${row(m)}\n    }`).join("\n");

  const lane = quantized ? `lane / ${step}u * ${texel.perScale}u + lane % ${step}u` : "lane";
  const ofRound = (count: number): string => (isMany ? ` + round * ${count}u` : "");
  const round = `  let first = ${lane}${ofRound(units * LANES * texels)};
${quantized ? `  let firstScale = lane / ${step}u${ofRound(units * span / 32)};` : ""}
${fill}
${rows}`;
  const reduce = (base: string): string =>
    `  for (var i = lane; i < count; i += ${LANES}u) {
    let at = (i${base}) * ${LANES}u;
    sums[at] = ${range(LANES).map((j) => `sums[at + ${j}u]`).join(" + ")};
  }`;
  return {
    module: `${isFileDtype(dtype) ? scaleFunction(dtype, "texture") : ""}var<workgroup> sums: array<f32, ${
      most * LANES
    }>;
${norm ? `var<workgroup> square_sums: array<f32, ${LANES}>;` : ""}
fn sum_of(i: u32) -> f32 { return sums[i * ${LANES}u]; }`,
    main: `${
      [...registers.map((i) => `x${i}`), ...rest?.x ?? []]
        .map((x) => `  var ${x} = vec4f();`).join("\n")
    }
${quantized ? all.map(({ total }) => `  var ${total} = 0.0;`).join("\n") : ""}
${norm ? "  var squares = vec4f();" : ""}
${isMany ? `  for (var round = 0u; round < params.rounds; round++) {\n${round}\n  }` : round}
${norm ? "  square_sums[lane] = squares.x + squares.y + squares.z + squares.w;" : ""}
  workgroupBarrier();
${
      norm
        ? `  let factor = inverseSqrt((${
          range(LANES).map((j) => `square_sums[${j}]`).join(" + ")
        }) / f32(params.columns) + params.eps);`
        : "  let factor = 1.0;"
    }
${reduce("")}
${ending === "swiglu" ? reduce(" + params.groupRows") : ""}
  workgroupBarrier();
${
      endingText({
        ...{ ending, roles, lanes: LANES, vector: "0u", first: "n0", count: "count" },
        ...{ second: "params.groupRows", factor: "factor" },
      })
    }`,
  };
}

const NO_UNITS: TextureUnits = { units: 1, half: false, rounds: 1 };

function storeSum(at: string, value: string, isMany: boolean): string {
  if (!isMany) return `sums[${at}] = ${value};`;
  return `if (round == 0u) { sums[${at}] = ${value}; } else { sums[${at}] += ${value}; }`;
}
