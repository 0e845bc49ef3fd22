"""Makes tiny random models whose layers have short convolutions or attention, and the golden values of tests/golden/hybrids_test.ts.

Owns fixtures/golden_hybrids/<model>/{model/,golden.safetensors}. Everything is seeded. The models are saved by transformers, loaded back from disk,
and run in float64; results are stored as f32. A golden file holds what golden_models.py describes, with three differences: mask.head is flat, with a
value for each head of a layer with attention and one for a whole convolution; LoRA adapts attention and FFN alone; the mask of the hidden dims also
multiplies the channels of each convolution, before its output projection.
"""

import os
import shutil

from golden_models import ALPHA, RANK, make_batches, normal

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "golden_hybrids")
COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 128}

MODELS = {
    # Convolutions first and last, of three tokens; FFN columns as they are.
    "lfm2": {
        "model_type": "lfm2", "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10,
        "intermediate_size": 37, "num_hidden_layers": 4, "vocab_size": 71, "norm_eps": 1e-4, "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv", "conv"], "block_auto_adjust_ff_dim": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    # Of five tokens; FFN columns as published configurations say them; the head is a matrix of its own.
    "lfm2_long": {
        "model_type": "lfm2", "hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "block_ff_dim": 70,
        "block_multiple_of": 8, "num_hidden_layers": 3, "vocab_size": 67, "norm_eps": 1e-3, "conv_L_cache": 5,
        "layer_types": ["full_attention", "conv", "full_attention"], "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
}

PARTS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj", "gate": "w1", "up": "w3", "down": "w2"}


def module(layer, target):
    block = layer.feed_forward if target in ("gate", "up", "down") else getattr(layer, "self_attn", None)
    return block and getattr(block, PARTS[target])


def attach(model, lora, masks):
    """Hooks LoRA and masks into a model; returns the handles."""
    handles, z_hidden, head_dim, at = [], masks["mask.hidden"], model.model.layers_head_dim, 0

    def before(block, scale):
        handles.append(block.register_forward_pre_hook(lambda _, args: (args[0] * scale,)))

    def after(block):
        handles.append(block.register_forward_hook(lambda _, __, out: out * z_hidden))

    def adapt(block, a, b):
        handles.append(block.register_forward_hook(lambda _, args, out: out + ALPHA / RANK * (args[0] @ a.T) @ b.T))

    after(model.model.embed_tokens)
    for index, layer in enumerate(model.model.layers):
        output = layer.self_attn.out_proj if layer.is_attention_layer else layer.conv.out_proj
        count = model.config.num_attention_heads if layer.is_attention_layer else 1
        own = masks["mask.head"][at:at + count]
        before(output, own.repeat_interleave(head_dim) if layer.is_attention_layer else own * z_hidden)
        before(layer.feed_forward.w2, masks["mask.ffn"][index])
        for target in PARTS:
            if f"lora.{index}.{target}.A" in lora:
                adapt(module(layer, target), lora[f"lora.{index}.{target}.A"], lora[f"lora.{index}.{target}.B"])
        after(output)
        after(layer.feed_forward.w2)
        at += count
    return handles


def gradients(model, batch, lora, masks):
    leaves = {name: value.clone().requires_grad_() for name, value in {**lora, **masks}.items()}
    handles = attach(model, {name: leaves[name] for name in lora}, {name: leaves[name] for name in masks})
    tokens, labels = batch
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    found = torch.autograd.grad(loss, list(leaves.values()))
    for handle in handles:
        handle.remove()
    return loss.detach(), dict(zip(leaves, found))


def random_mask(generator, *shape, share=0.25):
    z = 1 - 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    dropped = torch.rand(shape, generator=generator) < share
    dropped.view(-1)[1] = True
    z[dropped] = 0
    z.view(-1)[0] = 1
    return z.float().double()


def make(name, own, seed):
    folder, generator = os.path.join(ROOT, name), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    shutil.rmtree(folder, ignore_errors=True)
    kind = own["model_type"]
    config = AutoConfig.for_model(**{**COMMON, **own})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            scale = 0.5 if key.endswith("conv.conv.weight") else 1.5 / weight.shape[-1] ** 0.5
            weight.copy_(normal(generator, *weight.shape, std=0.2) + 1 if "norm" in key else normal(generator, *weight.shape, std=scale))
    model.save_pretrained(f"{folder}/model")
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float64).eval().requires_grad_(False)
    model.model.layers_head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = model.model.layers
    lora = {}
    for index, layer in enumerate(layers):
        for target in PARTS:
            block = module(layer, target)
            if block is not None:
                lora[f"lora.{index}.{target}.A"] = normal(generator, RANK, block.in_features, std=1 / block.in_features ** 0.5).float().double()
                lora[f"lora.{index}.{target}.B"] = normal(generator, block.out_features, RANK, std=0.15).float().double()
    heads = sum(config.num_attention_heads if layer.is_attention_layer else 1 for layer in layers)
    ffn = layers[0].feed_forward.w1.out_features
    masks = {"mask.head": random_mask(generator, heads), "mask.ffn": random_mask(generator, len(layers), ffn),
             "mask.hidden": random_mask(generator, config.hidden_size, share=0.1)}
    ones = {key: torch.ones_like(value) for key, value in masks.items()}
    golden = {**lora, **masks}
    for batch_name, batch in make_batches(generator, config.vocab_size).items():
        tokens, labels = batch
        logits = model(input_ids=tokens, use_cache=False).logits
        golden |= {f"{batch_name}.tokens": tokens, f"{batch_name}.labels": labels, f"{batch_name}.logits": logits}
        for run, adapters, z in (("bare", {}, ones), ("lora", lora, ones), ("full", lora, masks)):
            loss, found = gradients(model, batch, adapters, z)
            assert all(value.abs().max() > 0 for value in found.values()), f"{name} {run}: a gradient is zero throughout"
            golden[f"{batch_name}.{run}.loss"] = loss.reshape(1)
            golden |= {f"{batch_name}.{run}.grad.{key}": value for key, value in found.items()}
        print(name, kind, batch_name, logits.std().item(), loss.item())
    save_file({key: value.float().contiguous() for key, value in golden.items()}, f"{folder}/golden.safetensors")


if __name__ == "__main__":
    for nth, (model_name, settings) in enumerate(MODELS.items()):
        make(model_name, settings, 3000 + nth)
