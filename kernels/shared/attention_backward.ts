// Backward of causal attention: one kernel for delta and dq (lanes along queries), one for dk and dv (lanes along
// keys).
import { attentionParams, firstKey, type KeyRanges, spansOf } from "./attention.ts";
import {
  type AttentionTile,
  capped,
  capSlope,
  chunks,
  dotOnto,
  headVectors,
  masked,
  registers,
  shift,
  stream,
  zeroTail,
} from "./attention_text.ts";
import { range } from "./range.ts";
import type { KernelSource } from "../source.ts";

/** What limits the keys of a query where gradients are computed. */
export type BackwardRanges = Exclude<KeyRanges, "trees">;

/** One past the last query (of the list of a KV group) that sees one of `rows` keys from `first` on. */
export function keyStop(rows: number, ranges: BackwardRanges): string {
  if (ranges === "rows") return `spans[base + min(first + ${rows - 1}u, params.seq - 1u)].y * params.ratio`;
  return `min(params.seq, first + ${rows - 1}u + params.window) * params.ratio`;
}

/** How many queries of that list see the key `j`. */
export function keyReach(j: string, ranges: BackwardRanges): string {
  if (ranges === "rows") return `(spans[base + ${j}].y - ${j}) * params.ratio`;
  return "min(params.seq, params.window) * params.ratio";
}

/**
 * delta[h, m] = dO[m, h]·o[m, h];
 * dq[m, h] = Σ_j p_j (dO·v[j] − delta) k[j] / √headDim with p_j = exp(q·k[j] / √headDim − lse), over the keys of the
 * forward kernel. Writes (=) delta and dq.
 *
 * Rows, lanes, grid and spans are as in the forward kernel. Bindings: q, k, v, o, dO, lse, delta, dq, with `rows` spans,
 * params.
 */
export function attentionQueryGradKernel(
  tile: AttentionTile,
  { ranges = "window" }: { readonly ranges?: BackwardRanges } = {},
): KernelSource {
  const { headDim, lanes, variant } = tile, spans = spansOf(ranges);
  const vectors = headVectors(headDim);
  const rows = range(tile.rows), steps = range(tile.step), columns = range(vectors);
  const owned = (r: number): string => `first + ${r * lanes}u + lane < count`;
  const keys = stream(tile, {
    names: ["k", "v"],
    bindings: [1, 2],
    stride: "params.kvStride4",
    locate: (e) => ({ row: `base + min(${e}, params.seq - 1u)`, column: `kv * ${vectors}u` }),
  });
  const code = `${attentionParams(tile)}
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
${keys.declare}
@group(0) @binding(3) var<storage, read> o: array<vec4f>;
@group(0) @binding(4) var<storage, read> d_o: array<vec4f>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<vec4f>;
${spans ? `@group(0) @binding(8) var<storage, read> ${spans};\n` : ""}@group(0) @binding(${
    spans ? 9 : 8
  }) var<uniform> params: Params;

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = params.first + group.y;
  let kv = pair % params.kvHeads;
  let base = (pair / params.kvHeads) * params.seq;
  let count = params.seq * params.ratio;
  let first = (params.blocks - 1u - group.x) * ${lanes * tile.rows}u;
  let end = min(first + ${lanes * tile.rows - 1}u, count - 1u) / params.ratio + 1u;
  let earliest = min(first, count - 1u) / params.ratio;
${
    rows.map((r) =>
      `  let i${r} = min(first + ${r * lanes}u + lane, count - 1u);
  let t${r} = i${r} / params.ratio;
  let h${r} = kv * params.ratio + i${r} % params.ratio;
  let from${r} = (base + t${r}) * params.qStride4 + h${r} * ${vectors}u;
  let window${r} = ${spans ? `t${r} - spans[base + t${r}].x + 1u` : "params.window"};
  let lse${r} = lse[h${r} * params.tokens + base + t${r}] * 1.4426950408889634;
  var delta${r} = 0.0;
  ${registers(`q${r}`, vectors)}
  ${registers(`g${r}`, vectors)}
  ${registers(`dq${r}`, vectors)}`
    ).join("\n")
  }
  for (var c = 0u; c < params.vectors; c++) {
${
    rows.map((r) =>
      `    ${shift(`q${r}`, vectors, { values: [`q[from${r} + c] * params.scale`] })}
    ${shift(`g${r}`, vectors, { values: [`d_o[from${r} + c]`] })}
    delta${r} += dot(g${r}_${vectors - 1}, o[from${r} + c]);`
    ).join("\n")
  }
  }
${keys.loop({ from: firstKey(ranges), to: "end" }, step())}
  let scale = params.scale * 0.6931471805599453;
  for (var c = 0u; c < params.vectors; c++) {
${
    rows.map((r) =>
      `    if (${owned(r)}) { dq[from${r} + c] = ${masked(`dq${r}_0 * scale`, headDim)}; }
    ${shift(`dq${r}`, vectors, {})}`
    ).join("\n")
  }
  }
${
    rows.map((r) =>
      `  if (${owned(r)}) {
    if (h${r} + 1u == params.kvHeads * params.ratio) {
      ${zeroTail("dq", { row: `base + t${r}`, end: `(h${r} + 1u) * ${vectors}u`, stride: "params.qStride4" })}
    }
    delta[h${r} * params.tokens + base + t${r}] = delta${r};
  }`
    ).join("\n")
  }
}
`;
  return {
    name: `attention_query_grad-${variant}-${headDim}${spans ? `-${ranges}` : ""}${tile.isCapped ? "-capped" : ""}`,
    bindings: [
      ...["read", keys.binding, keys.binding, "read", "read", "read", "storage", "storage"] as const,
      ...(spans ? ["read" as const] : []),
      "uniform",
    ],
    code,
  };

  function step(): string {
    const parts: string[] = [];
    chunks(vectors, tile.step).forEach((chunk, index) => {
      for (const k of steps) {
        for (const c of chunk) {
          parts.push(`    let k${k}_${c} = ${keys.load(0, k, c)};`, `    let v${k}_${c} = ${keys.load(1, k, c)};`);
        }
      }
      for (const r of rows) {
        for (const k of steps) {
          chunk.forEach((c, i) => {
            const fresh = index === 0 && i === 0, start = fresh ? "var " : "";
            const s = `s${r}_${k}`, d = `d${r}_${k}`;
            parts.push(`    ${start}${s} = ${dotOnto(fresh ? null : s, `q${r}_${c}`, `k${k}_${c}`)};`);
            parts.push(`    ${start}${d} = ${dotOnto(fresh ? null : d, `g${r}_${c}`, `v${k}_${c}`)};`);
          });
        }
      }
    });
    for (const r of rows) {
      for (const k of steps) {
        const s = `s${r}_${k}`, slope = tile.isCapped ? capSlope(s) : "";
        if (tile.isCapped) parts.push(`    ${s} = ${capped(s)};`);
        parts.push(
          `    let e${r}_${k} = select(0.0, exp2(${s} - lse${r}) * (d${r}_${k} - delta${r})${slope}, t${r} - (j + ${k}u) < window${r});`,
        );
      }
      for (const c of columns) {
        parts.push(`    dq${r}_${c} += ${steps.map((k) => `e${r}_${k} * k${k}_${c}`).join(" + ")};`);
      }
    }
    return parts.join("\n");
  }
}

/**
 * dv[j] = Σ_i p_ij dO[i];  dk[j] = Σ_i p_ij (dO[i]·v[j] − delta[i]) q[i] / √headDim over the queries j ≤ i < j + window
 * of all heads of the KV group, in a fixed order. Writes (=) dk and dv.
 *
 * Invocation `lane` of block `x` owns the keys j = x·lanes·rows + r·lanes + lane. Grid: x blocks (from params.blocks),
 * y sequence·kvHeads + KV head (from params.first). Bindings: q, dO, k, v, lse, delta, dk, dv, with `rows` spans, params.
 */
export function attentionKeyGradKernel(
  tile: AttentionTile,
  { ranges = "window" }: { readonly ranges?: BackwardRanges } = {},
): KernelSource {
  const { headDim, lanes, variant } = tile, spans = spansOf(ranges);
  const vectors = headVectors(headDim);
  const rows = range(tile.rows), steps = range(tile.step), columns = range(vectors);
  const owned = (r: number): string => `first + ${r * lanes}u + lane < params.seq`;
  const queries = stream(tile, {
    names: ["q", "d_o"],
    bindings: [0, 1],
    stride: "params.qStride4",
    locate: (e) => {
      const i = `min(${e}, count - 1u)`;
      return { row: `base + ${i} / params.ratio`, column: `(kv * params.ratio + ${i} % params.ratio) * ${vectors}u` };
    },
  });
  const code = `${attentionParams(tile)}
${queries.declare}
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dv: array<vec4f>;
${spans ? `@group(0) @binding(8) var<storage, read> ${spans};\n` : ""}@group(0) @binding(${
    spans ? 9 : 8
  }) var<uniform> params: Params;

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = params.first + group.y;
  let kv = pair % params.kvHeads;
  let base = (pair / params.kvHeads) * params.seq;
  let count = params.seq * params.ratio;
  let first = (params.blocks + group.x) * ${lanes * tile.rows}u;
  let stop = ${keyStop(lanes * tile.rows, ranges)};
${
    rows.map((r) =>
      `  let j${r} = min(first + ${r * lanes}u + lane, params.seq - 1u);
  let start${r} = j${r} * params.ratio; // the first query that sees the key
  let reach${r} = ${keyReach(`j${r}`, ranges)}; // how many see it; as a u32, those before it are further away
  let from${r} = (base + j${r}) * params.kvStride4 + kv * ${vectors}u;
  ${registers(`k${r}`, vectors)}
  ${registers(`v${r}`, vectors)}
  ${registers(`dk${r}`, vectors)}
  ${registers(`dv${r}`, vectors)}`
    ).join("\n")
  }
  for (var c = 0u; c < params.vectors; c++) {
${
    rows.map((r) =>
      `    ${shift(`k${r}`, vectors, { values: [`k[from${r} + c] * params.scale`] })}
    ${shift(`v${r}`, vectors, { values: [`v[from${r} + c]`] })}`
    ).join("\n")
  }
  }
${queries.loop({ from: "(first * params.ratio)", to: "stop" }, step())}
  let scale = params.scale * 0.6931471805599453;
  for (var c = 0u; c < params.vectors; c++) {
${
    rows.map((r) =>
      `    if (${owned(r)}) {
      dk[from${r} + c] = ${masked(`dk${r}_0 * scale`, headDim)};
      dv[from${r} + c] = ${masked(`dv${r}_0`, headDim)};
    }
    ${shift(`dk${r}`, vectors, {})}
    ${shift(`dv${r}`, vectors, {})}`
    ).join("\n")
  }
  }
${
    rows.map((r) =>
      `  if (${owned(r)}) {
    if (kv + 1u == params.kvHeads) {
      ${zeroTail("dk", { row: `base + j${r}`, end: `params.kvHeads * ${vectors}u`, stride: "params.kvStride4" })}
      ${zeroTail("dv", { row: `base + j${r}`, end: `params.kvHeads * ${vectors}u`, stride: "params.kvStride4" })}
    }
  }`
    ).join("\n")
  }
}
`;
  return {
    name: `attention_key_grad-${variant}-${headDim}${spans ? `-${ranges}` : ""}${tile.isCapped ? "-capped" : ""}`,
    bindings: [
      ...[queries.binding, queries.binding, "read", "read", "read", "read", "storage", "storage"] as const,
      ...(spans ? ["read" as const] : []),
      "uniform",
    ],
    code,
  };

  function step(): string {
    const parts: string[] = [];
    for (const i of steps) {
      parts.push(
        `    let i${i} = min(j + ${i}u, count - 1u);`,
        `    let stat${i} = (kv * params.ratio + i${i} % params.ratio) * params.tokens + base + i${i} / params.ratio;`,
        `    let lse${i} = lse[stat${i}] * 1.4426950408889634;`,
        `    let delta${i} = delta[stat${i}];`,
      );
    }
    chunks(vectors, tile.step).forEach((chunk, index) => {
      for (const i of steps) {
        for (const c of chunk) {
          parts.push(
            `    let q${i}_${c} = ${queries.load(0, i, c)};`,
            `    let g${i}_${c} = ${queries.load(1, i, c)};`,
          );
        }
      }
      for (const r of rows) {
        for (const i of steps) {
          chunk.forEach((c, at) => {
            const fresh = index === 0 && at === 0, start = fresh ? "var " : "";
            const s = `s${r}_${i}`, d = `d${r}_${i}`;
            parts.push(`    ${start}${s} = ${dotOnto(fresh ? null : s, `k${r}_${c}`, `q${i}_${c}`)};`);
            parts.push(`    ${start}${d} = ${dotOnto(fresh ? null : d, `v${r}_${c}`, `g${i}_${c}`)};`);
          });
        }
      }
    });
    for (const r of rows) {
      for (const i of steps) {
        const s = `s${r}_${i}`, slope = tile.isCapped ? capSlope(s) : "";
        if (tile.isCapped) parts.push(`    ${s} = ${capped(s)};`);
        parts.push(
          `    let p${r}_${i} = select(0.0, exp2(s${r}_${i} - lse${i}), j + ${i}u - start${r} < reach${r} && j + ${i}u < count);`,
          `    let e${r}_${i} = p${r}_${i} * (d${r}_${i} - delta${i})${slope};`,
        );
      }
      for (const c of columns) {
        parts.push(
          `    dk${r}_${c} += ${steps.map((i) => `e${r}_${i} * q${i}_${c}`).join(" + ")};`,
          `    dv${r}_${c} += ${steps.map((i) => `p${r}_${i} * g${i}_${c}`).join(" + ")};`,
        );
      }
    }
    return parts.join("\n");
  }
}
