"""Makes fixtures/golden/sampling.json: what transformers' logits processors leave of fixed logits. Owns the logits and the cases.

Development only. Needs torch and transformers. Run: python3 scripts/golden/sampling.py
"""

import json
import random
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "sampling.json"
SEEN = [3, 7, 7, 0, 41, 3]

CASES = [
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 5},  # the 5th largest is as large as the 6th and the 7th
    {"temperature": 1.0, "top_k": 10},
    {"temperature": 1.0, "top_k": 1000},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "top_p": 0.1},
    {"temperature": 1.0, "top_p": 0.43},  # parts equal logits
    {"temperature": 1.0, "top_p": 0.48},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 2.5, "top_p": 0.9},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "repetition_penalty": 0.5},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.8},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.8, "repetition_penalty": 1.2},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.6, "repetition_penalty": 2.0},
]


class Host(GenerationMixin):
    """transformers itself chooses the processors and their order."""

    def __init__(self) -> None:
        self.config = type("Config", (), {"is_encoder_decoder": False, "eos_token_id": None})()


def logits() -> list[float]:
    rng = random.Random(3)
    values = [round(rng.gauss(0, 1.5), 3) for _ in range(48)]
    order = sorted(range(len(values)), key=lambda index: -values[index])
    for index in order[4:7]:
        values[index] = values[order[4]]
    values[order[-1]] = 0.0
    return values


def processed(values: list[float], case: dict) -> list[float]:
    config = GenerationConfig(do_sample=True, **{"top_k": 0, "top_p": 1.0, **case})
    processors = Host()._get_logits_processor(generation_config=config, input_ids_seq_length=len(SEEN), device="cpu", logits_processor=[])
    scores = processors(torch.tensor([SEEN]), torch.tensor([values]))
    return torch.softmax(scores[0].double(), dim=-1).tolist()


def main() -> None:
    values = logits()
    cases = [{**case, "probabilities": [float(f"{p:.9g}") for p in processed(values, case)]} for case in CASES]
    rows = ",\n".join(f"  {json.dumps(case)}" for case in cases)
    OUT.write_text(f'{{\n "logits": {json.dumps(values)},\n "seen": {json.dumps(SEEN)},\n "cases": [\n{rows}\n ]\n}}\n')


if __name__ == "__main__":
    main()
