#!/usr/bin/env bash
# Sets up whatever is missing and runs the demo: prune the model in fixtures/ by 30 %, compare with a one-shot cut, export, generate.
# The model goes to out/demo of the checkout, or to a new folder that is named.
set -euo pipefail
[ $# -le 1 ] || set -- --help
case "${1-}" in
-*) echo "usage: bash scripts/demo.sh [FOLDER]" >&2 && exit 2 ;;
"" | /*) ;;
*) set -- "$PWD/$1" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
exec deno task demo "$@"
