#!/usr/bin/env bash
# LoRA to and from Python's peft: adapters written here and loaded by peft, and the other way round, with the same logits; and merged by `export`.
# Last the demo, pruned with --save-adapter: peft's unmerged/ with adapter/ against our model/.
# usage: scripts/check/peft.sh MODEL OUT      MODEL is a small Hugging Face folder
# Needs Python with torch, transformers and peft; the toolkit itself needs none of them.
set -euo pipefail
if [ $# -ne 2 ]; then sed -n '2,5p' "$0" >&2; exit 2; fi
model=$1 out=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$out"

for targets in q,k,v,o,gate,up,down q,v; do
  for rslora in "" --rslora; do
    for by in compresso peft; do
      name=$by-${targets//,/}${rslora}
      adapter=$out/$name
      rm -rf "$adapter"
      settings=(--rank 5 --alpha 7 --targets "$targets" ${rslora:+"$rslora"})
      if [ "$by" = peft ]; then
        "$python" "$here/reload_peft.py" make "$model" "$adapter" "${settings[@]}"
      else
        deno run -A "$here/random_adapter.ts" "$model" --out "$adapter" "${settings[@]}"
      fi
      deno run -A "$here/dump_logits.ts" "$model" --adapter "$adapter" --out "$out/$name.json"
      "$python" "$here/reload_peft.py" compare "$model" "$adapter" --logits "$out/$name.json"
      deno run -A "$here/../../cli/main.ts" export "$model" --adapter "$adapter" --out "$out/merged-$name" --dtype f32 --formats hf --overwrite >/dev/null
      "$python" "$here/reload_hf.py" "$out/merged-$name/model" --logits "$out/$name.json" --logit-tolerance 1e-5 --double
    done
  done
done

for layout in compact uniform padded; do
  run=$out/pruned-$layout
  deno run -A "$here/../../cli/main.ts" prune demo --sparsity 0.3 --steps 12 --batch 2 --seq 96 --units heads,ffn,hidden --no-prompt --calibration none \
    --lora-rate 5e-3 --lora-targets q,k,v,o,gate,up,down --layout "$layout" --dtype f32 --save-adapter --out "$run" --overwrite >/dev/null
  deno run -A "$here/dump_logits.ts" "$run/model" --out "$run/model.json"
  "$python" "$here/reload_peft.py" compare "$run/unmerged" "$run/adapter" --logits "$run/model.json"
done
