"""Short trials of what to cut and how to train, in torch and bfloat16.

Owns these trials; the product's own runs are another matter. Written after the first trials of docs/evidence/trials.md, from
what made them; those figures were not made again by it. `tokens.ts` writes the folder TOKENS first. FFN columns
alone are cut, as many as make the sparsity of all layers' linear weights. With glibc,
MALLOC_MMAP_THRESHOLD_=8388608 in the environment keeps the memory of long trials low.
Needs torch, transformers, accelerate and gguf.

  python prototype.py MODEL TOKENS saliency               untrained perplexity after a cut by each rule
  python prototype.py MODEL TOKENS recover --how lora     training from masks that stay
  python prototype.py MODEL TOKENS gradual                masks chosen anew every three steps
"""

import argparse
import json
import math
import os
import time

import torch
import torch.nn.functional as F

from decoder import IGNORED, Decoder, Rows, response_loss

BLOCK = 64
CHOICE_EVERY = 3


def cut(scores, count):
    """Masks without the columns of the lowest scores; scores [layers, ffn]."""
    masks = torch.ones(scores.numel())
    if count > 0:
        masks[scores.flatten().topk(count, largest=False).indices] = 0
    return list(masks.view_as(scores))


def columns_of(decoder, sparsity):
    """How many FFN columns make this share of the linear weights."""
    total = sum(weight.numel() for weights in decoder.weights for weight in weights.values())
    return round(sparsity * total / (3 * decoder.hidden))


def block_masks(masks, ids):
    """The same masks for each block of tokens, to take gradients of."""
    return [mask.detach().float().expand(ids.numel() // BLOCK, -1).clone().requires_grad_() for mask in masks]


def mask_gradients(decoder, rows, batches, labels_of):
    """Gradients of the masks at 1, block by block: [blocks, layers, ffn]."""
    ones, parts = [torch.ones(decoder.ffn)] * decoder.layers, []
    for _ in range(batches):
        ids, labels, _real = rows.next()
        masks = block_masks(ones, ids)
        hidden = decoder.body(ids, masks)
        loss = response_loss(decoder, hidden, labels_of(decoder, hidden, labels))
        parts.append(torch.stack(torch.autograd.grad(loss, masks), 1))
    return torch.cat(parts)


def given_labels(_decoder, _hidden, labels):
    return labels


@torch.no_grad()
def drawn_labels(decoder, hidden, labels):
    """In place of each label one that the model draws: the Fisher matrix itself and not the empirical one."""
    counts = labels[:, 1:] != IGNORED
    drawn = labels.clone()
    chances = decoder.logits(hidden[:, :-1][counts]).softmax(-1)
    drawn[:, 1:][counts] = torch.multinomial(chances, 1)[:, 0]
    return drawn


def gate_shape(decoder):
    """Squared norms of the gate's rows behind the norm's weight, as shares of the layer's mean: [layers, ffn]."""
    gate = torch.stack([
        (weights["gate"].float() * norms[1]).pow(2).sum(1) for weights, norms in zip(decoder.weights, decoder.norms)
    ])
    return gate / gate.mean(1, keepdim=True)


def with_prior(scores, gate, weight):
    """The product's prior: the layer's median times the square of the gate's shape, added to scores [layers, ffn]."""
    return scores + weight * scores.median(1, keepdim=True).values * gate.pow(2)


def prior_of(decoder, options):
    """What is added to scores: the product's prior, or the squares that other rows give the dense model, by their mean."""
    if options.other is None:
        gate = gate_shape(decoder)
        return lambda scores: with_prior(scores, gate, options.prior)
    rows = Rows(os.path.join(options.other, "rows.json"), options.seed)
    squares = mask_gradients(decoder, rows, options.batches, given_labels).pow(2).mean(0)
    return lambda scores: scores / scores.mean() + options.other_weight * squares / squares.mean()


def show_saliency(decoder, options):
    gate = gate_shape(decoder)
    for name, labels_of in (("given labels", given_labels), ("drawn labels", drawn_labels)):
        torch.manual_seed(options.seed)
        gradients = mask_gradients(decoder, Rows(options.rows, options.seed), options.batches, labels_of)
        squares = gradients.pow(2)
        norms = squares.sum((1, 2), keepdim=True)
        mean = squares.mean(0)
        floor = mean.median(1, keepdim=True).values
        rules = {
            "squares": mean,
            "absolute values": gradients.abs().mean(0),
            "squares of blocks of equal norm": (squares / norms.clamp_min(1e-12)).mean(0),
            "squares + the layer's median": mean + floor,
            "squares + the layer's median x relative square of the gate's row": mean + floor * gate,
            "the same, the factor squared": with_prior(mean, gate, 1),
        }
        for rule, scores in rules.items():
            masks = cut(scores, options.count)
            print(f"{name}, {rule}: {measure(decoder, masks, options)}", flush=True)


def measure(decoder, masks, options):
    return round(decoder.perplexity(options.text, masks, options.windows), 2)


def training_loss(decoder, batch, masks, options):
    ids, labels, real = batch
    states = [] if options.hidden_weight > 0 else None
    hidden = decoder.body(ids, masks, states=states)
    loss = response_loss(decoder, hidden, labels)
    if options.hidden_weight == 0 and options.kl_share == 0:
        return loss
    dense_states = None if states is None else []
    with torch.no_grad():
        dense = decoder.body(ids, None, lora=False, states=dense_states)
    if options.kl_share > 0:
        where = labels[:, 1:] != IGNORED if options.kl_on == "labels" else real[:, :-1]
        ours, theirs = (decoder.logits(x[:, :-1][where]).log_softmax(-1) for x in (hidden, dense))
        divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        loss = (1 - options.kl_share) * loss + options.kl_share * divergence
    if states is not None:
        errors = [
            ((a[real] - b[real]).pow(2).mean(-1) / b[real].pow(2).mean(-1)).mean() for a, b in zip(states, dense_states)
        ]
        loss = loss + options.hidden_weight * sum(errors) / len(errors)
    return loss


def train(decoder, parameters, options, masks_at, on_gradients=None):
    """AdamW with a warm-up of 5 steps and a global norm of 1; the last `decay` steps lower the rate to 0."""
    optimizer = torch.optim.AdamW(parameters, weight_decay=0)
    rows, start = Rows(options.rows, options.seed, options.batch), time.time()
    for step in range(options.steps):
        batch, masks = rows.next(), masks_at(step)
        blocks = block_masks(masks, batch[0]) if on_gradients else masks
        loss = training_loss(decoder, batch, blocks, options)
        gradients = torch.autograd.grad(loss, [*parameters, *(blocks if on_gradients else [])])
        own, others = gradients[:len(parameters)], gradients[len(parameters):]
        norm = math.sqrt(sum(gradient.pow(2).sum().item() for gradient in own))
        rate = options.rate * min(1, (step + 1) / 5)
        if options.steps - step < options.decay:
            rate *= max(0.02, (options.steps - step) / options.decay)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(parameters, own):
            parameter.grad = gradient / max(1.0, norm)
        optimizer.step()
        if on_gradients:
            on_gradients(step, torch.stack(others, 1))
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            perplexity, seconds = measure(decoder, masks_at(step), options), (time.time() - start) / (step + 1)
            print(f"step {step + 1}: loss {loss.item():.3f}, perplexity {perplexity}, {seconds:.1f} s/step", flush=True)


def recover(decoder, options):
    rows = Rows(options.rows, 1)
    scores = mask_gradients(decoder, rows, options.batches, given_labels).pow(2).mean(0)
    masks = cut(prior_of(decoder, options)(scores), options.count)
    print(f"untrained: perplexity {measure(decoder, masks, options)}", flush=True)
    parameters = decoder.train_all() if options.how == "all" else decoder.add_lora(options.rank, options.seed)
    train(decoder, parameters, options, lambda _step: masks)


def gradual(decoder, options):
    first, last = options.before, options.steps - options.after
    scores, salient = torch.zeros(decoder.layers, decoder.ffn), prior_of(decoder, options)
    state = {"masks": [torch.ones(decoder.ffn)] * decoder.layers, "steps": 0}

    def masks_at(step):
        done = step - first
        if 0 < done <= last - first and (done % CHOICE_EVERY == 0 or step == last):
            progress = min(1, done / (options.warmup * (last - first)))
            state["masks"] = cut(salient(scores), round(options.count * (1 - (1 - progress) ** 3)))
        return state["masks"]

    def on_gradients(step, gradients):
        if step >= last:
            return
        squares = gradients.pow(2)
        if options.equal_blocks:
            squares = squares / squares.sum((1, 2), keepdim=True).clamp_min(1e-18)
        state["steps"] += 1
        memory = min(options.memory, 1 - 1 / state["steps"])
        scores.mul_(memory).add_(squares.sum(0), alpha=1 - memory)

    train(decoder, decoder.add_lora(options.rank, options.seed), options, masks_at, on_gradients)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("trial", choices=["saliency", "recover", "gradual"])
    parser.add_argument("--how", choices=["lora", "all"], default="lora", help="what recover trains")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--batches", type=int, default=8, help="batches of the saliency")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prior", type=float, default=0, help="weight of what the gate's rows say of a column")
    parser.add_argument("--other", help="folder of tokens whose saliency in the dense model is added, in place of a prior")
    parser.add_argument("--other-weight", type=float, default=10)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--decay", type=int, default=0, help="last steps, over which the rate falls to 0")
    parser.add_argument("--kl-share", type=float, default=0, help="share of KL to the dense model in the loss")
    parser.add_argument("--kl-on", choices=["tokens", "labels"], default="tokens", help="where the KL is taken")
    parser.add_argument("--hidden-weight", type=float, default=0, help="weight of the relative error of hidden states")
    parser.add_argument("--before", type=int, default=10, help="gradual: steps before the first cut")
    parser.add_argument("--after", type=int, default=20, help="gradual: steps with the last masks")
    parser.add_argument("--warmup", type=float, default=0.85, help="gradual: share of its steps until the target")
    parser.add_argument("--memory", type=float, default=0.96)
    parser.add_argument("--equal-blocks", action="store_true", help="gradual: every block of tokens weighs the same")
    parser.add_argument("--every", type=int, default=30, help="steps between two measurements")
    parser.add_argument("--windows", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    options.rows = os.path.join(options.tokens, "rows.json")
    with open(os.path.join(options.tokens, "text.json"), encoding="utf-8") as file:
        options.text = json.load(file)
    decoder = Decoder(options.model)
    options.count = columns_of(decoder, options.sparsity)
    print(f"{options.count} FFN columns fall; dense perplexity {measure(decoder, None, options)}", flush=True)
    {"saliency": show_saliency, "recover": recover, "gradual": gradual}[options.trial](decoder, options)


if __name__ == "__main__":
    main()
