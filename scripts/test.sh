#!/usr/bin/env bash
# Installs what is missing and runs all tests. Arguments choose files or folders, options go to `deno test`:
# scripts/test.sh tests/formats --filter=gguf
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
# Tests mostly wait for the GPU and for other programs, so two files run at once for each core, or DENO_JOBS files in all.
exec deno run -A scripts/test.ts "$@"
