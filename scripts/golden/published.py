"""Writes fixtures/golden/published.json: configurations of published sizes, and the number of parameters that transformers has for each.

Owns that file. Downloads nothing: the classes are built on torch's meta device, without weights.
"""

import json
import os

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()


def hunyuan(mscale_all_dim, **sizes):
    return dict(
        model_type="hunyuan_v1_dense", num_key_value_heads=8, max_position_embeddings=262144, rms_norm_eps=1e-5,
        rope_theta=10000.0, tie_word_embeddings=True, **sizes,
        rope_scaling=dict(type="dynamic", alpha=1000.0, beta_fast=32, beta_slow=1, factor=1.0, mscale=1.0,
                          mscale_all_dim=mscale_all_dim))


def lfm2(**sizes):
    return dict(
        model_type="lfm2", num_hidden_layers=16, num_key_value_heads=8, vocab_size=65536, max_position_embeddings=128000,
        norm_eps=1e-5, rope_theta=1000000.0, conv_L_cache=3, conv_bias=False, block_multiple_of=256,
        block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True, full_attn_idxs=[2, 5, 8, 10, 12, 14],
        tie_embedding=True, bos_token_id=1, eos_token_id=7, pad_token_id=0, **sizes)


MODELS = {
    "LiquidAI/LFM2-350M": lfm2(hidden_size=1024, num_attention_heads=16, block_ff_dim=6656),
    "LiquidAI/LFM2-700M": lfm2(hidden_size=1536, num_attention_heads=24, block_ff_dim=10240),
    "LiquidAI/LFM2-1.2B": lfm2(hidden_size=2048, num_attention_heads=32, block_ff_dim=12288),
    "bigcode/starcoder2-3b": dict(
        model_type="starcoder2", hidden_size=3072, num_hidden_layers=30, num_attention_heads=24, num_key_value_heads=2,
        intermediate_size=12288, vocab_size=49152, max_position_embeddings=16384, norm_epsilon=1e-5, sliding_window=4096,
        rope_theta=999999.4420358813, use_bias=True, hidden_act="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0),
    "bigcode/starcoder2-7b": dict(
        model_type="starcoder2", hidden_size=4608, num_hidden_layers=32, num_attention_heads=36, num_key_value_heads=4,
        intermediate_size=18432, vocab_size=49152, max_position_embeddings=16384, norm_epsilon=1e-5, sliding_window=4096,
        rope_theta=1000000, use_bias=True, hidden_act="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0),
    "nvidia/Minitron-4B-Base": dict(
        model_type="nemotron", hidden_size=3072, num_hidden_layers=32, num_attention_heads=24, num_key_value_heads=8,
        head_dim=128, intermediate_size=9216, vocab_size=256000, max_position_embeddings=4096, norm_eps=1e-5,
        partial_rotary_factor=0.5, hidden_act="relu2", rope_theta=10000, bos_token_id=2, eos_token_id=3),
    "allenai/Olmo-3-7B-Instruct": dict(
        model_type="olmo3", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        intermediate_size=11008, vocab_size=100278, max_position_embeddings=65536, rms_norm_eps=1e-6, rope_theta=500000,
        sliding_window=4096, layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 8, bos_token_id=None,
        eos_token_id=100257, pad_token_id=100277,
        rope_scaling=dict(rope_type="yarn", attention_factor=1.2079441541679836, beta_fast=32.0, beta_slow=1.0, factor=8.0,
                          original_max_position_embeddings=8192)),
    "arcee-ai/AFM-4.5B": dict(
        model_type="arcee", hidden_size=2560, num_hidden_layers=36, num_attention_heads=20, num_key_value_heads=4,
        head_dim=128, intermediate_size=18432, vocab_size=128004, max_position_embeddings=65536, rms_norm_eps=1e-5,
        rope_theta=10000.0, hidden_act="relu2", bos_token_id=128000, eos_token_id=128001,
        rope_scaling=dict(rope_type="yarn", beta_fast=32.0, beta_slow=1.0, factor=20.0, mscale=1.0,
                          original_max_position_embeddings=3072)),
    "swiss-ai/Apertus-8B-Instruct-2509": dict(
        model_type="apertus", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=21504, vocab_size=131072, max_position_embeddings=65536, rms_norm_eps=1e-5,
        rope_theta=12000000, hidden_act="xielu", attention_bias=False, mlp_bias=False, post_norm=False, qk_norm=True,
        bos_token_id=1, eos_token_id=68, pad_token_id=3,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192)),
    "kyutai/helium-1-preview-2b": dict(
        model_type="helium", hidden_size=2560, num_hidden_layers=24, num_attention_heads=20, num_key_value_heads=20,
        head_dim=128, intermediate_size=7040, vocab_size=48000, max_position_embeddings=4096, rms_norm_eps=1e-8,
        rope_theta=100000.0),
    "baidu/ERNIE-4.5-0.3B-PT": dict(
        model_type="ernie4_5", hidden_size=1024, num_hidden_layers=18, num_attention_heads=16, num_key_value_heads=2,
        head_dim=128, intermediate_size=3072, vocab_size=103424, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=500000.0, use_bias=False, tie_word_embeddings=True),
    "LGAI-EXAONE/EXAONE-4.0-1.2B": dict(
        model_type="exaone4", hidden_size=2048, num_hidden_layers=30, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, intermediate_size=4096, vocab_size=102400, max_position_embeddings=65536, rms_norm_eps=1e-5,
        rope_theta=1000000, sliding_window=None, sliding_window_pattern=None, tie_word_embeddings=True,
        layer_types=["full_attention"] * 30, bos_token_id=1, eos_token_id=361, pad_token_id=0,
        rope_scaling=dict(rope_type="llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192)),
    "LGAI-EXAONE/EXAONE-4.0-32B": dict(
        model_type="exaone4", hidden_size=5120, num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8,
        head_dim=128, intermediate_size=27392, vocab_size=102400, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=1000000, sliding_window=4096, sliding_window_pattern="LLLG",
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 16, bos_token_id=1, eos_token_id=361, pad_token_id=0,
        rope_scaling=dict(rope_type="llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192)),
    "zai-org/GLM-4-9B-0414": dict(
        model_type="glm4", hidden_size=4096, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=2,
        head_dim=128, intermediate_size=13696, vocab_size=151552, max_position_embeddings=32768, rms_norm_eps=1e-5,
        partial_rotary_factor=0.5, attention_bias=True, eos_token_id=[151329, 151336, 151338], pad_token_id=151329),
    "zai-org/glm-4-9b-chat-hf": dict(
        model_type="glm", hidden_size=4096, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=2,
        head_dim=128, intermediate_size=13696, vocab_size=151552, max_position_embeddings=131072,
        rms_norm_eps=1.5625e-07, attention_bias=True, eos_token_id=[151329, 151336, 151338], pad_token_id=151329),
    "ByteDance-Seed/Seed-OSS-36B-Instruct": dict(
        model_type="seed_oss", hidden_size=5120, num_hidden_layers=64, num_attention_heads=80, num_key_value_heads=8,
        head_dim=128, intermediate_size=27648, vocab_size=155136, max_position_embeddings=524288, rms_norm_eps=1e-6,
        rope_theta=10000000.0, attention_bias=True, attention_out_bias=False, mlp_bias=False, bos_token_id=0,
        eos_token_id=2, pad_token_id=1),
    "ibm-granite/granite-4.0-micro": dict(
        model_type="granitemoehybrid", hidden_size=2560, num_hidden_layers=40, num_attention_heads=40,
        num_key_value_heads=8, intermediate_size=8192, shared_intermediate_size=8192, vocab_size=100352,
        max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=10000000, embedding_multiplier=12,
        attention_multiplier=0.015625, residual_multiplier=0.22, logits_scaling=10, num_local_experts=0,
        num_experts_per_tok=0, position_embedding_type="rope", layer_types=["attention"] * 40, mamba_n_heads=128,
        tie_word_embeddings=True, bos_token_id=100257, eos_token_id=100257, pad_token_id=100256),
    "tencent/Hunyuan-0.5B-Instruct": hunyuan(
        1.0, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, head_dim=64, intermediate_size=3584,
        vocab_size=120818, bos_token_id=120000, eos_token_id=120020, pad_token_id=120002),
    "tencent/Hunyuan-7B-Instruct": hunyuan(
        0.0, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, head_dim=128, intermediate_size=14336,
        vocab_size=128167, bos_token_id=1, eos_token_id=127960, pad_token_id=127961),
    "Qwen/Qwen3-30B-A3B": dict(
        model_type="qwen3_moe", hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
        head_dim=128, intermediate_size=6144, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], vocab_size=151936, max_position_embeddings=40960,
        rms_norm_eps=1e-6, rope_theta=1000000.0, hidden_act="silu", bos_token_id=151643, eos_token_id=151645),
    "google/gemma-4-31B": dict(
        model_type="gemma4_text", hidden_size=5376, num_hidden_layers=60, num_attention_heads=32, num_key_value_heads=16,
        num_global_key_value_heads=4, head_dim=256, global_head_dim=512, attention_k_eq_v=True, attention_bias=False,
        intermediate_size=21504, vocab_size=262144, vocab_size_per_layer_input=262144, hidden_size_per_layer_input=0,
        max_position_embeddings=262144, rms_norm_eps=1e-6, sliding_window=1024, final_logit_softcapping=30.0,
        hidden_activation="gelu_pytorch_tanh", num_kv_shared_layers=0, enable_moe_block=False, use_double_wide_mlp=False,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 10, tie_word_embeddings=True,
        rope_parameters=dict(
            full_attention=dict(rope_type="proportional", partial_rotary_factor=0.25, rope_theta=1000000.0),
            sliding_attention=dict(rope_type="default", rope_theta=10000.0)),
        bos_token_id=2, eos_token_id=1, pad_token_id=0),
    "mistralai/Mixtral-8x7B-v0.1": dict(
        model_type="mixtral", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, num_local_experts=8, num_experts_per_tok=2, vocab_size=32000,
        max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1000000.0, sliding_window=None),
    "CohereLabs/c4ai-command-r-v01": dict(
        model_type="cohere", hidden_size=8192, num_hidden_layers=40, num_attention_heads=64, num_key_value_heads=64,
        intermediate_size=22528, vocab_size=256000, max_position_embeddings=8192, layer_norm_eps=1e-5,
        rope_theta=8000000.0, logit_scale=0.0625, use_qk_norm=False, bos_token_id=5, eos_token_id=255001, pad_token_id=0),
    "CohereLabs/aya-23-8B": dict(
        model_type="cohere", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, vocab_size=256000, max_position_embeddings=8192, layer_norm_eps=1e-5, rope_theta=10000,
        logit_scale=0.0625, use_qk_norm=False, bos_token_id=5, eos_token_id=255001, pad_token_id=0),
    "CohereLabs/c4ai-command-r7b-12-2024": dict(
        model_type="cohere2", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, intermediate_size=14336, vocab_size=256000, max_position_embeddings=132096, layer_norm_eps=1e-5,
        rope_theta=50000, sliding_window=4096, sliding_window_pattern=4, logit_scale=0.25, use_qk_norm=False,
        position_embedding_type="rope_gptj", rotary_pct=1.0, use_parallel_block=True, use_embedding_sharing=True,
        use_gated_activation=True, bos_token_id=5, eos_token_id=255001, pad_token_id=0),
}


def parameters(config):
    own = dict(config)
    model_type = own.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **own))
    # A layer whose values are its keys is read with a v of its own.
    shared = [layer.self_attn.k_proj.weight.numel() for layer in getattr(model.base_model, "layers", [])
              if getattr(getattr(layer, "self_attn", None), "v_proj", 0) is None]
    return sum(weight.numel() for weight in model.parameters()) + sum(shared)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    found = {name: {"parameters": parameters(config), "config": config} for name, config in MODELS.items()}
    with open(os.path.join(here, "..", "..", "fixtures", "golden", "published.json"), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    for name, entry in found.items():
        print(f"{name}: {entry['parameters']:,}")


if __name__ == "__main__":
    main()
