#!/usr/bin/env bash
# Measures a machine with a GPU in at most ten minutes: peaks, products, a training step, memory, decoding of several
# sequences, torch on CUDA where it is installed, and the tests of all kernels. Writes gpu.json and gpu.txt.
#   scripts/bench/gpu.sh [--out DIR] [--minutes N] [--scale full|quick|tiny] [--no-peers] [--no-tests]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec deno run -A --no-lock scripts/bench/gpu.ts "$@"
