#!/usr/bin/env bash
#SBATCH --job-name=compresso-ranks
#SBATCH --ntasks=8
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --requeue
# One run on several GPUs, one rank each; a requeued job resumes from its checkpoint. Arguments are those of
# `compresso prune`; --out is a folder that all nodes see.
# sbatch scripts/cluster/slurm_ranks.sh path/to/model --data alpaca.json --sparsity 0.2 --steps 400 --out /shared/run
set -euo pipefail
exec srun --mpi=pmix deno run -A "${COMPRESSO:-cli/main.ts}" prune "$@" --resume=auto
