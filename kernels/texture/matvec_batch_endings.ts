// WGSL of what becomes of the sums of matvec_batch.ts: an invocation writes those of one vector, row by row.
import { CACHE_KEYS } from "../shared/attention_text.ts";
import type { MatvecEnding, MatvecRole } from "../shared/matvec_types.ts";
import type { Binding } from "../source.ts";

/** Ending of a kernel of matvec_batch.ts. */
export interface BatchEnding {
  /**
   * As of `Matvec`, but "swiglu" writes y as a texture [vectors, rows / 4], and "residual" writes both y and a texture of
   * y ∘ scale, with zeros in the last texel after the rows.
   */
  readonly ending: MatvecEnding;
  /** Roles of the parts of a "rotate". */
  readonly roles?: readonly MatvecRole[];
  /** Rows of a head of "rotate"; a workgroup has whole heads. */
  readonly headStride?: number;
  /** Vectors of a workgroup, at most `batchVectors`. */
  readonly batch: number;
}

/** Bindings of an ending, in order, each with its WGSL declaration. */
export function batchEndingBindings(
  { ending, roles = [] }: BatchEnding,
): readonly { readonly kind: Binding; readonly declare: string }[] {
  const y = { kind: "storage", declare: "var<storage, read_write> y: array<f32>;" } as const;
  const read = (declare: string): { readonly kind: Binding; readonly declare: string } => ({
    kind: "read",
    declare: `var<storage, read> ${declare};`,
  });
  const texture = (name: string): { readonly kind: Binding; readonly declare: string } => ({
    kind: "texture-store-f32",
    declare: `var ${name}: texture_storage_2d<rgba32float, write>;`,
  });
  switch (ending) {
    case "store":
      return [y];
    case "swiglu":
      return [read("z: array<f32>"), texture("result")];
    case "residual":
      return [read("z: array<f32>"), y, read("scale: array<f32>"), texture("result")];
    case "rotate":
      return [
        read("table: array<vec2f>"),
        read("position: array<u32>"),
        read("pages: array<u32>"),
        ...roles.map((role) => role === "q" ? y : texture(`${role}_cache`)),
      ];
  }
}

/** Functions of an ending. `sum_of(i, lane)` is what {@link batchEndingOf} has kept of the workgroup's row i. */
export function batchEndingFunctions({ ending, headStride = 0 }: BatchEnding): string {
  if (ending !== "rotate") return "";
  // The rows of a head after the pairs stay.
  return `fn rotated(i: u32, at: u32, lane: u32) -> f32 {
  let j = i % ${headStride}u;
  let isLow = j < params.half;
  let pair = select(j - params.half, j, isLow);
  let own = sum_of(i, lane);
  if (pair >= params.half) { return own; }
  let turn = table[min(at, params.positions - 1u) * params.half + pair];
  if (isLow) { return own * turn.x - sum_of(i + params.half, lane) * turn.y; }
  return own * turn.x + sum_of(i - params.half, lane) * turn.y;
}
`;
}

/**
 * Statements that take the sums of row `row` of W for vector b: of one matrix, or of both of "swiglu". They run for all
 * rows of the workgroup in order, and for the rows that fill up the last texel. `kept` is the place of a value that the
 * statements after all rows need.
 */
export function batchEndingOf(
  { ending, batch }: BatchEnding,
  { row, kept, sums: [first = "", second = ""] }: {
    readonly row: string;
    readonly kept: string;
    readonly sums: readonly string[];
  },
): string {
  const isOwn = `lane < ${batch}u && ${row} < rows`;
  switch (ending) {
    case "store":
      return `if (${isOwn}) { y[start + ${row}] = ${first}; }`;
    case "residual":
      return `if (${isOwn}) { let n = start + ${row}; y[n] = fma(${first}, z[offset + ${row}], y[n]); }`;
    case "swiglu":
      return `if (${isOwn}) {
        let gate = ${first};
        ${kept} = gate / (1.0 + exp(-gate)) * (${second}) * z[offset + ${row}];
      }`;
    case "rotate":
      return `if (${isOwn}) { ${kept} = ${first}; }`;
  }
}

/** Statements after the statements of all rows: an invocation writes the results of its vector that are more than a row each. */
export function batchEndingAfter(
  { ending, roles = [], headStride = 0, batch }: BatchEnding,
  { part }: { readonly part: number },
): string {
  const texel = (value: (row: string) => string): string =>
    `vec4f(${[0, 1, 2, 3].map((j) => `select(0.0, ${value(`(r + ${j}u)`)}, r + ${j}u < rows)`).join(", ")})`;
  const texels = (value: (row: string) => string): string =>
    `for (var r = n0; r < end; r += 4u) { textureStore(result, vec2u((offset + r) / 4u, b), ${texel(value)}); }`;
  const own = (): string => {
    switch (ending) {
      case "store":
        return "";
      case "residual":
        return texels((row) => `y[start + ${row}] * scale[offset + ${row}]`);
      case "swiglu":
        return texels((row) => `sum_of(${row} - n0, lane)`);
      case "rotate": {
        const role = roles[part], sum = role === "v" ? "sum_of(i, lane)" : "rotated(i, at, lane)";
        if (role === "q") {
          return `let at = position[b];
    for (var i = 0u; n0 + i < end; i++) { y[start + n0 + i] = ${sum} * factor; }`;
        }
        const four = [0, 1, 2, 3].map((j) => sum.replace("(i", `(i + ${j}u`)).join(", ");
        return `let at = position[b];
    if (at < params.capacity) {
      let page = pages[b * params.perRow + at / ${CACHE_KEYS}u];
      for (var i = 0u; n0 + i < end; i += 4u) {
        let n = offset + n0 + i;
        let column = at % ${CACHE_KEYS}u * ${headStride}u + n % ${headStride}u;
        let row = page * params.kvHeads + n / ${headStride}u;
        textureStore(${role}_cache, vec2u(column / 4u, row), vec4f(${four}) * factor);
      }
    }`;
      }
    }
  };
  return ending === "store" ? "" : `  if (lane < ${batch}u) {\n    ${own()}\n  }`;
}
