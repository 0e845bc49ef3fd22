"""What recovery should read and learn from, after one cut: packed rows or rows that do not see each other, labels or the dense
model's next tokens, given answers or the dense model's own.

Owns these trials, in torch and float32 on weights of which FFN columns are cut out; the product's own runs are another
matter. `tokens.ts` writes the folder TOKENS first. All runs start from the same cut and, for one seed, see the same
instructions in the same order. Each run adds a line to OUT/runs.jsonl; a run that has one is not repeated. Needs torch,
transformers, accelerate and gguf.

  python rows.py MODEL TOKENS OUT own                            the dense model answers the instructions (greedy)
  python rows.py MODEL TOKENS OUT packed:1 masked:1 kl:1         runs of seed 1
  python rows.py MODEL TOKENS OUT own-ce:1 own-kl:1              the same on the answers of `own`
"""

import argparse
import copy
import json
import math
import os
import statistics
import time

import torch
import torch.nn.functional as F

from decoder import IGNORED, PROJECTIONS, Decoder
from prototype import block_masks, columns_of, cut, gate_shape, with_prior

# Name: (rows see each other, share of KL to the dense model, answers are the model's own).
ARMS = {
    "packed": (True, 0, False),
    "masked": (False, 0, False),
    "kl": (False, 1, False),
    "half": (False, 0.5, False),
    "own-ce": (False, 0, True),
    "own-kl": (False, 1, True),
}


def packed(rows, seed, seq, count):
    """The first `count` sequences of rows in an order of the seed: ids, labels, positions and row numbers, [count, seq] each."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    ids, labels, positions, numbers = [], [], [], []
    for number, index in enumerate(order):
        row = rows[index]
        for at in range(len(row["ids"])):
            # Where a sequence begins inside a row, positions start anew, as in the product.
            start = len(ids) % seq == 0 or at == 0
            positions.append(0 if start else positions[-1] + 1)
            ids.append(row["ids"][at])
            labels.append(IGNORED if at == 0 else row["labels"][at])
            numbers.append(number)
    if len(ids) < seq * count:
        raise SystemExit(f"{len(ids)} tokens of rows, {seq * count} needed")
    return [torch.tensor(part[:seq * count]).view(count, seq) for part in (ids, labels, positions, numbers)]


def padded(rows):
    """Rows side by side, padded to the right: ids and labels."""
    width = max(len(row["ids"]) for row in rows)
    ids, labels = torch.full((len(rows), width), 2), torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        ids[index, :len(row["ids"])] = torch.tensor(row["ids"])
        labels[index, :len(row["ids"])] = torch.tensor(row["labels"])
    return ids, labels


def sliced(decoder, masks):
    """A decoder without the columns that masks drop; the other weights are shared."""
    small = copy.copy(decoder)
    small.weights = []
    for weights, mask in zip(decoder.weights, masks):
        kept = mask.bool()
        parts = {"gate": weights["gate"][kept], "up": weights["up"][kept], "down": weights["down"][:, kept].contiguous()}
        small.weights.append({**weights, **parts})
    return small


def chosen_masks(decoder, rows, options):
    """Masks by squares of 64-token blocks over `batches` packed batches, with the product's prior."""
    ids, labels, _, _ = packed(rows, 0, options.seq, options.batches * options.batch)
    ones, squares = [torch.ones(decoder.ffn)] * decoder.layers, 0
    for part, marks in zip(ids.split(options.batch), labels.split(options.batch)):
        masks = block_masks(ones, part)
        counts = marks[:, 1:] != IGNORED
        loss = F.cross_entropy(decoder.logits(decoder.body(part, masks)[:, :-1][counts]), marks[:, 1:][counts])
        squares = squares + torch.stack(torch.autograd.grad(loss, masks), 1).pow(2).sum(0)
    return cut(with_prior(squares, gate_shape(decoder), 1), columns_of(decoder, options.sparsity))


def divergence(ours, theirs):
    """Mean over tokens of KL(dense | cut)."""
    ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@torch.no_grad()
def measure_rows(decoder, dense, rows):
    """Cross-entropy of the answers and KL to the dense model there, each row read alone: sums by row and tokens by row."""
    entropies, divergences, tokens = [], [], []
    ordered = sorted(rows, key=lambda row: len(row["ids"]))
    for at in range(0, len(ordered), 8):
        ids, labels = padded(ordered[at:at + 8])
        ours, theirs = decoder.body(ids), dense.body(ids, lora=False)
        for index in range(len(ids)):
            counts = labels[index, 1:] != IGNORED
            one, other = (model.logits(x[index, :-1][counts]) for model, x in ((decoder, ours), (dense, theirs)))
            entropies.append(F.cross_entropy(one, labels[index, 1:][counts], reduction="sum").item())
            divergences.append(divergence(one, other).item() * counts.sum().item())
            tokens.append(counts.sum().item())
    total = sum(tokens)
    return {"ce": sum(entropies) / total, "kl": sum(divergences) / total, "labels": total}


def measures(decoder, dense, sets, options):
    figures = {name: measure_rows(decoder, dense, rows) for name, rows in sets.items()}
    return {"wikitext": decoder.perplexity(options.text, windows=options.windows), **figures}


def train(decoder, dense, rows, arm, seed, options):
    """LoRA on all projections, AdamW, 5 steps of warm-up, then the rate falls to 0 by a line. Returns seconds and labels."""
    sees, share, _ = ARMS[arm]
    parameters = decoder.add_lora(8, seed)
    optimizer = torch.optim.AdamW(parameters, weight_decay=0)
    parts = packed(rows, seed, options.seq, options.steps * options.batch)
    causal = torch.ones(options.seq, options.seq, dtype=torch.bool).tril()
    started, seen = time.process_time(), 0
    for step, (ids, labels, positions, numbers) in enumerate(zip(*(part.split(options.batch) for part in parts))):
        places = {}
        # Labels are those of separate rows in both cases, so that the losses have the same terms.
        labels = labels.masked_fill(positions == 0, IGNORED)
        if not sees:
            same = (numbers[:, :, None] == numbers[:, None, :]) & causal
            places = {"positions": positions, "sees": same[:, None]}
        counts = labels[:, 1:] != IGNORED
        seen += counts.sum().item()
        ours = decoder.logits(decoder.body(ids, **places)[:, :-1][counts])
        loss = 0
        if share < 1:
            loss = (1 - share) * F.cross_entropy(ours, labels[:, 1:][counts])
        if share > 0:
            with torch.no_grad():
                theirs = dense.logits(dense.body(ids, lora=False, **places)[:, :-1][counts])
            loss = loss + share * divergence(ours, theirs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (step + 1) / 5, (options.steps - step) / (options.steps - 5))
        optimizer.step()
        if step % 5 == 0:
            seconds = time.process_time() - started
            print(f"  step {step + 1}: loss {loss.item():.3f}, {seconds:.0f} s of CPU", flush=True)
    return {"cpu": time.process_time() - started, "trained": seen}


def write_own(options, rows, path):
    """Rows whose answers the dense model writes, greedy, up to `tokens` tokens; its end of text is a label where it comes."""
    from transformers import AutoModelForCausalLM

    folder, name = os.path.split(os.path.abspath(options.model))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    end = statistics.mode(row["ids"][-1] for row in rows)
    prompts = [[id for id, label in zip(row["ids"], row["labels"]) if label == IGNORED] for row in rows]
    answers, by_length = [None] * len(rows), sorted(range(len(rows)), key=lambda index: len(prompts[index]))
    for at in range(0, len(rows), 32):
        part = by_length[at:at + 32]
        width = max(len(prompts[index]) for index in part)
        ids = torch.tensor([[2] * (width - len(prompts[index])) + prompts[index] for index in part])
        real = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in part])
        settings = {"max_new_tokens": options.tokens, "do_sample": False, "eos_token_id": end, "pad_token_id": end}
        written = model.generate(ids, attention_mask=real, **settings)[:, width:].tolist()
        for index, tokens in zip(part, written):
            answers[index] = tokens[:tokens.index(end) + 1] if end in tokens else tokens
        print(f"{at + len(part)} of {len(rows)} answered", flush=True)
    own = [
        {"ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer} for prompt, answer in zip(prompts, answers)
    ]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(own, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens_folder", metavar="TOKENS")
    parser.add_argument("out")
    parser.add_argument("runs", nargs="+", help=f"own, untrained, or ARM:SEED with an arm of {', '.join(ARMS)}")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--rows", type=int, default=200, help="the first rows, which are trained on")
    parser.add_argument("--heldout", type=int, default=64, help="the last rows, which are measured")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--batches", type=int, default=8, help="batches of the saliency")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--tokens", type=int, default=96, help="most tokens of an own answer")
    parser.add_argument("--windows", type=int, default=6, help="windows of 512 of the text")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    os.makedirs(options.out, exist_ok=True)
    with open(os.path.join(options.tokens_folder, "rows.json"), encoding="utf-8") as file:
        every = json.load(file)
    with open(os.path.join(options.tokens_folder, "text.json"), encoding="utf-8") as file:
        options.text = json.load(file)
    given = every[:options.rows]
    last = [{key: part[:options.seq] for key, part in row.items()} for row in every[-options.heldout:]]
    own_path, log, cut_path = (os.path.join(options.out, name) for name in ("own.json", "runs.jsonl", "masks.pt"))
    if "own" in options.runs and not os.path.exists(own_path):
        write_own(options, [*last, *given], own_path)
    runs = [run for run in options.runs if run != "own"]
    done = set()
    if os.path.exists(log):
        with open(log, encoding="utf-8") as file:
            done = {json.loads(line)["run"] for line in file}
    dense = Decoder(options.model, torch.float32)
    if not os.path.exists(cut_path):
        torch.save(chosen_masks(dense, every[options.rows:-options.heldout], options), cut_path)
    small = sliced(dense, torch.load(cut_path))
    for run in runs:
        if run in done:
            continue
        sets, own = {"given": last}, None
        if os.path.exists(own_path):
            with open(own_path, encoding="utf-8") as file:
                own = json.load(file)
            sets["own"] = own[:options.heldout]
        decoder, figures = copy.copy(small), {}
        if run not in ("untrained", "dense"):
            arm, seed = run.split(":")
            rows = given
            if ARMS[arm][2]:
                if own is None:
                    raise SystemExit("run `own` first")
                rows = own[options.heldout:]
            figures = train(decoder, dense, rows, arm, int(seed), options)
        figures = {"run": run, **figures, **measures(dense if run == "dense" else decoder, dense, sets, options)}
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
