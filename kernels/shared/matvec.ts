// Products of frozen matrices with one vector, for token-by-token generation.
import { range } from "./range.ts";
import { endingBindings, endingFunctions } from "./matvec_text.ts";
import { bufferBody } from "../buffer/matvec.ts";
import { textureBody } from "../texture/matvec.ts";
import type { Matvec } from "./matvec_types.ts";
import type { KernelSource } from "../source.ts";
import { weightBindings, type WeightStorage } from "./weight_access.ts";

export { texelOf } from "./matvec_text.ts";
export type { Matvec, MatvecEnding, MatvecRole, TextureUnits } from "./matvec_types.ts";
export { MATVEC_BUFFER_ROWS } from "../buffer/matvec.ts";
export { textureRows, textureUnits } from "../texture/matvec.ts";

/** Workgroup size. */
export function matvecLanes({ storage }: Pick<Matvec, "storage">): number {
  return storage.placement === "texture" ? 8 : 64;
}

/** Params of the kernels, followed by those of the parts. */
const PARAMS = `  columns: u32,    // of x that count; values beyond them are taken as 0
  pitch: u32,      // texels from one row of W to the next; buffers only
  scalePitch: u32, // the same of its scales
  rounds: u32,     // textures only
  units: u32,      // the same: units of a round
  groupRows: u32,  // rows of a workgroup
  xPitch: u32,     // vec4 from one vector x to the next
  eps: f32,        // of the norm; its mean is over the columns
  headStride: u32, // these six only for "rotate"
  half: u32,
  positions: u32,
  kvHeads: u32,
  capacity: u32,   // in tokens
  perRow: u32,     // entries of the page table for one sequence`;

/**
 * Bindings: those of each matrix (two if it is block-quantised); x; with \`norm\` its weight; those of the ending (z;
 * or RoPE's table, position and page table; y or the caches); params. Grid: x and y are the workgroups of all parts, z
 * the vectors in steps of \`batch\`; params end with firstGroup, rows, offset and pitch of each part. Rows of W are padded to a multiple of 64; padding rows may be read but
 * are not written. Only the storage determines the order of a sum, not the grid.
 */
export function matvecKernel(kernel: Matvec): KernelSource {
  const { storage, ending, parts, roles = [], norm, units, batch = 1 } = kernel;
  const matrices = ending === "swiglu" ? 2 : parts;
  const lanes = matvecLanes(kernel), isTexture = storage.placement === "texture";
  const body = isTexture ? textureBody(kernel) : bufferBody(kernel), weights = weightBindings(storage);
  const bindings: { kind: KernelSource["bindings"][number]; declare: string }[] = [];
  for (let m = 0; m < matrices; m++) {
    weights.forEach((kind, index) => {
      const name = `${index === 0 ? "w" : "scales"}${m}`;
      bindings.push({ kind, declare: declareWeights(storage, name, index) });
    });
  }
  bindings.push({ kind: "read", declare: "var<storage, read> x: array<vec4f>;" });
  if (norm) bindings.push({ kind: "read", declare: "var<storage, read> norm: array<vec4f>;" });
  bindings.push(...endingBindings(ending, roles));
  bindings.push({ kind: "uniform", declare: "var<uniform> params: Params;" });
  const list = range(parts);
  const fields = list.map((p) => `  firstGroup${p}: u32, rows${p}: u32, offset${p}: u32, pitch${p}: u32,`).join("\n");
  const name = [
    ...["matvec", storage.placement, storage.dtype, ending, ...roles, parts],
    ...(norm ? ["norm"] : []),
    ...(batch > 1 ? [`batch${batch}`] : []),
  ];
  const code = `struct Params {
${PARAMS}
${fields}
}
${bindings.map(({ declare }, index) => `@group(0) @binding(${index}) ${declare}`).join("\n")}
${body.module}
${endingFunctions(ending)}
/** x of vector b with 0 beyond its columns. */
fn x_at(b: u32, c4: u32) -> vec4f {
  return select(vec4f(), x[b * params.xPitch + c4], c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns));
}

@compute @workgroup_size(${lanes}) fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = id.x + id.y * grid.x;
  var part = 0u;
  var n0 = group * params.groupRows;
  var rows = params.rows0;
  var offset = params.offset0;
  var pitch = params.pitch0;
  let b0 = id.z * ${batch}u;
${
    list.slice(1).map((p) =>
      `  if (group >= params.firstGroup${p}) {
    part = ${p}u;
    n0 = (group - params.firstGroup${p}) * params.groupRows;
    rows = params.rows${p};
    offset = params.offset${p};
    pitch = params.pitch${p};
  }`
    ).join("\n")
  }
  let count = min(params.groupRows, max(rows, n0) - n0);
${body.main}
}
`;
  return {
    name: [...name, ...(units ? [units.units + (units.half ? 0.5 : 0), ...(units.rounds > 1 ? ["rounds"] : [])] : [])]
      .join("-"),
    bindings: bindings.map(({ kind }) => kind),
    code,
  };
}

function declareWeights({ placement, dtype }: WeightStorage, name: string, index: number): string {
  const isFloat = dtype === "f32" && index === 0;
  if (placement === "buffer") return `var<storage, read> ${name}: array<${isFloat ? "vec4f" : "vec4u"}>;`;
  return `var ${name}: texture_storage_2d<${isFloat ? "rgba32float" : "rgba32uint"}, read>;`;
}
