"""A LLaMA decoder in torch with masks of FFN columns and LoRA: base weights in bfloat16 or another type, residual stream in float32.

Owns forward passes and losses; refuses schedules and choices. Masks are one tensor for each layer, [ffn], or
[blocks, ffn] where each block of consecutive tokens of a batch has masks (and so gradients) of its own.
"""

import json
import math
import os

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

IGNORED = -100
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


class Decoder:
    def __init__(self, path, dtype=torch.bfloat16):
        self.dtype = dtype
        folder, name = os.path.split(os.path.abspath(path))
        where = {"pretrained_model_name_or_path": path}
        if path.endswith(".gguf"):
            where = {"pretrained_model_name_or_path": folder, "gguf_file": name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        config, weights = model.config, model.state_dict()
        self.layers, self.hidden, self.ffn = config.num_hidden_layers, config.hidden_size, config.intermediate_size
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.epsilon = config.head_dim, config.rms_norm_eps
        self.embedding = weights["model.embed_tokens.weight"]
        self.head = weights["lm_head.weight"].to(dtype)
        self.final_norm = weights["model.norm.weight"]
        self.norms, self.weights = [], []
        for layer in range(self.layers):
            start = f"model.layers.{layer}."
            self.norms.append([weights[f"{start}{norm}.weight"] for norm in ("input_layernorm", "post_attention_layernorm")])
            self.weights.append({key: weights[f"{start}{name}.weight"].to(dtype) for key, name in NAMES.items()})
        base = config.rope_parameters["rope_theta"]
        rates = base ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angles = torch.outer(torch.arange(1024).float(), rates).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.lora, self.lora_scale = None, 0.0

    def add_lora(self, rank, seed, scale=2.0):
        """Adds LoRA on all projections, as PEFT starts it. Returns its parameters."""
        generator = torch.Generator().manual_seed(seed)
        self.lora, self.lora_scale = [], scale
        for weights in self.weights:
            pairs = {}
            for key in PROJECTIONS:
                outputs, inputs = weights[key].shape
                down = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
                pairs[key] = (down.requires_grad_(), torch.zeros(outputs, rank).requires_grad_())
            self.lora.append(pairs)
        return [matrix for pairs in self.lora for pair in pairs.values() for matrix in pair]

    def train_all(self):
        """Makes the weights of all projections parameters, in float32. Returns them."""
        for weights in self.weights:
            for key in PROJECTIONS:
                weights[key] = weights[key].float().requires_grad_()
        return [weights[key] for weights in self.weights for key in PROJECTIONS]

    def _linear(self, x, layer, key, lora):
        y = F.linear(x, self.weights[layer][key].to(x.dtype))
        if lora and self.lora is not None:
            down, up = self.lora[layer][key]
            y = y + F.linear(F.linear(x, down.to(x.dtype)), (up * self.lora_scale).to(x.dtype))
        return y

    def _norm(self, x, weight):
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * weight).to(self.dtype)

    def _rotate(self, x, positions):
        half, length = self.head_dim // 2, x.shape[-2]
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        cos, sin = (
            table[:length] if positions is None else table[positions][:, None] for table in (self.cos, self.sin)
        )
        return x * cos.to(x.dtype) + turned * sin.to(x.dtype)

    def _layer(self, h, layer, mask, lora, positions=None, sees=None):
        batch, length, _ = h.shape
        x = self._norm(h, self.norms[layer][0])
        q, k, v = (
            self._linear(x, layer, key, lora).view(batch, length, count, self.head_dim).transpose(1, 2)
            for key, count in (("q", self.heads), ("k", self.groups), ("v", self.groups))
        )
        q, k = self._rotate(q, positions), self._rotate(k, positions)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, is_causal=sees is None)
        attended = attended.transpose(1, 2).reshape(batch, length, -1)
        h = h + self._linear(attended, layer, "o", lora).float()
        x = self._norm(h, self.norms[layer][1])
        columns = F.silu(self._linear(x, layer, "gate", lora)) * self._linear(x, layer, "up", lora)
        if mask is not None:
            blocks = mask.reshape(-1, 1, self.ffn).to(columns.dtype)
            columns = (columns.reshape(len(blocks), -1, self.ffn) * blocks).view(batch, length, self.ffn)
        return h + self._linear(columns, layer, "down", lora).float()

    def body(self, ids, masks=None, lora=True, states=None, positions=None, sees=None):
        """Final hidden states of ids [batch, length]; the residual stream after each layer goes into `states`.

        `positions` [batch, length] take the place of 0, 1, …; `sees` [batch, 1, length, length] says which tokens a
        token sees, in place of those before it.
        """
        h = F.embedding(ids, self.embedding)
        for layer in range(self.layers):
            h = self._layer(h, layer, None if masks is None else masks[layer], lora, positions, sees)
            if states is not None:
                states.append(h)
        return self._norm(h, self.final_norm)

    def logits(self, hidden):
        return F.linear(hidden, self.head).float()

    @torch.no_grad()
    def perplexity(self, ids, masks=None, windows=24, window=512):
        """Of the first windows of a text, each alone from position 0."""
        total = count = 0
        for part in torch.tensor(ids[:windows * window]).view(-1, window).split(4):
            logits = self.logits(self.body(part, masks)[:, :-1].reshape(-1, self.hidden))
            total += F.cross_entropy(logits, part[:, 1:].reshape(-1), reduction="sum").item()
            count += part[:, 1:].numel()
        return math.exp(total / count)


class Rows:
    """Endless batches of rows, right-padded, in an order of the seed."""

    def __init__(self, path, seed, batch=4, seq=256, pad=2):
        with open(path, encoding="utf-8") as file:
            self.rows = json.load(file)
        self.batch, self.seq, self.pad = batch, seq, pad
        self.generator, self.order = torch.Generator().manual_seed(seed), []

    def next(self):
        """Token ids, labels, and which tokens are no padding: [batch, seq] each."""
        ids = torch.full((self.batch, self.seq), self.pad)
        labels = torch.full((self.batch, self.seq), IGNORED)
        real = torch.zeros(self.batch, self.seq, dtype=torch.bool)
        for index in range(self.batch):
            if not self.order:
                self.order = torch.randperm(len(self.rows), generator=self.generator).tolist()
            row = self.rows[self.order.pop()]
            length = min(self.seq, len(row["ids"]))
            ids[index, :length] = torch.tensor(row["ids"][:length])
            labels[index, :length] = torch.tensor(row["labels"][:length])
            real[index, :length] = True
        return ids, labels, real


def response_loss(decoder, hidden, labels):
    """Mean cross entropy of the labels that count."""
    counts = labels[:, 1:] != IGNORED
    return F.cross_entropy(decoder.logits(hidden[:, :-1][counts]), labels[:, 1:][counts])
