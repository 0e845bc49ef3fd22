#!/usr/bin/env bash
# Sets up whatever is missing and runs the demo: prune the model in fixtures/ by 30 %, compare with a one-shot cut, export, generate.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
exec deno task demo "$@"
