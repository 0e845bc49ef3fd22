#!/usr/bin/env bash
# `tune` against Python's peft: equal losses on the same batches from the same LoRA, and an adapter that peft loads onto the base.
# usage: scripts/check/tune.sh MODEL OUT      MODEL is a small Hugging Face folder with the tokenizer of the demo
# Needs Python with torch, transformers and peft; the toolkit itself needs none of them.
set -euo pipefail
if [ $# -ne 2 ]; then sed -n '2,4p' "$0" >&2; exit 2; fi
model=$1 out=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$out"

number=0
for settings in "" "--rank 5 --rslora" "--weight-decay 0.1 --seq 64 --batch 3"; do
  number=$((number + 1))
  folder=$out/losses-$number
  # shellcheck disable=SC2086 # settings are several words
  deno run -A "$here/tune_losses.ts" "$model" --out "$folder" $settings
  "$python" "$here/tune_losses.py" "$model" "$folder"
done

run=$out/tuned
deno run -A "$here/../../cli/main.ts" tune "$model" --data "$here/../../fixtures/demo_data/train.jsonl" --limit-rows 400 --steps 40 --batch 2 --seq 96 \
  --lora-rate 5e-3 --dtype f32 --out "$run" --overwrite >/dev/null
deno run -A "$here/dump_logits.ts" "$run/model" --out "$run/model.json"
"$python" "$here/reload_peft.py" compare "$model" "$run/adapter" --logits "$run/model.json"
