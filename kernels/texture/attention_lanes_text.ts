// WGSL shared by the attention kernels of attention_lanes.ts: tiles of rows and their two kinds of products.
import { headVectors, masked } from "../shared/attention_text.ts";
import { range } from "../shared/range.ts";
import type { Binding, KernelSource } from "../source.ts";

/** Shape of a workgroup's work. */
export interface AttentionLanes {
  /** Unpadded width of a head. */
  readonly headDim: number;
  /** Rows (queries, or keys in the dk/dv kernel) that a workgroup owns; a multiple of {@link LANES}. */
  readonly rows: number;
  /** Whether scores have a soft cap, as in `AttentionTile`. Default false. */
  readonly isCapped?: boolean;
}

/** Lanes of a subgroup, which is a workgroup. */
export const LANES = 8;
/** Streamed rows of a step, four for each lane: the components of a vec4. */
export const STREAMED = 4 * LANES;
const PARTS = ["x", "y", "z", "w"] as const;

/** sum[r] = Σ owned[r]·streamed[n] over a head, for the four streamed rows n of the lane. Both are textures. */
export interface Scores {
  readonly sum: string;
  readonly owned: string;
  readonly streamed: string;
}

/** sum[r] += Σ weight[r, n] · streamed[n] over the streamed rows n. The values of a head lie along the lanes. */
export interface Weighted {
  readonly sum: string;
  readonly weight: string;
  readonly streamed: string;
}

/** Numbers of the rows that a workgroup owns. */
export function rowsOf({ rows }: AttentionLanes): readonly number[] {
  return range(rows);
}

/** Numbers of the groups of rows that have one row a lane. */
export function groupsOf({ rows }: AttentionLanes): readonly number[] {
  return range(rows / LANES);
}

/** Numbers of the vec4 of a head that a lane has in a sum; the last one may lie past the head. */
export function columnsOf({ headDim }: AttentionLanes): readonly number[] {
  return range(Math.ceil(headVectors(headDim) / LANES));
}

/** A line for each number. */
export function lines(numbers: readonly number[], line: (number: number) => string): string {
  return numbers.map(line).join("\n");
}

/**
 * The value of row `r` of a variable that has one row a lane. `zero` keeps the compiler from knowing the lane: llvmpipe
 * takes one instruction to spread an unknown lane, and more for a known one.
 */
export function ofRow(name: string, r: number): string {
  return `subgroupShuffle(${name}${Math.floor(r / LANES)}, zero + ${r % LANES}u)`;
}

/** Statements that combine the values of `name` of all lanes. */
export function acrossLanes(name: string, combine: (a: string, b: string) => string): string {
  return [4, 2, 1].map((distance) => `${name} = ${combine(name, `subgroupShuffleXor(${name}, ${distance}u)`)};`).join(
    " ",
  );
}

/** Declares the sums of a head for all rows. */
export function sums(tile: AttentionLanes, name: string): string {
  return lines(rowsOf(tile), (r) => columnsOf(tile).map((c) => `  var ${name}${r}_${c} = vec4f();`).join(" "));
}

/**
 * Computes scores. The texels of the owned rows are at (x<g> + c, y<g>), one row a lane; those of the streamed ones at
 * (x[i] + c, y[i]), where x and y are vec4u.
 */
export function scores(tile: AttentionLanes, pairs: readonly Scores[]): string {
  return `${lines(rowsOf(tile), (r) => pairs.map(({ sum }) => `    var ${sum}${r} = vec4f();`).join(" "))}
    for (var c = 0u; c < params.vectors; c++) {
${pairs.map((pair) => scoreStep(tile, pair)).join("\n")}
    }`;
}

function scoreStep(tile: AttentionLanes, { sum, owned, streamed }: Scores): string {
  const texel = (i: number): string => `${sum}_${i}`;
  return `${lines(groupsOf(tile), (g) => `      let ${sum}_own${g} = textureLoad(${owned}, vec2u(x${g} + c, y${g}));`)}
${lines(range(4), (i) => `      let ${texel(i)} = textureLoad(${streamed}, vec2u(x.${PARTS[i]} + c, y.${PARTS[i]}));`)}
${
    lines(
      range(4),
      (i) => `      let ${sum}_of${i} = vec4f(${range(4).map((n) => `${texel(n)}.${PARTS[i]}`).join(", ")});`,
    )
  }
${
    lines(rowsOf(tile), (r) => {
      const own = `${sum}_row${r}`, terms = range(4).map((i) => `${own}.${PARTS[i]} * ${sum}_of${i}`);
      return `      let ${own} = ${ofRow(`${sum}_own`, r)}; ${sum}${r} += ${terms.join(" + ")};`;
    })
  }`;
}

/**
 * Adds up what the scores weight, four streamed rows at a time, up to the row `end`. Each column of a sum has a loop of
 * its own: short loops are faster, and columns that are kept longer would be spilled.
 */
export function weighted(tile: AttentionLanes, end: string, pairs: readonly Weighted[]): string {
  const locate = (i: number): string => {
    const part = PARTS[i];
    return `      let x_${i} = subgroupShuffle(x.${part}, part) + lane; let y_${i} = subgroupShuffle(y.${part}, part);`;
  };
  const loop = (pair: Weighted, c: number): string =>
    `    for (var part = 0u; part < parts; part++) {
${lines(range(4), locate)}
${weightedColumn(tile, pair, c)}
    }`;
  return `    let parts = min(${LANES}u, (${end} - j + 3u) / 4u);
${pairs.flatMap((pair) => columnsOf(tile).map((c) => loop(pair, c))).join("\n")}`;
}

function weightedColumn(tile: AttentionLanes, { sum, weight, streamed }: Weighted, c: number): string {
  const texel = (i: number): string => `${sum}_${c}_${i}`;
  return `${
    lines(range(4), (i) => `      let ${texel(i)} = textureLoad(${streamed}, vec2u(x_${i} + ${c * LANES}u, y_${i}));`)
  }
${
    lines(rowsOf(tile), (r) => {
      const own = `${weight}${r}_${c}`, terms = range(4).map((i) => `${own}.${PARTS[i]} * ${texel(i)}`);
      return `      let ${own} = subgroupShuffle(${weight}${r}, part); ${sum}${r}_${c} += ${terms.join(" + ")};`;
    })
  }`;
}

/**
 * Stores sums of a head for the rows that exist. `values` are by buffer; `place` are statements that set `is_owned`,
 * `row`, `head` and `last` (whether the head is the last one, which zeroes the columns up to `stride`) of row `r`.
 */
export function storeRows(
  tile: AttentionLanes,
  { values, place, stride, also = "" }: {
    readonly values: Readonly<Record<string, (r: number, c: number) => string>>;
    readonly place: string;
    readonly stride: string;
    readonly also?: string;
  },
): string {
  const columns = columnsOf(tile), vectors = headVectors(tile.headDim), names = Object.entries(values);
  const all = rowsOf(tile).flatMap((r) => columns.map((c) => [r, c] as const));
  return `${names.map(([name]) => `  var all_${name}: array<vec4f, ${all.length}>;`).join("\n")}
${
    all.map(([r, c]) =>
      names.map(([name, value]) => `  all_${name}[${r * columns.length + c}] = ${value(r, c)};`).join(" ")
    ).join("\n")
  }
  for (var r = 0u; r < ${tile.rows}u; r++) {
${place}
    if (is_owned) {
      for (var part = 0u; part < ${columns.length}u; part++) {
        let c = part * ${LANES}u + lane;
        if (c < ${vectors}u) {
          let at = row * ${stride} + head * ${vectors}u + c;
${
    names.map(([name]) =>
      `          ${name}[at] = ${masked(`all_${name}[r * ${columns.length}u + part]`, tile.headDim)};`
    ).join("\n")
  }
        }
      }
      if (is_last) {
        for (var c = (head + 1u) * ${vectors}u + lane; c < ${stride}; c += ${LANES}u) {
${names.map(([name]) => `          ${name}[row * ${stride} + c] = vec4f();`).join("\n")}
        }
      }
${also}
    }
  }`;
}

/** A kernel with these bindings and the params of `attentionParams` after them. */
export function lanesKernel(
  { headDim, rows, isCapped }: AttentionLanes,
  { name, params, bindings, body }: {
    readonly name: string;
    readonly params: string;
    /** Variables in the order of their bindings; a texture has no type. */
    readonly bindings: readonly (readonly [Binding, string])[];
    readonly body: string;
  },
): KernelSource {
  const declared = ([binding, text]: readonly [Binding, string]): string =>
    binding === "texture-f32"
      ? `var ${text}: texture_storage_2d<rgba32float, read>;`
      : `var<storage, ${binding === "read" ? "read" : "read_write"}> ${text};`;
  return {
    name: `${name}-${headDim}x${rows}${isCapped ? "-capped" : ""}`,
    usesSubgroups: true,
    bindings: [...bindings.map(([binding]) => binding), "uniform"],
    code: `${params}
${bindings.map((entry, index) => `@group(0) @binding(${index}) ${declared(entry)}`).join("\n")}
@group(0) @binding(${bindings.length}) var<uniform> params: Params;

// The token of the query i of a KV group: i / ratio, by f32, which llvmpipe divides faster. Exact below 2^20: textures have at most 2^14 rows.
fn token_of(i: u32) -> u32 { return u32((f32(i) + 0.5) / f32(params.ratio)); }

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let zero = params.vectors >> 20u;
  let pair = params.first + group.y;
  let kv = pair % params.kvHeads;
  let base = (pair / params.kvHeads) * params.seq;
  let count = params.seq * params.ratio;
${body}
}
`,
  };
}
