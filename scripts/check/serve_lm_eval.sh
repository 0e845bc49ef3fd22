#!/usr/bin/env bash
# Scores tasks twice on the same weights: lm-evaluation-harness's `local-completions` through `compresso serve`, and `compresso eval --tasks`; compares
# them question by question.
# usage: scripts/check/serve_lm_eval.sh MODEL DATA OUT [LIMIT [TASKS]]
# MODEL: what compresso reads; DATA: a folder of <task>.<split>.jsonl; OUT: a folder for the exported model and the scores; LIMIT: questions
# a task, default 20; TASKS: default arc_easy,piqa.
# Needs Python with lm_eval 0.4.12 or later and its api extra, and transformers (PYTHON names it, default python3); the toolkit itself needs none of them.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,7p' "$0" >&2; exit 2; fi
model=$1 data=$2 out=$3 limit=${4:-20} tasks=${5:-arc_easy,piqa}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
main=$here/../../cli/main.ts
mkdir -p "$out"

# The harness wants a tokenizer of its own, which a GGUF has none of.
deno run -A "$main" export "$model" --out "$out/hf" --dtype f32 --formats hf --overwrite
deno run -A "$main" eval "$out/hf/model" --base-dtype f32 --tasks "$tasks" --task-data "$data" --limit "$limit" --out "$out/items-$limit.jsonl" \
  --json > "$out/scores-$limit.json"

: > "$out/serve.txt"
deno run -A "$main" serve "$out/hf/model" --base-dtype f32 --name checked --port 0 > "$out/serve.txt" &
server=$!
trap 'kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true' EXIT
until grep -q '^serving' "$out/serve.txt"; do
  kill -0 "$server" 2>/dev/null || { echo "the server did not start" >&2; exit 1; }
  sleep 0.2
done
url=$(sed -n 's/^serving .* at //p' "$out/serve.txt")

"${PYTHON:-python3}" "$here/serve_lm_eval.py" "$url" --tokenizer "$out/hf/model" --data "$data" --tasks "$tasks" --limit "$limit" \
  --items "$out/items-$limit.jsonl" --scores "$out/scores-$limit.json"
