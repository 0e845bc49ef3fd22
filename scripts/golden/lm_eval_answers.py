"""Makes fixtures/tasks/golden_answers.json: what lm-evaluation-harness's gsm8k and humaneval ask, and what the filters and the metric of gsm8k make of answers. Owns the cases.

Development only. Needs lm_eval 0.4.12 or later. Run: python3 scripts/golden/lm_eval_answers.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.utils import apply_template

TASKS = Path(lm_eval.tasks.__file__).parent
FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "tasks"
# Numbers of references and answers: signs, separators, full stops, decimals, none, several, marks twice, other digits, line breaks.
REFERENCES = ["6 * 3 = <<6*3=18>>18\n#### 18", "#### 1,200", "#### -5", "18", "2.5", "#### $7", "a #### 3 #### 4", "18.", "0"]
ANSWERS = [
    "#### 18", "The answer is 18.", "18", "$18", "18.0", "18,", "1,8", " #### 18\n\nQuestion: 19", "####18", "#### 18 apples",
    "#### $18", "She has 18 eggs, not 19.", "19, no: 18", "It is 18\n", "eighteen", "", "#### 1200", "$1,200.00", "1,200.",
    "He pays $1,200.", "#### -5", "-5", "- 5", "5", "minus 5", "3-5", "#### 3\n#### 4", "4. Then 3.", "3 4", "#### 4",
    "2.5", "2.50", ".5", "2.5.", "#### 2.5", "7", "$7", "#### 7.", "#### $7", "7$", "...", "$", ",", "-", "1.", "1..",
    "#### .", "#### ,", "١٨", "１８", "18\u00a0", "1\u00a0200", "18%", "18/2", "2^18", "0", "00", "-0", "0.", "1e3",
    "The 2nd of 3 is 18th", "18\u2028", "#### 18\r\n", "####  18", "### 18", "##### 18", "#### 18.\n", "#### 18..", "18 .",
]


def main():
    task = yaml.load((TASKS / "gsm8k" / "gsm8k.yaml").read_text("utf-8"), yaml.SafeLoader)
    metric = {key: value for key, value in task["metric_list"][0].items() if key.startswith(("ignore_", "regexes_"))}
    filters = {}
    for one in task["filter_list"]:
        regex = {key: value for key, value in one["filter"][0].items() if key != "function"}
        filters[one["name"]] = RegexFilter(**regex)
    cases = []
    for text in ANSWERS:
        found = {name: of.apply([[text]], [{}])[0][0] for name, of in filters.items()}
        right = {
            name: [
                place
                for place, reference in enumerate(REFERENCES)
                if exact_match_hf_evaluate([value], [reference], **metric)["exact_match"]
            ]
            for name, value in found.items()
        }
        cases.append({"text": text, "found": found, "right": right})
    rows, problems = read("gsm8k"), read("humaneval")
    plain, instruct = code_task("humaneval"), code_task("humaneval_instruct")
    result = {
        "lm_eval": version("lm_eval"),
        "references": REFERENCES,
        "cases": cases,
        "gsm8k": {
            "asked": [apply_template(task["doc_to_text"], row) for row in rows],
            "answers": [apply_template(task["doc_to_target"], row) for row in rows],
            "until": task["generation_kwargs"]["until"],
            "shots": task["num_fewshot"],
        },
        "humaneval": {
            "asked": [apply_template(plain["doc_to_text"], row) for row in problems],
            "chat": [[apply_template(instruct[part], row) for part in ("doc_to_text", "gen_prefix")] for row in problems],
            "tests": [apply_template(plain["doc_to_target"], row) for row in problems],
            "until": plain["generation_kwargs"]["until"],
            "max_tokens": plain["generation_kwargs"]["max_gen_toks"],
        },
    }
    # A case each line; line separators are escaped.
    lines = ",\n  ".join(json.dumps(case) for case in result.pop("cases"))
    text = json.dumps({"cases": [], **result}, indent=1).replace('"cases": []', f'"cases": [\n  {lines}\n ]')
    (FOLDER / "golden_answers.json").write_text(text + "\n", "utf-8")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.test.jsonl").read_text("utf-8").splitlines()]


def code_task(name):
    """A task of the harness without its functions."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load((TASKS / "humaneval" / f"{name}.yaml").read_text("utf-8"), Loader)


if __name__ == "__main__":
    main()
