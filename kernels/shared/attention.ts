// Causal attention, forward, with online softmax.
import {
  type AttentionTile,
  capped,
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

/**
 * Params of the three kernels, in order. `blocks` is one past the last block of queries of a dispatch, or its first
 * block of keys. `vectors` is the number of vec4 of a head (a param, so that loops over it stay loops). `window` is the
 * largest number of keys that a query attends to, including its own, from 1 to {@link NO_WINDOW}. `scale` is log2(e)
 * times the factor of q·k (1 / √headDim by default), and `cap`, only with a soft cap, log2(e) times it.
 */
export function attentionParams({ isCapped = false }: Pick<AttentionTile, "isCapped">): string {
  return `struct Params {
  seq: u32, ratio: u32, kvHeads: u32, first: u32,
  qStride4: u32, kvStride4: u32, blocks: u32, tokens: u32,
  vectors: u32, window: u32, scale: f32,${isCapped ? " cap: f32," : ""}
}`;
}

/** The window of attention without a limit. The u32 distance from a key to an earlier query is larger than this. */
export const NO_WINDOW = 2 ** 31;

/**
 * What limits the keys of a query: a window; token trees, forward only; or the rows that a sequence is packed of, within
 * a window. With trees and rows a buffer `spans` says it, and params.window is not read.
 */
export type KeyRanges = "window" | "trees" | "rows";

/** First key of a block of queries whose first query is `earliest`. */
export function firstKey(ranges: KeyRanges): string {
  if (ranges === "window") return "(earliest + 1u - min(earliest + 1u, params.window))";
  return `spans[base + earliest].${ranges === "trees" ? "z" : "x"}`;
}

/** The declaration of `spans`; null where there are none. */
export function spansOf(ranges: KeyRanges): string | null {
  return ranges === "window" ? null : `spans: array<${ranges === "trees" ? "vec4u" : "vec2u"}>`;
}

/**
 * o[m, h] = Σ_j softmax_j(q[m, h]·k[j, h'] / √headDim) v[j, h'] over the keys m − window < j ≤ m of the same sequence,
 * h' = floor(h / ratio); lse[h, m] = log Σ_j exp(q·k / √headDim). Writes (=) o and lse.
 *
 * The queries of the heads of one KV group form one list i = t·ratio + g, so that the rows of an invocation share the
 * keys they read. Invocation `lane` of block `x` owns i = x·lanes·rows + r·lanes + lane. Grid: x blocks (below
 * params.blocks), y sequence·kvHeads + KV head (from params.first). Bindings: q, k, v, o, lse, params.
 *
 * With `trees` the rows of a sequence are token trees in depth-first order, and a query attends to itself and its
 * nearest ancestors: the keys spans[m].x ≤ j ≤ m with m < spans[j].y, the end of the subtree of j. spans[m].z is the
 * smallest spans[n].x of the rows n ≥ m of m's tree. params.window is not read. Bindings: q, k, v, o, lse, spans
 * [sequences · seq] of four u32, params.
 *
 * With `rows` a query m attends to the keys spans[m].x ≤ j ≤ m: the first key is in its own row and window. spans[j].y
 * is one past the last query that attends to the key j. Neither falls from one token of a sequence to the next.
 * Bindings: q, k, v, o, lse, spans [sequences · seq] of two u32, params.
 */
export function attentionKernel(
  tile: AttentionTile,
  { ranges = "window" }: { readonly ranges?: KeyRanges } = {},
): KernelSource {
  const { headDim, lanes, variant } = tile, spans = spansOf(ranges), trees = ranges === "trees";
  const vectors = headVectors(headDim);
  const rows = range(tile.rows), steps = range(tile.step);
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
@group(0) @binding(3) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
${spans ? `@group(0) @binding(5) var<storage, read> ${spans};\n` : ""}@group(0) @binding(${
    spans ? 6 : 5
  }) var<uniform> params: Params;

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = params.first + group.y;
  let kv = pair % params.kvHeads;
  let base = (pair / params.kvHeads) * params.seq;
  let count = params.seq * params.ratio;
  let first = (params.blocks - 1u - group.x) * ${lanes * tile.rows}u; // the longest blocks start first
  let end = min(first + ${lanes * tile.rows - 1}u, count - 1u) / params.ratio + 1u;
  let earliest = min(first, count - 1u) / params.ratio;
${
    rows.map((r) =>
      `  let i${r} = min(first + ${r * lanes}u + lane, count - 1u);
  let t${r} = i${r} / params.ratio;
  let h${r} = kv * params.ratio + i${r} % params.ratio;
  let from${r} = (base + t${r}) * params.qStride4 + h${r} * ${vectors}u;
  let window${r} = ${spans ? `t${r} - spans[base + t${r}].x + 1u` : "params.window"};
  ${registers(`q${r}`, vectors)}
  ${registers(`o${r}`, vectors)}
  var m${r} = -3e38;
  var l${r} = 0.0;`
    ).join("\n")
  }
  for (var c = 0u; c < params.vectors; c++) {
${rows.map((r) => `    ${shift(`q${r}`, vectors, { values: [`q[from${r} + c] * params.scale`] })}`).join("\n")}
  }
${keys.loop({ from: firstKey(ranges), to: "end" }, forwardStep())}
${rows.map((r) => `  let inverse${r} = 1.0 / l${r};`).join("\n")}
  for (var c = 0u; c < params.vectors; c++) {
${
    rows.map((r) =>
      `    if (${owned(r)}) { o[from${r} + c] = ${masked(`o${r}_0 * inverse${r}`, headDim)}; }
    ${shift(`o${r}`, vectors, {})}`
    ).join("\n")
  }
  }
${
    rows.map((r) =>
      `  if (${owned(r)}) {
    if (h${r} + 1u == params.kvHeads * params.ratio) {
      ${zeroTail("o", { row: `base + t${r}`, end: `(h${r} + 1u) * ${vectors}u`, stride: "params.qStride4" })}
    }
    // log2 of some drivers is good to 1e-5 only; a Newton step on exp2 makes lse agree with the exp2 of the backward kernels.
    let log${r} = log2(l${r});
    lse[h${r} * params.tokens + base + t${r}] = (m${r} + log${r} + (l${r} * exp2(-log${r}) - 1.0) * 1.4426950408889634) * 0.6931471805599453;
  }`
    ).join("\n")
  }
}
`;
  return {
    name: `attention-${variant}-${headDim}${spans ? `-${ranges}` : ""}${tile.isCapped ? "-capped" : ""}`,
    bindings: [
      ...["read", keys.binding, keys.binding, "storage", "storage"] as const,
      ...(spans ? ["read" as const] : []),
      "uniform",
    ],
    code,
  };

  function forwardStep(): string {
    const parts: string[] = [];
    chunks(vectors, tile.step).forEach((chunk, index) => {
      for (const k of steps) for (const c of chunk) parts.push(`    let k${k}_${c} = ${keys.load(0, k, c)};`);
      for (const r of rows) {
        for (const k of steps) {
          chunk.forEach((c, i) => {
            const fresh = index === 0 && i === 0;
            parts.push(
              `    ${fresh ? "var " : ""}s${r}_${k} = ${
                dotOnto(fresh ? null : `s${r}_${k}`, `q${r}_${c}`, `k${k}_${c}`)
              };`,
            );
          });
        }
      }
    });
    if (tile.isCapped) {
      for (const r of rows) for (const k of steps) parts.push(`    s${r}_${k} = ${capped(`s${r}_${k}`)};`);
    }
    if (trees) {
      for (const k of steps) parts.push(`    let e${k} = spans[base + min(j + ${k}u, params.seq - 1u)].y;`);
    }
    for (const r of rows) {
      // A query whose first keys are all hidden accumulates values that its first visible key multiplies by
      // exp2(−3e38) = 0.
      for (const k of steps) {
        // As a u32, the distance to a later key is larger than any window.
        const isSeen = `t${r} - (j + ${k}u) < window${r}${trees ? ` && t${r} < e${k}` : ""}`;
        parts.push(`    s${r}_${k} = select(-3e38, s${r}_${k}, ${isSeen});`);
      }
      const top = steps.reduce((best, k) => `max(${best}, s${r}_${k})`, `m${r}`);
      parts.push(`    let n${r} = ${top};`, `    let a${r} = exp2(m${r} - n${r});`, `    m${r} = n${r};`);
      for (const k of steps) parts.push(`    let p${r}_${k} = exp2(s${r}_${k} - n${r});`);
      parts.push(`    l${r} = l${r} * a${r} + ${steps.map((k) => `p${r}_${k}`).join(" + ")};`);
    }
    for (const chunk of chunks(vectors, tile.step)) {
      for (const k of steps) for (const c of chunk) parts.push(`    let v${k}_${c} = ${keys.load(1, k, c)};`);
      for (const r of rows) {
        for (const c of chunk) {
          parts.push(
            `    o${r}_${c} = o${r}_${c} * a${r} + ${steps.map((k) => `p${r}_${k} * v${k}_${c}`).join(" + ")};`,
          );
        }
      }
    }
    return parts.join("\n");
  }
}
