"""LoRA adapters through Python's peft: `make` writes one with it, `compare` loads one and compares its logits with ours.

Owns the comparison and the draw of the adapter; trains nothing. `compare` takes the JSON of dump_logits.ts --adapter,
which ran the same base with the same adapter here, and compares with the adapter beside the weights and merged.
"""

import argparse
import json
import os
import sys

from protocol import load_model, torch

from peft import LoraConfig, PeftModel, get_peft_model

# Modules of families that call them otherwise than q_proj.
OTHER_MODULES = {"opt": {"o": "out_proj", "up": "fc1", "down": "fc2"}, "phi": {"o": "dense", "up": "fc1", "down": "fc2"}}


def make(options):
    """An adapter as training would leave it: PEFT starts with B = 0, so A and B are drawn anew."""
    base = load_model(options.base, trust_remote_code=True)
    names = OTHER_MODULES.get(base.config.model_type, {})
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, use_rslora=options.rslora, lora_dropout=options.dropout,
        target_modules=[names.get(name, f"{name}_proj") for name in options.targets.split(",")], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                scale = 1.0 if ".lora_A." in name else 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale / weight.shape[1] ** 0.5)
    model.to(getattr(torch, options.dtype)).save_pretrained(options.adapter, save_embedding_layers=False)
    return f"PASS wrote {options.adapter}"


def compare(options):
    with open(options.logits, encoding="utf-8") as file:
        given = json.load(file)
    ids = torch.tensor([given["tokens"]])
    ours = torch.tensor(given["logits"], dtype=torch.float64).reshape(ids.shape[1], -1)
    failures, figures = [], []
    base = load_model(options.base, trust_remote_code=True)
    with torch.no_grad():
        bare = base(input_ids=ids, use_cache=False).logits[0]
        model = PeftModel.from_pretrained(base, options.adapter).eval()
        rough = [model(input_ids=ids, use_cache=False).logits[0]]
        model = model.double()
        unmerged = model(input_ids=ids, use_cache=False).logits[0]
        embedded = model.get_input_embeddings()(ids)
        for draw in range(8):
            noise = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)
            rough.append(model(inputs_embeds=embedded * (1 + noise * 2.0**-24), use_cache=False).logits[0])
        merged = model.merge_and_unload()(input_ids=ids, use_cache=False).logits[0]
    largest = unmerged.abs().max().item()
    # A strong adapter makes float32 itself inexact: by how much, torch's own error says, and what rounding the embeddings alone does.
    noise = max((other - unmerged).abs().max().item() for other in rough) / largest
    figures.append(f"float32 makes errors of {noise:.2e}")
    effect = (unmerged - bare).abs().max().item() / largest
    for name, theirs in (("unmerged", unmerged), ("merged", merged)):
        relative = (theirs - ours).abs().max().item() / largest
        figures.append(f"{name} by peft differs by at most {relative:.2e} of the largest logit, {largest:.2f}")
        if not relative <= max(options.tolerance, 2 * noise):  # so that NaN fails
            failures.append(f"{name} differs by {relative:.2e}")
    figures.append(f"the adapter changes logits by {effect:.2f} of it")
    if not effect > 0.01:
        failures.append("the adapter hardly matters, so nothing was tried")
    return f"FAIL {'; '.join(failures)} | {'; '.join(figures)}" if failures else f"PASS {'; '.join(figures)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("make", "compare"):
        verb = verbs.add_parser(name)
        verb.add_argument("base", help="Hugging Face folder of the base model; its own modelling code is trusted")
        verb.add_argument("adapter", help="folder of the adapter")
        if name == "compare":
            verb.add_argument("--logits", required=True, help="JSON of dump_logits.ts --adapter: {tokens, logits}")
            verb.add_argument("--tolerance", type=float, default=1e-5, help="of the largest |logit| (1e-5), or twice what float32 may do")
            continue
        verb.add_argument("--rank", type=int, default=8)
        verb.add_argument("--alpha", type=int, default=16)
        verb.add_argument("--dropout", type=float, default=0.1)
        verb.add_argument("--targets", default="q,k,v,o,gate,up,down")
        verb.add_argument("--rslora", action="store_true")
        verb.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
        verb.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not os.path.isdir(options.base):
        parser.error(f"{options.base} is no folder")
    try:
        line = {"make": make, "compare": compare}[options.verb](options)
    except Exception as error:  # whatever peft raises on a folder is what this check is for
        line = f"FAIL {type(error).__name__}: {error}".replace("\n", " ")
    print(line)
    return 0 if line.startswith("PASS") else 1


if __name__ == "__main__":
    sys.exit(main())
