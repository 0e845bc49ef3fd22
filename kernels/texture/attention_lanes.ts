// Causal attention for CPU adapters, with online softmax: the lanes of a subgroup lie along the streamed rows for
// scores, and along the values of a head for sums. One kernel forward, one for delta and dq, one for dk and dv.
//
// A workgroup is one subgroup and owns a tile of rows. Scores with the streamed rows are a product over the head, and
// what they weight is a product over the streamed rows. Both are register tiles, as in product.ts: a load
// serves all owned rows.
import { attentionParams, firstKey, type KeyRanges, spansOf } from "../shared/attention.ts";
import { type BackwardRanges, keyReach, keyStop } from "../shared/attention_backward.ts";
import {
  acrossLanes,
  type AttentionLanes,
  columnsOf,
  groupsOf,
  LANES,
  lanesKernel,
  lines,
  ofRow,
  rowsOf,
  scores,
  storeRows,
  STREAMED,
  sums,
  weighted,
} from "./attention_lanes_text.ts";
import { capped, capSlope, headVectors } from "../shared/attention_text.ts";
import type { KernelSource } from "../source.ts";

const PARTS = ["x", "y", "z", "w"] as const;

/** log2(e) and its inverse: scores and lse are in powers of two within the kernels. */
const LOG2E = "1.4426950408889634", LN2 = "0.6931471805599453";

/**
 * `attentionKernel` with q, k and v as textures. A workgroup owns `rows` queries of the list of its KV group. Grid: x
 * blocks (below params.blocks), y sequence·kvHeads + KV head (from params.first). Bindings: q, k, v, o, lse, with
 * `trees` and `rows` spans, params.
 */
export function attentionLanesKernel(
  tile: AttentionLanes,
  { ranges = "window" }: { readonly ranges?: KeyRanges } = {},
): KernelSource {
  const trees = ranges === "trees";
  const isSeen = (r: number): string =>
    trees ? `(${isNear(r, ranges)}) & (vec4u(${ofRow("t", r)}) < ends)` : isNear(r, ranges);
  return lanesKernel(tile, {
    name: `attention_lanes${suffix(ranges)}`,
    params: attentionParams(tile),
    bindings: [
      ["texture-f32", "q"],
      ["texture-f32", "k"],
      ["texture-f32", "v"],
      ["storage", "o: array<vec4f>"],
      ["storage", "lse: array<f32>"],
      ...spansBinding(ranges),
    ],
    body: `${ownQueries(tile, ranges)}
${sums(tile, "o")}
${lines(rowsOf(tile), (r) => `  var m${r} = -3e38; var l${r} = 0.0;`)}
  for (var j = ${firstKey(ranges)}; j < end; j += ${STREAMED}u) {
${streamKeys(tile)}
${trees ? `    let ends = vec4u(${PARTS.map((part) => `spans[y.${part}].y`).join(", ")});` : ""}
${scores(tile, [{ sum: "s", owned: "q", streamed: "k" }])}
${
      // A query whose first keys are all hidden adds up values that its first visible key multiplies by exp2(−3e38) = 0.
      // l is the sum of the lane's own keys.
      lines(rowsOf(tile), (r) =>
        `    s${r} = select(vec4f(-3e38), ${score(tile, `s${r}`)}, ${isSeen(r)});
    var n${r} = max(max(s${r}.x, s${r}.y), max(s${r}.z, s${r}.w));
    ${acrossLanes(`n${r}`, (a, b) => `max(${a}, ${b})`)}
    n${r} = max(n${r}, m${r});
    let a${r} = exp2(m${r} - n${r});
    let p${r} = exp2(s${r} - n${r});
    m${r} = n${r};
    l${r} = l${r} * a${r} + (p${r}.x + p${r}.y + p${r}.z + p${r}.w);
    ${columnsOf(tile).map((c) => `o${r}_${c} *= a${r};`).join(" ")}`)}
${weighted(tile, "end", [{ sum: "o", weight: "p", streamed: "v" }])}
  }
${lines(rowsOf(tile), (r) => `  ${acrossLanes(`l${r}`, (a, b) => `${a} + ${b}`)}`)}
  var all_m: array<f32, ${tile.rows}>; var all_l: array<f32, ${tile.rows}>;
${lines(rowsOf(tile), (r) => `  let inverse${r} = 1.0 / l${r}; all_m[${r}] = m${r}; all_l[${r}] = l${r};`)}
${
      storeRows(tile, {
        values: { o: (r, c) => `o${r}_${c} * inverse${r}` },
        ...placeOfQuery(),
        // log2 of some drivers is good to 1e-5 only; a Newton step on exp2 makes lse agree with the exp2 of the backward
        // kernels.
        also: `      if (lane == 0u) {
        let log = log2(all_l[r]);
        lse[head * params.tokens + row] = (all_m[r] + log + (all_l[r] * exp2(-log) - 1.0) * ${LOG2E}) * ${LN2};
      }`,
      })
    }`,
  });
}

/**
 * `attentionQueryGradKernel` with q, k, v and dO as textures; rows and grid as in {@link attentionLanesKernel}.
 * Bindings: q, k, v, o, dO, lse, delta, dq, with `rows` spans, params.
 */
export function attentionLanesQueryGradKernel(
  tile: AttentionLanes,
  { ranges = "window" }: { readonly ranges?: BackwardRanges } = {},
): KernelSource {
  return lanesKernel(tile, {
    name: `attention_lanes_query_grad${suffix(ranges)}`,
    params: attentionParams(tile),
    bindings: [
      ["texture-f32", "q"],
      ["texture-f32", "k"],
      ["texture-f32", "v"],
      ["read", "o: array<vec4f>"],
      ["texture-f32", "d_o"],
      ["read", "lse: array<f32>"],
      ["storage", "delta: array<f32>"],
      ["storage", "dq: array<vec4f>"],
      ...spansBinding(ranges),
    ],
    body: `${ownQueries(tile, ranges)}
${
      lines(groupsOf(tile), (g) =>
        `  let stat${g} = (kv * params.ratio + i${g} - t${g} * params.ratio) * params.tokens + base + t${g};
  let lse${g} = lse[stat${g}] * ${LOG2E};
  var delta${g} = 0.0;`)
    }
  for (var c = 0u; c < params.vectors; c++) {
${
      lines(groupsOf(tile), (g) =>
        `    delta${g} += dot(textureLoad(d_o, vec2u(x${g} + c, y${g})), o[y${g} * params.qStride4 + x${g} + c]);`)
    }
  }
${lines(groupsOf(tile), (g) => `  if (first + ${g * LANES}u + lane < count) { delta[stat${g}] = delta${g}; }`)}
${sums(tile, "dq")}
  for (var j = ${firstKey(ranges)}; j < end; j += ${STREAMED}u) {
${streamKeys(tile)}
${scores(tile, [{ sum: "s", owned: "q", streamed: "k" }, { sum: "d", owned: "d_o", streamed: "v" }])}
${
      lines(rowsOf(tile), (r) =>
        `    s${r} = ${score(tile, `s${r}`)};
    let e${r} = select(vec4f(), exp2(s${r} - ${ofRow("lse", r)}) * (d${r} - ${ofRow("delta", r)})${
          slope(tile, `s${r}`)
        }, ${isNear(r, ranges)});`)
    }
${weighted(tile, "end", [{ sum: "dq", weight: "e", streamed: "k" }])}
  }
  let scale = params.scale * ${LN2};
${storeRows(tile, { values: { dq: (r, c) => `dq${r}_${c} * scale` }, ...placeOfQuery() })}`,
  });
}

/**
 * `attentionKeyGradKernel` with q, dO, k and v as textures. A workgroup owns `rows` keys. Grid: x blocks (from
 * params.blocks), y sequence·kvHeads + KV head (from params.first). Bindings: q, dO, k, v, lse, delta, dk, dv, with
 * `rows` spans, params.
 */
export function attentionLanesKeyGradKernel(
  tile: AttentionLanes,
  { ranges = "window" }: { readonly ranges?: BackwardRanges } = {},
): KernelSource {
  const vectors = headVectors(tile.headDim);
  const reach = (r: number): string => ranges === "rows" ? ofRow("reach", r) : "reach";
  return lanesKernel(tile, {
    name: `attention_lanes_key_grad${suffix(ranges)}`,
    params: attentionParams(tile),
    bindings: [
      ["texture-f32", "q"],
      ["texture-f32", "d_o"],
      ["texture-f32", "k"],
      ["texture-f32", "v"],
      ["read", "lse: array<f32>"],
      ["read", "delta: array<f32>"],
      ["storage", "dk: array<vec4f>"],
      ["storage", "dv: array<vec4f>"],
      ...spansBinding(ranges),
    ],
    body: `  let first = (params.blocks + group.x) * ${tile.rows}u;
  let end = ${keyStop(tile.rows, ranges)};
${
      // How many queries see a key; as a u32, those before it are further away.
      ranges === "window" ? `  let reach = ${keyReach("", ranges)};` : ""}
${
      lines(groupsOf(tile), (g) =>
        `  let t${g} = min(first + ${g * LANES}u + lane, params.seq - 1u);
  let start${g} = t${g} * params.ratio; // the first query that sees the key
  ${ranges === "rows" ? `let reach${g} = ${keyReach(`t${g}`, ranges)};` : ""}
  let x${g} = kv * ${vectors}u; let y${g} = base + t${g};`)
    }
${sums(tile, "dk")}
${sums(tile, "dv")}
  for (var j = first * params.ratio; j < end; j += ${STREAMED}u) {
    let n = vec4u(j + 4u * lane) + vec4u(0u, 1u, 2u, 3u);
    let i = min(n, vec4u(count - 1u));
    let t = vec4u(${PARTS.map((part) => `token_of(i.${part})`).join(", ")});
    let h = kv * params.ratio + i - t * params.ratio;
    let x = h * ${vectors}u;
    let y = base + t;
    let stat = h * params.tokens + y;
    let lses = vec4f(${PARTS.map((part) => `lse[stat.${part}]`).join(", ")}) * ${LOG2E};
    let deltas = vec4f(${PARTS.map((part) => `delta[stat.${part}]`).join(", ")});
    let is_query = n < vec4u(count);
${scores(tile, [{ sum: "s", owned: "k", streamed: "q" }, { sum: "d", owned: "v", streamed: "d_o" }])}
${
      lines(rowsOf(tile), (r) =>
        `    s${r} = ${score(tile, `s${r}`)};
    let p${r} = select(vec4f(), exp2(s${r} - lses), (n - vec4u(${ofRow("start", r)}) < vec4u(${reach(r)})) & is_query);
    let e${r} = p${r} * (d${r} - deltas)${slope(tile, `s${r}`)};`)
    }
${weighted(tile, "end", [{ sum: "dk", weight: "e", streamed: "q" }, { sum: "dv", weight: "p", streamed: "d_o" }])}
  }
  let scale = params.scale * ${LN2};
${
      storeRows(tile, {
        values: { dk: (r, c) => `dk${r}_${c} * scale`, dv: (r, c) => `dv${r}_${c}` },
        place: `    let is_owned = first + r < params.seq;
    let row = base + first + r;
    let head = kv;
    let is_last = kv + 1u == params.kvHeads;`,
        stride: "params.kvStride4",
      })
    }`,
  });
}

function suffix(ranges: KeyRanges): string {
  return ranges === "window" ? "" : `-${ranges}`;
}

function spansBinding(ranges: KeyRanges): readonly (readonly ["read", string])[] {
  const spans = spansOf(ranges);
  return spans ? [["read", spans]] : [];
}

/** Whether the row `r` sees the keys n as far as it reaches back. As a u32, the distance to a later key is larger than any window. */
function isNear(r: number, ranges: KeyRanges): string {
  return `vec4u(${ofRow("t", r)}) - n < vec4u(${ranges === "window" ? "params.window" : ofRow("w", r)})`;
}

/** The queries of a block: i, token t, texel (x, y), and with spans the keys w that it reaches back, one row a lane. */
function ownQueries(tile: AttentionLanes, ranges: KeyRanges): string {
  return `  let first = (params.blocks - 1u - group.x) * ${tile.rows}u; // the longest blocks start first
  let end = token_of(min(first + ${tile.rows - 1}u, count - 1u)) + 1u;
  let earliest = token_of(min(first, count - 1u));
${
    lines(groupsOf(tile), (g) =>
      `  let i${g} = min(first + ${g * LANES}u + lane, count - 1u);
  let t${g} = token_of(i${g});
  let x${g} = (kv * params.ratio + i${g} - t${g} * params.ratio) * ${headVectors(tile.headDim)}u;
  let y${g} = base + t${g};${ranges === "window" ? "" : ` let w${g} = t${g} - spans[base + t${g}].x + 1u;`}`)
  }`;
}

/** The four keys n of a lane and their texels (x, y), in the sequence for those past its end. */
function streamKeys({ headDim }: AttentionLanes): string {
  return `    let n = vec4u(j + 4u * lane) + vec4u(0u, 1u, 2u, 3u);
    let x = vec4u(kv * ${headVectors(headDim)}u);
    let y = base + min(n, vec4u(params.seq - 1u));`;
}

function placeOfQuery(): { readonly place: string; readonly stride: string } {
  return {
    place: `    let i = first + r;
    let is_owned = i < count;
    let t = token_of(i);
    let row = base + t;
    let head = kv * params.ratio + i - t * params.ratio;
    let is_last = head + 1u == params.kvHeads * params.ratio;`,
    stride: "params.qStride4",
  };
}

/** A score, with its factor and cap, from a product. */
function score({ isCapped }: AttentionLanes, product: string): string {
  const scaled = `${product} * params.scale`;
  return isCapped ? capped(scaled, "vec4f") : scaled;
}

function slope({ isCapped }: AttentionLanes, value: string): string {
  return isCapped ? capSlope(value) : "";
}
