"""Writes the reference figures of a model, measured with transformers and torch in float32, to a JSON file.

Owns the reference; compares nothing (compare_smollm2.ts, reload_hf.py and llama_cpp.mjs do). The figures are the
perplexity of a text by the protocol of protocol.py, with the NLL of each window (so a check may stop after fewer
windows), and greedy continuations of a few prompts. The text itself is not copied into the JSON, only its digest.
"""

import argparse
import hashlib
import json
import os
import sys

from protocol import greedy, load_model, load_tokenizer, perplexity, read_text

# Chosen so that no step of SmolLM2-135M-Instruct is a near tie, and so that one continuation ends by itself.
PROMPTS = [
    "The three states of matter are",
    "def fibonacci(n):\n",
    "The sun rises in the east and",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Hugging Face folder or GGUF file (an architecture that transformers reads)")
    parser.add_argument("--text", required=True, help="UTF-8 text file to measure the perplexity on")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window (512)")
    parser.add_argument("--limit-chars", type=int, default=160000, help="characters to use, 0 for all (160000)")
    parser.add_argument("--max-windows", type=int, default=0, help="windows to measure, 0 for all (0)")
    parser.add_argument("--prompt", action="append", help="prompt to continue, may be repeated (three built-in ones)")
    parser.add_argument("--max-tokens", type=int, default=40, help="tokens of each continuation (40)")
    parser.add_argument("--special-tokens", action="store_true", help="put the tokenizer's special tokens around prompts")
    parser.add_argument("--figures-only", action="store_true", help="leave out the continuations' text")
    options = parser.parse_args()

    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    text = read_text(options.text, options.limit_chars)
    generations = [
        greedy(model, tokenizer, prompt, options.max_tokens, options.special_tokens)
        for prompt in options.prompt or PROMPTS
    ]
    if options.figures_only:
        for generation in generations:
            del generation["text"]
    figures = perplexity(model, tokenizer, text, options.window, options.max_windows)
    record = {
        "model": os.path.basename(os.path.normpath(options.model)),
        "text": {
            "name": os.path.basename(options.text),
            "limit_chars": options.limit_chars,
            "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        },
        "window": options.window,
        **figures,
        "generations": generations,
    }
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.write("\n")
    margins = ", ".join(f"{generation['smallest_margin']:.3f}" for generation in generations)
    print(
        f"PASS wrote {options.out}: perplexity {figures['perplexity']:.4f} over {figures['windows']} windows of "
        f"{options.window} tokens; {len(generations)} continuations, smallest margins {margins}"
    )


if __name__ == "__main__":
    sys.exit(main())
