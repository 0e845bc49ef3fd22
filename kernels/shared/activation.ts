// Activations of FFNs with their masks, with and without a gate, forward and backward.
import type { Binding, KernelSource } from "../source.ts";

/** One kernel of the family. */
export interface FfnActivation {
  /** Name of the activation, and WGSL of `activated` and `activated_slope` (its value, and its slope as two factors). */
  readonly name: string;
  readonly text: string;
  /** Whether it has a gate, to which the activation applies; otherwise it applies to up. */
  readonly isGated: boolean;
  /** Whether it has numbers of the layer, `curve`. */
  readonly hasCurve: boolean;
}

/**
 * a[m, j] = f(gate[m, j]) · up[m, j] · z[j], or f(up[m, j]) · z[j] without gate.
 * Shapes: gate, up, a [rows, stride]; z [stride]. Grid: x columns / 4, y rows. Writes (=) a.
 * Bindings: (gate,) up, z, (curve,) a, params.
 */
export function activationKernel({ name, text, isGated, hasCurve }: FfnActivation): KernelSource {
  const at = isGated ? 1 : 0, out = hasCurve ? at + 3 : at + 2;
  return {
    name,
    bindings: [...read(isGated), "read", "read", ...read(hasCurve), "storage", "uniform"],
    code: `${text}
${hasCurve ? curveAt(at + 2) : ""}
struct Params { rows: u32, stride4: u32 }
${isGated ? "@group(0) @binding(0) var<storage, read> gate: array<vec4f>;" : ""}
@group(0) @binding(${at}) var<storage, read> up: array<vec4f>;
@group(0) @binding(${at + 1}) var<storage, read> z: array<vec4f>;
@group(0) @binding(${out}) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(${out + 1}) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  a[at] = ${isGated ? "activated(gate[at]) * up[at]" : "activated(up[at])"} * z[id.x];
}
`,
  };
}

/**
 * Its backward in place, p = a before its mask: gate := dgate = da · z · up · f'(gate), up := dup = da · z · f(gate);
 * without gate up := dup = da · z · f'(up). partial[k, j] = Σ over the k-th block of rows of da · p, for dz.
 * Shapes: gate, up, da [rows, stride]; z [stride]; partial [blocks, stride].
 * Grid: x columns / 4, y blocks of `block` rows. All writes (=). Bindings: da, z, (curve,) (gate,) up, partial, params.
 */
export function activationBackward({ name, text, isGated, hasCurve }: FfnActivation, block: number): KernelSource {
  const first = hasCurve ? 3 : 2, at = isGated ? first + 1 : first;
  return {
    name: `${name}_backward`,
    bindings: [
      "read",
      "read",
      ...read(hasCurve),
      ...(isGated ? ["storage" as const] : []),
      "storage",
      "storage",
      "uniform",
    ],
    code: `${text}
${hasCurve ? curveAt(2) : ""}
const BLOCK = ${block}u;
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> da: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
${isGated ? `@group(0) @binding(${first}) var<storage, read_write> gate: array<vec4f>;` : ""}
@group(0) @binding(${at}) var<storage, read_write> up: array<vec4f>;
@group(0) @binding(${at + 1}) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(${at + 2}) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  var sum = vec4f();
  let mask = z[id.x];
  let end = min(params.rows, (id.y + 1u) * BLOCK);
  for (var row = id.y * BLOCK; row < end; row++) {
    let at = row * params.stride4 + id.x;
    let u = up[at];
    let d = da[at];
    let f = activated_slope(${isGated ? "gate[at]" : "u"});
    sum = fma(d, ${isGated ? "f.value * u" : "f.value"}, sum);
    ${isGated ? "gate[at] = d * mask * u * f.first * f.second;" : ""}
    up[at] = ${isGated ? "d * mask * f.value" : "d * mask * f.first * f.second"};
  }
  partial[id.y * params.stride4 + id.x] = sum;
}
`,
  };
}

/** A binding that is read, where there is one. */
function read(is: boolean): readonly Binding[] {
  return is ? ["read"] : [];
}

/** The numbers of the layer's activation. */
function curveAt(binding: number): string {
  return `@group(0) @binding(${binding}) var<storage, read> curve: vec4f;`;
}
