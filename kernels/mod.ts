// The only importer of .wgsl: every kernel as text with its bindings. Imports nothing of lib/.

/** How a kernel sees a binding of group 0, in order: inputs, outputs, params. */
export type Binding = "read" | "storage" | "uniform" | "texture-f32" | "texture-u32";

/** WGSL of one kernel, entry point `main`. */
export interface KernelSource {
  readonly name: string;
  readonly code: string;
  readonly bindings: readonly Binding[];
}
