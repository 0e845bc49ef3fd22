"""lm-evaluation-harness on local files: its own tasks, with their data read from a folder. Owns where data come from; prompts and metrics stay the harness's.

Development only. Needs lm_eval 0.4.12 or later and datasets; nothing is fetched.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval.tasks
from lm_eval.tasks import TaskManager

TASKS = Path(lm_eval.tasks.__file__).parent

# The harness's own definition of each task, and the split whose questions it asks.
SOURCES = {
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "test"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "winogrande": ("winogrande/default.yaml", "validation"),
    "boolq": ("super_glue/boolq/default.yaml", "validation"),
    "race": ("race/race.yaml", "test"),
    "storycloze_2016": ("storycloze/storycloze_2016.yaml", "test"),
    "storycloze_2018": ("storycloze/storycloze_2018.yaml", "test"),
}
# Tasks of many subsets: the field that names a row's subset, the harness's file for one, and the split of the examples.
GROUPS = {
    "mmlu": ("subject", "mmlu/default/mmlu_{}.yaml", "dev", 5),
    "bbh": ("subset", "leaderboard/bbh_mc/{}.yaml", "fewshot", 3),
}
SPLITS = ("test", "validation", "valid")


def find(folder, name, splits=SPLITS):
    """The JSON lines of a task, or None."""
    return next((path for split in splits if (path := Path(folder) / f"{name}.{split}.jsonl").exists()), None)


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def prepare(folder, names, scratch):
    """Writes a task file beside the data of each task. Returns [(our task, subset, the harness's name)] and the task manager."""
    scratch = Path(scratch)
    made = []
    for name in names:
        if name in SOURCES:
            source, split = SOURCES[name]
            path = find(folder, name)
            if path is None:
                raise SystemExit(f"no data of {name} in {folder}")
            rows = [hellaswag(row) for row in read(path)] if name == "hellaswag" else read(path)
            made.append((name, "", task(scratch, name, source, {split: rows})))
            continue
        field, pattern, shot_split, shots = GROUPS[name]
        subsets, examples = defaultdict(list), defaultdict(list)
        for row in read(find(folder, name, ("test",))):
            subsets[row[field]].append(row)
        for row in read(find(folder, name, (shot_split,))):
            examples[row[field]].append(row)
        for subset, rows in subsets.items():
            source = pattern.format(subset)
            if name == "mmlu":
                local = task(scratch, f"{name}_{subset}", source, {"test": rows, "dev": examples[subset]}, {"num_fewshot": shots})
            else:
                samples = [{"input": row["input"], "target": row["target"]} for row in examples[subset]]
                shot = {"num_fewshot": shots, "fewshot_config": {"sampler": "first_n", "samples": samples}}
                local = task(scratch, f"{name}_{subset}", source, {"test": rows}, shot)
            made.append((name, subset, local))
    return made, TaskManager(include_path=str(scratch))


def task(scratch, name, source, splits, more=None):
    """Writes one task that includes the harness's file and reads local data; JSON is YAML."""
    files = {split: write(scratch / f"{name}.{split}.jsonl", rows) for split, rows in splits.items()}
    config = {
        "include": str(TASKS / source),
        "task": f"local_{name}",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(scratch / "cache")},
        "training_split": None,
        "validation_split": "validation" if "validation" in splits else None,
        "test_split": "test" if "test" in splits else None,
        **(more or {}),
    }
    (scratch / f"local_{name}.yaml").write_text(json.dumps(config), "utf-8")
    return config["task"]


def hellaswag(row):
    """A row with `ctx` alone gets the fields that the harness wants, such that it makes the same text of them."""
    if "ctx_a" in row:
        return row
    label, _, rest = row["ctx"].partition(": ")
    return {**row, "activity_label": label, "ctx_a": rest, "ctx_b": ""}
