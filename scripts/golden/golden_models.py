"""Makes tiny random models of every family with transformers and the golden values that tests/golden compares our kernels with.

Owns fixtures/golden/<model>/{model/,golden.safetensors} and fixtures/golden/golden.json; refuses anything trained or
downloaded. Everything is seeded: running it again gives the same files. The models are saved by transformers, loaded
back from disk, and run in float64; the results are stored as f32, token ids and labels too (exact: all below 2^24).

A golden file holds
  lora.<layer>.<q|k|v|o|gate|up|down>.<A|B>   LoRA weights, A [rank, in], B [out, rank]; y = W x + alpha/rank B A x
  mask.head [L, heads], mask.ffn [L, ffn], mask.hidden [hidden]   masks z: random in (0, 1], some exactly 0
  <batch>.tokens, <batch>.labels [B, T], <batch>.logits [B, T, vocab]   logits of the bare model
  <batch>.<run>.loss [1] and <batch>.<run>.grad.<name> for each name above that the run has
Batches: `pair` (two sequences of different lengths, right-padded, padding labelled -100) and `single` (one of odd
length). Runs: `bare` (neither LoRA nor masks: mask gradients at z = 1), `lora` (LoRA, z = 1), `full` (LoRA and masks).
The loss is the mean over all labelled predictions of the batch, labels shifted by one as transformers does.
"""

import argparse
import copy
import json
import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig, GPT2Config, GPTNeoXConfig, GraniteConfig,
    LlamaConfig, MinistralConfig, MistralConfig, Olmo2Config, OPTConfig, Phi3Config, PhiConfig, Qwen2Config, Qwen3Config,
    SmolLM3Config, StableLmConfig, Starcoder2Config)
from transformers.utils import logging  # noqa: E402

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

RANK, ALPHA = 3, 5
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
COMMON = {"attention_bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}

# `old` says how config.json writes RoPE: as transformers 5 does (None), or in the form of most published models.
MODELS = {
    "gqa_llama3": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: LlamaConfig(
            hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8, intermediate_size=101,
            num_hidden_layers=3, vocab_size=97, tie_word_embeddings=True, max_position_embeddings=512,
            rms_norm_eps=1e-5, rope_parameters={"rope_theta": 10000.0, **LLAMA3}, **COMMON),
    },
    "mha_linear": {
        "dtype": torch.float32, "shard": None,
        "old": {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
        "config": lambda: MistralConfig(
            hidden_size=38, num_attention_heads=3, num_key_value_heads=3, head_dim=10, intermediate_size=67,
            num_hidden_layers=2, vocab_size=101, tie_word_embeddings=False, max_position_embeddings=256,
            rms_norm_eps=1e-3, sliding_window=None,
            rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 5000.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    "mqa_bf16_sharded": {
        "dtype": torch.bfloat16, "shard": "24KB",
        "old": {"rope_theta": 500.0, "rope_scaling": LLAMA3},
        "config": lambda: LlamaConfig(
            hidden_size=44, num_attention_heads=4, num_key_value_heads=1, head_dim=14, intermediate_size=65,
            num_hidden_layers=2, vocab_size=89, tie_word_embeddings=False, max_position_embeddings=512,
            rms_norm_eps=1e-6, rope_parameters={"rope_theta": 500.0, **LLAMA3}, **COMMON),
    },
    "gqa_f16": {
        "dtype": torch.float16, "old": None, "shard": None,
        "config": lambda: LlamaConfig(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=53,
            num_hidden_layers=2, vocab_size=83, tie_word_embeddings=True, max_position_embeddings=128,
            rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON),
    },
    "gqa_bias": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: LlamaConfig(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=53,
            num_hidden_layers=2, vocab_size=83, tie_word_embeddings=True, max_position_embeddings=128, mlp_bias=True,
            rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            **{**COMMON, "attention_bias": True}),
    },
    "qwen2": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: Qwen2Config(
            hidden_size=36, num_attention_heads=6, num_key_value_heads=2, intermediate_size=49, num_hidden_layers=2,
            vocab_size=79, tie_word_embeddings=False, max_position_embeddings=128, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    "qwen3": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: Qwen3Config(
            hidden_size=38, num_attention_heads=6, num_key_value_heads=2, head_dim=10, intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0}, **COMMON),
    },
    # Windows shorter than both batches; the second by layer.
    "mistral_window": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: MistralConfig(
            hidden_size=38, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=45,
            num_hidden_layers=2, vocab_size=71, tie_word_embeddings=True, max_position_embeddings=128,
            rms_norm_eps=1e-5, sliding_window=7, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    "ministral_window": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: MinistralConfig(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=45,
            num_hidden_layers=3, vocab_size=71, tie_word_embeddings=False, max_position_embeddings=128,
            rms_norm_eps=1e-5, sliding_window=10,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # LayerNorm, learned positions, biases everywhere, an FFN without gate.
    "opt": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: OPTConfig(
            hidden_size=42, word_embed_proj_dim=42, num_attention_heads=7, ffn_dim=67, num_hidden_layers=3, vocab_size=71,
            max_position_embeddings=41, dropout=0.0,
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # One batch is within the original context, and one beyond it.
    "phi3": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: Phi3Config(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=45, num_hidden_layers=2,
            vocab_size=71, tie_word_embeddings=False, max_position_embeddings=128, original_max_position_embeddings=24,
            rms_norm_eps=1e-4, sliding_window=9,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.6,
                             "short_factor": [1.0, 1.2, 1.5], "long_factor": [1.1, 2.5, 6.0]},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # A window by layer with its own RoPE; scores by another factor than the head's width gives.
    "gemma3": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: Gemma3TextConfig(
            hidden_size=44, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=45,
            num_hidden_layers=3, vocab_size=71, tie_word_embeddings=True, max_position_embeddings=128,
            rms_norm_eps=1e-3, sliding_window=9, query_pre_attn_scalar=7,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"full_attention": {"rope_type": "linear", "factor": 2.5, "rope_theta": 5000.0},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}, **COMMON),
    },
}

MODELS |= {
    # Each fourth layer has no RoPE.
    "smollm3": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1020,
        "config": lambda: SmolLM3Config(
            hidden_size=42, num_attention_heads=3, num_key_value_heads=1, intermediate_size=37, num_hidden_layers=5,
            vocab_size=67, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-4,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # LayerNorm before a gated MLP, a quarter of each head rotates.
    "stablelm": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1023,
        "config": lambda: StableLmConfig(
            hidden_size=72, num_attention_heads=6, num_key_value_heads=2, intermediate_size=61, num_hidden_layers=2,
            vocab_size=67, max_position_embeddings=128, layer_norm_eps=1e-4, use_qkv_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.34},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # Attention and FFN read one norm; q and k heads have LayerNorm in the first, the output head of the second has a bias.
    "stablelm_parallel": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1033,
        "config": lambda: StableLmConfig(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=37, num_hidden_layers=2,
            vocab_size=67, max_position_embeddings=128, layer_norm_eps=1e-4, use_parallel_residual=True,
            qk_layernorm=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.4},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    "phi": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1034,
        "config": lambda: PhiConfig(
            hidden_size=42, num_attention_heads=3, num_key_value_heads=1, intermediate_size=67, num_hidden_layers=2,
            vocab_size=71, max_position_embeddings=64, layer_norm_eps=1e-4,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.3},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # q, k and v in one, transposed weights, positions without offset.
    "gpt2": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1021,
        "config": lambda: GPT2Config(
            n_embd=42, n_head=7, n_inner=67, n_layer=2, vocab_size=71, n_positions=41, layer_norm_epsilon=1e-3,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # q, k and v in one by head, parallel residual, a quarter of each head rotates.
    "gpt_neox": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1022,
        "config": lambda: GPTNeoXConfig(
            hidden_size=60, num_attention_heads=5, intermediate_size=67, num_hidden_layers=2, vocab_size=71,
            max_position_embeddings=64, layer_norm_eps=1e-4,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.34},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # As OPT-350m: norms of the residual stream, projections of the embedding.
    "opt_residual": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1040,
        "config": lambda: OPTConfig(
            hidden_size=42, word_embed_proj_dim=22, do_layer_norm_before=False, num_attention_heads=7, ffn_dim=67,
            num_hidden_layers=3, vocab_size=71, max_position_embeddings=41, dropout=0.0,
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # Norms of outputs alone, and of q and k over all heads.
    "olmo2": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1032,
        "config": lambda: Olmo2Config(
            hidden_size=42, num_attention_heads=3, num_key_value_heads=1, intermediate_size=47, num_hidden_layers=2,
            vocab_size=73, tie_word_embeddings=False, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # Factors of the embedding, the scores, what layers add, and the logits.
    "granite": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1031,
        "config": lambda: GraniteConfig(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=47, num_hidden_layers=2,
            vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-4,
            embedding_multiplier=6.0, attention_multiplier=0.25, residual_multiplier=0.7, logits_scaling=3.0,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # The gate and the scaled embedding alone.
    "gemma": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: GemmaConfig(
            hidden_size=38, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=47,
            num_hidden_layers=2, vocab_size=67, tie_word_embeddings=True, max_position_embeddings=128,
            rms_norm_eps=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 1000.0}, **COMMON),
    },
    # Soft caps that bend scores and logits, and a window by layer.
    "gemma2": {
        "dtype": torch.float32, "old": None, "shard": None,
        "config": lambda: Gemma2Config(
            hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=45,
            num_hidden_layers=3, vocab_size=71, tie_word_embeddings=True, max_position_embeddings=128,
            rms_norm_eps=1e-3, sliding_window=9, query_pre_attn_scalar=7, attn_logit_softcapping=2.5,
            final_logit_softcapping=6.0, rope_parameters={"rope_type": "default", "rope_theta": 1000.0}, **COMMON),
    },
}


def glm(model_type):
    return AutoConfig.for_model(
        model_type, hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=14, intermediate_size=47,
        num_hidden_layers=2, vocab_size=73, max_position_embeddings=128, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6},
        **{**COMMON, "attention_bias": True})


MODELS |= {
    # LayerNorm, biases everywhere, GELU without gate, a window.
    "starcoder2": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1050,
        "config": lambda: Starcoder2Config(
            hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=47, num_hidden_layers=2,
            vocab_size=71, tie_word_embeddings=True, max_position_embeddings=128, norm_epsilon=1e-4, sliding_window=9,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # Norms of outputs and of q and k heads; a window in some layers, no RoPE in the others.
    "exaone4": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1051,
        "config": lambda: AutoConfig.for_model(
            "exaone4", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, intermediate_size=47,
            num_hidden_layers=5, vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-3,
            sliding_window=9, sliding_window_pattern=4, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # LLaMA with biases of q, k and v, and heads that are together wider than the hidden dims.
    "seed_oss": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1052,
        "config": lambda: AutoConfig.for_model(
            "seed_oss", hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=10, intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=False, max_position_embeddings=128,
            attention_out_bias=False, residual_dropout=0.0, attention_dropout=0.0,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **{**COMMON, "attention_bias": True}),
    },
    # An FFN of ReLU² without gate.
    "arcee": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1053,
        "config": lambda: AutoConfig.for_model(
            "arcee", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=61,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=False, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # LayerNorm whose weights are stored without 1, ReLU² without gate, a part of each head rotates.
    "nemotron": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1054,
        "config": lambda: AutoConfig.for_model(
            "nemotron", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=14, intermediate_size=61,
            num_hidden_layers=2, vocab_size=73, max_position_embeddings=128, norm_eps=1e-4,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.3}, **COMMON),
    },
    # An FFN of xIELU without gate, norms of q and k heads, RoPE scaled.
    "apertus": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1065,
        "config": lambda: AutoConfig.for_model(
            "apertus", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=61,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=False, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_theta": 500.0, **LLAMA3, "original_max_position_embeddings": 16}, **COMMON),
    },
    # Heads of two widths and numbers, values that are keys, norms of q, k and v, a factor of each layer, RoPE of some pairs.
    "gemma4": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1067,
        "config": lambda: AutoConfig.for_model(
            "gemma4_text", hidden_size=42, num_attention_heads=6, num_key_value_heads=3, num_global_key_value_heads=2,
            head_dim=6, global_head_dim=10, attention_k_eq_v=True, intermediate_size=61, num_hidden_layers=4,
            vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-3, sliding_window=7,
            hidden_size_per_layer_input=0, final_logit_softcapping=9.0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            rope_parameters={"full_attention": {"rope_type": "proportional", "rope_theta": 500.0,
                                                "partial_rotary_factor": 0.4},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}, **COMMON),
    },
    # ReLU² without gate, norms without weights, of the embedding too, RoPE the other way round, a soft cap of the logits.
    "nanochat": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1066,
        "config": lambda: AutoConfig.for_model(
            "nanochat", hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=61,
            num_hidden_layers=2, vocab_size=73, max_position_embeddings=128, rms_norm_eps=1e-5,
            final_logit_softcapping=5.0, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # Norms before and after the sublayers; RoPE turns neighbours in a part of each head; gate and up in one.
    "glm4": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1055,
        "config": lambda: glm("glm4"),
    },
    # RoPE turns neighbours; one switch for all biases.
    "ernie4_5": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1056,
        "config": lambda: AutoConfig.for_model(
            "ernie4_5", hidden_size=38, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-3,
            use_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            **{key: value for key, value in COMMON.items() if key != "attention_bias"}),
    },
    # LLaMA whose RoPE turns neighbours.
    "helium": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1057,
        "config": lambda: AutoConfig.for_model(
            "helium", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=14, intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=False, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # Biases of q, k and v; RoPE turns neighbours in a part of each head; gate and up in one.
    "glm": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1058,
        "config": lambda: glm("glm"),
    },
    # Granite's factors without RoPE; gate and up in one.
    "granite_hybrid": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1059,
        "config": lambda: AutoConfig.for_model(
            "granitemoehybrid", hidden_size=40, num_attention_heads=4, num_key_value_heads=2, shared_intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, tie_word_embeddings=True, max_position_embeddings=128, rms_norm_eps=1e-4,
            embedding_multiplier=6.0, attention_multiplier=0.25, residual_multiplier=0.7, logits_scaling=3.0,
            num_local_experts=0, num_experts_per_tok=0, layer_types=["full_attention"] * 2, mamba_n_heads=8, **COMMON),
    },
    # Norms of q and k heads after RoPE.
    "hunyuan": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1060,
        "config": lambda: AutoConfig.for_model(
            "hunyuan_v1_dense", hidden_size=38, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
            intermediate_size=47, num_hidden_layers=2, vocab_size=73, tie_word_embeddings=True,
            max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "dynamic", "factor": 1.0, "rope_theta": 20.0, "alpha": 16.0}, **COMMON),
    },
    # LayerNorm without bias, shared by attention and FFN; RoPE turns neighbours; a factor of the logits.
    "cohere": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1061,
        "config": lambda: AutoConfig.for_model(
            "cohere", hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=47,
            num_hidden_layers=2, vocab_size=73, max_position_embeddings=128, layer_norm_eps=1e-3, logit_scale=0.375,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # The same with a window in some layers, and no RoPE in the others.
    "cohere2": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1062,
        "config": lambda: AutoConfig.for_model(
            "cohere2", hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=47,
            num_hidden_layers=3, vocab_size=73, max_position_embeddings=128, layer_norm_eps=1e-3, logit_scale=0.375,
            sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **COMMON),
    },
    # Norms of outputs and of q and k as wholes; windows and RoPE without scaling in some layers, YaRN in the others.
    "olmo3": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1063,
        "config": lambda: AutoConfig.for_model(
            "olmo3", hidden_size=42, num_attention_heads=3, num_key_value_heads=1, intermediate_size=47,
            num_hidden_layers=3, vocab_size=73, max_position_embeddings=128, rms_norm_eps=1e-3, sliding_window=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0,
                                                "original_max_position_embeddings": 16},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}, **COMMON),
    },
    # YaRN, and queries that grow with the position.
    "ministral3": {
        "dtype": torch.float32, "old": None, "shard": None, "seed": 1064,
        "config": lambda: AutoConfig.for_model(
            "ministral3", hidden_size=38, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
            intermediate_size=47, num_hidden_layers=2, vocab_size=73, max_position_embeddings=128, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "yarn", "factor": 8.0, "rope_theta": 500.0, "mscale": 1.0,
                             "mscale_all_dim": 0.5, "original_max_position_embeddings": 4,
                             "llama_4_scaling_beta": 0.6}, **COMMON),
    },
}

LEGEND = {
    "logits": "std, range, relative error of stock float32",
    "unscaled": "relative change without RoPE scaling",
    "unlimited": "relative change without the window",
    "run": "loss, largest gradient, worst relative error of torch float32",
}


def normal(generator, *shape, std):
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * std


def write_model(folder, recipe, generator):
    """Saves a model with random weights: logits spread over several units, no norm weight equal to one."""
    model = AutoModelForCausalLM.from_config(recipe["config"]())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".bias"):
                weight.copy_(normal(generator, *weight.shape, std=0.4))
            elif weight.dim() == 1:
                # Gemma and Nemotron store the weight of a norm without 1.
                is_without = model.config.model_type in ("gemma", "gemma2", "gemma3_text", "nemotron")
                least = -0.5 if is_without else 0.5
                weight.copy_(torch.rand(weight.shape, generator=generator, dtype=torch.float64) + least)
            elif any(part in name for part in ("embed_", "lm_head", "wte", "wpe")):
                weight.copy_(normal(generator, *weight.shape, std=0.4))
            else:
                weight.copy_(normal(generator, *weight.shape, std=1.3 / weight.shape[1] ** 0.5))
        for name, factor in model.named_buffers():
            if name.endswith(".layer_scalar"):
                factor.copy_(torch.rand(factor.shape, generator=generator, dtype=torch.float64) + 0.5)
    model.to(recipe["dtype"]).save_pretrained(folder, max_shard_size=recipe["shard"] or "1GB")
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.pop("transformers_version", None)
    if recipe["old"]:
        del config["rope_parameters"]
        config["torch_dtype"] = config.pop("dtype")
        config.update(recipe["old"])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")


def to_float64(model):
    """Replaces the two modules of transformers that compute in f32 whatever the dtype: RMSNorm and RoPE."""
    for module in model.modules():
        if type(module).__name__ in ("CohereLayerNorm", "Cohere2LayerNorm"):
            module.forward = lambda x, m=module: m.weight * torch.nn.functional.layer_norm(
                x, x.shape[-1:], eps=m.variance_epsilon)
        if type(module).__name__ == "NanoChatRMSNorm":  # without weights
            module.forward = lambda x, m=module: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.eps)
        elif type(module).__name__ == "Gemma4RMSNorm":
            module.forward = lambda x, m=module: (m.weight if m.with_scale else 1) * (
                x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.eps))
        elif type(module).__name__.endswith("RMSNorm"):
            plus, eps = (1, module.eps) if hasattr(module, "eps") else (0, module.variance_epsilon)
            module.forward = lambda x, m=module, plus=plus, eps=eps: (plus + m.weight) * (
                x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    if not has_rope(model):
        return
    rotary = decoder_of(model).rotary_emb
    settings = model.config.rope_parameters

    def rope(x, position_ids, layer_type=None):
        own = f"{layer_type}_" if layer_type else ""
        inverse = getattr(rotary, f"{own}inv_freq").double()
        if rotary.rope_type == "longrope":  # the factors go by the longest position
            is_long = position_ids.max() >= settings["original_max_position_embeddings"]
            factors = torch.tensor(settings["long_factor" if is_long else "short_factor"], dtype=torch.float64)
            steps = torch.arange(len(factors), dtype=torch.float64) / len(factors)
            inverse = 1 / (factors * settings["rope_theta"] ** steps)
        turns = position_ids[..., None].double() * inverse
        is_doubled = model.config.model_type.startswith("cohere")  # neighbours have the same angle
        angles = turns.repeat_interleave(2, dim=-1) if is_doubled else torch.cat([turns] * 2, dim=-1)
        scaling = getattr(rotary, f"{own}attention_scaling")
        return angles.cos() * scaling, angles.sin() * scaling

    rotary.forward = rope


def head_dim_of(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def head_dim_in(layer, config):
    """The width of a head in a layer."""
    return getattr(getattr(layer, "self_attn", None), "head_dim", None) or head_dim_of(config)


def with_values(model):
    """Gives layers whose values are their keys a v with the weights of k, as our reader does: the same function."""
    lacking = [layer.self_attn for layer in layers_of(model) if getattr(layer, "self_attn", None) is not None
               and getattr(layer.self_attn, "v_proj", 0) is None]
    if not lacking:
        return model
    tokens = torch.arange(3, 20)[None]
    before = model(input_ids=tokens, use_cache=False).logits
    for block in lacking:
        block.v_proj = copy.deepcopy(block.k_proj)
    assert torch.equal(before, model(input_ids=tokens, use_cache=False).logits), "a v of its own changes the model"
    return model


def decoder_of(model):
    base = model.base_model
    return getattr(base, "decoder", base)


def embeddings_of(decoder):
    """The embedding of tokens, or its projection to the residual stream, and, where positions are learned, theirs."""
    names = ("embed_tokens", "embed_positions", "wte", "wpe", "embed_in")
    found = {name: getattr(decoder, name) for name in names if hasattr(decoder, name)}
    if getattr(decoder, "project_in", None) is not None:
        found["embed_tokens"] = decoder.project_in
    return list(found.values())


def layers_of(model):
    decoder = decoder_of(model)
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def has_rope(model):
    return getattr(decoder_of(model), "rotary_emb", None) is not None


def weight_of(module):
    """A weight [out, in]: a view where it is stored otherwise (Conv1D)."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


# The modules of families that name them otherwise; q, k and v in one alternate by head where they are said to.
OTHER_MODULES = {
    "GPT2Block": {"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    "GPTNeoXLayer": {"qkv": "attention.query_key_value", "o": "attention.dense", "up": "mlp.dense_h_to_4h",
                     "down": "mlp.dense_4h_to_h"},
    "PhiDecoderLayer": {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.dense",
                        "up": "mlp.fc1", "down": "mlp.fc2"},
    "Starcoder2DecoderLayer": {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
                               "o": "self_attn.o_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    "GraniteMoeHybridDecoderLayer": {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
                                     "o": "self_attn.o_proj", "gate_up": "shared_mlp.input_linear",
                                     "down": "shared_mlp.output_linear"},
    "NanoChatDecoderLayer": {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
                             "o": "self_attn.o_proj", "up": "mlp.fc1", "down": "mlp.fc2"},
    "OPTDecoderLayer": {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj",
                        "up": "fc1", "down": "fc2"},
}


# Families whose RoPE turns neighbours (2i, 2i + 1) of a head; LoRA here is on rows in the order in which it turns halves.
NEIGHBOURS = ("cohere", "cohere2", "glm", "glm4", "ernie4_5", "helium")


def neighbour_rows(count, config):
    """Row of the module for each row of LoRA's B."""
    size = head_dim_of(config)
    dims = int(size * config.rope_parameters.get("partial_rotary_factor", 1.0))
    rows = torch.arange(count)
    place = rows % size
    return torch.where(place < dims, rows - place + 2 * (place % (dims // 2)) + place // (dims // 2), rows)


def targets_of(layer):
    return [target for target in TARGETS if projection(layer, target) is not None]


def projection(layer, target):
    """The module that holds a projection, and its rows, a slice or their indices; None for a gate that there is not."""
    names = OTHER_MODULES.get(type(layer).__name__)
    if names:
        if target in ("gate", "up") and "gate_up" in names:
            whole = layer.get_submodule(names["gate_up"])
            half = whole.out_features // 2
            return whole, slice(0, half) if target == "gate" else slice(half, 2 * half)
        if target == "gate":
            return None
        own = layer.get_submodule(names.get(target) or names["qkv"])
        out = weight_of(own).shape[0]
        if target in "qk" and type(layer).__name__ == "NanoChatDecoderLayer":  # with the halves of a head exchanged
            size = layer.self_attn.head_dim
            return own, torch.arange(out).view(-1, 2, size // 2).flip(1).flatten()
        if target in names:
            return own, slice(0, out)
        nth, third = "qkv".index(target), out // 3
        if not hasattr(layer, "attention"):
            return own, slice(nth * third, (nth + 1) * third)
        size = layer.attention.head_size
        return own, torch.arange(out).view(-1, 3, size)[:, nth].flatten()
    block = layer.mlp if target in ("gate", "up", "down") else layer.self_attn
    own = getattr(block, f"{target}_proj", None)
    if own is not None and target in "qk" and layer.self_attn.config.model_type in NEIGHBOURS:
        return own, neighbour_rows(own.out_features, layer.self_attn.config)
    if own is not None:
        return own, slice(0, own.out_features)
    if target == "gate" and hasattr(block, "up_proj"):
        return None
    whole = getattr(block, "qkv_proj" if target in "qkv" else "gate_up_proj")
    if target in ("gate", "up"):
        half = whole.out_features // 2
        return whole, slice(0, half) if target == "gate" else slice(half, 2 * half)
    width = block.num_key_value_heads * block.head_dim
    start = {"q": 0, "k": whole.out_features - 2 * width, "v": whole.out_features - width}[target]
    return whole, slice(start, start + (whole.out_features - 2 * width if target == "q" else width))


def widths_of(config):
    """Heads and FFN columns of a layer."""
    names = ("shared_intermediate_size", "intermediate_size", "ffn_dim", "n_inner")
    ffn = [getattr(config, name, None) for name in names]
    return config.num_attention_heads, next((width for width in ffn if width), 4 * config.hidden_size)


def after_embedding_norm(model, z_hidden):
    """Masks the normalised embedding: nanochat's final norm is called for it first."""
    calls = []

    def masked(_, __, out):
        calls.append(None)
        return out * z_hidden if len(calls) % 2 == 1 else out

    return decoder_of(model).norm.register_forward_hook(masked)


def attach(model, lora, masks):
    """Hooks LoRA and masks into a model; returns the handles. The order of hooks matters: LoRA first, then z_hidden."""
    handles = []
    z_hidden = masks["mask.hidden"]

    def before(module, scale):
        handles.append(module.register_forward_pre_hook(lambda _, args: (args[0] * scale,)))

    def after(module):
        handles.append(module.register_forward_hook(lambda _, __, out: out * z_hidden))

    def adapt(module, rows, a, b):
        def adapted(_, args, out):
            update = ALPHA / RANK * (args[0] @ a.T) @ b.T
            if isinstance(rows, slice):
                return out + torch.nn.functional.pad(update, (rows.start, out.shape[-1] - rows.stop))
            return out.index_add(-1, rows, update)
        handles.append(module.register_forward_hook(adapted))

    for embedding in embeddings_of(decoder_of(model)):
        if model.config.model_type == "nanochat":
            handles.append(after_embedding_norm(model, z_hidden))
        else:
            after(embedding)
    for index, layer in enumerate(layers_of(model)):
        output, down = projection(layer, "o")[0], projection(layer, "down")[0]
        before(output, masks["mask.head"][index].repeat_interleave(head_dim_in(layer, model.config)))
        before(down, masks["mask.ffn"][index])
        for target in targets_of(layer) if lora else ():
            adapt(*projection(layer, target), lora[f"lora.{index}.{target}.A"], lora[f"lora.{index}.{target}.B"])
        after(output)
        after(down)
    return handles


def loss_of(model, tokens, labels):
    logits = model(input_ids=tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def gradients(model, batch, lora, masks):
    leaves = {name: value.clone().requires_grad_() for name, value in {**lora, **masks}.items()}
    handles = attach(model, {name: leaves[name] for name in lora}, {name: leaves[name] for name in masks})
    loss = loss_of(model, *batch)
    found = torch.autograd.grad(loss, list(leaves.values()))
    for handle in handles:
        handle.remove()
    return loss.detach(), dict(zip(leaves, found))


def folded_loss(folder, batch, lora, masks):
    """The loss of stock transformers in f32 with LoRA and masks folded into the weights: a check of the hooks."""
    model = with_values(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64))
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.clone())  # a tied head is not masked
        z_hidden = masks["mask.hidden"]
        for embedding in embeddings_of(decoder_of(model)):
            if model.config.model_type == "nanochat":  # a norm would undo it
                after_embedding_norm(model, z_hidden.float())
                continue
            is_projection = isinstance(embedding, torch.nn.Linear)
            embedding.weight.mul_(z_hidden[:, None] if is_projection else z_hidden)
        for index, layer in enumerate(layers_of(model)):
            for target in targets_of(layer):
                module, rows = projection(layer, target)
                weight_of(module)[rows] += ALPHA / RANK * lora[f"lora.{index}.{target}.B"] @ lora[f"lora.{index}.{target}.A"]
            weight_of(projection(layer, "o")[0]).mul_(masks["mask.head"][index].repeat_interleave(head_dim_in(layer, model.config)))
            weight_of(projection(layer, "down")[0]).mul_(masks["mask.ffn"][index])
            for target in ("o", "down"):
                module, _ = projection(layer, target)
                weight_of(module).mul_(z_hidden[:, None])
                if module.bias is not None:
                    module.bias.mul_(z_hidden)
        tokens, labels = batch
        return model.float()(input_ids=tokens, labels=labels, use_cache=False).loss.item()


def make_batches(generator, vocab):
    def ids(*shape):
        return torch.randint(3, vocab, shape, generator=generator)

    pair, pair_labels = torch.zeros(2, 21, dtype=torch.long), torch.full((2, 21), -100)
    for row, (length, prompt) in enumerate([(21, 4), (13, 3)]):
        pair[row, :length] = ids(length)
        pair_labels[row, prompt:length] = pair[row, prompt:length]
    pair_labels[0, 9] = -100  # a hole inside the response
    single = ids(1, 37)
    single_labels = single.clone()
    single_labels[0, :5] = -100
    single_labels[0, 20] = -100
    return {"pair": (pair, pair_labels), "single": (single, single_labels)}


def make_lora(generator, model):
    lora = {}
    for index, layer in enumerate(layers_of(model)):
        for target in targets_of(layer):
            module, rows = projection(layer, target)
            out, inside = weight_of(module)[rows].shape
            lora[f"lora.{index}.{target}.A"] = normal(generator, RANK, inside, std=1 / inside ** 0.5)
            lora[f"lora.{index}.{target}.B"] = normal(generator, out, RANK, std=0.15)
    return {name: value.float().double() for name, value in lora.items()}


def make_masks(generator, config):
    layers, masks = config.num_hidden_layers, {}
    heads, ffn = widths_of(config)
    shapes = {"head": (layers, heads), "ffn": (layers, ffn), "hidden": (config.hidden_size,)}
    for name, shape in shapes.items():
        z = 1 - 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
        dropped = torch.rand(shape, generator=generator) < (0.1 if name == "hidden" else 0.25)
        dropped.view(-1)[1] = True  # at least one exact zero
        z[dropped] = 0
        z.view(-1)[0] = 1  # and at least one exact one
        masks[f"mask.{name}"] = z.float().double()
    return masks


def make(name, recipe, root, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    folder = os.path.join(root, name, "model")
    shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    os.makedirs(folder)
    write_model(folder, recipe, generator)

    stock = with_values(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    model = with_values(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval())
    fresh = AutoModelForCausalLM.from_config(recipe["config"]())
    for key, table in decoder_of(fresh).rotary_emb.named_buffers() if has_rope(model) else ():
        assert torch.equal(getattr(decoder_of(model).rotary_emb, key), table), f"{name}: RoPE not read back"
    to_float64(model)
    model.requires_grad_(False)
    stock.requires_grad_(False)
    lora, masks = make_lora(generator, model), make_masks(generator, model.config)
    ones = {key: torch.ones_like(value) for key, value in masks.items()}
    golden, stats = {**lora, **masks}, {}
    for batch_name, batch in make_batches(generator, model.config.vocab_size).items():
        tokens, labels = batch
        logits = model(input_ids=tokens, use_cache=False).logits
        plain = stock(input_ids=tokens, labels=labels, use_cache=False)
        drift = ((plain.logits.double() - logits).abs().max() / logits.abs().max()).item()
        assert drift < 5e-6, f"{name}: float64 and stock float32 logits differ by {drift}"
        golden |= {f"{batch_name}.tokens": tokens, f"{batch_name}.labels": labels, f"{batch_name}.logits": logits}
        for run, adapters, z in (("bare", {}, ones), ("lora", lora, ones), ("full", lora, masks)):
            loss, found = gradients(model, batch, adapters, z)
            zero = [key for key, value in found.items() if value.abs().max() == 0]
            assert not zero, f"{name} {run}: the gradients of {zero} are zero throughout"
            golden[f"{batch_name}.{run}.loss"] = loss.reshape(1)
            golden |= {f"{batch_name}.{run}.grad.{key}": value for key, value in found.items()}
            _, rough = gradients(stock, batch, *({k: v.float() for k, v in part.items()} for part in (adapters, z)))
            single = max(((rough[k].double() - v).abs().max() / v.abs().max()).item() for k, v in found.items())
            assert single < 1e-4, f"{name} {run}: a gradient in float32 is off by {single}, too ill-conditioned to test"
            other = plain.loss.item() if run == "bare" else folded_loss(folder, batch, lora, z)
            assert abs(other - loss.item()) < 2e-5 * loss.item(), f"{name} {run}: {loss.item()} but otherwise {other}"
            largest = max(value.abs().max().item() for value in found.values())
            stats[f"{batch_name}.{run}"] = (loss.item(), largest, single)
        config = model.config
        if getattr(config, "sliding_window", None):
            window, config.sliding_window = config.sliding_window, 1000
            unlimited = model(input_ids=tokens, use_cache=False).logits
            config.sliding_window = window
            stats[f"{batch_name}.unlimited"] = (((unlimited - logits).abs().max() / logits.abs().max()).item(),)
            assert stats[f"{batch_name}.unlimited"][0] > 0.01, f"{name}: the window hardly matters"
        stats[f"{batch_name}.logits"] = (logits.std().item(), (logits.max() - logits.min()).item(), drift)
        # Where layers differ in RoPE, the other tests would fail without its scaling.
        if has_rope(model) and recipe["config"]().rope_parameters.get("rope_type", "default") != "default":
            model_rope = decoder_of(model).rotary_emb.forward
            dims = 2 * len(decoder_of(model).rotary_emb.inv_freq)
            inverse = recipe["config"]().rope_parameters["rope_theta"] ** (
                -torch.arange(0, dims, 2, dtype=torch.float64) / dims)
            decoder_of(model).rotary_emb.forward = lambda x, position_ids, **_: tuple(
                f(torch.cat([position_ids[..., None].double() * inverse] * 2, dim=-1)) for f in (torch.cos, torch.sin))
            unscaled = model(input_ids=tokens, use_cache=False).logits
            decoder_of(model).rotary_emb.forward = model_rope
            stats[f"{batch_name}.unscaled"] = (((unscaled - logits).abs().max() / logits.abs().max()).item(),)
            assert stats[f"{batch_name}.unscaled"][0] > 0.01, f"{name}: the RoPE scaling hardly matters"
    path = os.path.join(root, name, "golden.safetensors")
    save_file({key: value.float().contiguous() for key, value in golden.items()}, path)
    walk = os.walk(os.path.join(root, name))
    size = sum(os.path.getsize(os.path.join(at, file)) for at, _, files in walk for file in files)
    print(f"{name}: {sorted(os.listdir(folder))}, {size / 1024:.0f} KiB with golden values")
    for key, value in stats.items():
        print(f"  {key:16} {LEGEND.get(key.split('.')[1], LEGEND['run'])}: {', '.join(f'{number:.4g}' for number in value)}")
    model.config.allow_global_per_layer_attribute_access = True  # layers may differ
    return {"dtype": str(recipe["dtype"]).removeprefix("torch."), "heads": model.config.num_attention_heads,
            "kv_heads": getattr(model.config, "num_key_value_heads", model.config.num_attention_heads), "head_dim": head_dim_of(model.config)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "fixtures", "golden"), help="folder to write to")
    parser.add_argument("--model", choices=list(MODELS), help="make this one alone, and leave the others as they are")
    options = parser.parse_args()
    root, models = options.out, {}
    if options.model:
        with open(os.path.join(root, "golden.json"), encoding="utf-8") as file:
            models = json.load(file)["models"]
    for index, (name, recipe) in enumerate(MODELS.items()):
        if options.model in (None, name):
            models[name] = make(name, recipe, root, recipe.get("seed", 1000 + index))
    with open(os.path.join(root, "golden.json"), "w", encoding="utf-8") as file:
        json.dump({"rank": RANK, "alpha": ALPHA, "targets": TARGETS, "models": models}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
