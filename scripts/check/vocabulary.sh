#!/usr/bin/env bash
# Cuts the vocabulary of a model, and compares what Compresso, transformers and llama.cpp make of 10,000 texts with it: lines of the given files, every
# byte, and characters of every block of Unicode. Encoding must give the same tokens, decoding the same text.
# usage: scripts/check/vocabulary.sh MODEL SIZE OUT TEXTS...      SIZE is --vocab-size; the first of TEXTS chooses the tokens
# Needs Python with transformers, and Node with npm; the toolkit itself needs none of them.
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,5p' "$0" >&2; exit 2; fi
model=$1 size=$2 out=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deno run -A "$here/../../cli/main.ts" prune "$model" --units vocab --vocab-size "$size" --data "$1" --out "$out" --overwrite
deno run -A "$here/vocabulary_texts.ts" "$model" "$out" "$@"
"${PYTHON:-python3}" "$here/vocabulary_hf.py" "$out/model" "$out/texts.json"
node "$here/vocabulary_llama_cpp.mjs" "$out/model.gguf" "$out/texts.json"
