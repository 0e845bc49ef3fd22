#!/usr/bin/env bash
# Installs what is missing and runs the demo: prunes the model in fixtures/ by 30 %, compares it with a one-shot cut, exports, generates.
# Writes the model to FOLDER, which must be new; by default to out/demo of the checkout.
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
