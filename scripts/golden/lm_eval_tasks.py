"""Makes fixtures/tasks/golden.json: what lm-evaluation-harness asks of the rows in fixtures/tasks, how it scores made-up likelihoods, and how its model
class divides texts into tokens. Owns the cases.

Development only. Needs lm_eval 0.4.12 or later and datasets. Run: python3 scripts/golden/lm_eval_tasks.py
"""

import json
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "check"))
import lm_eval_local  # noqa: E402
from lm_eval.api.metrics import mean, mean_stderr, pooled_sample_stderr  # noqa: E402

from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

FOLDER = ROOT / "fixtures" / "tasks"
TOKENIZERS = ROOT / "fixtures" / "tokenizer"
# Spaces at the end of a context, words that grow across the border, no context, and contexts that begin with a special token.
PAIRS = [
    ["Question: what is it?\nAnswer:", " a stone"],
    ["The river carries a stone. ", "The winter"],
    ["Window  \t\n", " x"],
    ["under", "stand"],
    ["un", "derstanding the winter"],
    ["a\u3000\x1c\x85", "b"],
    ["", "The garden"],
    ["", " a"],
    ["<s>The river", " finds"],
    ["<|end|>The river", " finds"],
    ["", "<s>"],
    ["été 🌱 ", "🌱"],
]
NAMES = [*lm_eval_local.SOURCES, *lm_eval_local.GROUPS]


def main():
    rng = random.Random(7)
    golden = {}
    with tempfile.TemporaryDirectory() as scratch:
        names = [name for name in NAMES if lm_eval_local.find(FOLDER, name)]
        made, manager = lm_eval_local.prepare(FOLDER, names, scratch)
        for name, subset, local in made:
            task = next(iter(manager.load_task_or_group([local]).values()))
            task.set_fewshot_seed(1234)
            # Both accuracies, also where the harness's task asks for one of them only.
            for metric in ("acc", "acc_norm"):
                task._metric_fn_list.setdefault(metric, None)
            task.build_all_requests()
            items = []
            for doc_id, doc in enumerate(task.eval_docs):
                requests = [instance for instance in task.instances if instance.doc_id == doc_id]
                # Coarse numbers, so that some choices are equal.
                scores = [-float(rng.randint(2, 6)) for _ in requests]
                result = task.process_results(doc, [(score, False) for score in scores])
                items.append({
                    "requests": [list(instance.args) for instance in requests],
                    "scores": scores,
                    "acc": result["acc"],
                    "acc_norm": result["acc_norm"],
                })
            golden.setdefault(name, {})[subset] = items
    tasks = {name: {"subsets": subsets, **summary(subsets)} for name, subsets in golden.items()}
    pairs = {folder.name: encoded(folder) for folder in sorted(TOKENIZERS.iterdir()) if folder.is_dir()}
    text = json.dumps({"lm_eval": version("lm_eval"), "tasks": tasks, "pairs": pairs}, ensure_ascii=False, indent=1)
    (FOLDER / "golden.json").write_text(text + "\n", "utf-8")


def summary(subsets):
    """Mean and standard error of both accuracies, over subsets by the harness's pooling; None where it gives none."""
    result = {}
    for metric in ("acc", "acc_norm"):
        values = [[item[metric] for item in items] for items in subsets.values()]
        result[metric] = mean([value for part in values for value in part])
        errors = [mean_stderr(part) if len(part) > 1 else None for part in values]
        sizes = [len(part) for part in values]
        if None in errors:
            result[f"{metric}_stderr"] = None
        else:
            result[f"{metric}_stderr"] = errors[0] if len(errors) == 1 else float(pooled_sample_stderr(errors, sizes))
    return result


def encoded(folder):
    """Context and continuation of each pair as the harness's class for transformers encodes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = SimpleNamespace(tokenizer=tokenizer, add_bos_token=None, backend="causal")
    model.prefix_token_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    model.tok_encode = lambda text, **more: HFLM.tok_encode(model, text, **more)
    model._encode_pair = lambda context, continuation: TemplateLM._encode_pair(model, context, continuation)
    model._loglikelihood_tokens = lambda requests, **_: requests
    requests = [SimpleNamespace(args=tuple(pair)) for pair in PAIRS]
    return [
        {"context": pair[0], "continuation": pair[1], "context_ids": list(before), "continuation_ids": list(after)}
        for pair, (_, before, after) in zip(PAIRS, TemplateLM.loglikelihood(model, requests, disable_tqdm=True))
    ]


if __name__ == "__main__":
    main()
