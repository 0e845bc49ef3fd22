"""Makes fixtures/tasks/golden.json: what lm-evaluation-harness asks of the rows in fixtures/tasks, and how it scores made-up likelihoods. Owns the cases.

Development only. Needs lm_eval 0.4 and datasets. Run: python3 scripts/golden/lm_eval_tasks.py
"""

import json
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "check"))
import lm_eval_local  # noqa: E402
from lm_eval.api.metrics import mean, mean_stderr, pooled_sample_stderr  # noqa: E402

FOLDER = ROOT / "fixtures" / "tasks"
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
    text = json.dumps({"lm_eval": version("lm_eval"), "tasks": tasks}, ensure_ascii=False, indent=1)
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


if __name__ == "__main__":
    main()
