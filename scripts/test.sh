#!/usr/bin/env bash
# Sets up whatever is missing and runs all tests. Arguments go to `deno test`, for example a folder: scripts/test.sh tests/io
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
# Tests wait for the GPU and for other programs more than they compute: two files at once for each core.
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export DENO_JOBS="${DENO_JOBS:-$((2 * cores))}"
exec deno task test --parallel "$@"
