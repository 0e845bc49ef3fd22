#!/usr/bin/env bash
# Sets up whatever is missing and runs all tests. Arguments go to `deno test`, for example a folder: scripts/test.sh tests/io
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
compresso_setup
exec deno task test "$@"
