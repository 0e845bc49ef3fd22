#!/usr/bin/env bash
# The evidence for a real model: perplexity and greedy tokens against transformers, then a prune to 20 % whose files transformers and llama.cpp load.
# usage: scripts/check/smollm2.sh MODEL.gguf DATA.json TEXT OUT [prune options …]
# Where OUT holds a finished run, that one is looked at and none is made.
# Needs Python with torch, transformers, accelerate and gguf, and Node.js; the toolkit itself needs none of them. Takes about an hour on two cores.
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,5p' "$0" >&2; exit 2; fi
model=$1 data=$2 text=$3 out=$4
shift 4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cli() { deno run -A "$here/../../cli/main.ts" "$@"; }

deno run -A "$here/compare_smollm2.ts" "$model" --text "$text"
if [ ! -e "$out/run.json" ]; then
  cli prune "$model" --data "$data" --sparsity 0.2 --steps 120 --prefinetune 8 --postfinetune 40 --batch 2 --seq 256 --seed 1 --out "$out" "$@"
fi
cli eval "$out/model" --text "$text" --window 512 --limit-chars 160000 --max-windows 24 --json > "$out/eval.json"
python3 "$here/reload_hf.py" "$out/model" --text "$text" --eval "$out/eval.json"
node "$here/llama_cpp.mjs" "$out/model.gguf" --text "$text" --eval "$out/eval.json"
