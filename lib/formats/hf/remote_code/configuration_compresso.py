"""Configuration of a decoder whose layers differ: layer_counts holds the counts of each layer."""

from transformers.models.mistral.configuration_mistral import MistralConfig


class CompressoConfig(MistralConfig):
    """A LLaMA configuration with layer_counts: {num_attention_heads, num_key_value_heads, intermediate_size} of each layer.

    With qk_norm = "head" queries and keys of each head are normed, as Qwen3's are, with "whole" those of all heads together,
    as OLMo 2's are, with "layer" each head has a LayerNorm without bias, as StableLM 2 12B's. With qk_norm_after the norms of
    each head follow RoPE, as HunYuan's do. With value_norm the heads of v have a norm without weight, with layer_scale each layer
    ends with a factor, and local_head_dim is the width of heads in layers whose layer_ropes is "local", all as in Gemma 4. With fused, layers are Phi-3's: q, k and v are one matrix, gate
    and up are one, and a part of each head may rotate.
    A count of 0 means that the layer has no attention or no MLP. The counts outside the list are those of the widest layer.
    layer_windows, where there is one, holds the tokens that a query of each layer sees, itself included; None for all. The
    key is not sliding_window, by which transformers would make caches that forget what other layers still read.
    With norm = "layer" norms are LayerNorm, with "layer_no_bias" LayerNorm without biases, as Cohere's. With ungated_mlp an
    MLP is down(act(up(x))), without gate; its act may be Apertus's xielu. With parallel = "own" the MLP reads what attention reads, through a norm of its
    own, with "shared" through that of attention. With head_bias the output head has a bias. With position_offset there are
    learned position embeddings, that of position p in row p + position_offset, and no RoPE.
    With norm_places = "both" the outputs of attention and MLP are normed too, as Gemma 3's are, with "after" they alone;
    with "residual" the stream is, after each of them added to it, as OPT-350m's is, and there is no final norm. With embedding_width the
    embedding and what the head reads have this width, and a matrix stands between each and the stream. embedding_scale is a factor
    of the embedding, attention_scale that of the scores, 1 / sqrt(head_dim) where it is None. layer_ropes says "local" for
    layers whose RoPE has the base local_rope_theta, without scaling, "none" for layers without RoPE, as SmolLM3's, and None
    for the others. residual_multiplier is a factor of what attention and MLP add, logits_scaling the divisor of the logits,
    as Granite's are. attn_logit_softcapping and final_logit_softcapping are bounds c of the scores and of the logits: x
    becomes c * tanh(x / c).
    The base is Mistral's configuration, because LlamaConfig refuses a hidden size that is no multiple of the number of heads.
    """

    model_type = "compresso"
    ignore_keys_at_rope_validation = {"llama_4_scaling_beta"}

    def __init__(
        self,
        layer_counts=None,
        layer_windows=None,
        layer_ropes=None,
        attention_bias=False,
        mlp_bias=False,
        qk_norm=None,
        qk_norm_after=None,
        value_norm=None,
        local_head_dim=None,
        layer_scale=None,
        norm=None,
        norm_places=None,
        embedding_width=None,
        embedding_scale=None,
        attention_scale=None,
        residual_multiplier=None,
        logits_scaling=None,
        local_rope_theta=None,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        ungated_mlp=False,
        parallel=None,
        head_bias=False,
        position_offset=None,
        fused=False,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "sliding_window": None})
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.qk_norm = qk_norm
        self.qk_norm_after = qk_norm_after
        self.value_norm = value_norm
        self.local_head_dim = local_head_dim
        self.layer_scale = layer_scale
        self.norm = norm
        self.norm_places = norm_places
        self.embedding_width = embedding_width
        self.embedding_scale = embedding_scale
        self.attention_scale = attention_scale
        self.residual_multiplier = residual_multiplier
        self.logits_scaling = logits_scaling
        self.local_rope_theta = local_rope_theta
        self.attn_logit_softcapping = attn_logit_softcapping
        self.final_logit_softcapping = final_logit_softcapping
        self.ungated_mlp = ungated_mlp
        self.parallel = parallel
        self.head_bias = head_bias
        self.position_offset = position_offset
        self.fused = fused
        self.layer_counts = layer_counts
        self.layer_windows = layer_windows
        self.layer_ropes = layer_ropes


__all__ = ["CompressoConfig"]
