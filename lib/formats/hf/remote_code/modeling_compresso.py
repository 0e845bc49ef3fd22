"""A decoder whose layers differ in heads, KV heads and MLP width, or lack attention or MLP; made by structured pruning."""

import copy
import inspect

import torch
import transformers
from torch import nn

LEAST = (4, 54)

# Layers of earlier versions have other parts and give them other arguments, and some lack modeling_layers.
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < LEAST:
    raise ImportError(
        "this model needs transformers 4.54 or later, as its layers differ; "
        f"{transformers.__version__} is installed: run pip install --upgrade transformers"
    )

from transformers import DynamicCache
from transformers.activations import ACT2FN
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention
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
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention
from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3MLP, Phi3RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from .configuration_compresso import CompressoConfig

# The argument that holds the cache has another name before transformers 5.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def windows_of(config):
    return config.layer_windows or [None] * len(config.layer_counts)


def ropes_of(config):
    return config.layer_ropes or [None] * len(config.layer_counts)


def norm_of(config):
    if config.norm is None:
        return LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps, bias=config.norm == "layer")


class XIELU(nn.Module):
    """Apertus's activation, with the curve of the layer. Older versions of transformers do not have it."""

    def __init__(self):
        super().__init__()
        self.alpha_p = nn.Parameter(torch.zeros(1))
        self.alpha_n = nn.Parameter(torch.zeros(1))
        self.register_buffer("beta", torch.tensor(0.5))
        self.register_buffer("eps", torch.tensor(-1e-6))

    def forward(self, x):
        above = nn.functional.softplus(self.alpha_p) * x * x
        below = (self.beta + nn.functional.softplus(self.alpha_n)) * (torch.expm1(torch.minimum(x, self.eps)) - x)
        return torch.where(x > 0, above, below) + self.beta * x


class UngatedMLP(nn.Module):
    """down(act(up(x))): an MLP without gate."""

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = XIELU() if config.hidden_act == "xielu" else ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)))


class NoRotation(nn.Module):
    """In place of RoPE where positions are learned: turns by an angle of 0."""

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim

    def forward(self, x, position_ids):
        ones = torch.ones(*position_ids.shape, self.head_dim, dtype=x.dtype, device=x.device)
        return ones, torch.zeros_like(ones)


class LayerConfig:
    """The model's configuration with what a layer has of its own. What changes later, such as the attention's
    implementation, reaches every layer."""

    def __init__(self, shared, **own):
        self.__dict__.update(own, shared=shared)

    def __getattr__(self, name):
        if name == "shared" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.shared, name)


class HeadLayerNorm(nn.Module):
    """LayerNorm of each head without bias, with weights of its own."""

    def __init__(self, heads, dim, eps):
        super().__init__()
        self.shape, self.eps = (heads, dim), eps
        self.weight = nn.Parameter(torch.ones(heads * dim))

    def forward(self, x):
        normed = nn.functional.layer_norm(x.unflatten(-1, self.shape), self.shape[1:], eps=self.eps)
        return normed.flatten(-2) * self.weight


class PartialAttention(Phi3Attention):
    """Llama's projections with RoPE of a part of each head, as Phi-3's attention has it; with LayerNorm of q and k heads."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        del self.qkv_proj
        hidden, dim, bias = config.hidden_size, self.head_dim, config.attention_bias
        self.q_proj = nn.Linear(hidden, config.num_attention_heads * dim, bias=bias)
        self.k_proj = nn.Linear(hidden, config.num_key_value_heads * dim, bias=bias)
        self.v_proj = nn.Linear(hidden, config.num_key_value_heads * dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * dim, hidden, bias=bias)
        self.q_norm = self.k_norm = nn.Identity()
        if config.qk_norm == "layer":
            self.q_norm = HeadLayerNorm(config.num_attention_heads, dim, config.rms_norm_eps)
            self.k_norm = HeadLayerNorm(config.num_key_value_heads, dim, config.rms_norm_eps)

    def qkv_proj(self, x):
        return torch.cat([self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)], dim=-1)


class NormedValues(nn.Linear):
    """A projection whose heads have an RMSNorm without weight."""

    def __init__(self, linear, dim, eps):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.dim, self.eps = dim, eps

    def forward(self, x):
        heads = super().forward(x).unflatten(-1, (-1, self.dim))
        wide = heads.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(heads).flatten(-2)


def norm_after_attention(config, layer_idx):
    """Attention whose norms of q and k heads follow RoPE. Older versions of transformers do not have its class."""
    from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import HunYuanDenseV1Attention

    class NormAfterAttention(HunYuanDenseV1Attention):
        def __init__(self, *args):
            super().__init__(*args)
            self.q_norm = self._modules.pop("query_layernorm")
            self.k_norm = self._modules.pop("key_layernorm")

        @property
        def query_layernorm(self):
            return self.q_norm

        @property
        def key_layernorm(self):
            return self.k_norm

    return NormAfterAttention(config, layer_idx)


def queries_grow(config):
    """Whether queries are multiplied by a factor that grows with the position."""
    return (getattr(config, "rope_parameters", None) or {}).get("llama_4_scaling_beta") is not None


def growing_attention(config, layer_idx):
    """Attention with such queries. Older versions of transformers do not have its class."""
    from transformers.models.ministral3.modeling_ministral3 import Ministral3Attention

    return Ministral3Attention(config, layer_idx)


def is_partial(config):
    """Whether a part of each head rotates. Of "proportional" RoPE the other pairs turn by an angle of 0."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "proportional":
        return False
    return (rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1) < 1


def with_bias(block, names):
    """Gives linear layers of a class that has no biases some."""
    for name in names:
        linear = getattr(block, name)
        setattr(block, name, nn.Linear(linear.in_features, linear.out_features, bias=True))


class CompressoEmbedding(nn.Embedding):
    """An embedding times a factor."""

    def __init__(self, scale, *args):
        super().__init__(*args)
        self.scale = scale

    def forward(self, input_ids):
        return super().forward(input_ids) * self.scale


class CompressoHead(nn.Linear):
    """A head whose logits are divided by a number, and have a soft cap."""

    def __init__(self, divisor, cap, *args, bias):
        super().__init__(*args, bias=bias)
        self.divisor = 1 if divisor is None else divisor
        self.cap = cap

    def forward(self, hidden_states):
        logits = super().forward(hidden_states) / self.divisor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class CompressoRotaryEmbeddings(nn.Module):
    """The two RoPEs of a model, by what layer_ropes says of layers that have one."""

    def __init__(self, config):
        super().__init__()
        local = copy.copy(config)
        local.rope_theta = config.local_rope_theta
        # transformers 5 reads the first, 4 the second.
        local.rope_parameters = {"rope_type": "default", "rope_theta": config.local_rope_theta}
        local.rope_scaling = local.rope_parameters
        local.head_dim = config.local_head_dim or config.head_dim
        self.model = LlamaRotaryEmbedding(config=config)
        self.local = LlamaRotaryEmbedding(config=local)

    def forward(self, hidden_states, position_ids):
        return {None: self.model(hidden_states, position_ids), "local": self.local(hidden_states, position_ids)}


def rotary_of(config):
    if config.position_offset is not None:
        return NoRotation(config)
    if config.local_rope_theta is not None:
        return CompressoRotaryEmbeddings(config)
    return (Phi3RotaryEmbedding if config.fused or is_partial(config) else LlamaRotaryEmbedding)(config=config)


class CompressoDecoderLayer(LlamaDecoderLayer):
    """A layer with the parts that it has; an absent part adds nothing to the residual stream."""

    def __init__(self, config, counts, window, rope, cache_index):
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.window = window
        self.rope = rope
        self.parallel = config.parallel
        self.residual_multiplier = 1 if config.residual_multiplier is None else config.residual_multiplier
        self.norms_stream = config.norm_places == "residual"
        has_output_norms = config.norm_places in ("both", "after")
        has_input_norms = config.norm_places != "after"
        own = LayerConfig(config, **counts)
        if rope == "local" and config.local_head_dim is not None:
            own.head_dim = config.local_head_dim
        self.self_attn = self.mlp = None
        if counts["num_attention_heads"] > 0 or config.parallel == "shared":
            self.input_layernorm = norm_of(config) if has_input_norms else nn.Identity()
        if counts["num_attention_heads"] > 0:
            if config.fused:
                own.sliding_window = window
                self.self_attn = Phi3Attention(own, cache_index)
                if config.attention_bias:
                    with_bias(self.self_attn, ["qkv_proj", "o_proj"])
            elif config.attn_logit_softcapping is not None:
                own.layer_types = ["full_attention"] * (cache_index + 1)
                own.query_pre_attn_scalar, own.use_bidirectional_attention = config.head_dim, False
                self.self_attn = Gemma2Attention(own, cache_index)
                self.self_attn.sliding_window = window
            elif is_partial(config) or config.qk_norm == "layer":
                own.sliding_window = window
                self.self_attn = PartialAttention(own, cache_index)
            elif queries_grow(config):
                own.sliding_window = window
                self.self_attn = growing_attention(own, cache_index)
            elif config.qk_norm_after:
                self.self_attn = norm_after_attention(own, cache_index)
            elif config.qk_norm == "head":
                # It looks up whether this layer has a sliding window.
                own.layer_types = ["full_attention"] * (cache_index + 1)
                self.self_attn = Qwen3Attention(own, cache_index)
                self.self_attn.sliding_window = window
                if config.value_norm:
                    self.self_attn.v_proj = NormedValues(self.self_attn.v_proj, own.head_dim, config.rms_norm_eps)
            elif config.qk_norm == "whole":
                self.self_attn = Olmo2Attention(own, cache_index)
            else:
                self.self_attn = LlamaAttention(own, cache_index)
            if config.attention_scale is not None:
                self.self_attn.scaling = config.attention_scale
            self.post_self_attn_layernorm = norm_of(config) if has_output_norms else nn.Identity()
        if counts["intermediate_size"] > 0:
            if config.parallel != "shared":
                self.post_attention_layernorm = norm_of(config) if has_input_norms else nn.Identity()
            self.mlp = Phi3MLP(own) if config.fused else UngatedMLP(own) if config.ungated_mlp else LlamaMLP(own)
            if config.fused and config.mlp_bias:
                with_bias(self.mlp, ["gate_up_proj", "down_proj"])
            self.post_mlp_layernorm = norm_of(config) if has_output_norms else nn.Identity()
        if config.layer_scale:
            self.register_buffer("layer_scalar", torch.ones(1))

    def forward(self, hidden_states, window_masks=None, position_embeddings=None, **kwargs):
        several = isinstance(position_embeddings, dict)
        own = None if self.rope == "none" else self.rope
        kwargs["position_embeddings"] = position_embeddings[own] if several else position_embeddings
        if self.rope == "none" and kwargs["position_embeddings"] is not None:
            cos, sin = kwargs["position_embeddings"]
            kwargs["position_embeddings"] = (torch.ones_like(cos), torch.zeros_like(sin))
        if self.window is not None:
            kwargs["attention_mask"] = window_masks[self.window]
            # Flash attention makes masks of its own, and takes the window. The other classes pass on their own.
            if isinstance(self.self_attn, LlamaAttention):
                kwargs["sliding_window"] = self.window
        given = hidden_states
        if self.self_attn is not None:
            read = hidden_states if self.norms_stream else self.input_layernorm(hidden_states)
            output = self.self_attn(read, **kwargs)[0]
            hidden_states = hidden_states + self.residual_multiplier * self.post_self_attn_layernorm(output)
            if self.norms_stream:
                hidden_states = self.input_layernorm(hidden_states)
        if self.mlp is not None:
            norm = self.input_layernorm if self.parallel == "shared" else self.post_attention_layernorm
            read = given if self.parallel else hidden_states
            output = self.mlp(read if self.norms_stream else norm(read))
            hidden_states = hidden_states + self.residual_multiplier * self.post_mlp_layernorm(output)
            if self.norms_stream:
                hidden_states = self.post_attention_layernorm(hidden_states)
        return hidden_states * self.layer_scalar if hasattr(self, "layer_scalar") else hidden_states


class CompressoPreTrainedModel(LlamaPreTrainedModel):
    config_class = CompressoConfig
    _no_split_modules = ["CompressoDecoderLayer"]


class CompressoModel(CompressoPreTrainedModel, LlamaModel):
    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        if config.attn_logit_softcapping is not None:
            # The only implementation of attention with a soft cap that all versions have.
            config._attn_implementation = "eager"
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        width = config.embedding_width or config.hidden_size
        shape = (config.vocab_size, width, self.padding_idx)
        is_scaled = config.embedding_scale is not None
        self.embed_tokens = CompressoEmbedding(config.embedding_scale, *shape) if is_scaled else nn.Embedding(*shape)
        self.project_in = self.project_out = None
        if config.embedding_width is not None:
            self.project_in = nn.Linear(width, config.hidden_size, bias=False)
            self.project_out = nn.Linear(config.hidden_size, width, bias=False)
        if config.position_offset is not None:
            rows = config.max_position_embeddings + config.position_offset
            self.embed_positions = nn.Embedding(rows, config.hidden_size)
        self.layers = nn.ModuleList()
        with_attention = 0
        for counts, window, rope in zip(config.layer_counts, windows_of(config), ropes_of(config)):
            # The cache counts only layers with attention: it takes the number of tokens seen from its first layer.
            self.layers.append(CompressoDecoderLayer(config, counts, window, rope, with_attention))
            with_attention += counts["num_attention_heads"] > 0
        self.norm = nn.Identity() if config.norm_places == "residual" else norm_of(config)
        self.rotary_emb = rotary_of(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
        windows = {window for window in windows_of(self.config) if window is not None}
        is_learned = self.config.position_offset is not None
        if inputs_embeds is None and (windows or is_learned or self.project_in is not None):
            input_ids, inputs_embeds = None, self.embed_tokens(input_ids)
        if self.project_in is not None:
            inputs_embeds = self.project_in(inputs_embeds)
        if windows or is_learned:
            name = CACHE if CACHE in kwargs or "past_key_values" not in kwargs else "past_key_values"
            use_cache = kwargs.get("use_cache")
            if (self.config.use_cache if use_cache is None else use_cache) and kwargs.get(name) is None:
                kwargs[name] = DynamicCache(config=self.config)
        if is_learned:
            if position_ids is None:
                past = 0 if kwargs.get(name) is None else kwargs[name].get_seq_length()
                position_ids = past + torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids + self.config.position_offset)
        if windows:
            kwargs["window_masks"] = {
                window: self.window_mask(
                    window,
                    inputs_embeds=inputs_embeds,
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    cache=kwargs.get(name),
                    cache_position=kwargs.get("cache_position"),
                )
                for window in windows
            }
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if self.project_out is None:
            return output
        if isinstance(output, tuple):
            return (self.project_out(output[0]), *output[1:])
        output.last_hidden_state = self.project_out(output.last_hidden_state)
        return output

    def window_mask(self, window, inputs_embeds, attention_mask, position_ids, cache, cache_position):
        if cache_position is None:
            past = 0 if cache is None else cache.get_seq_length()
            cache_position = past + torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
            # Made by generate() for a static cache, without windows.
            keys = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
            hidden = keys[None] <= cache_position[:, None] - window
            least = False if attention_mask.dtype == torch.bool else torch.finfo(attention_mask.dtype).min
            return attention_mask.masked_fill(hidden, least)
        config = copy.copy(self.config)
        config.sliding_window = window
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "cache_position": cache_position}
        # Versions of transformers give arguments other names.
        given |= {"inputs_embeds": inputs_embeds, "input_embeds": inputs_embeds, "cache": cache, "past_key_values": cache}
        known = inspect.signature(create_sliding_window_causal_mask).parameters
        return create_sliding_window_causal_mask(
            config=config, **{name: value for name, value in given.items() if name in known}
        )


class CompressoForCausalLM(CompressoPreTrainedModel, LlamaForCausalLM):
    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        self.model = CompressoModel(config)
        self.vocab_size = config.vocab_size
        shape = (config.embedding_width or config.hidden_size, config.vocab_size)
        changes = (config.logits_scaling, config.final_logit_softcapping)
        is_changed = any(change is not None for change in changes)
        bias = config.head_bias
        self.lm_head = CompressoHead(*changes, *shape, bias=bias) if is_changed else nn.Linear(*shape, bias=bias)
        self.post_init()

    def _get_static_cache_init_shape(self):
        # Layers differ in KV heads, and some have none: each makes its part of a static cache when it first has keys.
        return None


__all__ = ["CompressoForCausalLM", "CompressoModel", "CompressoPreTrainedModel"]
