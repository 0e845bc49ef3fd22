// WGSL that reads four values of a frozen matrix, for each of its storages. Owns the texel layouts; imports nothing but types.
import type { Binding } from "./mod.ts";

/** How a frozen matrix is stored: see `Matrix` in lib/nn. */
export interface WeightStorage {
  readonly placement: "texture" | "buffer";
  readonly dtype: "f32" | "f16";
}

/** Kind of the binding of a matrix. */
export function weightBinding({ placement, dtype }: WeightStorage): Binding {
  if (placement === "buffer") return "read";
  return dtype === "f32" ? "texture-f32" : "texture-u32";
}

/** Declares binding `index` and `load_weight4(row, c4, stride4)`: the values of columns 4·c4 … 4·c4 + 3. */
export function weightAccess({ placement, dtype }: WeightStorage, index: number): string {
  const head = `@group(0) @binding(${index}) var`;
  const signature = "fn load_weight4(row: u32, c4: u32, stride4: u32) -> vec4f";
  if (placement === "texture" && dtype === "f32") {
    return `${head} weight: texture_storage_2d<rgba32float, read>;
${signature} { return textureLoad(weight, vec2u(c4, row)); }
`;
  }
  if (placement === "texture") {
    return `${head} weight: texture_storage_2d<rgba32uint, read>;
${signature} {
  let texel = textureLoad(weight, vec2u(c4 / 2u, row));
  let half = select(texel.xy, texel.zw, c4 % 2u == 1u);
  return vec4f(unpack2x16float(half.x), unpack2x16float(half.y));
}
`;
  }
  if (dtype === "f32") {
    return `${head}<storage, read> weight: array<vec4f>;
${signature} { return weight[row * stride4 + c4]; }
`;
  }
  return `${head}<storage, read> weight: array<vec2u>;
${signature} {
  let pair = weight[row * stride4 + c4];
  return vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));
}
`;
}
