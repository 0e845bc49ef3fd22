// Words of the options that choose file formats. Owns the lists; refuses formats.

/** Words of `--dtype`. */
export const DTYPES = ["f32", "f16", "bf16"] as const;
/** Words of `--gguf-dtype`. */
export const GGUF_DTYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"] as const;
