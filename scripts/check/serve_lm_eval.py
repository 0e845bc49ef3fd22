"""Compares `compresso eval --tasks … --out ITEMS --json` with lm-evaluation-harness's local-completions asking `compresso serve`, question by question.

Owns how the harness reaches the server; the comparison is that of lm_eval_compare.py. Exit status 1 where they differ.
Development only. Needs lm_eval 0.4.12 or later and its api extra, and transformers for the tokenizer; nothing is fetched. See serve_lm_eval.sh.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import lm_eval_local
from lm_eval_compare import compare, compare_scores
import lm_eval


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="what the server says, with /v1 at its end")
    parser.add_argument("--tokenizer", required=True, help="Hugging Face folder of the served model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", required=True, help="tasks without subsets, with commas between")
    parser.add_argument("--limit", type=int, required=True, help="questions of each task")
    parser.add_argument("--items", required=True, help="what compresso eval --out wrote")
    parser.add_argument("--scores", required=True, help="what compresso eval --json printed")
    parser.add_argument("--batch", type=int, default=8, help="prompts of a request")
    args = parser.parse_args()

    ours = defaultdict(list)
    lines = [json.loads(line) for line in Path(args.items).read_text("utf-8").splitlines()]
    for line in sorted(lines[1:], key=lambda line: line["place"]):
        ours[line["task"]].append(line)
    scores = json.loads(Path(args.scores).read_text("utf-8"))["tasks"]
    context = json.loads((Path(args.tokenizer) / "config.json").read_text("utf-8"))["max_position_embeddings"]

    names = args.tasks.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        made, manager = lm_eval_local.prepare(args.data, names, scratch)
        results = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": "checked",
                "base_url": f"{args.url}/completions",
                "tokenizer": args.tokenizer,
                "tokenizer_backend": "huggingface",
                "max_length": context,
            },
            tasks=[local for _, _, local in made],
            task_manager=manager,
            limit=args.limit,
            batch_size=args.batch,
            log_samples=True,
            bootstrap_iters=0,
        )
    same = True
    for name, _, local in made:
        theirs = sorted(results["samples"][local], key=lambda sample: sample["doc_id"])
        same &= compare(name, ours[name], theirs)
        same &= compare_scores(name, scores[name], results["results"][local])
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
