#!/usr/bin/env bash
# Runs lm-evaluation-harness and `compresso eval` on the same weights (f32), tokenizer and local data, and compares them question by question.
# usage: scripts/check/lm_eval_compare.sh MODEL DATA OUT [LIMIT [TASKS]]
# MODEL: what compresso reads; DATA: a folder of <task>.<split>.jsonl; OUT: a folder for the exported model and the scores, from which a run
# that stopped is continued; LIMIT: questions a task, default 40; TASKS: default those of the data named below.
# Needs Python with lm_eval 0.4.12 or later, torch and transformers (PYTHON names it, default python3); the toolkit itself needs none of them.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,6p' "$0" >&2; exit 2; fi
model=$1 data=$2 out=$3 limit=${4:-40} tasks=${5:-arc_easy,piqa,hellaswag,winogrande,openbookqa}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cli() { deno run -A "$here/../../cli/main.ts" "$@"; }

cli export "$model" --out "$out/hf" --dtype f32 --formats hf --overwrite
cli eval "$out/hf/model" --base-dtype f32 --tasks "$tasks" --task-data "$data" --limit "$limit" --out "$out/items-$limit.jsonl" --json \
  > "$out/scores-$limit.json"
"${PYTHON:-python3}" "$here/lm_eval_compare.py" "$out/hf/model" --data "$data" --tasks "$tasks" --limit "$limit" \
  --items "$out/items-$limit.jsonl" --scores "$out/scores-$limit.json"
