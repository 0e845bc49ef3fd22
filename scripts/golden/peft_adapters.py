"""Makes LoRA adapters with PEFT for the tiny models gqa_f16 and opt, and the logits that tests/formats/peft_test.ts compares ours with.

Owns fixtures/golden/peft/<adapter>/{adapter_config.json,adapter_model.safetensors} and fixtures/golden/peft/golden.safetensors,
which holds `tokens` [T] and `<adapter>.logits` [T, vocab], of `opt` for tokens modulo its vocabulary. B is random, as PEFT's is zero before training. Everything is
seeded. The adapters are saved by PEFT, loaded back from disk, and run in float64; the results are stored as f32.
"""

import argparse
import json
import os
import shutil

from golden_models import to_float64, torch

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all_rslora": (torch.float32, dict(r=3, lora_alpha=5, lora_dropout=0.25, target_modules=ALL, use_rslora=True)),
    "qv": (torch.bfloat16, dict(r=2, lora_alpha=7, target_modules=["q_proj", "v_proj"])),
    # Modules that differ in rank and alpha, and a layer without.
    "patterns": (torch.float16, dict(
        r=2, lora_alpha=6, target_modules=["k_proj", "o_proj", "up_proj", "down_proj"], layers_to_transform=[1],
        rank_pattern={"o_proj": 4, "model.layers.1.mlp.up_proj": 1},
        alpha_pattern={"o_proj": 3, "^k_proj": 99, "self_attn.k_proj": 9})),  # ^ matches whole names only: nothing here
    "opt": (torch.float32, dict(r=3, lora_alpha=4, target_modules=["q_proj", "v_proj", "out_proj", "fc1", "fc2"])),
}
# The base of an adapter where it is not gqa_f16: modules of another class have other names.
BASES = {"opt": "opt"}
TOKENS = 11


def randomise(model, generator):
    """Draws A and B so that their product is about as large as the base weight."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                std = weight.shape[1] ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * std)


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "fixtures", "golden"), help="folder to write to")
    root = parser.parse_args().out
    out = os.path.join(root, "peft")
    generator = torch.Generator().manual_seed(2024)
    shutil.rmtree(out, ignore_errors=True)
    golden = {}
    for name, (dtype, settings) in ADAPTERS.items():
        folder, base_name = os.path.join(out, name), BASES.get(name, "gqa_f16")
        base = os.path.join(root, base_name, "model")
        plain = load_base(base)
        if not golden:
            golden["tokens"] = torch.randint(3, plain.config.vocab_size, (1, TOKENS), generator=generator)[0]
        tokens = golden["tokens"][None] % plain.config.vocab_size
        made = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **settings), autocast_adapter_dtype=False)
        made.peft_config["default"].base_model_name_or_path = base_name
        randomise(made, generator)
        made.save_pretrained(folder, save_embedding_layers=False)
        os.remove(os.path.join(folder, "README.md"))
        path = os.path.join(folder, "adapter_model.safetensors")
        save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
        tidy(os.path.join(folder, "adapter_config.json"))

        model = PeftModel.from_pretrained(load_base(base), folder).eval()
        with torch.no_grad():
            single = model(input_ids=tokens, use_cache=False).logits
            bare = plain(input_ids=tokens, use_cache=False).logits
            model.double()
            to_float64(model.get_base_model())
            logits = model(input_ids=tokens, use_cache=False).logits[0]
        drift = ((single[0].double() - logits).abs().max() / logits.abs().max()).item()
        effect = ((bare[0].double() - logits).abs().max() / logits.abs().max()).item()
        assert drift < 5e-6, f"{name}: float64 and float32 logits differ by {drift}"
        assert effect > 0.1, f"{name}: the adapter hardly matters"
        golden[f"{name}.logits"] = logits
        print(f"{name}: float32 is within {drift:.1e} of float64, the adapter changes logits by {effect:.2f} of the largest")
    save_file({key: value.float().contiguous() for key, value in golden.items()}, os.path.join(out, "golden.safetensors"))


def tidy(path):
    """Sets are saved in an order that changes from run to run."""
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["target_modules"].sort()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main()
