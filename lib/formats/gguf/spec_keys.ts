// Keys of the metadata that reader and writer of a shape share.

/** Our key for further end tokens, which GGUF has no key for. */
export const MORE_EOS_KEY = "tokenizer.compresso_eos_ids";

/** Keys of LongRoPE, after the prefix `arch.`: the factor of cos and sin, and the original context. */
export const ATTENTION_KEY = "rope.scaling.attn_factor", ORIGINAL_KEY = "rope.scaling.original_context_length";

/** Keys of YaRN, after the prefix `arch.`. */
export const BETA_FAST_KEY = "rope.scaling.yarn_beta_fast", BETA_SLOW_KEY = "rope.scaling.yarn_beta_slow";
/** Growth of queries, after the prefix `arch.`. */
export const QUERY_GROWTH_KEY = "attention.temperature_scale";

/** Keys of attention windows, after the prefix `arch.`. */
export const WINDOW_KEY = "attention.sliding_window", WINDOW_PATTERN_KEY = "attention.sliding_window_pattern";

/** Key of the RoPE base of layers with a window, after the prefix `arch.`, and llama.cpp's default. */
export const LOCAL_BASE_KEY = "rope.freq_base_swa", LOCAL_BASE = 1e4;
