// Type of a kernel: WGSL text with its bindings.

/**
 * Binding types of group 0, in order: inputs, outputs, params. "texture-store-f32" is written, the other textures are
 * read.
 */
export type Binding = "read" | "storage" | "uniform" | "texture-f32" | "texture-u32" | "texture-store-f32";

/** WGSL of one kernel with entry point `main`. */
export interface KernelSource {
  readonly name: string;
  readonly code: string;
  readonly bindings: readonly Binding[];
  /** Whether the kernel requires a device with subgroups. */
  readonly usesSubgroups?: boolean;
}
