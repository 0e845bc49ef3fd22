// Attention of query tokens over a cache in textures, for CPU adapters.
import { CACHE_KEYS, dotOnto, headVectors } from "../shared/attention_text.ts";
import { laneSums } from "./lane_sums.ts";
import { range } from "../shared/range.ts";
import type { DecodeTile } from "../buffer/attention_decode.ts";
import type { KernelSource } from "../source.ts";

const LANES = 8;

/** One kernel of the family. */
export interface TextureDecodeTile extends Pick<DecodeTile, "headDim" | "heads" | "ownCaches"> {
  /** Whether lanes exchange scores as a subgroup of 8, instead of through workgroup memory. The values are the same. */
  readonly exchange: boolean;
  /** Whether o is a texture [rows, vectors], as the products of several vectors read it. Default: a buffer. */
  readonly toTexture?: boolean;
}

/**
 * o[r, h] = z[h] · Σ_j softmax_j(q[r, h]·k[j, h'] / √headDim) v[j, h'] over the last params.window of the keys j ≤
 * position[0] + r, or with `ownCaches` j ≤ position[r] of the row's own sequence. Writes (=) the heads of o, not its
 * padding.
 *
 * Processes the caches row by row with an online softmax. Lanes are columns of a head, and sum scores in the order of
 * the lanes; then each takes every eighth key.
 * Shapes: q, o [rows, qStride4] vec4, head h from h·vectors; z [heads]; pages [rows or 1, perRow]; k, v textures of
 * {@link CACHE_KEYS}·vectors × pages·kvHeads texels, in which key j of head h' of row r is in row pages[r, ⌊j /
 * CACHE_KEYS⌋]·kvHeads + h', from (j % CACHE_KEYS)·vectors.
 * Grid: x = heads of the model / tile.heads, y rows from params.first. Bindings: q, k, v (texture-f32), position, pages,
 * z, o, params. params.scale is log2(e) / √headDim.
 */
export function decodeAttentionTexture(
  { headDim, heads: count, ownCaches = false, exchange, toTexture = false }: TextureDecodeTile,
): KernelSource {
  const vectors = headVectors(headDim),
    heads = range(count),
    owned = range(Math.ceil(vectors / LANES)),
    // Keys to load before they are used.
    step = exchange ? LANES : 4,
    steps = range(step);
  const lines = <T>(items: readonly T[], line: (item: T) => string): string => items.map(line).join("\n");
  const barrier = exchange ? "" : "    workgroupBarrier();";
  const shareAll = (name: string): string =>
    exchange ? "" : `${lines(heads, (g) => `  shared_values[${g * LANES}u + lane] = ${name}${g};`)}\n${barrier}`;
  /** The values of all lanes of a head's variable, which without exchange `shareAll` has shared, combined. */
  const overLanes = (name: string, g: number, combine: (values: string[]) => string): string =>
    combine(
      range(LANES).map((i) => exchange ? `subgroupBroadcast(${name}, ${i}u)` : `shared_values[${g * LANES + i}]`),
    );
  const score = (g: number, at: string, sum: string): string =>
    `      let s${g} = select(-3e38, ${sum}, ${at} >= hidden${exchange ? ` && ${at} < count` : ""});
      weights[${g * CACHE_KEYS}u + ${at}] = s${g};
      most${g} = max(most${g}, s${g});`;
  /** Scores of a head for the keys of a step: a lane has that of one key, or without exchange a part of all. */
  const scoresOf = (g: number): string => {
    const dots = steps.map((u) =>
      owned.reduce<string | null>((sum, i) => dotOnto(sum, `q${g}_${i}`, `x${u}_${i}`), null) ?? "0.0"
    );
    if (!exchange) {
      return lines(steps, (u) => `      partial[(${g * CACHE_KEYS}u + j + ${u}u) * ${LANES}u + lane] = ${dots[u]};`);
    }
    return `${lines(steps, (u) => `      let dot${g}_${u} = ${dots[u]};`)}
${laneSums(`sum${g}`, steps.map((u) => `dot${g}_${u}`))}
${score(g, "(j + lane)", `sum${g}`)}`;
  };
  /** Without exchange: sums the parts of the scores. */
  const finishScores = (): string =>
    `${barrier}
    for (var j = begin + lane; j < count; j += ${LANES}u) {
${
      lines(heads, (g) => {
        const at = `(${g * CACHE_KEYS}u + j) * ${LANES}u`;
        return score(g, "j", range(LANES).map((i) => `partial[${at} + ${i}u]`).join(" + "));
      })
    }
    }
${shareAll("most")}`;
  const write = (column: string, value: string): string =>
    toTexture ? `textureStore(o, vec2u(${column}, query), ${value});` : `o[start + ${column}] = ${value};`;
  const load = (name: string): string =>
    lines(steps, (u) =>
      `      let at${u} = min(j + ${u}u, count - 1u) * ${vectors}u;
${lines(owned, (i) => `      let x${u}_${i} = textureLoad(${name}, vec2u(at${u} + c${i}, row));`)}`);
  const code =
    `struct Params { ratio: u32, capacity: u32, kvHeads: u32, perRow: u32, qStride4: u32, window: u32, first: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var k: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var v: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read> position: array<u32>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read> z: array<f32>;
@group(0) @binding(6) ${
      toTexture ? "var o: texture_storage_2d<rgba32float, write>;" : "var<storage, read_write> o: array<vec4f>;"
    }
@group(0) @binding(7) var<uniform> params: Params;
${exchange ? "" : `var<workgroup> partial: array<f32, ${count * CACHE_KEYS * LANES}>;`}
var<workgroup> weights: array<f32, ${count * CACHE_KEYS}>;
${exchange ? "" : `var<workgroup> shared_values: array<f32, ${count * LANES}>;`}

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x * ${count}u;
  let query = params.first + group.y;
  let start = query * params.qStride4;
  let keys = min(position[${ownCaches ? "query" : "0"}] + ${ownCaches ? "" : "query + "}1u, params.capacity);
  // Lanes past the end of a head read its last column, with a query of zero.
${lines(owned, (i) => `  let c${i} = min(lane + ${i * LANES}u, ${vectors - 1}u);`)}
${
      lines(heads, (g) =>
        lines(owned, (i) =>
          `  let q${g}_${i} = select(0.0, params.scale, lane + ${
            i * LANES
          }u < ${vectors}u) * q[start + (h + ${g}u) * ${vectors}u + c${i}];
  var o${g}_${i} = vec4f();`) +
        `
  var top${g} = -3e38;
  var total${g} = 0.0;`)
    }
  let oldest = keys - min(keys, params.window);
  for (var tile = oldest / ${CACHE_KEYS}u * ${CACHE_KEYS}u; tile < keys; tile += ${CACHE_KEYS}u) {
    let count = min(${CACHE_KEYS}u, keys - tile);
    let hidden = max(oldest, tile) - tile; // keys before the window, in its first row only
    let begin = hidden / ${LANES}u * ${LANES}u;
    let page = pages[${ownCaches ? "query * params.perRow + " : ""}tile / ${CACHE_KEYS}u];
    let row = page * params.kvHeads + h / params.ratio;
${lines(heads, (g) => `    var most${g} = top${g};`)}
    for (var j = begin; j < count; j += ${step}u) {
${load("k")}
${lines(heads, scoresOf)}
    }
${exchange ? "" : finishScores()}
${
      lines(heads, (g) =>
        `    most${g} = ${
          overLanes(`most${g}`, g, (values) => values.reduce((all, value) => `max(${all}, ${value})`))
        };
    let shrink${g} = exp2(top${g} - most${g});
    top${g} = most${g};
    total${g} *= shrink${g};
${lines(owned, (i) => `    o${g}_${i} *= shrink${g};`)}`)
    }
    // Each lane takes the keys whose scores it wrote; the rest of the last step has no weight.
    for (var j = begin + lane; j < (count + ${step - 1}u) / ${step}u * ${step}u; j += ${LANES}u) {
${
      lines(heads, (g) =>
        `      let p${g} = select(0.0, exp2(weights[${g * CACHE_KEYS}u + j] - top${g}), j < count);
      weights[${g * CACHE_KEYS}u + j] = p${g};
      total${g} += p${g};`)
    }
    }
${barrier}
    for (var j = begin; j < count; j += ${step}u) {
${load("v")}
${exchange ? lines(heads, (g) => `      let w${g} = weights[${g * CACHE_KEYS}u + j + lane];`) : ""}
${
      lines(heads, (g) =>
        lines(steps, (u) =>
          `      let w${g}_${u} = ${
            exchange ? `subgroupBroadcast(w${g}, ${u}u)` : `weights[${g * CACHE_KEYS}u + j + ${u}u]`
          };
${
            lines(owned, (i) =>
              `      o${g}_${i} += w${g}_${u} * x${u}_${i};`)
          }`))
    }
    }
${barrier}
  }
${shareAll("total")}
${
      lines(heads, (g) =>
        `  let factor${g} = z[h + ${g}u] / (${overLanes(`total${g}`, g, (values) => values.join(" + "))});
${
          lines(owned, (i) =>
            `  if (lane + ${i * LANES}u < ${vectors}u) { ${
              write(`(h + ${g}u) * ${vectors}u + c${i}`, `o${g}_${i} * factor${g}`)
            } }`)
        }`)
    }
}
`;
  return {
    name: `attention_decode_texture-${headDim}-${count}${ownCaches ? "-own" : ""}${exchange ? "-exchange" : ""}${
      toTexture ? "-texture" : ""
    }`,
    ...(exchange ? { usesSubgroups: true } : {}),
    bindings: [
      ...["read", "texture-f32", "texture-f32", "read", "read", "read"] as const,
      toTexture ? "texture-store-f32" : "storage",
      "uniform",
    ],
    code,
  };
}
