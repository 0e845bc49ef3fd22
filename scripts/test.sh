#!/usr/bin/env bash
# Sets up whatever is missing and runs all tests. Arguments choose files or folders, options go to `deno test`:
# scripts/test.sh tests/formats --filter=gguf
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
# Tests wait for the GPU and for other programs more than they compute: two files at once for each core, or DENO_JOBS.
exec deno run -A scripts/test.ts "$@"
