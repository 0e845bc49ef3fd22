// Attention of query tokens over a cache of keys and values in buffers.
import {
  CACHE_KEYS,
  capped,
  dotOnto,
  headVectors,
  masked,
  registers,
  shift,
  zeroTail,
} from "../shared/attention_text.ts";
import { range } from "../shared/range.ts";
import type { KernelSource } from "../source.ts";

/** Shape of one workgroup's work. */
export interface DecodeTile {
  /** Unpadded width of a head. */
  readonly headDim: number;
  readonly lanes: number;
  /** Query heads of one KV group that share the keys they read; divides heads / kvHeads. */
  readonly heads: number;
  /** Multiplies the output of each head with its mask z [heads], which is bound before o. */
  readonly isMasked?: boolean;
  /** Each row is the next token of a separate sequence instead of the next token of the same sequence. */
  readonly ownCaches?: boolean;
  /** Whether scores have a soft cap, as in `AttentionTile`. */
  readonly isCapped?: boolean;
}

/**
 * o[r, h] = Σ_j softmax_j(q[r, h]·k[j, h'] / √headDim) v[j, h'] over the keys j ≤ position[0] + r, or with `ownCaches` over
 * the keys j ≤ position[r] of the row's own sequence; only the last params.window of them. Writes (=) the rows of o.
 *
 * Each lane processes every lanes-th key with a separate online softmax; the lanes are merged in order through
 * workgroup memory.
 * Shapes: q, o [rows, qStride4] vec4; k, v [pages, {@link CACHE_KEYS}, kvStride4] vec4; pages [rows or 1, perRow]: key j
 * of row r is key j % CACHE_KEYS of page pages[r, ⌊j / CACHE_KEYS⌋]. Grid: x = heads
 * of the model / tile.heads, y rows from params.first. Bindings: q, k, v, position, pages, z (if masked), o, params.
 * params.vectors is the number of vec4 of a head (a param, so that loops over it stay loops), params.scale is log2(e) /
 * √headDim.
 */
export function decodeAttentionKernel(tile: DecodeTile): KernelSource {
  const { headDim, lanes, isMasked = false, ownCaches = false, isCapped = false } = tile;
  const vectors = headVectors(headDim);
  const heads = range(tile.heads), columns = range(vectors);
  const by = Math.max(...range(8).map((i) => i + 1).filter((width) => vectors % width === 0));
  if (lanes < by) throw new Error(`decoding attention: ${lanes} lanes, ${by} at least`);
  const part = range(by);
  const loop = `for (var c = 0u; c < params.vectors; c += ${by}u)`;
  const code =
    `struct Params { ratio: u32, heads: u32, capacity: u32, qStride4: u32, kvStride4: u32, vectors: u32, perRow: u32, window: u32, first: u32, scale: f32${
      isCapped ? ", cap: f32" : ""
    } }
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> position: array<u32>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
${isMasked ? "@group(0) @binding(5) var<storage, read> z: array<f32>;" : ""}
@group(0) @binding(${isMasked ? 6 : 5}) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(${isMasked ? 7 : 6}) var<uniform> params: Params;
var<workgroup> tops: array<f32, ${lanes}>;
var<workgroup> sums: array<f32, ${lanes}>;
var<workgroup> parts: array<vec4f, ${lanes * by}>;

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x * ${tile.heads}u;
  let column = (h / params.ratio) * ${vectors}u;
  let row = params.first + group.y;
  let start = row * params.qStride4;
  let keys = min(position[${ownCaches ? "row" : "0"}] + ${ownCaches ? "" : "row + "}1u, params.capacity);
${
      heads.map((g) =>
        `  ${registers(`q${g}`, vectors)}
  ${registers(`o${g}`, vectors)}
  var m${g} = -3e38;
  var l${g} = 0.0;
  ${loop} {
    ${
          shift(`q${g}`, vectors, {
            by,
            values: part.map((i) => `q[start + (h + ${g}u) * ${vectors}u + c + ${i}u] * params.scale`),
          })
        }
  }`
      ).join("\n")
    }
  for (var j = keys - min(keys, params.window) + lane; j < keys; j += ${lanes}u) {
    let page = pages[${ownCaches ? "row * params.perRow + " : ""}j / ${CACHE_KEYS}u];
    let at = (page * ${CACHE_KEYS}u + j % ${CACHE_KEYS}u) * params.kvStride4 + column;
    ${registers("x", vectors)}
    ${loop} {
      ${shift("x", vectors, { by, values: part.map((i) => `k[at + c + ${i}u]`) })}
    }
${
      heads.map((g) =>
        `    var s${g} = ${columns.reduce<string | null>((sum, c) => dotOnto(sum, `q${g}_${c}`, `x_${c}`), null)};
${isCapped ? `    s${g} = ${capped(`s${g}`)};\n` : ""}    let n${g} = max(m${g}, s${g});
    let a${g} = exp2(m${g} - n${g});
    let p${g} = exp2(s${g} - n${g});
    m${g} = n${g};
    l${g} = l${g} * a${g} + p${g};`
      ).join("\n")
    }
    ${loop} {
      ${shift("x", vectors, { by, values: part.map((i) => `v[at + c + ${i}u]`) })}
    }
${heads.map((g) => columns.map((c) => `    o${g}_${c} = o${g}_${c} * a${g} + p${g} * x_${c};`).join("\n")).join("\n")}
  }
${heads.map(merge).join("\n")}
  if (lane == 0u && h + ${tile.heads}u == params.heads) {
    ${zeroTail("o", { row: "row", end: `params.heads * ${vectors}u`, stride: "params.qStride4" })}
  }
}
`;
  return {
    name: `attention_decode-${headDim}-${tile.heads}-${lanes}${isMasked ? "-masked" : ""}${ownCaches ? "-own" : ""}${
      isCapped ? "-capped" : ""
    }`,
    bindings: ["read", "read", "read", "read", "read", ...(isMasked ? ["read" as const] : []), "storage", "uniform"],
    code,
  };

  function merge(g: number): string {
    return `  workgroupBarrier();
  tops[lane] = m${g};
  workgroupBarrier();
  var top${g} = tops[0];
  for (var i = 1u; i < ${lanes}u; i++) { top${g} = max(top${g}, tops[i]); }
  let w${g} = exp2(m${g} - top${g}); // 0 for a lane without keys
  sums[lane] = l${g} * w${g};
  workgroupBarrier();
  var total${g} = 0.0;
  for (var i = 0u; i < ${lanes}u; i++) { total${g} += sums[i]; }
  for (var round = 0u; round < params.vectors; round += ${by}u) {
    workgroupBarrier();
${part.map((i) => `    parts[lane * ${by}u + ${i}u] = o${g}_${i} * w${g};`).join("\n")}
    ${shift(`o${g}`, vectors, { by })}
    workgroupBarrier();
    if (lane < ${by}u) {
      var sum = vec4f();
      for (var i = 0u; i < ${lanes}u; i++) { sum += parts[i * ${by}u + lane]; }
      let c = round + lane;
      o[start + (h + ${g}u) * ${vectors}u + c] = ${
      masked(isMasked ? `sum / total${g} * z[h + ${g}u]` : `sum / total${g}`, headDim)
    };
    }
  }`;
  }
}
