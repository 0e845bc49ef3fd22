"""Writes bbh.fewshot.jsonl: the three examples of each BIG-bench-hard subset that an installed lm-evaluation-harness puts before its questions.

The toolkit ships no examples, as they are data; `compresso eval --tasks bbh` reads this file. Needs lm_eval 0.4.12 or later. Run: python3 scripts/check/bbh_examples.py DIR
"""

import json
import sys
from pathlib import Path

import yaml

from lm_eval_local import TASKS


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = []
    for path in sorted((TASKS / "leaderboard" / "bbh_mc").glob("*.yaml")):
        config = yaml.safe_load(path.read_text("utf-8"))
        for sample in config.get("fewshot_config", {}).get("samples", []):
            rows.append({"subset": config["dataset_name"], "input": sample["input"], "target": sample["target"]})
    Path(sys.argv[1], "bbh.fewshot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{len(rows)} examples")


if __name__ == "__main__":
    main()
