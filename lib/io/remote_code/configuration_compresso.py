"""Configuration of a LLaMA whose layers differ: per_layer_config holds the counts of each layer."""

from transformers.models.llama.configuration_llama import LlamaConfig


class CompressoConfig(LlamaConfig):
    """LlamaConfig with per_layer_config, a list of {num_attention_heads, num_key_value_heads, intermediate_size}.

    A count of 0 means that the layer has no attention or no MLP. The counts outside the list are those of the widest layer.
    """

    model_type = "compresso"

    def __init__(self, per_layer_config=None, **kwargs):
        super().__init__(**kwargs)
        # Not under its own name: transformers 5 has a property per_layer_config with another meaning.
        self.layer_counts = per_layer_config

    def validate_architecture(self):
        """The hidden size needs to be no multiple of the number of heads: head_dim is given."""

    def to_dict(self):
        output = super().to_dict()
        output["per_layer_config"] = output.pop("layer_counts", None)
        return output


__all__ = ["CompressoConfig"]
