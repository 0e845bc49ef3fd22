"""Compares what transformers makes of texts with the tokens and texts of Compresso.

usage: vocabulary_hf.py FOLDER TEXTS.json      TEXTS.json is that of vocabulary_texts.ts
"""

import json
import sys

from transformers import AutoTokenizer

folder, path = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
with open(path, encoding="utf-8") as file:
    texts = json.load(file)
failures = []
for entry in texts:
    ids = tokenizer.encode(entry["text"], add_special_tokens=False)
    if ids != entry["ids"]:
        failures.append(f"tokens of {entry['text']!r}: {ids}, ours {entry['ids']}")
    decoded = tokenizer.decode(entry["ids"], clean_up_tokenization_spaces=False)
    if decoded != entry["decoded"]:
        failures.append(f"text of {entry['ids']}: {decoded!r}, ours {entry['decoded']!r}")
if failures:
    print(f"FAIL transformers: {len(failures)}, first {failures[0]}")
    sys.exit(1)
print(f"PASS transformers: {len(texts)} texts, {len(tokenizer)} tokens")
