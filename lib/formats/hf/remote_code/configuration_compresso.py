"""Configuration of a LLaMA whose layers differ: layer_counts holds the counts of each layer."""

from transformers.models.mistral.configuration_mistral import MistralConfig


class CompressoConfig(MistralConfig):
    """A LLaMA configuration with layer_counts: {num_attention_heads, num_key_value_heads, intermediate_size} of each layer.

    With qk_norm = "head" queries and keys of each head are normed, as Qwen3's are. A count of 0 means that the layer has no attention or no MLP. The counts outside the list are those of the widest layer.
    The base is Mistral's configuration, because LlamaConfig refuses a hidden size that is no multiple of the number of heads.
    """

    model_type = "compresso"

    def __init__(
        self, layer_counts=None, sliding_window=None, attention_bias=False, mlp_bias=False, qk_norm=None, **kwargs
    ):
        super().__init__(sliding_window=sliding_window, **kwargs)
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.qk_norm = qk_norm
        self.layer_counts = layer_counts


__all__ = ["CompressoConfig"]
