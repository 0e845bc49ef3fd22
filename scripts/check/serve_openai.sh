#!/usr/bin/env bash
# Serves a model to many clients of the official `openai` Python package at once, with several values of --parallel one after the other (1: each
# request waits for the one before), and prints tokens a second, times to the first token, and how many answers are lost or other than alone.
# usage: scripts/check/serve_openai.sh MODEL [PARALLEL… (default 1 8 32)]
# CLIENTS (32) and TOKENS (48) of an answer by variables; PYTHON names a Python with openai (default python3).
set -euo pipefail
if [ $# -lt 1 ]; then sed -n '2,5p' "$0" >&2; exit 2; fi
model=$1
shift
[ $# -gt 0 ] || set -- 1 8 32
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; }; server=; }
trap 'stop; rm -r "$out"' EXIT

for parallel in "$@"; do
  : > "$out/serve.txt"
  deno run -A "$here/../../cli/main.ts" serve "$model" --parallel "$parallel" --max-queue 64 --name checked --port 0 > "$out/serve.txt" &
  server=$!
  until grep -q '^serving' "$out/serve.txt"; do
    kill -0 "$server" 2>/dev/null || { echo "the server did not start" >&2; exit 1; }
    sleep 0.2
  done
  url=$(sed -n 's/^serving .* at //p' "$out/serve.txt")
  echo -n "parallel $parallel: "
  "${PYTHON:-python3}" "$here/serve_openai.py" "$url" --clients "${CLIENTS:-32}" --tokens "${TOKENS:-48}" --alone "$out/alone.json" --pid "$server"
  stop
done
