"""A LLaMA whose layers differ in heads, KV heads and MLP width, or lack attention or MLP; made by structured pruning."""

import copy

import transformers
from torch import nn

LEAST = (4, 54)

# Layers of earlier versions have other parts and give them other arguments, and some lack modeling_layers.
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < LEAST:
    raise ImportError(
        "this model needs transformers 4.54 or later, as its layers differ; "
        f"{transformers.__version__} is installed: run pip install --upgrade transformers"
    )

from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from .configuration_compresso import CompressoConfig


class CompressoDecoderLayer(LlamaDecoderLayer):
    """A layer with the parts that it has; an absent part adds nothing to the residual stream."""

    def __init__(self, config, counts, cache_index):
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        own = copy.copy(config)
        for key, value in counts.items():
            setattr(own, key, value)
        self.self_attn = self.mlp = None
        if counts["num_attention_heads"] > 0:
            self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            if config.qk_norm == "head":
                # It looks up whether this layer has a sliding window.
                own.layer_types = ["full_attention"] * (cache_index + 1)
                self.self_attn = Qwen3Attention(own, cache_index)
            else:
                self.self_attn = LlamaAttention(own, cache_index)
            # The shared config, so that a later choice of the attention's implementation reaches every layer.
            self.self_attn.config = config
        if counts["intermediate_size"] > 0:
            self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp = LlamaMLP(own)

    def forward(self, hidden_states, **kwargs):
        if self.self_attn is not None:
            hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        if self.mlp is not None:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class CompressoPreTrainedModel(LlamaPreTrainedModel):
    config_class = CompressoConfig
    _no_split_modules = ["CompressoDecoderLayer"]


class CompressoModel(CompressoPreTrainedModel, LlamaModel):
    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList()
        with_attention = 0
        for counts in config.layer_counts:
            # The cache counts only layers with attention: it takes the number of tokens seen from its first layer.
            self.layers.append(CompressoDecoderLayer(config, counts, with_attention))
            with_attention += counts["num_attention_heads"] > 0
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class CompressoForCausalLM(CompressoPreTrainedModel, LlamaForCausalLM):
    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        self.model = CompressoModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _get_static_cache_init_shape(self):
        # Layers differ in KV heads, and some have none: each makes its part of a static cache when it first has keys.
        return None


__all__ = ["CompressoForCausalLM", "CompressoModel", "CompressoPreTrainedModel"]
