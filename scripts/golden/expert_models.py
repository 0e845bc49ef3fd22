"""Makes tiny random models with experts with transformers, and the logits that tests/golden/experts_test.ts compares ours with.

Owns fixtures/golden_experts/<model>/{model/,golden.safetensors}. Everything is seeded. The models are saved by
transformers, loaded back from disk, and run in float64; golden.safetensors holds tokens [2, T] and logits [2, T, vocab]
as f32. Weights of routers are large, so that no two experts of a token are close.
"""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

COMMON = {"vocab_size": 73, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 128,
          "num_attention_heads": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}

MODELS = {
    # The second of three layers is dense; weights are renormalised.
    "qwen3_moe": {
        "hidden_size": 38, "num_key_value_heads": 1, "head_dim": 10, "num_hidden_layers": 3, "intermediate_size": 29,
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 13, "norm_topk_prob": True,
        "mlp_only_layers": [1], "tie_word_embeddings": True},
    # All experts of a token are chosen.
    "olmoe": {
        "hidden_size": 42, "num_key_value_heads": 3, "num_hidden_layers": 2, "intermediate_size": 17, "num_experts": 3,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "tie_word_embeddings": False},
    "mixtral": {
        "hidden_size": 36, "num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 21, "num_local_experts": 7,
        "num_experts_per_tok": 2, "sliding_window": None, "tie_word_embeddings": False},
    # A shared expert with a gate; probabilities as they are.
    "qwen2_moe": {
        "hidden_size": 36, "num_key_value_heads": 3, "num_hidden_layers": 2, "intermediate_size": 29, "num_experts": 6,
        "num_experts_per_tok": 1, "moe_intermediate_size": 11, "shared_expert_intermediate_size": 23,
        "norm_topk_prob": False, "tie_word_embeddings": False},
    # Experts in one tensor of a folder; Granite's factors.
    "granitemoe": {
        "hidden_size": 36, "num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 19, "num_local_experts": 9,
        "num_experts_per_tok": 4, "tie_word_embeddings": True, "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
        "residual_multiplier": 0.4, "logits_scaling": 2.0},
    # Sigmoids, a bias of the choice, a shared expert, a dense first layer, a factor of the weights; half a head rotates.
    "glm4_moe": {
        "hidden_size": 38, "num_key_value_heads": 1, "head_dim": 12, "num_hidden_layers": 3, "intermediate_size": 29,
        "n_routed_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 9, "n_shared_experts": 2,
        "first_k_dense_replace": 1, "routed_scaling_factor": 1.7, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
        "attention_bias": True, "use_qk_norm": True, "tie_word_embeddings": False, "num_nextn_predict_layers": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    # A bias of the choice; RoPE turns neighbours.
    "ernie4_5_moe": {
        "hidden_size": 38, "num_key_value_heads": 1, "head_dim": 10, "num_hidden_layers": 2, "intermediate_size": 23,
        "moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 11, "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1, "moe_layer_end_index": -1, "moe_layer_interval": 1, "use_bias": False,
        "tie_word_embeddings": True},
}


def make(name, own, folder, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**COMMON, **own}), dtype=torch.float32)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            scale = 2.0 if "router" in key or key.endswith("mlp.gate.weight") or key.endswith("moe.gate.weight") else 0.3
            weight.copy_(torch.randn(weight.shape) * scale + (1 if "norm" in key else 0))
        for key, buffer in [*model.named_parameters(), *model.named_buffers()]:
            # As large as what separates the scores, so that it changes choices.
            if key.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape) * 0.3)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(f"{folder}/model")
    loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float64, experts_implementation="eager").eval()
    tokens = torch.randint(3, 73, (2, 37))
    with torch.no_grad():
        logits = loaded(tokens).logits
    save_file({"tokens": tokens.float(), "logits": logits.float().contiguous()}, f"{folder}/golden.safetensors")
    print(name, float(logits.abs().max()))


for index, (name, own) in enumerate(MODELS.items()):
    make(name, own, os.path.join(os.path.dirname(__file__), "../../fixtures/golden_experts", name), 2000 + index)
