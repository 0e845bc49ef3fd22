"""Repeats the steps of tune_losses.ts with Python's peft and torch, and compares losses, gradient norms and the trained LoRA.

Both start from the adapter in DIR/init and read the batches of DIR/steps.json. Each step is torch's AdamW after
clip_grad_norm_, at the rate that our step had. Owns the comparison; draws nothing.
"""

import argparse
import json
import math
import os
import sys

from protocol import load_model, torch

from peft import PeftModel
from safetensors.torch import load_file


def compare(options):
    with open(os.path.join(options.folder, "steps.json"), encoding="utf-8") as file:
        given = json.load(file)
    model = PeftModel.from_pretrained(load_model(options.base), os.path.join(options.folder, "init"), is_trainable=True)
    if options.double:
        model = model.double()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=given["weightDecay"])
    gaps, norms, losses = [], [], []
    for step in given["steps"]:
        ids, labels = (torch.tensor(step[name]).reshape(-1, given["seq"]) for name in ("tokens", "labels"))
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, given["clipNorm"]).item()
        for group in optimizer.param_groups:
            group["lr"] = step["rate"]
        optimizer.step()
        losses.append(loss.item())
        gaps.append(abs(loss.item() - step["loss"]))
        norms.append(abs(norm - step["gradNorm"]) / norm)
    ours = load_file(os.path.join(options.folder, "trained", "adapter_model.safetensors"))
    start = load_file(os.path.join(options.folder, "init", "adapter_model.safetensors"))
    theirs = {name.replace(".default", ""): value for name, value in model.state_dict().items() if ".lora_" in name}
    moved = math.sqrt(sum((ours[name] - start[name]).square().sum().item() for name in ours))
    apart = math.sqrt(sum((ours[name] - theirs[name]).square().sum().item() for name in ours))
    figures = (
        f"{len(gaps)} steps, losses from {losses[0]:.4f} to {losses[-1]:.4f} differ by at most {max(gaps):.2e}, "
        f"gradient norms by {max(norms):.2e} of them, the trained LoRA by {apart / moved:.2e} of how far it moved")
    if not max(gaps) <= options.tolerance:  # so that NaN fails
        return f"FAIL {figures}"
    if not losses[-1] != losses[0] or moved == 0:
        return f"FAIL nothing was trained: {figures}"
    return f"PASS {figures}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", help="Hugging Face folder of the model that was tuned")
    parser.add_argument("folder", help="folder of tune_losses.ts")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a loss (1e-4)")
    parser.add_argument("--double", action="store_true", help="run PEFT in float64")
    options = parser.parse_args()
    try:
        line = compare(options)
    except Exception as error:  # what peft raises on a folder is what this check is for
        line = f"FAIL {type(error).__name__}: {error}".replace("\n", " ")
    print(line)
    return 0 if line.startswith("PASS") else 1


if __name__ == "__main__":
    sys.exit(main())
