"""Loads a Hugging Face folder that Compresso wrote with stock transformers, and compares it with figures of ours.

Owns that comparison; writes nothing. Logits: of the tokens in a JSON file of dump_logits.ts, all at once and again one
token at a time through the KV cache. Perplexity: by the protocol of protocol.py, against the JSON that `eval --json`
prints, or a number.
"""

import argparse
import json
import math
import sys

from protocol import load_model, load_tokenizer, perplexity, read_text, step_with_cache, torch


def compare_logits(model, path, tolerance, failures, figures):
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    ids = torch.tensor([given["tokens"]])
    ours = torch.tensor(given["logits"], dtype=torch.float64).reshape(ids.shape[1], -1)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[0].double()
        cache, rows = None, []
        for position in range(ids.shape[1]):
            logits, cache = step_with_cache(model, ids[:, position:position + 1], cache)
            rows.append(logits[0, 0].double())
    if whole.shape != ours.shape:
        failures.append(f"logits have shape {tuple(whole.shape)}, ours {tuple(ours.shape)}")
        return
    largest = whole.abs().max().item()
    for name, theirs in (("logits", whole), ("logits through the cache", torch.stack(rows))):
        difference = (theirs - ours).abs()
        worst = difference.argmax().item()
        relative = difference.flatten()[worst].item() / largest
        where = f"position {worst // ours.shape[1]}, token {worst % ours.shape[1]}"
        figures.append(f"{name} differ by at most {relative:.2e} of the largest, {largest:.2f} ({where})")
        if not relative <= tolerance:  # so that NaN fails
            failures.append(f"{name} differ by {relative:.2e}")


def compare_perplexity(model, folder, options, failures, figures):
    expected, windows = options.perplexity, options.max_windows
    if options.eval:
        with open(options.eval, encoding="utf-8") as file:
            evaluation = json.load(file)
        expected, windows = evaluation["perplexity"], evaluation["windows"]
    tokenizer = load_tokenizer(folder, trust_remote_code=True)
    found = perplexity(model, tokenizer, read_text(options.text, options.limit_chars), options.window, windows)
    percent = 100 * (expected / found["perplexity"] - 1)
    figures.append(
        f"perplexity {found['perplexity']:.4f} over {found['windows']} windows of {options.window}, "
        f"ours {expected:.4f} ({percent:+.3f} %)"
    )
    if options.eval and found["windows"] != windows:
        failures.append(f"ours covers {windows} windows, the text has {found['windows']}")
    if not abs(percent) <= options.tolerance:
        failures.append(f"perplexity is {percent:+.3f} % off")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="+", help="Hugging Face folders; their own modelling code is trusted")
    parser.add_argument("--logits", help="JSON of dump_logits.ts: {tokens, logits}; {} in its path stands for the folder")
    parser.add_argument("--text", help="UTF-8 text to measure the perplexity on")
    parser.add_argument("--eval", help="JSON with our perplexity and windows, as 'eval --json' prints it")
    parser.add_argument("--perplexity", type=float, default=math.nan, help="our perplexity, in place of --eval")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window (512)")
    parser.add_argument("--limit-chars", type=int, default=160000, help="characters to use, 0 for all (160000)")
    parser.add_argument("--max-windows", type=int, default=0, help="windows to measure without --eval, 0 for all (0)")
    parser.add_argument("--tolerance", type=float, default=0.5, help="largest perplexity difference in percent (0.5)")
    parser.add_argument("--logit-tolerance", type=float, default=1e-3,
                        help="largest difference of a logit as part of the largest |logit| (0.001)")
    parser.add_argument("--double", action="store_true", help="compute in float64, where float32's own noise is too much")
    options = parser.parse_args()
    wants_perplexity = bool(options.eval) or not math.isnan(options.perplexity)
    if not options.logits and not wants_perplexity:
        parser.error("nothing to compare: give --logits, --eval or --perplexity")
    if wants_perplexity != bool(options.text):
        parser.error("--text goes with --eval or --perplexity")

    return max([check(folder, options, wants_perplexity) for folder in options.folder])


def check(folder, options, wants_perplexity):
    failures, figures = [], []
    try:
        model = load_model(folder, trust_remote_code=True)
        if options.double:
            model = model.double()
        figures.append(f"{type(model).__name__}, {sum(weight.numel() for weight in model.parameters())} parameters")
        if options.logits:
            compare_logits(model, options.logits.replace("{}", folder), options.logit_tolerance, failures, figures)
        if wants_perplexity:
            compare_perplexity(model, folder, options, failures, figures)
    except Exception as error:  # whatever transformers raises on a folder is what this check is for
        failures.append(f"{type(error).__name__}: {error}".replace("\n", " "))
    print(f"FAIL {'; '.join(failures)} | {'; '.join(figures)}" if failures else f"PASS {'; '.join(figures)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
