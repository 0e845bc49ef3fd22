"""Compares `compresso eval --tasks … --out ITEMS --json` with lm-evaluation-harness on the same weights and data, question by question.

Owns the comparison; prompts and metrics of the reference are the harness's own. Exit status 1 where a log-likelihood is off by more than the tolerance, a
decision differs though the two best choices are farther apart than rounding, or a score differs for another reason than such ties.
Development only. Needs lm_eval 0.4.12 or later, torch and transformers; nothing is fetched. See lm_eval_compare.sh.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import lm_eval_local
import lm_eval

# Both sum f32 log-probabilities of tokens, each good to some 1e-6 of its logits' size (about 20), in other orders of summation.
TOLERANCE = 2e-4
RELATIVE = 2e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--limit", type=int, required=True, help="questions of each task, or of each subset")
    parser.add_argument("--items", required=True, help="what compresso eval --out wrote")
    parser.add_argument("--scores", required=True, help="what compresso eval --json printed")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()

    ours = defaultdict(list)
    lines = [json.loads(line) for line in Path(args.items).read_text("utf-8").splitlines()]
    for line in sorted(lines[1:], key=lambda line: line["place"]):
        ours[line["task"], line["subset"]].append(line)
    scores = json.loads(Path(args.scores).read_text("utf-8"))["tasks"]

    names = args.tasks.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        made, manager = lm_eval_local.prepare(args.data, names, scratch)
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": args.model, "dtype": "float32"},
            tasks=[local for _, _, local in made],
            task_manager=manager,
            limit=args.limit,
            batch_size=args.batch,
            device="cpu",
            log_samples=True,
            bootstrap_iters=100,  # 0 would leave out all standard errors; those of means need no bootstrap
        )
    failed = False
    for name, subset, local in made:
        key = subset if name in lm_eval_local.GROUPS else ""
        mine = ours[name, key]
        theirs = sorted(results["samples"][local], key=lambda sample: sample["doc_id"])
        failed |= not compare(f"{name} {subset}".strip(), mine, theirs)
    for name in names:
        if name not in lm_eval_local.GROUPS:
            failed |= not compare_scores(name, scores[name], results["results"][f"local_{name}"])
    sys.exit(1 if failed else 0)


def compare(name, mine, theirs):
    """Prints how the questions of a task agree; False where they do not."""
    if len(mine) != len(theirs):
        print(f"{name}: {len(mine)} questions of ours, {len(theirs)} of the harness")
        return False
    worst, off, differing, ties = 0.0, 0, [], []
    for own, sample in zip(mine, theirs):
        likelihoods = [float(response[0][0]) for response in sample["resps"]]
        errors = [abs(a - b) for a, b in zip(own["scores"], likelihoods, strict=True)]
        worst = max(worst, *errors)
        off += sum(error > TOLERANCE + RELATIVE * abs(b) for error, b in zip(errors, likelihoods))
        lengths = [len(choice) for choice in choices_of(sample)]
        for metric, values, theirs_values, picked in (
            ("acc", own["scores"], likelihoods, own["picked"]),
            ("acc_norm", per(own["scores"], lengths), per(likelihoods, lengths), own["picked_norm"]),
        ):
            reference = max(range(len(theirs_values)), key=lambda index: (theirs_values[index], -index))
            best, second = sorted(values, reverse=True)[:2]
            noise = (2 * max(errors) if metric == "acc" else 2 * max(e / n for e, n in zip(errors, lengths))) + 1e-12
            if best - second <= noise:
                ties.append(f"{own['label']} {metric}: two best {best - second:.2e} apart, rounding {noise:.2e}"
                            + ("" if picked == reference else ", decided otherwise"))
            elif picked != reference:
                differing.append(f"{own['label']} {metric}: ours {picked}, the harness's {reference}")
            if metric in sample and picked == reference and int(sample[metric]) != int(picked == own["answer"]):
                differing.append(f"{own['label']} {metric}: the harness counts it otherwise")
    print(f"{name}: {len(mine)} questions, log-likelihoods differ by at most {worst:.2e}, decisions differ in {len(differing)}, "
          f"{len(ties)} too close to call")
    for line in differing + ties:
        print(f"  {line}")
    if off:
        print(f"  {off} log-likelihoods off by more than {TOLERANCE} + {RELATIVE} of their size")
    return not differing and not off


def choices_of(sample):
    """The texts whose lengths acc_norm divides by: continuations without the space before, or the contexts where each choice has its own."""
    arguments = [(args["arg_0"], args["arg_1"]) for args in sample["arguments"].values()] if isinstance(sample["arguments"], dict) \
        else [tuple(args) for args in sample["arguments"]]
    contexts = {context for context, _ in arguments}
    return [context for context, _ in arguments] if len(contexts) > 1 else [text[1:] for _, text in arguments]


def per(values, lengths):
    return [value / length for value, length in zip(values, lengths)]


def compare_scores(name, own, theirs):
    pairs = [(own[ours], theirs.get(f"{metric},none")) for ours, metric in (
        ("acc", "acc"), ("stderr", "acc_stderr"), ("acc_norm", "acc_norm"), ("acc_norm_stderr", "acc_norm_stderr"))]
    said = ", ".join("-" if b is None else f"{a:.6f} and {b:.6f}" for a, b in pairs if isinstance(b, (float, type(None))))
    print(f"{name}: acc, its error, acc_norm, its error (ours and the harness's): {said}")
    # A question whose two best choices are equal but for rounding may move a score by one question.
    return all(b is None or abs(a - b) <= 1.5 / own["n"] for a, b in pairs[::2] if not isinstance(b, str))


if __name__ == "__main__":
    main()
